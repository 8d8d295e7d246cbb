# SPDX-License-Identifier: Apache-2.0
"""Load a map, whether it is a file, a folder of tiles, or such a folder on a server."""

from pathlib import Path

from thermal_nerf_loc.field.device import find_device
from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
from thermal_nerf_loc.mapping.tiles.tile_index import is_tiled
from thermal_nerf_loc.mapping.tiles.tiled_map import MEMORY_MB, TiledMap


def load_map(path: str | Path, memory_mb: float = MEMORY_MB, waits: bool = True,
             device: str = 'cpu') -> RadianceMap | TiledMap:
    """
    The map at a path or an address, to be rendered on a device: `auto`, `cpu` or `cuda`.

    `memory_mb` and `waits` are those of `TiledMap`.
    """
    if is_tiled(path) or Path(path).is_dir():
        return TiledMap.load(path, memory_mb, waits).on(find_device(device))
    return RadianceMap.load(Path(path), device)

# SPDX-License-Identifier: Apache-2.0
"""
Compact panoramas of all tiles, by which a search finds the few that it compares in full.

A panorama of 1000 rays becomes one of some hundred: blurred, 16 bits, colour and temperature. The
full ones stay in the tiles' files and are read one by one.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.io.atomic_files import read_bytes, write_atomically
from thermal_nerf_loc.mapping.map.panoramas import Panoramas, sphere

RAYS = 160
_BLUR_RAD = np.deg2rad(9.0)

Numbers = NDArray[np.int64]
ReadPanoramas = Callable[[int, Numbers], Panoramas]


class PanoramaIndex:
    """Compact panoramas (n), the tile of each and its number there."""

    def __init__(self, compact: Panoramas, tile: Numbers, row: Numbers, read: ReadPanoramas,
                 ) -> None:
        """`read` gives full panoramas of a tile."""
        self.compact, self.tile, self.row, self._read = compact, tile, row, read

    @classmethod
    def load(cls, path: Path, read: ReadPanoramas) -> 'PanoramaIndex':
        """Read an index."""
        try:
            parts = load(read_bytes(path))
            return cls(Panoramas.from_tensors({name: part for name, part in parts.items()
                                               if name not in ('tile', 'row')}),
                       parts['tile'].astype(np.int64), parts['row'].astype(np.int64), read)
        except (SafetensorError, KeyError, ValueError) as error:
            raise InputError('index of panoramas is corrupt', where=path, got=str(error),
                             hint='Copy the folder again.') from None

    def full(self, chosen: Numbers) -> Panoramas:
        """Full panoramas of some compact ones."""
        parts = [self._read(int(tile), self.row[chosen[self.tile[chosen] == tile]])
                 for tile in np.unique(self.tile[chosen])]
        return joined(parts)


def write_panoramas(path: Path, parts: Mapping[int, Panoramas]) -> int:
    """Write the compact panoramas of tiles by number; returns how many there are."""
    numbers = sorted(parts)
    small = joined([_compact(parts[number]) for number in numbers])
    tensors: dict[str, NDArray[Any]] = small.tensors()
    tensors['tile'] = np.concatenate([np.full(len(parts[k]), k, np.int32) for k in numbers])
    tensors['row'] = np.concatenate([np.arange(len(parts[k]), dtype=np.int32) for k in numbers])
    write_atomically(path, save({name: np.ascontiguousarray(part)
                                 for name, part in tensors.items()}))
    return len(small)


def joined(parts: Sequence[Panoramas]) -> Panoramas:
    """Panoramas of several tiles as one."""
    names = [name for name in parts[0].values if all(name in part.values for part in parts)]
    up = np.mean([part.up for part in parts], axis=0)
    return Panoramas(
        np.concatenate([part.positions for part in parts]),
        np.concatenate([part.distance_m for part in parts]),
        np.concatenate([part.weight for part in parts]),
        {name: np.concatenate([part.values[name] for part in parts]) for name in names},
        up / max(float(np.linalg.norm(up)), 1e-9),
        np.concatenate([part.camera_ups for part in parts]))


def _compact(panoramas: Panoramas) -> Panoramas:
    """Fewer rays, each the mean of those around it, by weight."""
    kernel = np.exp(_BLUR_RAD**-2.0 * (sphere(RAYS) @ sphere(panoramas.distance_m.shape[1]).T
                                       - 1.0)).astype(np.float32)
    kernel /= kernel.sum(axis=1, keepdims=True)
    weight = panoramas.weight @ kernel.T
    share = np.maximum(weight, 1e-6)
    return Panoramas(panoramas.positions,
                     (panoramas.weight * panoramas.distance_m) @ kernel.T / share, weight,
                     {name: np.stack([(panoramas.weight * values[..., c]) @ kernel.T / share
                                      for c in range(values.shape[2])], axis=-1)
                      for name, values in panoramas.values.items()},
                     panoramas.up, _few(panoramas.camera_ups))


def _few(camera_ups: NDArray[np.float64], most: int = 40) -> NDArray[np.float64]:
    return camera_ups[::max(1, -(-len(camera_ups) // most))]

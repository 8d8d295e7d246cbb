# SPDX-License-Identifier: Apache-2.0
"""
The index of a tiled map: what lies in its folder.

    plant.map/index.json            tiles with bounds, neighbours, floor, levels, checksum; history
    plant.map/cameras.safetensors   poses of all training cameras, and the tile of each
    plant.map/panoramas.safetensors compact panoramas of all tiles, for a search without a guess
    plant.map/tiles/NAME.SUM.map    a map of its own each, named by its checksum

A tile that is trained again gets another file; the former one stays, and `history` names it. The
folder may lie on a server (`io/remote_files.py`): then files are fetched once and kept.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from thermal_nerf_loc.common import __version__
from thermal_nerf_loc.common.config import from_mapping
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.io.atomic_files import read_bytes, read_json, write_atomically, write_json
from thermal_nerf_loc.io.remote_files import (
    address, cache_folder, checksum, fetched, is_remote, read_remote)

Array = NDArray[np.float64]

FORMAT, VERSION = 'thermal_nerf_loc tiled map', 1
INDEX, CAMERAS, PANORAMAS, TILES = ('index.json', 'cameras.safetensors', 'panoramas.safetensors',
                                    'tiles')
_AROUND_M = 2.0  # cameras of one height span no box


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile of the index."""

    name: str
    file: str  # in the folder; '' while it is not trained
    sha256: str
    bytes: int
    floor: int
    low: tuple[float, ...]  # corners around its cameras, world metres
    high: tuple[float, ...]
    neighbours: tuple[str, ...]
    views: str  # digest of what it was trained on
    cameras: int  # training frames of its own
    version: int = 1
    celsius_offset: float = 0.0  # added to its temperatures, so that they agree with the others'
    gain: float = 1.0  # of its colours, likewise


@dataclass(frozen=True, slots=True, eq=False)
class TileIndex:
    """All tiles, and the cameras that tell which one is where."""

    scene_name: str
    modalities: tuple[str, ...]
    radiometric: bool
    overlap_m: float
    tiles: tuple[Tile, ...]
    poses: Array  # (n, 4, 4) of training cameras
    owner: NDArray[np.int64]  # (n,) number of the tile of each
    history: tuple[Mapping[str, Any], ...] = ()
    checksums: Mapping[str, str] = field(default_factory=dict)  # of the other files
    made_by: str = f'thermal_nerf_loc {__version__}'

    @property
    def floors(self) -> tuple[float, ...]:
        """Mean height of the cameras of each floor."""
        of_tile = np.array([tile.floor for tile in self.tiles])[self.owner]
        return tuple(float(self.poses[of_tile == floor, 2, 3].mean())
                     for floor in np.unique(of_tile))

    @property
    def bounds(self) -> Array:
        """Corners (2, 3) around all cameras, and what lies close to them."""
        low = np.min([tile.low for tile in self.tiles], axis=0)
        high = np.max([tile.high for tile in self.tiles], axis=0)
        return np.stack([low - _AROUND_M, high + _AROUND_M])

    def numbers(self) -> dict[str, int]:
        """Number of each tile by its name."""
        return {tile.name: number for number, tile in enumerate(self.tiles)}


class TileFolder:
    """The folder of a tiled map, here or on a server."""

    def __init__(self, path: str | Path, cache: Path | None = None) -> None:
        """Name it; files of a server are kept in `cache`."""
        self.remote = address(path) if is_remote(path) else None
        self.path, self._cache = Path(path), cache

    @property
    def name(self) -> str:
        """Its last part."""
        return self.path.name

    def read_index(self) -> TileIndex:
        """Read and check the index."""
        facts = self._facts()
        where = f'{self.path}/{INDEX}'
        try:
            tiles = tuple(from_mapping(Tile, _as_tuples(one), where) for one in facts['tiles'])
            sums = dict(facts['checksums'])
            cameras = _tensors(self.file(CAMERAS, sums[CAMERAS]))
            index = TileIndex(facts['scene_name'], tuple(facts['modalities']),
                              bool(facts['radiometric']), float(facts['overlap_m']), tiles,
                              cameras['poses'].astype(np.float64),
                              cameras['owner'].astype(np.int64), tuple(facts['history']), sums,
                              facts['made_by'])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError('index of the tiled map is inconsistent', where=where,
                             got=f'{type(error).__name__}: {error}') from None
        if len(index.owner) != len(index.poses) or not len(tiles) or (
                index.owner.size and index.owner.max() >= len(tiles)):
            raise InputError('index and cameras of the tiled map do not belong together',
                             where=where, hint='Copy the folder again.')
        return index

    def write_index(self, index: TileIndex) -> TileIndex:
        """Write cameras and index, the index last; returns it with checksums."""
        write_atomically(self.path / CAMERAS, save({
            'poses': np.ascontiguousarray(index.poses.astype(np.float32)),
            'owner': np.ascontiguousarray(index.owner.astype(np.int32))}))
        sums = {name: checksum(self.path / name) for name in (CAMERAS, PANORAMAS)
                if (self.path / name).is_file()}
        index = replace(index, checksums=sums)
        facts = {name: getattr(index, name) for name in
                 ('scene_name', 'modalities', 'radiometric', 'overlap_m', 'history', 'checksums',
                  'made_by')}
        write_json(self.path / INDEX, {
            'format': FORMAT, 'version': VERSION, **facts, 'floors': index.floors,
            'bounds': index.bounds, 'tiles': [asdict(tile) for tile in index.tiles]})
        return index

    def file(self, name: str, sha256: str) -> Path:
        """A file of the folder; from a server it is fetched, where it is not kept yet."""
        if self.remote is not None:
            return fetched(f'{self.remote}/{name}', sha256, self._cache or cache_folder())
        path = self.path / name
        if not path.is_file():
            raise InputError('file of the tiled map is missing', where=path,
                             hint='Copy the folder again, or train with --resume.')
        return path

    def _facts(self) -> dict[str, Any]:
        if self.remote is not None:
            try:
                facts = json.loads(read_remote(f'{self.remote}/{INDEX}'))
            except ValueError:
                facts = None
        elif not (self.path / INDEX).is_file():
            raise InputError('folder is no tiled map', where=self.path, expected=INDEX,
                             hint='Train one: thermal-nerf-loc train-tiles DATA --map FOLDER')
        else:
            facts = read_json(self.path / INDEX)
        if not isinstance(facts, dict) or facts.get('format') != FORMAT:
            raise InputError('folder is no tiled map', where=self.path, expected=FORMAT)
        if facts.get('version') != VERSION:
            raise InputError('tiled map has another format version', where=self.path,
                             expected=VERSION, got=facts.get('version'))
        return facts


def is_tiled(path: str | Path) -> bool:
    """Whether a path is a tiled map rather than a map file."""
    return is_remote(path) or (Path(path) / INDEX).is_file()


def _tensors(path: Path) -> dict[str, NDArray[Any]]:
    try:
        return dict(load(read_bytes(path)))
    except SafetensorError as error:
        raise InputError('file of the tiled map is corrupt', where=path, got=str(error),
                         hint='Copy the folder again.') from None


def _as_tuples(facts: Any) -> Any:
    if not isinstance(facts, dict):
        return facts
    return {key: tuple(value) if isinstance(value, list) else value
            for key, value in facts.items()}

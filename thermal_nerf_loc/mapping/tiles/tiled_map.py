# SPDX-License-Identifier: Apache-2.0
"""
A map of tiles that renders like one map.

Each ray is rendered by one tile, drawn by the tiles' weights at its origin (`tile_weights`): where
two overlap, rays of both stand in one normal equation, in shares that change smoothly along the
way. So a pose does not jump from one tile to the next, and rays cost what they cost in one map.

What depends on the place (calibration, uncertainty, flat field, landmarks) is that of the tile
which the calling thread has rendered last.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
import threading
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thermal_nerf_loc.mapping.map.keyframes import Keyframes
from thermal_nerf_loc.mapping.map.localization_map import (
    CovarianceScale, LocalizationMap, MapInfo, Tail)
from thermal_nerf_loc.mapping.map.map_file import read_panoramas
from thermal_nerf_loc.mapping.map.panoramas import Panoramas
from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
from thermal_nerf_loc.mapping.tiles.panorama_index import PanoramaIndex
from thermal_nerf_loc.mapping.tiles.tile_cache import TileCache
from thermal_nerf_loc.mapping.tiles.tile_index import PANORAMAS, TileFolder, TileIndex
from thermal_nerf_loc.mapping.tiles.tile_weights import TileWeights
from thermal_nerf_loc.sensing.frame import RGB
from thermal_nerf_loc.sensing.rendering import Array32, RayRendering

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from thermal_nerf_loc.mapping.map.landmarks import Landmarks
    from thermal_nerf_loc.mapping.map.uncertainty import Uncertainty

Array = NDArray[np.float64]

MEMORY_MB = 400.0
_AHEAD = 10.0  # how far ahead tiles are loaded, times the last motion
_KEYFRAMES = 400
_REACH_M = 3.0  # tiles with a camera so near are loaded ahead
_GOLDEN = 0.6180339887498949


class TiledMap(LocalizationMap):
    """Tiles of a folder, those around the camera in memory."""

    def __init__(self, folder: TileFolder, memory_mb: float = MEMORY_MB, waits: bool = True,
                 ) -> None:
        """Read the index; without `waits` rays do not wait for a tile that counts little."""
        self.folder, self.index, self._waits = folder, folder.read_index(), waits
        self._weights = _weights_of(self.index)
        self.cache = TileCache(self._load, memory_mb)
        self._panorama_index: PanoramaIndex | None = None
        self._rendered = threading.local()
        self._last: Array | None = None
        self._near = 0
        self._device: torch.device | None = None

    @classmethod
    def load(cls, path: str | Path, memory_mb: float = MEMORY_MB, waits: bool = True,
             ) -> 'TiledMap':
        """Read the index of a folder or of an address."""
        return cls(TileFolder(path), memory_mb, waits)

    def on(self, device: 'torch.device') -> 'TiledMap':
        """This map, its tiles rendered on a device from now on."""
        self._device = device
        return self

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.name

    @property
    def scene_name(self) -> str:
        """Name of the mapped place."""
        return self.index.scene_name

    @property
    def modalities(self) -> tuple[str, ...]:
        """What all tiles show."""
        return self.index.modalities

    @property
    def info(self) -> MapInfo | None:
        """Of the present tile."""
        return self._present().info

    @property
    def backend(self) -> str:
        """What reads the hash grids."""
        return self._present().backend

    @property
    def bounds(self) -> Array:
        """Corners of the box around all cameras."""
        return self.index.bounds

    @property
    def radiometric(self) -> bool:
        """Whether thermal values are deg C."""
        return self.index.radiometric

    @property
    def viewpoints(self) -> Array:
        """Poses of training cameras."""
        return self.index.poses

    @property
    def keyframes(self) -> Keyframes:
        """Training cameras of all tiles, thinned, without thumbnails."""
        return Keyframes(self.index.poses[::max(1, len(self.index.poses) // _KEYFRAMES)], {})

    @property
    def landmarks(self) -> 'Mapping[str, Landmarks]':
        """Of the present tile."""
        return self._present().landmarks

    @property
    def uncertainty(self) -> 'Uncertainty | None':
        """Of the present tile."""
        return self._present().uncertainty

    @property
    def calibration(self) -> Mapping[str, CovarianceScale]:
        """Of the present tile."""
        return self._present().calibration

    @property
    def false_positive_tails(self) -> Mapping[str, Tail]:
        """Of the present tile."""
        return self._present().false_positive_tails

    @property
    def panorama_index(self) -> PanoramaIndex:
        """Compact panoramas of all tiles."""
        if self._panorama_index is None:
            self._panorama_index = PanoramaIndex.load(
                self.folder.file(PANORAMAS, self.index.checksums.get(PANORAMAS, '')),
                self._panoramas_of)
        return self._panorama_index

    def flat_field_offset(self, modality: str, size: tuple[int, int]) -> Array32 | None:
        """What the cameras of the present tile add."""
        return self._present().flat_field_offset(modality, size)

    def keep_within(self, memory_mb: float) -> None:
        """Limit the memory of loaded tiles."""
        self.cache.limit_mb(memory_mb)

    def keep_near(self, position: ArrayLike) -> None:
        """The camera is about here: have the tiles around it and ahead of it in memory."""
        point = np.asarray(position, np.float64)
        moved = np.zeros(3) if self._last is None else point - self._last
        if np.linalg.norm(moved) > _REACH_M:  # a jump is no motion
            moved = np.zeros(3)
        self._last, self._near = point, self._weights.owner_at(point)
        self._rendered.tile = self._near
        self.cache.ask(list(dict.fromkeys([
            *self._weights.at(point), *self._weights.at(point + _AHEAD * moved),
            *self._weights.near(point, _REACH_M)])))

    def render_rays(self, modality: str, origins: Array32, directions: Array32) -> RayRendering:
        """Render each ray by one of the tiles at its origin."""
        n = len(origins)
        if not n:
            return self._present().render_rays(modality, origins, directions)
        tile = self._chosen(np.asarray(origins))
        parts: list[tuple[NDArray[np.intp], RayRendering]] = []
        for number in np.unique(tile).tolist():
            rays = np.flatnonzero(tile == number)
            chosen = (origins, directions) if len(rays) == n else (origins[rays], directions[rays])
            parts.append((rays, self._by_tile(number, modality, *chosen)))
        self._rendered.tile = int(np.bincount(tile).argmax())
        if len(parts) == 1:
            return parts[0][1]
        merged = []
        for name in ('values', 'distance_m', 'spread_m', 'opacity'):
            first = getattr(parts[0][1], name)
            out = np.empty((n, *first.shape[1:]), np.float32)
            for rays, rendering in parts:
                out[rays] = getattr(rendering, name)
            merged.append(out)
        return RayRendering(*merged)

    def render_differentiable(self, modality: str, origins: 'Tensor', directions: 'Tensor',
                              ) -> 'Tensor':
        """By the tile of the first ray alone: iNeRF does not cross from tile to tile."""
        number = self._weights.owner_at(origins[0].detach().cpu().numpy())
        return self.cache.get(number).render_differentiable(modality, origins, directions)

    def _chosen(self, origins: Array32) -> NDArray[np.int64]:
        """The tile of each ray: an even sequence of numbers, each tile as often as it counts."""
        first = (origins == origins[0]).all()
        points, which = ((origins[:1], np.zeros(len(origins), np.int64)) if first else
                         np.unique(origins, axis=0, return_inverse=True))
        out = np.empty(len(origins), np.int64)
        even = (np.arange(len(origins)) * _GOLDEN) % 1.0
        for k, point in enumerate(points):
            weights = self._available(self._weights.at(point))
            rays = np.flatnonzero(which.reshape(-1) == k)
            shares = np.cumsum(list(weights.values()))
            drawn = np.searchsorted(shares, even[rays] * shares[-1], side='right')
            out[rays] = np.array(list(weights))[np.minimum(drawn, len(weights) - 1)]
        return out

    def _available(self, weights: dict[int, float]) -> dict[int, float]:
        """Weights of tiles to render with: a live robot waits only for the one that counts."""
        if self._waits or len(weights) == 1:
            return weights
        there = {tile: weight for tile, weight in weights.items()
                 if self.cache.resident(tile) is not None}
        if len(there) < len(weights):
            self.cache.ask(list(weights), instead=False)
        return there or {next(iter(weights)): 1.0}

    def _by_tile(self, number: int, modality: str, origins: Array32, directions: Array32,
                 ) -> RayRendering:
        """A tile's rendering, on the level that all tiles agree on."""
        rendering = self.cache.get(number).render_rays(modality, origins, directions)
        entry = self.index.tiles[number]
        if modality == RGB:
            values = rendering.values if entry.gain == 1.0 else np.clip(
                rendering.values * np.float32(entry.gain), 0.0, 1.0)
        else:
            values = rendering.values + np.float32(entry.celsius_offset)
        return replace(rendering, values=values)

    def _present(self) -> RadianceMap:
        """The tile that this thread has rendered last, else the one around the camera."""
        return self.cache.get(getattr(self._rendered, 'tile', self._near))

    def _load(self, number: int) -> RadianceMap:
        entry = self.index.tiles[number]
        # panoramas of all tiles are searched by their own index
        tile = replace(RadianceMap.load(self.folder.file(entry.file, entry.sha256)),
                       panoramas=None)
        return tile if self._device is None else tile.on(self._device)

    def _panoramas_of(self, number: int, rows: NDArray[np.int64]) -> Panoramas:
        entry = self.index.tiles[number]
        found = read_panoramas(self.folder.file(entry.file, entry.sha256), rows)
        return replace(found, values={
            name: values * np.float32(entry.gain) if name == RGB else
            values + np.float32(entry.celsius_offset) for name, values in found.values.items()})


def _weights_of(index: TileIndex) -> TileWeights:
    return TileWeights(index.poses[:, :3, 3], index.owner, index.overlap_m)

# SPDX-License-Identifier: Apache-2.0
"""
The map's surface as points: where rays from its keyframes end.

Few rays are rendered at a time, so that a localizer that uses the same map hardly waits. A map
without keyframes is rendered all round from the middle of its box.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.mapping.map.localization_map import LocalizationMap
from thermal_nerf_loc.sensing.frame import RGB, THERMAL
from thermal_nerf_loc.sensing.rendering import RayRendering

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]

_CAMERA = Camera.from_fov(40, 30, 70.0)
_MOST_KEYFRAMES = 80
_ALL_ROUND_RAYS = 12_000  # from the middle of a map without keyframes
_CHUNK_RAYS = 1200
MIN_OPACITY = 0.7  # of a ray that ends on a surface
_MAX_SPREAD = 0.1  # of the distance: fog is no surface
_REACH = 3.0  # half extents of the map's box


@dataclass(frozen=True, slots=True, eq=False)
class SurfacePoints:
    """Points in the map with their colours; None: the map has no such modality."""

    points_m: Array32  # (n, 3)
    colours: Array32 | None  # (n, 3) sRGB in [0, 1]
    celsius: Array32 | None  # (n,)
    seen_from_m: Array32 | None = None  # (n, 3) where the camera was

    def __len__(self) -> int:
        """How many points there are."""
        return len(self.points_m)


@dataclass(slots=True)
class SurfaceBuilder:
    """
    Collects points, one for each cell of `spacing_m` in which enough rays ended.

    It is the point nearest to the mean of those in the cell: the mean itself would lie beside
    edges. Points far outside the map's box (see `_REACH`) are left out.
    """

    renderer: LocalizationMap
    spacing_m: float
    camera: Camera = _CAMERA
    at_least: int = 1  # rays in a cell: a single one may be an outlier
    _rows: list[Array32] = field(default_factory=list)

    def steps(self) -> Iterator[float]:
        """Render one view after the other; yields the share done."""
        views = list(_views(self.renderer, self.camera))
        for done, (origin, directions) in enumerate(views, start=1):
            self._add_view(origin, directions)
            yield done / len(views)

    def surface(self) -> SurfacePoints:
        """The points of all views so far."""
        rows = np.concatenate(self._rows) if self._rows else np.empty((0, 10), np.float32)
        rows = rows[_one_for_each_cell(rows[:, :3], self.spacing_m, self.at_least)]
        has = self.renderer.modalities
        return SurfacePoints(rows[:, :3], rows[:, 3:6] if RGB in has else None,
                             rows[:, 6] if THERMAL in has else None, rows[:, 7:])

    def _add_view(self, origin: Array, directions: Array32) -> None:
        origins = np.tile(origin.astype(np.float32), (len(directions), 1))
        rows = np.zeros((len(directions), 10), np.float32)
        rows[:, 7:] = origins
        good = np.ones(len(directions), np.bool_)
        for i, modality in enumerate(self.renderer.modalities):
            seen = self.renderer.render_rays(modality, origins, directions)
            if i == 0:  # all modalities share one geometry
                good = is_surface(seen)
                rows[:, :3] = origins + seen.distance_m[:, None] * directions
                good &= _in_reach(self.renderer, rows[:, :3])
            if modality == RGB:
                rows[:, 3:6] = seen.values
            elif modality == THERMAL:
                rows[:, 6] = seen.values[:, 0]
        self._rows.append(rows[good & np.isfinite(rows).all(axis=1)])


def is_surface(seen: RayRendering) -> NDArray[np.bool_]:
    """Rays that end on a surface, (n,): opaque, and at one distance rather than in fog."""
    return np.asarray((seen.opacity >= MIN_OPACITY) & np.isfinite(seen.distance_m)
                      & (seen.spread_m <= _MAX_SPREAD * np.maximum(seen.distance_m, 1e-6)))


def viewpoints(renderer: LocalizationMap) -> Array | None:
    """Poses of keyframes to render from, thinned evenly; None for a map without."""
    keyframes = renderer.keyframes
    if keyframes is None or not len(keyframes):
        return None
    return np.asarray(keyframes.poses[::max(1, -(-len(keyframes) // _MOST_KEYFRAMES))])


def _in_reach(renderer: LocalizationMap, points: Array32) -> NDArray[np.bool_]:
    """Within the map's box, made `_REACH` times as wide: farther away there is no surface."""
    bounds = renderer.bounds
    if bounds is None:
        return np.ones(len(points), np.bool_)
    low, high = np.asarray(bounds)
    off = np.abs(points - 0.5 * (low + high))
    return np.asarray((off <= _REACH * 0.5 * (high - low)).all(axis=1))


def _one_for_each_cell(points: Array32, spacing_m: float, at_least: int) -> NDArray[np.intp]:
    """Of each cell's points, the index of the one nearest to their mean."""
    if not len(points):
        return np.empty(0, np.intp)
    cells = np.floor(points / np.float32(spacing_m)).astype(np.int64)
    _, cell, counts = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
    cell = cell.reshape(-1)
    mean = np.stack([np.bincount(cell, points[:, k], len(counts)) for k in range(3)], axis=1)
    off = np.linalg.norm(points - (mean / counts[:, None])[cell], axis=1)
    order = np.lexsort((off, cell))
    first = np.searchsorted(cell[order], np.arange(len(counts)))
    return np.asarray(order[first[counts >= at_least]])


def _views(renderer: LocalizationMap, camera: Camera) -> Iterator[tuple[Array, Array32]]:
    """Origins and unit directions, few at once."""
    poses = viewpoints(renderer)
    if poses is not None:
        rays = camera.rays()
        for T in poses:
            yield T[:3, 3], (rays @ T[:3, :3].T).astype(np.float32)
        return
    middle = np.zeros(3) if renderer.bounds is None else renderer.bounds.mean(axis=0)
    pixels = camera.width * camera.height
    directions = _sphere_directions(_ALL_ROUND_RAYS * pixels // _CHUNK_RAYS)
    for i in range(0, len(directions), _CHUNK_RAYS):
        yield middle, directions[i:i + _CHUNK_RAYS]


def _sphere_directions(count: int) -> Array32:
    """Directions spread evenly over the sphere (Fibonacci's spiral)."""
    k = np.arange(count) + 0.5
    z = 1.0 - 2.0 * k / count
    angle = np.pi * (1.0 + np.sqrt(5.0)) * k
    radius = np.sqrt(1.0 - z**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), z], -1).astype(np.float32)

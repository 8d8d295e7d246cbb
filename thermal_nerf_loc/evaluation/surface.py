# SPDX-License-Identifier: Apache-2.0
"""
The map's surface as points, to be looked at: where rays from its keyframes end.

Rays are few at a time, so that a localizer that shares the map hardly waits. A map without
keyframes is looked at from the middle of its box.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.sensing.frame import RGB, THERMAL
from thermal_nerf_loc.sensing.rendering import Renderer

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]

_CAMERA = Camera.from_fov(40, 30, 70.0)
_MOST_KEYFRAMES = 80
_ALL_ROUND_RAYS = 12_000  # from the middle of a map without keyframes
_CHUNK_RAYS = 1200
_MIN_OPACITY = 0.7
_MAX_SPREAD = 0.1  # of the distance: fog is no surface


@dataclass(frozen=True, slots=True, eq=False)
class Surface:
    """Points in the map with what they look like; None: the map has no such modality."""

    points_m: Array32  # (n, 3)
    colours: Array32 | None  # (n, 3) sRGB in [0, 1]
    celsius: Array32 | None  # (n,)

    def __len__(self) -> int:
        """How many points there are."""
        return len(self.points_m)


@dataclass(slots=True)
class SurfaceBuilder:
    """Collects points, one for each cell of `spacing_m`."""

    renderer: Renderer
    spacing_m: float
    _cells: set[tuple[int, int, int]] = field(default_factory=set)
    _rows: list[Array32] = field(default_factory=list)

    def steps(self) -> Iterator[float]:
        """Look a little at a time; yields the share done."""
        views = list(_views(self.renderer))
        for done, (origin, directions) in enumerate(views, start=1):
            self._look(origin, directions)
            yield done / len(views)

    def surface(self) -> Surface:
        """All that was seen so far."""
        rows = np.concatenate(self._rows) if self._rows else np.empty((0, 7), np.float32)
        has = self.renderer.modalities
        return Surface(rows[:, :3], rows[:, 3:6] if RGB in has else None,
                       rows[:, 6] if THERMAL in has else None)

    def _look(self, origin: Array, directions: Array32) -> None:
        origins = np.tile(origin.astype(np.float32), (len(directions), 1))
        rows = np.zeros((len(directions), 7), np.float32)
        good = np.ones(len(directions), np.bool_)
        for i, modality in enumerate(self.renderer.modalities):
            seen = self.renderer.render_rays(modality, origins, directions)
            if i == 0:  # all modalities share one geometry
                good = ((seen.opacity >= _MIN_OPACITY) & np.isfinite(seen.distance_m)
                        & (seen.spread_m <= _MAX_SPREAD * np.maximum(seen.distance_m, 1e-6)))
                rows[:, :3] = origins + seen.distance_m[:, None] * directions
            if modality == RGB:
                rows[:, 3:6] = seen.values
            elif modality == THERMAL:
                rows[:, 6] = seen.values[:, 0]
        self._keep(rows[good & np.isfinite(rows).all(axis=1)])

    def _keep(self, rows: Array32) -> None:
        cells = np.floor(rows[:, :3] / self.spacing_m).astype(np.int64).tolist()
        fresh = []
        for k, cell in enumerate(map(tuple, cells)):
            if cell not in self._cells:
                self._cells.add(cell)
                fresh.append(k)
        self._rows.append(rows[fresh])


def _views(renderer: Renderer) -> Iterator[tuple[Array, Array32]]:
    """Origins and unit directions, at most `_CHUNK_RAYS` at once."""
    keyframes = getattr(renderer, 'keyframes', None)
    if keyframes is not None and len(keyframes):
        rays = _CAMERA.rays()
        for T in keyframes.poses[::max(1, -(-len(keyframes) // _MOST_KEYFRAMES))]:
            yield T[:3, 3], (rays @ T[:3, :3].T).astype(np.float32)
        return
    middle = np.mean(np.asarray(getattr(renderer, 'bounds', np.zeros((2, 3)))), axis=0)
    directions = _all_round(_ALL_ROUND_RAYS)
    for i in range(0, len(directions), _CHUNK_RAYS):
        yield middle, directions[i:i + _CHUNK_RAYS]


def _all_round(count: int) -> Array32:
    """Directions spread evenly over the sphere (Fibonacci's spiral)."""
    k = np.arange(count) + 0.5
    z = 1.0 - 2.0 * k / count
    angle = np.pi * (1.0 + np.sqrt(5.0)) * k
    radius = np.sqrt(1.0 - z**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), z], -1).astype(np.float32)

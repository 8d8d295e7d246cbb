# SPDX-License-Identifier: Apache-2.0
"""
The map's occupancy grid for navigation: free, occupied or unknown between two heights.

Rays go out from the map's keyframes. In voxels above the floor each counts the path that it passes
freely, and the surface at which it ends (occupancy by counting, as in Moravec and Elfes, 1985). A
cell of the grid is occupied if a voxel above it is, free if most of them were passed, and else
unknown: no camera looked there.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.config import check, setting
from thermal_nerf_loc.common.errors import InputError, RunError
from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.geometry.floor import find_floor, Floor, UP
from thermal_nerf_loc.mapping.map.localization_map import LocalizationMap
from thermal_nerf_loc.sensing.frame import THERMAL
from thermal_nerf_loc.visualization.surface import is_surface, viewpoints

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]

FREE, OCCUPIED, UNKNOWN = 0, 100, -1  # as in nav_msgs/OccupancyGrid
_SIZE_PX = (96, 72)  # of the views that are rendered
_MOST_VOXELS = 40_000_000
_LEAST_RAYS = 2.0  # that end in an occupied voxel
_LEAST_SHARE = 0.3  # of the rays in an occupied voxel that end there
_LEAST_SEEN = 0.75  # of the voxels above a free cell that rays passed
_LEVEL_DEG, _LEVEL_M = 1.0, 0.05  # a floor this near to z = 0 is level
_STEP = 0.5  # of a ray, in cells
_OUTLIERS = 0.002  # of the points at each side that may lie outside of the grid


@dataclass(frozen=True, slots=True)
class GridConfig:
    """What counts as an obstacle, and how fine the grid is."""

    resolution_m: float = setting(0.05, 'edge of a cell', 0.005, 10.0)
    low_m: float = setting(0.1, 'height above the floor at which obstacles begin', -100.0, 100.0)
    high_m: float = setting(1.8, 'height above the floor at which they end', -100.0, 1000.0)
    fov_deg: float = setting(70.0, 'horizontal field of view of the cameras that saw the place',
                             5.0, 170.0)

    def __post_init__(self) -> None:
        """Check the ranges, and that there is something between the heights."""
        check(self, 'occupancy grid')
        if not self.high_m > self.low_m:
            raise InputError('heights are in the wrong order', where='occupancy grid',
                             expected='LOW below HIGH', got=f'{self.low_m:g} and {self.high_m:g}')


@dataclass(frozen=True, slots=True, eq=False)
class OccupancyGrid:
    """Cells (rows, columns) in the map's frame; row 0 is at the least y, as ROS has it."""

    values: NDArray[np.int8]  # FREE, OCCUPIED or UNKNOWN
    origin_m: tuple[float, float]  # the corner of the first cell
    resolution_m: float
    floor: Floor | None  # None: none was seen, heights count from z = 0
    celsius: Array32 | None = None  # of what stands on a cell, else of its floor; NaN: unknown

    def share(self, value: int) -> float:
        """Share of the cells that have a value."""
        return float(np.mean(self.values == value))

    def notes(self) -> list[str]:
        """What a user should know of it."""
        if self.floor is None:
            return ['no floor is seen: heights count from z = 0 of the map']
        tilt = np.rad2deg(self.floor.tilt_rad)
        found = f'the floor lies at z = {-self.floor.offset:.3f} m, tilted by {tilt:.1f} deg'
        if tilt < _LEVEL_DEG and abs(self.floor.offset) < _LEVEL_M:
            return [found]
        return [f'{found}: heights count from it; the map keeps its frame']


@dataclass(slots=True)
class GridBuilder:
    """Renders what the map's cameras saw, in small steps, then counts rays in voxels."""

    renderer: LocalizationMap
    config: GridConfig = GridConfig()
    _rows: list[Array32] = field(default_factory=list)  # origin, direction, free, end, deg C

    def steps(self, chunk_rays: int = 1 << 20) -> Iterator[float]:
        """
        Render one view after the other; yields the share done.

        With few rays at once a localizer that uses the same map hardly waits.
        """
        poses = viewpoints(self.renderer)
        if poses is None:
            poses = self.renderer.viewpoints
        if not len(poses):
            raise InputError('map does not say where its cameras stood, so it has no grid',
                             hint='Train it again with this version.')
        rays = Camera.from_fov(*_SIZE_PX, self.config.fov_deg).rays()
        for done, T in enumerate(poses, start=1):
            directions = (rays @ T[:3, :3].T).astype(np.float32)
            origins = np.tile(T[:3, 3].astype(np.float32), (len(directions), 1))
            for start in range(0, len(rays), chunk_rays):
                part = slice(start, start + chunk_rays)
                self._rows.append(self._seen(origins[part], directions[part]))
                yield (done - 1 + min(1.0, (start + chunk_rays) / len(rays))) / len(poses)

    def grid(self) -> OccupancyGrid:
        """The grid of all views so far."""
        rows = np.concatenate(self._rows) if self._rows else np.empty((0, 9), np.float32)
        ends = rows[np.isfinite(rows[:, 7])]
        points = ends[:, :3] + ends[:, 7:8] * ends[:, 3:6]
        if len(points) < 3:
            raise RunError('map shows no surface: every ray ends in fog or far away',
                           hint='Was it trained long enough? See eval-map.')
        floor = find_floor(points, np.unique(rows[:, :3], axis=0))
        voxels = _Voxels(points, floor or Floor(UP, 0.0), self.config)
        voxels.pass_through(rows)
        voxels.end_at(points)
        celsius = voxels.celsius(points, ends[:, 8]) if THERMAL in self.renderer.modalities else (
            None)
        return OccupancyGrid(voxels.cells(), voxels.origin_m, self.config.resolution_m, floor,
                             celsius)

    def _seen(self, origins: Array32, directions: Array32) -> Array32:
        rows = np.full((len(origins), 9), np.nan, np.float32)
        rows[:, :3], rows[:, 3:6] = origins, directions
        names = self.renderer.modalities
        shape = self.renderer.render_rays(THERMAL if THERMAL in names else names[0], origins,
                                          directions)
        solid = is_surface(shape)
        end = np.where(np.isfinite(shape.distance_m), shape.distance_m, 0.0)
        # what ends in fog is free up to where the fog begins
        rows[:, 6] = end - 2.0 * np.where(np.isfinite(shape.spread_m), shape.spread_m, end)
        rows[solid, 7] = end[solid]
        if THERMAL in names:
            rows[:, 8] = shape.values[:, 0]
        return rows


class _Voxels:
    """Counts of rays over the cells of a grid, in layers between two heights above a floor."""

    def __init__(self, points: Array32, floor: Floor, config: GridConfig) -> None:
        self._floor, self._config, cell = floor, config, config.resolution_m
        self._layers = max(1, round((config.high_m - config.low_m) / cell))
        heights = floor.heights(points)
        inside = points[heights < config.high_m, :2]
        if len(inside) < 3:
            raise RunError('nothing is seen between the heights', where='occupancy grid',
                           expected='surfaces, or a floor',
                           got=f'heights from {heights.min():.2f} to {heights.max():.2f} m')
        low, high = np.quantile(inside, (_OUTLIERS, 1.0 - _OUTLIERS), axis=0)
        self._low = _aligned(low - 2.0 * cell, inside, cell)
        extent = np.ceil((high - self._low) / cell) + 2
        self._shape = tuple(int(n) for n in extent)  # columns, rows
        self._size = self._shape[0] * self._shape[1] * self._layers
        if self._size > _MOST_VOXELS:
            raise InputError('grid is too fine for the size of the map', where='--resolution',
                             expected=f'{cell * (self._size / _MOST_VOXELS)**0.34:.2f} m or more',
                             got=f'{cell:g} m: {self._shape[0]} x {self._shape[1]} cells')
        self._free = np.zeros(self._size, np.float32)
        self._ends = np.zeros(self._size, np.float32)

    @property
    def origin_m(self) -> tuple[float, float]:
        return float(self._low[0]), float(self._low[1])

    def pass_through(self, rows: Array32) -> None:
        """Count the free path of rays; one that ends on a surface stops a cell before it."""
        cell, floor = self._config.resolution_m, self._floor
        step = _STEP * cell
        origins, directions = rows[:, :3], rows[:, 3:6]
        height, slope = floor.heights(origins), directions @ floor.normal
        slope = np.where(np.abs(slope) < 1e-6, 1e-6, slope)
        to_low, to_high = ((level - height) / slope
                           for level in (self._config.low_m, self._config.high_m))
        start = np.maximum(np.minimum(to_low, to_high), 0.0)
        end = np.minimum(np.maximum(to_low, to_high), rows[:, 6] - cell)
        at, k = np.flatnonzero(start < end), 0
        while len(at):
            t = (start[at] + (k + 0.5) * step)
            at, t = at[t < end[at]], t[t < end[at]]
            points = origins[at] + t[:, None].astype(np.float32) * directions[at]
            np.add.at(self._free, self._index(points), np.float32(_STEP))
            k += 1

    def end_at(self, points: Array32) -> None:
        """Count the rays that end at these points."""
        np.add.at(self._ends, self._index(points), np.float32(1.0))

    def cells(self) -> NDArray[np.int8]:
        """Rows and columns of the grid."""
        total = self._free + self._ends
        occupied = (self._ends >= _LEAST_RAYS) & (self._ends >= _LEAST_SHARE * total)
        columns = occupied.reshape(self._layers, -1).any(axis=0)
        seen = (self._free > 0.0).reshape(self._layers, -1).mean(axis=0) >= _LEAST_SEEN
        values = np.where(columns, OCCUPIED, np.where(seen, FREE, UNKNOWN)).astype(np.int8)
        return np.asarray(values.reshape(self._shape[::-1]))

    def celsius(self, points: Array32, celsius: Array32) -> Array32:
        """Mean temperature of what stands on each cell, else of its floor; NaN: not seen."""
        heights = self._floor.heights(points)
        column = self._columns(points)
        count = self._shape[0] * self._shape[1]
        out = np.full(count, np.nan)
        on_floor = heights < self._config.low_m
        for part in (on_floor, ~on_floor & (heights < self._config.high_m)):
            chosen = part & (column >= 0)
            rays = np.bincount(column[chosen], minlength=count)
            total = np.bincount(column[chosen], celsius[chosen], count)
            known = rays >= _LEAST_RAYS
            out[known] = total[known] / rays[known]
        return np.asarray(out.reshape(self._shape[::-1]), np.float32)

    def _index(self, points: Array32) -> NDArray[np.int64]:
        """Voxels of those points that lie in one."""
        column = self._columns(points)
        height = self._floor.heights(points) - self._config.low_m
        layer = np.floor(height / (self._config.high_m - self._config.low_m) * self._layers)
        inside = (column >= 0) & (layer >= 0) & (layer < self._layers)
        layer = layer[inside].astype(np.int64)
        return np.asarray(layer * (self._shape[0] * self._shape[1]) + column[inside])

    def _columns(self, points: Array32) -> NDArray[np.int64]:
        """Cells below points (n, 3); -1: outside."""
        x, y = np.floor((points[:, :2] - self._low) / self._config.resolution_m).astype(np.int64).T
        inside = (x >= 0) & (x < self._shape[0]) & (y >= 0) & (y < self._shape[1])
        return np.where(inside, y * self._shape[0] + x, -1)


def _aligned(corner: Array, points: Array32, cell: float) -> Array:
    """The nearest corner (2,) with which most points lie in the middle of cells: walls do."""
    turns = 2.0 * np.pi * points.astype(np.float64) / cell
    middle = np.arctan2(np.sin(turns).mean(axis=0), np.cos(turns).mean(axis=0)) / (2.0 * np.pi)
    wanted = (middle - 0.5) * cell  # of the corner, up to whole cells
    return np.asarray(wanted + np.rint((corner - wanted) / cell) * cell)


def occupancy_grid(renderer: LocalizationMap, config: GridConfig = GridConfig(),
                   progress: Progress = silent) -> OccupancyGrid:
    """Build the grid at once."""
    builder = GridBuilder(renderer, config)
    for share in builder.steps():
        progress(share, 1.0)
    return builder.grid()

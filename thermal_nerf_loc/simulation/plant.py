# SPDX-License-Identifier: Apache-2.0
"""
A simulated plant: floors of rooms, corridors, halls and stairs, drawn from a seed.

Corridors run along x, rooms lie on both sides of them; a lane at x = 0 joins the corridors, and
with several floors a stairwell at the far end. Doors, lamps and pipes repeat, so that many views
are alike. Machines, tanks and pipes are warm. A small area is one hall. Lamps and heat spots act
in their own room alone: walls are opaque.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
import itertools
import math

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.config import check, setting
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.sensing.frame import RGB
from thermal_nerf_loc.simulation.plant_rooms import (
    CEILING_M, DOOR_HEIGHT_M, draw_corridor, draw_room, Drawing, FLOOR_M, INSET_M, Openings, Rect)
from thermal_nerf_loc.simulation.world import (
    box, Hits, Lamp, Layout, Material, Point, room, Solid, World)

Array = NDArray[np.float64]

PLANT = 'plant'
_CORRIDOR_M, _STAIRS_M = 2.4, 3.9  # widths; the stairwell has three lanes
_BAND_M = 13.0  # of two rows of rooms and their corridor, about
_DOOR_M = 1.3  # width
_HALL_M = 7.5  # below, an area has no corridor
_EYE_M = 1.25  # height of the path above the floor
_RUN_M, _STEPS = 5.4, 18  # of a flight of stairs
_YARD_M = 8.0  # beside the facade
_EXIT = (0.5, 1.9)  # x of the door to it
_RASTER_M = 0.1
_CELL_M = (2.0, 2.0, FLOOR_M)


@dataclass(frozen=True, slots=True)
class PlantConfig:
    """Size of a simulated plant, and what it is drawn from."""

    area: tuple[float, float] = setting((40.0, 25.0), 'length and width of a floor, metres')
    floors: int = setting(1, 'one above the other', 1, 20)
    seed: int = setting(0, 'of rooms and machines', 0, 2**31)
    outdoors: bool = setting(False, 'a path along the facade as well')

    def __post_init__(self) -> None:
        """Check what the ranges of single fields cannot say."""
        check(self, 'plant')
        if len(tuple(self.area)) != 2 or not all(4.0 <= side <= 1000.0 for side in self.area):
            raise InputError('area of the plant is impossible', where='plant.area',
                             expected='two lengths from 4 to 1000 m', got=self.area)
        if self.outdoors and min(self.area) < _HALL_M:
            raise InputError('a single hall has no yard', where='plant.area',
                             expected=f'sides of {_HALL_M:g} m or more', got=self.area)
        if self.floors > 1 and (self.area[0] < 15.0 or self.area[1] < 20.0):
            raise InputError('too small for stairs', where='plant.area',
                             expected='15 x 20 m or more for several floors', got=self.area)


class PlantWorld(World):
    """A plant that renders rays through its grid, room by room."""

    def __init__(self, layout: Layout, zones: list[tuple[Rect, float]]) -> None:
        """Sort solids into cells, lamps and heat into rooms."""
        from thermal_nerf_loc.simulation.solid_grid import SolidGrid

        super().__init__(layout)
        self._rooms = zones
        self._grid = SolidGrid.over(self._kinds, self._shapes, _CELL_M)
        self._low = self._shapes[0, :3].copy()
        size = np.ceil((self._shapes[0, 3:] - self._low) / (_RASTER_M, _RASTER_M, FLOOR_M))
        self._zone = np.full(np.maximum(size, 1).astype(int), len(zones), dtype=np.int64)
        for number, ((x0, y0, x1, y1), z) in enumerate(zones):
            a = np.rint((np.array((x0, y0)) - self._low[:2]) / _RASTER_M).astype(int)
            b = np.rint((np.array((x1, y1)) - self._low[:2]) / _RASTER_M).astype(int)
            floor = round((z - self._low[2]) / FLOOR_M)
            self._zone[a[0]:b[0], a[1]:b[1], floor] = number
        self._lamps_of = self._by_zone(self._lamps, len(zones))
        self._spots_of = self._by_zone(self._spots, len(zones))

    def with_layout(self, layout: Layout) -> 'PlantWorld':
        """The same rooms with other things in them."""
        return PlantWorld(layout, self._rooms)

    def _by_zone(self, rows: Array, zones: int) -> list[Array]:
        """Rows whose centre lies in each room; the last entry: in none."""
        where = self._zones_at(rows[:, :3]) if len(rows) else np.empty(0, np.int64)
        return [np.ascontiguousarray(rows[where == k]) for k in range(zones + 1)]

    def _zones_at(self, points: Array) -> NDArray[np.int64]:
        index = ((points - self._low) / (_RASTER_M, _RASTER_M, FLOOR_M)).astype(np.int64)
        x, y, z = np.clip(index, 0, np.array(self._zone.shape) - 1).T
        return np.asarray(self._zone[x, y, z])

    def clearance_m(self, points: Array) -> Array:  # type: ignore[override]
        """As `World.clearance_m`, of the solids in the cells around each point."""
        points = np.asarray(points, dtype=np.float64)
        flat = points.reshape(-1, 3)
        out = np.full(len(flat), np.inf)
        cell = np.floor((flat - self._low) / _CELL_M).astype(np.int64)
        unique, inverse = np.unique(cell, axis=0, return_inverse=True)
        for n, at in enumerate(unique):
            inside = np.flatnonzero(inverse.reshape(-1) == n)
            near = World(replace(self.layout, solids=self._near(at)))
            out[inside] = near.clearance_m(flat[inside])
        return out.reshape(points.shape[:-1])

    def _near(self, at: NDArray[np.int64]) -> tuple[Solid, ...]:
        """The room, and the solids of a cell and those beside it."""
        counts, found = self._grid.counts, {0}
        low, high = np.clip(at - 1, 0, counts - 1), np.clip(at + 1, 0, counts - 1)
        for x in range(low[0], high[0] + 1):
            for y in range(low[1], high[1] + 1):
                for z in range(low[2], high[2] + 1):
                    n = int((x * counts[1] + y) * counts[2] + z)
                    found |= set(self._grid.members[self._grid.starts[n]:
                                                    self._grid.starts[n + 1]].tolist())
        return tuple(self.layout.solids[k] for k in sorted(found))

    def _trace_part(self, origins: Array, directions: Array, modality: str | None, hits: Hits,
                    values: Array, part: slice) -> None:
        from thermal_nerf_loc.simulation import ray_casting

        o, d = origins[part], directions[part]
        distance, face, normal = hits.distance_m[part], hits.face[part], hits.normal[part]
        self._grid.cast(o, d, self._kinds, self._shapes, distance, face, normal)
        if modality is None:
            return
        points = o + np.where(face >= 0, distance, 0.0)[:, None] * d
        zones, out = self._zones_at(points + 0.05 * normal), values[part]
        for zone in np.unique(zones):
            chosen = zones == zone
            shaded = np.empty((int(chosen.sum()), out.shape[1]))
            where = (points[chosen], face[chosen], normal[chosen], self._kinds, self._shapes,
                     self._materials)
            if modality == RGB:
                ray_casting.shade_rgb(*where, self._lamps_of[zone], self.layout.ambient, shaded)
            else:
                ray_casting.shade_celsius(*where, self._spots_of[zone], shaded[:, 0])
            out[chosen] = shaded


def make_plant(config: PlantConfig = PlantConfig()) -> PlantWorld:
    """Draw a plant."""
    length, width = (round(side, 1) for side in config.area)
    yard = _YARD_M if config.outdoors else 0.0
    sky = Material((0.55, 0.65, 0.80), (0.35, 0.45, 0.35), 'cells', 2.5, 0.5, celsius=5.0,
                   texture_celsius=1.0, rise_celsius=-0.5)
    ground = Material((0.38, 0.38, 0.36), (0.30, 0.31, 0.31), 'bricks', 0.8, 0.3, celsius=11.0,
                      rise_celsius=0.0)
    high = (length, width, config.floors * FLOOR_M)
    drawing = Drawing(np.random.default_rng([config.seed, 31]), [
        room((0.0, -yard, 0.0), high, sky, sky, sky, sky, ground, sky)])
    if min(length, width) < _HALL_M:
        _draw_hall(drawing, length, width)
    else:
        for floor in range(config.floors):
            _draw_floor(drawing, length, width, floor, config.floors, yard > 0.0)
        if yard:
            _draw_yard(drawing, length, config.floors)
        _close_path(drawing, length, width, config.floors)
    layout = Layout(PLANT, tuple(drawing.solids), tuple(drawing.spots), tuple(drawing.lamps), 0.45,
                    tuple(_smoothed(drawing.path)), speed_m_per_s=0.5)
    return PlantWorld(layout, drawing.zones)


def _draw_hall(drawing: Drawing, length: float, width: float) -> None:
    """One room without doors, for a small area."""
    rect = (0.0, 0.0, length, width)
    draw_room(drawing, rect, 0.0, {}, None)
    drawing.path += _loop(rect, _EYE_M)


def _draw_floor(drawing: Drawing, length: float, width: float, floor: int, floors: int,
                yard: bool) -> None:
    """Corridors with rooms on both sides, joined by a lane at x = 0."""
    z = floor * FLOOR_M
    end = round(length - (_STAIRS_M if floors > 1 else 0.0), 1)
    bands = max(1, round(width / _BAND_M))
    edges = [round(width * i / bands, 1) for i in range(bands + 1)]
    lane = (0.0, 0.0, _CORRIDOR_M, width)
    centres = [round(0.5 * (a + b), 1) for a, b in itertools.pairwise(edges)]
    gaps = [(c - 0.5 * _CORRIDOR_M, c + 0.5 * _CORRIDOR_M) for c in centres]
    draw_corridor(drawing, lane, z, {'x+': gaps, 'y-': [_EXIT] if yard and floor == 0 else []})
    if floors > 1:
        draw_corridor(drawing, (end, 0.0, length, width), z, {'x-': gaps}, slab=False)
        _draw_stairs(drawing, length, width, floor, floors, centres[0])
    order = range(bands) if floor % 2 == 0 else reversed(range(bands))
    for i in order:
        low, high, c = edges[i], edges[i + 1], centres[i]
        drawing.path += [(1.2, c, z + _EYE_M)]
        rects = list(_rooms(drawing.rng, _CORRIDOR_M, end))
        lower, upper = gaps[i]
        doors: Openings = {'y-': [], 'y+': []}
        for x0, x1 in rects:
            middle = round(0.5 * (x0 + x1), 1)
            gap = (middle - 0.5 * _DOOR_M, middle + 0.5 * _DOOR_M)
            draw_room(drawing, (x0, low, x1, lower), z, {'y+': [gap]}, drawing.rng)
            draw_room(drawing, (x0, upper, x1, high), z, {'y-': [gap]}, drawing.rng)
            doors['y-'].append(gap)
            doors['y+'].append(gap)
            for wall, side in ((lower, (x0, low, x1, lower)), (upper, (x0, upper, x1, high))):
                drawing.path += [(middle, c, z + _EYE_M), (middle, wall, z + _EYE_M),
                                 *_loop(side, z + _EYE_M, middle, wall),
                                 (middle, wall, z + _EYE_M), (middle, c, z + _EYE_M)]
        ends = {'x-': [gaps[i]], 'x+': [gaps[i]]} if floors > 1 else {'x-': [gaps[i]]}
        draw_corridor(drawing, (_CORRIDOR_M, lower, end, upper), z, {**doors, **ends})
        drawing.path += [(end - 1.2, c - 0.3, z + _EYE_M), (end - 0.9, c, z + _EYE_M),
                         (end - 1.2, c + 0.3, z + _EYE_M), (1.2, c + 0.3, z + _EYE_M)]


def _rooms(rng: np.random.Generator, begin: float, end: float) -> Iterator[tuple[float, float]]:
    """Split a side of a corridor into rooms of 4.5 to 8 m."""
    count = max(1, round((end - begin) / 6.0))
    cuts = np.linspace(begin, end, count + 1)
    if count > 1 and (end - begin) / count > 5.5:
        cuts[1:-1] += rng.uniform(-0.6, 0.6, count - 1)
    cuts = np.round(cuts, 1)
    yield from zip(cuts[:-1].tolist(), cuts[1:].tolist())


def _stairs_at(length: float, floor: int) -> float:
    """Middle of the lane of the flight that leads up from a floor; flights alternate."""
    return length - 0.65 if floor % 2 == 0 else length - _STAIRS_M + 0.65


def _draw_stairs(drawing: Drawing, length: float, width: float, floor: int, floors: int,
                 corridor_y: float) -> None:
    """Slabs of the stairwell with the opening of the flight from below, and the flight up."""
    z, x0 = floor * FLOOR_M, length - _STAIRS_M
    begin = round(corridor_y + 0.5 * _CORRIDOR_M + 0.2, 1)
    stone = Material((0.5, 0.5, 0.48), (0.42, 0.42, 0.42), 'bricks', 0.5, 0.3, celsius=19.0)
    drawing.solids.append(box((x0, 0.0, z), (length, width, z + 0.002), stone) if floor == 0
                          else box((x0, 0.0, z), (length, begin, z + 0.002), stone))
    top, high = z + CEILING_M, z + FLOOR_M
    if floor == floors - 1:
        drawing.solids.append(box((x0, 0.0, top), (length, width, high), stone))
        return
    at = _stairs_at(length, floor)
    low, far = at - 0.65, at + 0.65
    for a, b in (((x0, 0.0), (length, begin)), ((x0, begin + _RUN_M), (length, width)),
                 ((x0, begin), (low, begin + _RUN_M)), ((far, begin), (length, begin + _RUN_M))):
        if b[0] - a[0] > 1e-6 and b[1] - a[1] > 1e-6:
            drawing.solids.append(box((*a, top), (*b, high), stone))
    deep, rise = _RUN_M / _STEPS, FLOOR_M / _STEPS
    for k in range(_STEPS):
        drawing.solids.append(box((low, begin + k * deep, z),
                                  (far, begin + (k + 1) * deep, z + (k + 1) * rise), stone))


def _close_path(drawing: Drawing, length: float, width: float, floors: int) -> None:
    """Join the floors' tours by the stairs, up and down again."""
    if floors < 2:
        return
    bands = max(1, round(width / _BAND_M))
    y = round(0.5 * round(width / bands, 1), 1)
    begin, middle = round(y + 0.5 * _CORRIDOR_M + 0.2, 1), length - 0.5 * _STAIRS_M

    def walk(z: float) -> list[Point]:
        """Between the lane at x = 0 and the stairwell, on one floor."""
        return [(1.2, y, z), (middle, y, z)]

    def flight(floor: int) -> list[Point]:
        z, at = floor * FLOOR_M + _EYE_M, _stairs_at(length, floor)
        after = begin + _RUN_M + 0.9
        return [(at, begin - 0.5, z), (at, begin, z), (at, begin + _RUN_M, z + FLOOR_M),
                (at, after, z + FLOOR_M), (middle, after, z + FLOOR_M),
                (middle, begin - 0.5, z + FLOOR_M)]

    tours: list[list[Point]] = [[] for _ in range(floors)]
    for point in drawing.path:
        tours[int(point[2] / FLOOR_M)].append(point)
    path: list[Point] = []
    for floor in range(floors):
        z = floor * FLOOR_M + _EYE_M
        path += [*(walk(z)[::-1] if floor else []), *tours[floor], (1.2, y, z)]
        if floor < floors - 1:
            path += [*walk(z), *flight(floor)]
    for floor in reversed(range(floors - 1)):
        z = floor * FLOOR_M + _EYE_M
        path += [*(walk(z + FLOOR_M) if floor == floors - 2 else []), *flight(floor)[::-1]]
    drawing.path[:] = [*path, (middle, y, _EYE_M)]


def _draw_yard(drawing: Drawing, length: float, floors: int) -> None:
    """A facade with windows and a door, and a way along it before the tour of the rooms."""
    brick = Material((0.55, 0.32, 0.26), (0.66, 0.60, 0.54), 'bricks', 0.5, 0.5,
                     (0.35, 0.25, 0.14), 12.0, 1.5, pattern_celsius=-0.8)
    glass = Material((0.30, 0.40, 0.50), (0.60, 0.66, 0.72), 'cells', 0.5, 0.3, celsius=17.0,
                     texture_celsius=1.0)
    drawing.zones.append(((0.0, -_YARD_M, length, 0.0), 0.0))
    for begin, end, low in ((0.0, _EXIT[0], 0.0), (*_EXIT, DOOR_HEIGHT_M),
                            (_EXIT[1], length, 0.0)):
        drawing.solids.append(box((begin, -0.2, low), (end, -0.01, floors * FLOOR_M), brick))
    for floor in range(floors):
        for x in np.arange(3.0, length - 1.5, 3.2):
            drawing.solids.append(box((float(x), -0.25, floor * FLOOR_M + 1.0),
                                      (float(x) + 1.2, -0.15, floor * FLOOR_M + 2.2), glass))
    drawing.lamps.append(Lamp((0.5 * length, -4.0, 3.0), 0.3))
    door = 0.5 * sum(_EXIT)
    way = [drawing.path[0][:2], (door, 0.0), (door, -3.0), (length - 1.5, -3.0),
           (length - 1.5, -4.5), (door, -4.5), (door, 0.0)]
    drawing.path[:0] = [(x, y, _EYE_M) for x, y in way]


def _loop(rect: Rect, z: float, x: float | None = None, wall: float | None = None) -> list[Point]:
    """Once around in a room, from the side of its door."""
    x0, y0, x1, y1 = rect
    inset = min(INSET_M, 0.4 * (x1 - x0), 0.4 * (y1 - y0))
    x0, y0, x1, y1 = x0 + inset, y0 + inset, x1 - inset, y1 - inset
    corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    if wall is None or x is None:
        return [(*corner, z) for corner in corners]
    if wall > y0:  # the door is at high y
        corners = [(x1, y1), (x1, y0), (x0, y0), (x0, y1)]
        return [(x, y1, z), *((*corner, z) for corner in corners), (x, y1, z)]
    return [(x, y0, z), *((*corner, z) for corner in (*corners[1:], corners[0])), (x, y0, z)]


def _smoothed(path: list[Point]) -> list[Point]:
    """The closed path with corners rounded, a point every 0.4 m or so."""
    closed = np.array([*path, path[0]])
    lengths = np.linalg.norm(np.diff(closed, axis=0), axis=1)
    keep = np.concatenate([[True], lengths > 1e-6])
    closed, lengths = closed[keep], lengths[lengths > 1e-6]
    pieces = [a + np.linspace(0.0, 1.0, max(1, math.ceil(n / 0.8)) + 1)[:-1, None] * (b - a)
              for a, b, n in zip(closed[:-1], closed[1:], lengths)]
    points = np.concatenate(pieces)
    for _ in range(2):  # Chaikin's corner cutting
        after = np.roll(points, -1, axis=0)
        points = np.stack([0.75 * points + 0.25 * after, 0.25 * points + 0.75 * after],
                          axis=1).reshape(-1, 3)
    kept = [points[0]]
    for point in points[1:]:
        if np.linalg.norm(point - kept[-1]) >= 0.35:
            kept.append(point)
    return [(float(x), float(y), float(z)) for x, y, z in kept]

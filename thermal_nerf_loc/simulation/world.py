# SPDX-License-Identifier: Apache-2.0
"""
Analytic worlds: solids in a closed room, with procedural paint and a temperature field.

A world renders rays exactly and is a `LocalizationMap`, so that code that takes a map works on the
exact world too. Axes: x, y on the floor, z up; metres, deg C, sRGB.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
import functools
import os
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.mapping.map.localization_map import LocalizationMap
from thermal_nerf_loc.sensing.frame import RGB, THERMAL
from thermal_nerf_loc.sensing.rendering import RayRendering

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]
Colour = tuple[float, float, float]
Point = tuple[float, float, float]

_ROOM, _BOX, _SPHERE, _CYLINDER = range(4)  # kinds of solids, as in `kernels`
PATTERNS = ('plain', 'checker', 'stripes', 'bricks', 'cells')
_RAYS_PER_TASK = 16384
_TILTS_RAD = (-0.3, 0.0, 0.3)  # of `viewpoints`


@dataclass(frozen=True, slots=True)
class Material:
    """Colours and temperatures of a surface."""

    colour: Colour
    second: Colour = (0.0, 0.0, 0.0)  # the pattern's other colour
    pattern: str = 'plain'
    scale_m: float = 0.4  # size of the pattern
    hue: float = 0.6  # how far the cells of 'cells' differ in colour
    grain: tuple[float, float, float] = (0.3, 0.2, 0.1)  # contrast at 33, 12 and 5 cm
    celsius: float = 21.0
    texture_celsius: float = 0.5  # half the range of the thermal texture
    texture_m: float = 0.7  # size of the thermal texture
    rise_celsius: float = 0.5  # deg C per metre of height
    pattern_celsius: float = 0.0  # temperature of the second colour of the pattern above the first
    studs_celsius: float = 0.0  # thermal bridges in a wall, every 61 cm


@dataclass(frozen=True, slots=True)
class Solid:
    """One body; `faces` is one surface, or six (x low, x high, y low, y high, z low, z high)."""

    kind: int  # ray_casting.ROOM, BOX, SPHERE or CYLINDER
    shape: tuple[float, ...]
    faces: tuple[Material, ...]
    name: str = ''  # of the thing that it belongs to

    @property
    def kind_name(self) -> str:
        """What it is."""
        return ('room', 'box', 'ball', 'pipe')[self.kind]

    @property
    def corners(self) -> tuple[Point, Point]:
        """Lowest and highest corner of the box around it."""
        g = self.shape
        if self.kind in (_ROOM, _BOX):
            return (g[0], g[1], g[2]), (g[3], g[4], g[5])
        if self.kind == _SPHERE:
            x, y, z, r = g
            return (x - r, y - r, z - r), (x + r, y + r, z + r)
        low, high, axis = [0.0] * 3, [0.0] * 3, int(g[5])
        for k, centre in enumerate(g[:2]):
            low[(axis + 1 + k) % 3], high[(axis + 1 + k) % 3] = centre - g[2], centre + g[2]
        low[axis], high[axis] = g[3], g[4]
        return (low[0], low[1], low[2]), (high[0], high[1], high[2])

    def moved(self, x_m: float, y_m: float) -> 'Solid':
        """The same, somewhere else on the floor; a pipe has to stand upright."""
        shape = list(self.shape)
        for k in (0, 3) if self.kind == _BOX else (0,):
            shape[k] += x_m
            shape[k + 1] += y_m
        return replace(self, shape=tuple(shape))


def room(low: Point, high: Point, *faces: Material) -> Solid:
    """Build the enclosing walls, seen from inside."""
    return Solid(_ROOM, (*low, *high), faces)


def box(low: Point, high: Point, *faces: Material, name: str = '') -> Solid:
    """Build an axis-aligned box."""
    return Solid(_BOX, (*low, *high), faces, name)


def sphere(centre: Point, radius_m: float, face: Material, name: str = '') -> Solid:
    """Build a ball."""
    return Solid(_SPHERE, (*centre, radius_m), (face,), name)


def cylinder(axis: str, centre: tuple[float, float], radius_m: float, low: float, high: float,
             face: Material, name: str = '') -> Solid:
    """Build a capped pipe along x, y or z; `centre` in the two other axes, cyclic (y: z, x)."""
    shape = (*centre, radius_m, low, high, float('xyz'.index(axis)))
    return Solid(_CYLINDER, shape, (face,), name)


@dataclass(frozen=True, slots=True)
class HeatSpot:
    """Warms (or cools) surfaces near `centre`, by a Gaussian."""

    centre: Point
    radius_m: float
    celsius: float


@dataclass(frozen=True, slots=True)
class Lamp:
    """A soft light without shadows."""

    centre: Point
    power: float


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything that makes a world; the first solid is the room."""

    name: str
    solids: tuple[Solid, ...]
    spots: tuple[HeatSpot, ...]
    lamps: tuple[Lamp, ...]
    ambient: float
    waypoints: tuple[Point, ...]  # a closed loop through free space, for trajectories
    speed_m_per_s: float = 0.3  # of robots on the loop
    gaze_rad: float = 0.0  # of robots, to the left of the direction in which they move
    loose: tuple[str, ...] = ()  # names of things that people move


class Hits(NamedTuple):
    """Nearest surfaces along rays."""

    distance_m: Array  # (n,), infinite: none
    face: NDArray[np.int64]  # (n,), 6 to each solid, -1: none
    normal: Array  # (n, 3), zero: none


class World(LocalizationMap):
    """A layout that renders rays and knows its free space."""

    def __init__(self, layout: Layout) -> None:
        """Pack the layout for the compiled ray_casting."""
        self.layout = layout
        self._kinds = np.array([solid.kind for solid in layout.solids], dtype=np.int64)
        self._shapes = np.zeros((len(layout.solids), 6))
        for row, solid in zip(self._shapes, layout.solids, strict=True):
            row[:len(solid.shape)] = solid.shape
        self._materials = np.array([_material_row(surface, 13 * i + j)
                                    for i, solid in enumerate(layout.solids)
                                    for j, surface in enumerate(_six_faces(solid))])
        self._spots = np.array([(*s.centre, s.radius_m, s.celsius) for s in layout.spots]
                               ).reshape(-1, 5)
        self._lamps = np.array([(*s.centre, s.power) for s in layout.lamps]).reshape(-1, 4)

    @property
    def name(self) -> str:
        """The name by which `make_world` makes it."""
        return self.layout.name

    @property
    def modalities(self) -> tuple[str, ...]:
        """Colour and temperature."""
        return RGB, THERMAL

    @property
    def bounds(self) -> Array:
        """Inner corners of the room, (2, 3)."""
        corners: Array = self._shapes[0].reshape(2, 3).copy()
        return corners

    @property
    def viewpoints(self) -> Array:
        """Poses (n, 4, 4) of cameras on the layout's loop, level and tilted as a drone's are."""
        positions = np.repeat(self.layout.waypoints, len(_TILTS_RAD), axis=0)
        tilt = np.tile(_TILTS_RAD, len(self.layout.waypoints))
        zero = np.zeros_like(tilt)
        forward = np.stack([np.cos(tilt), zero, np.sin(tilt)], axis=-1)
        right = np.stack([zero, zero - 1.0, zero], axis=-1)
        return se3.from_parts(np.stack([right, np.cross(forward, right), forward], axis=-1),
                              positions)

    def render_rays(self, modality: str, origins: ArrayLike,
                    directions: ArrayLike) -> RayRendering:
        """Exact colours or deg C; only rays from outside the room can miss (opacity 0)."""
        if modality not in self.modalities:
            raise InputError(f'a simulated world has no {modality!r} images', where=self.name,
                             expected=' or '.join(self.modalities))
        hits, values = self._trace(origins, directions, modality)
        solid = hits.face >= 0
        return RayRendering(values.astype(np.float32),
                            np.where(solid, hits.distance_m, 0.0).astype(np.float32),
                            np.zeros(len(solid), dtype=np.float32), solid.astype(np.float32))

    def cast(self, origins: ArrayLike, directions: ArrayLike) -> Hits:
        """Nearest surfaces along rays with unit directions, (n, 3) each."""
        return self._trace(origins, directions, None)[0]

    def with_layout(self, layout: Layout) -> 'World':
        """A world of the same kind with other things in it."""
        return World(layout)

    def clearance_m(self, points: ArrayLike) -> Array:
        """Signed distance from points (n, 3) to the nearest surface; negative inside solids."""
        points = np.asarray(points, dtype=np.float64)
        nearest = np.full(points.shape[:-1], np.inf)
        for solid in self.layout.solids:
            nearest = np.minimum(nearest, _signed_distance(solid, points))
        return nearest

    def is_free(self, points: ArrayLike, clearance_m: float = 0.0) -> NDArray[np.bool_]:
        """True where points (n, 3) lie in the room, this far from everything."""
        return self.clearance_m(points) > clearance_m

    def _trace(self, origins: ArrayLike, directions: ArrayLike,
               modality: str | None) -> tuple[Hits, Array]:
        origins = np.ascontiguousarray(origins, dtype=np.float64)
        directions = np.ascontiguousarray(directions, dtype=np.float64)
        if origins.ndim != 2 or origins.shape[1] != 3 or directions.shape != origins.shape:
            raise InputError('rays have the wrong shape', where=self.name,
                             expected='origins and directions (n, 3)',
                             got=f'{origins.shape} and {directions.shape}')
        n = len(origins)
        hits = Hits(np.empty(n), np.empty(n, dtype=np.int64), np.empty((n, 3)))
        values = np.empty((n, {RGB: 3, THERMAL: 1, None: 0}[modality]))
        parts = [slice(i, i + _RAYS_PER_TASK) for i in range(0, n, _RAYS_PER_TASK)]
        work = functools.partial(self._trace_part, origins, directions, modality, hits, values)
        if len(parts) < 2:
            for part in parts:
                work(part)
        else:
            list(_pool().map(work, parts))
        return hits, values

    def _trace_part(self, origins: Array, directions: Array, modality: str | None, hits: Hits,
                    values: Array, part: slice) -> None:
        from thermal_nerf_loc.simulation import ray_casting

        o, d = origins[part], directions[part]
        distance, face, normal = (values[part] for values in hits)
        ray_casting.cast(o, d, self._kinds, self._shapes, distance, face, normal)
        if modality is None:
            return
        points = o + np.where(face >= 0, distance, 0.0)[:, None] * d
        where = (points, face, normal, self._kinds, self._shapes, self._materials)
        if modality == RGB:
            ray_casting.shade_rgb(*where, self._lamps, self.layout.ambient, values[part])
        else:
            ray_casting.shade_celsius(*where, self._spots, values[part, 0])


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix='rays')


def _six_faces(solid: Solid) -> Sequence[Material]:
    """Faces by the sign of their normal, as the kernels number them: -x, +x, -y, ..."""
    faces = solid.faces * 6 if len(solid.faces) == 1 else solid.faces
    if len(faces) != 6:
        raise InputError('a solid has one surface or six', got=len(solid.faces))
    if solid.kind == _ROOM:  # the room's low wall faces +x
        return [faces[i] for i in (1, 0, 3, 2, 5, 4)]
    return faces


def _material_row(s: Material, seed: int) -> list[float]:
    """One row of the kernels' array of materials, in the order of their columns."""
    return [*s.colour, *s.second, PATTERNS.index(s.pattern), s.scale_m, *s.grain, seed, s.celsius,
            s.texture_celsius, 1.0 / s.texture_m, s.rise_celsius, s.pattern_celsius,
            s.studs_celsius, s.hue]


def _signed_distance(solid: Solid, points: Array) -> Array:
    """Euclidean distance to one solid's surface, negative inside (outside, for the room)."""
    g = np.array(solid.shape)
    if solid.kind in (_ROOM, _BOX):
        d = _box_distance(np.maximum(g[:3] - points, points - g[3:]))
        return -d if solid.kind == _ROOM else d
    if solid.kind == _SPHERE:
        return np.asarray(np.linalg.norm(points - g[:3], axis=-1) - g[3])
    w = int(g[5])
    radial = np.linalg.norm(points[..., [(w + 1) % 3, (w + 2) % 3]] - g[:2], axis=-1) - g[2]
    along = np.maximum(g[3] - points[..., w], points[..., w] - g[4])
    return _box_distance(np.stack([radial, along], axis=-1))


def _box_distance(q: Array) -> Array:
    """Distance from how far a point is beyond each slab."""
    outside = np.linalg.norm(np.maximum(q, 0.0), axis=-1)
    return np.asarray(outside + np.minimum(q.max(axis=-1), 0.0))

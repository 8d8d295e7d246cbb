# SPDX-License-Identifier: Apache-2.0
"""Rooms and corridors of a simulated plant: walls with openings, paint, furniture, machines."""

from dataclasses import dataclass, field, replace

import numpy as np

from thermal_nerf_loc.simulation.world import (
    box, Colour, cylinder, HeatSpot, Lamp, Material, Point, Solid, sphere)

FLOOR_M = 3.2  # from one floor to the next
CEILING_M, DOOR_HEIGHT_M = 3.0, 2.2
INSET_M = 1.3  # of the path from the walls of a room
_WALL_M = 0.06  # half of a wall: each side has its own paint

Rect = tuple[float, float, float, float]  # x low, y low, x high, y high
Openings = dict[str, list[tuple[float, float]]]  # by side, 'x-' to 'y+': from where to where


@dataclass(slots=True)
class Drawing:
    """A plant while it is drawn."""

    rng: np.random.Generator
    solids: list[Solid]
    zones: list[tuple[Rect, float]] = field(default_factory=list)  # rooms with their floor's z
    spots: list[HeatSpot] = field(default_factory=list)
    lamps: list[Lamp] = field(default_factory=list)
    path: list[Point] = field(default_factory=list)


def _paint(rng: np.random.Generator | None, drawing: Drawing) -> Material:
    rng = drawing.rng if rng is None else rng
    warm = float(rng.uniform(19.0, 24.0))
    colour = tuple(float(v) for v in rng.uniform(0.35, 0.75, 3))
    second = tuple(float(v) for v in np.clip(np.array(colour) + rng.uniform(-0.2, 0.2, 3), 0.1,
                                             0.9))
    pattern = ('cells', 'bricks', 'stripes', 'checker')[int(rng.integers(4))]
    return Material(_triple(colour), _triple(second), pattern, float(rng.uniform(0.3, 0.7)), 0.5,
                    (0.35, 0.25, 0.14), warm, 1.0, pattern_celsius=float(rng.uniform(0.3, 0.9)),
                    studs_celsius=-0.8)


def _triple(values: tuple[float, ...]) -> Colour:
    r, g, b = values
    return r, g, b


def draw_corridor(drawing: Drawing, rect: Rect, z: float,
                   gaps: Openings, slab: bool = True) -> None:
    """Plain walls, the same lamp every 4 m, a warm pipe under the ceiling."""
    wall = Material((0.68, 0.68, 0.64), (0.60, 0.61, 0.60), 'cells', 0.9, 0.15,
                    (0.10, 0.08, 0.04), 20.5, 0.5, texture_m=1.1, studs_celsius=-0.4)
    floor = replace(wall, colour=(0.40, 0.42, 0.44), second=(0.34, 0.36, 0.38), pattern='checker',
                    scale_m=0.6, rise_celsius=0.0)
    _draw_shell(drawing, rect, z, gaps, wall, floor, slab)
    x0, y0, x1, y1 = rect
    steel = Material((0.5, 0.5, 0.52), (0.42, 0.42, 0.45), 'stripes', 0.5, 0.0, (0.1, 0.1, 0.05),
                     float(drawing.rng.uniform(35.0, 60.0)), 1.5, pattern_celsius=-3.0)
    along_x = x1 - x0 > y1 - y0
    if along_x:  # (in a stairwell it would hang in the way)
        drawing.solids.append(cylinder('x', (y0 + 0.3, z + 2.75), 0.08, x0, x1, steel))
    elif slab:
        drawing.solids.append(cylinder('y', (z + 2.75, x0 + 0.3), 0.08, y0, y1, steel))
    glow = Material((0.97, 0.97, 0.90), celsius=31.0, texture_celsius=0.3)
    length, middle = (x1 - x0, 0.5 * (y0 + y1)) if along_x else (y1 - y0, 0.5 * (x0 + x1))
    for at in np.arange(2.0, length, 4.0):
        x, y = (x0 + float(at), middle) if along_x else (middle, y0 + float(at))
        drawing.lamps.append(Lamp((x, y, z + 2.85), 0.35))
        drawing.solids.append(box((x - 0.3, y - 0.1, z + 2.94), (x + 0.3, y + 0.1, z + 2.999),
                                  glow))


def draw_room(drawing: Drawing, rect: Rect, z: float,
               gaps: Openings, rng: np.random.Generator | None,
               ) -> None:
    """Painted walls, furniture or machines along them, one thing in the middle."""
    x0, y0, x1, y1 = rect
    wall = _paint(rng, drawing)
    floor = replace(_paint(rng, drawing), rise_celsius=0.0, studs_celsius=0.0)
    _draw_shell(drawing, rect, z, gaps, wall, floor)
    pick = drawing.rng
    cx, cy = 0.5 * (x0 + x1), 0.5 * (y0 + y1)
    drawing.lamps.append(Lamp((cx, cy, z + 2.9), 0.6))
    machines = bool(pick.random() < 0.5)
    far = 'y-' if 'y+' in gaps else 'y+'
    for side in (far, 'x-', 'x+'):
        begin, end = (x0, x1) if side[0] == 'y' else (y0, y1)
        for at in np.arange(begin + 1.0, end - 0.9, 1.6):
            if pick.random() < 0.35:
                continue
            wide, deep = float(pick.uniform(0.7, 1.2)), float(pick.uniform(0.3, 0.55))
            tall = float(pick.uniform(0.7, 2.0))
            a, b = float(at) - 0.5 * wide, float(at) + 0.5 * wide
            face = replace(_paint(None, drawing), studs_celsius=0.0, scale_m=0.18,
                           celsius=float(pick.uniform(30, 70) if machines else
                                         pick.uniform(19, 27)))
            low, high = {'y-': ((a, y0, z), (b, y0 + deep, z + tall)),
                         'y+': ((a, y1 - deep, z), (b, y1, z + tall)),
                         'x-': ((x0, a, z), (x0 + deep, b, z + tall)),
                         'x+': ((x1 - deep, a, z), (x1, b, z + tall))}[side]
            drawing.solids.append(box(low, high, face))
        drawing.spots.append(HeatSpot((float(pick.uniform(x0 + 0.5, x1 - 0.5)),
                                       float(pick.uniform(y0 + 0.5, y1 - 0.5)), z + 0.01), 0.6,
                                      float(pick.uniform(-2.0, 6.0))))
    half = 0.5 * min(x1 - x0, y1 - y0) - INSET_M  # of the loop around what stands in the middle
    if half > 0.95:
        metal = replace(_paint(None, drawing), celsius=float(pick.uniform(24.0, 75.0)),
                        studs_celsius=0.0, scale_m=0.25)
        radius = min(half - 0.6, 0.7)
        drawing.solids.append(cylinder('z', (cx, cy), radius, z, z + float(pick.uniform(0.7, 2.2)),
                                       metal) if pick.random() < 0.7 else
                              sphere((cx, cy, z + radius), radius, metal))


def _draw_shell(drawing: Drawing, rect: Rect, z: float, gaps: Openings,
                wall: Material, floor: Material, slab: bool = True) -> None:
    """Half walls with their openings, floor and ceiling."""
    x0, y0, x1, y1 = rect
    drawing.zones.append((rect, z))
    ceiling = replace(wall, colour=(0.78, 0.78, 0.75), second=(0.7, 0.7, 0.7), scale_m=0.6)
    top = z + CEILING_M
    if slab:
        drawing.solids.append(box((x0, y0, z), (x1, y1, z + 0.002), floor))
        drawing.solids.append(box((x0, y0, top), (x1, y1, z + FLOOR_M), ceiling))
    for side in ('x-', 'x+', 'y-', 'y+'):
        begin, end = (y0, y1) if side[0] == 'x' else (x0, x1)
        openings = sorted(gaps.get(side, []))
        for a, b in zip([begin, *(high for _, high in openings)],
                        [*(low for low, _ in openings), end]):
            if b - a > 1e-6:
                drawing.solids.append(_half_wall(rect, side, a, b, z, top, wall))
        for a, b in openings:
            if b - a < 1.5:  # a door: its lintel
                drawing.solids.append(_half_wall(rect, side, a, b, z + DOOR_HEIGHT_M, top, wall))


def _half_wall(rect: Rect, side: str, a: float, b: float, low: float, high: float,
               paint: Material) -> Solid:
    x0, y0, x1, y1 = rect
    if side[0] == 'x':
        x = (x0, x0 + _WALL_M) if side == 'x-' else (x1 - _WALL_M, x1)
        return box((x[0], a, low), (x[1], b, high), paint)
    y = (y0, y0 + _WALL_M) if side == 'y-' else (y1 - _WALL_M, y1)
    return box((a, y[0], low), (b, y[1], high), paint)

# SPDX-License-Identifier: Apache-2.0
"""
The three simulated worlds.

`room` is a furnished, well textured living room. `hall` is a long corridor of plain walls and
repeated doors: many of its views are alike. `machine_room` is grey and low in contrast, with hot
pipes and tanks.
"""

from dataclasses import replace
import itertools
import math

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.simulation.world import (box, Colour, cylinder, HeatSpot, Lamp, Layout,
                                               Material, Point, room, Solid, sphere, World)

PLASTER: Colour = (0.72, 0.66, 0.55)
DARK_WALL: Colour = (0.12, 0.13, 0.17)
WOOD: Colour = (0.50, 0.33, 0.18)
DARK_WOOD: Colour = (0.27, 0.16, 0.09)
GREY: Colour = (0.46, 0.47, 0.47)


def _room() -> Layout:
    """4 x 4 x 2.5 m; one dark wall, a radiator below a window, warm and cold furniture."""
    high = (4.0, 4.0, 2.5)
    rough = (0.40, 0.28, 0.16)
    walls = (
        Material(PLASTER, (0.50, 0.36, 0.30), 'cells', 0.55, 0.6, rough, 21.5, 1.0,
                 studs_celsius=-1.2),
        Material((0.42, 0.55, 0.50), (0.25, 0.38, 0.40), 'stripes', 0.45, 0.6, rough, 20.2, 1.0,
                 studs_celsius=-1.2),
        Material(DARK_WALL, (0.22, 0.20, 0.28), 'cells', 0.40, 0.6, (0.5, 0.4, 0.1), 19.6,
                 1.0, studs_celsius=-1.2),
        Material((0.60, 0.42, 0.36), (0.78, 0.70, 0.60), 'bricks', 0.42, 0.6, rough, 20.8, 0.9,
                 pattern_celsius=1.0),
        Material(WOOD, DARK_WOOD, 'bricks', 0.35, 0.6, rough, 20.5, 1.2, rise_celsius=0.0),
        Material((0.78, 0.77, 0.74), (0.62, 0.62, 0.66), 'checker', 0.6, 0.6, rough, 22.8, 0.8,
                 pattern_celsius=0.8),
    )
    cloth = Material((0.55, 0.20, 0.18), (0.70, 0.55, 0.30), 'checker', 0.16, 0.6, rough, 23.5,
                     1.2)
    wood = Material(WOOD, DARK_WOOD, 'stripes', 0.14, 0.6, rough, 22.0, 0.9)
    books = Material((0.20, 0.30, 0.55), (0.75, 0.60, 0.35), 'cells', 0.13, 0.6, rough, 21.5, 0.6,
                     pattern_celsius=1.2)
    metal = Material((0.70, 0.70, 0.68), (0.45, 0.45, 0.46), 'stripes', 0.10, 0.0,
                     (0.1, 0.1, 0.05), 30.5, 0.8, rise_celsius=3.0, pattern_celsius=1.5)
    glass = Material((0.48, 0.62, 0.78), (0.66, 0.72, 0.80), 'cells', 0.33, 0.3,
                     (0.2, 0.1, 0.05), 18.0, 0.4, pattern_celsius=1.0)
    screen = Material((0.10, 0.12, 0.16), (0.30, 0.55, 0.70), 'cells', 0.12, 0.6,
                      (0.2, 0.2, 0.1), 29.0, 1.0, pattern_celsius=1.5)
    poster = Material((0.85, 0.75, 0.30), (0.15, 0.25, 0.45), 'cells', 0.17, 0.6,
                      (0.2, 0.2, 0.2), 21.2, 0.5, pattern_celsius=0.9)
    picture = replace(poster, colour=(0.80, 0.35, 0.20), second=(0.15, 0.40, 0.35),
                      pattern='checker', scale_m=0.15)
    solids = (
        room((0.0, 0.0, 0.0), high, *walls),
        box((0.10, 0.20, 0.0), (0.90, 1.10, 0.75), cloth, name='armchair'),
        box((0.10, 0.20, 0.75), (0.30, 1.10, 1.15), replace(cloth, celsius=22.5),
            name='armchair'),
        box((2.95, 3.00, 0.0), (3.95, 3.80, 0.95), wood),  # cupboard
        box((3.10, 3.15, 0.95), (3.65, 3.30, 1.35), screen, name='screen'),
        box((2.85, 0.0, 0.0), (3.75, 0.45, 1.85), books, name='shelf'),
        box((0.0, 2.75, 0.0), (0.32, 3.65, 1.90), replace(books, scale_m=0.19, celsius=20.8)),
        box((0.0, 1.35, 0.95), (0.03, 2.45, 2.05), glass, name='window'),
        box((0.0, 1.40, 0.12), (0.12, 2.40, 0.72), metal, name='radiator'),
        box((1.3, 3.97, 1.0), (2.1, 4.0, 1.9), poster),
        box((3.97, 1.2, 1.0), (4.0, 2.1, 1.75), picture),
        box((1.2, 0.0, 1.0), (1.9, 0.03, 1.9), replace(picture, scale_m=0.11)),
        sphere((1.75, 3.50, 0.40), 0.40, replace(cloth, colour=(0.20, 0.45, 0.30), celsius=24.5),
               'cushion'),
        sphere((3.55, 1.60, 0.28), 0.28, replace(cloth, pattern='stripes', celsius=26.0),
               'ball'),
        sphere((3.45, 3.50, 1.15), 0.20, replace(poster, celsius=32.0, texture_celsius=1.0)),
        cylinder('z', (0.55, 3.80), 0.12, 0.0, 1.5, replace(wood, celsius=25.0)),
    )
    spots = (HeatSpot((0.0, 1.9, 0.9), 0.5, 5.0), HeatSpot((2.5, 0.9, 0.0), 0.55, 5.5),
             HeatSpot((3.4, 3.40, 1.3), 0.4, 4.0), HeatSpot((4.0, 4.0, 0.0), 0.8, -2.0),
             HeatSpot((0.55, 0.65, 0.75), 0.25, 5.0), HeatSpot((2.0, 4.0, 2.3), 0.5, 2.5))
    lamps = (Lamp((2.0, 2.0, 2.4), 0.6), Lamp((0.6, 1.9, 1.5), 0.25))
    loop = tuple((2.0 + 0.75 * math.cos(a), 1.9 + 0.75 * math.sin(a), 1.25)
                 for a in (2 * math.pi * i / 8 for i in range(8)))
    return Layout('room', solids, spots, lamps, 0.45, loop, gaze_rad=0.7,
                  loose=('armchair', 'shelf', 'cushion', 'ball'))


def _hall() -> Layout:
    """16 x 2.4 x 2.6 m of nearly plain wall; the same door every 4 m, lamps to match."""
    plain = (0.05, 0.03, 0.02)
    wall = Material((0.70, 0.70, 0.66), grain=plain, celsius=20.5, texture_celsius=0.25,
                    texture_m=1.5, studs_celsius=-0.15)
    floor = Material((0.40, 0.42, 0.44), (0.36, 0.38, 0.40), 'checker', 0.6, 0.0, plain, 20.0, 0.2,
                     rise_celsius=0.0)
    ceiling = Material((0.78, 0.78, 0.76), (0.70, 0.70, 0.69), 'checker', 0.6, 0.0, plain, 21.5,
                       0.2)
    end = replace(wall, colour=(0.50, 0.56, 0.60), celsius=19.5)
    door = Material((0.42, 0.28, 0.18), (0.36, 0.23, 0.14), 'stripes', 0.2, 0.0, plain, 19.0, 0.2)
    frame = Material((0.30, 0.31, 0.33), grain=plain, celsius=20.0, texture_celsius=0.1)
    lamp = Material((0.97, 0.97, 0.90), grain=plain, celsius=33.0, texture_celsius=0.5)
    sign = Material((0.10, 0.45, 0.20), (0.90, 0.92, 0.90), 'cells', 0.06, 0.0, plain, 24.0, 0.2)
    solids = [room((0.0, 0.0, 0.0), (16.0, 2.4, 2.6), end, end, wall, wall, floor, ceiling)]
    for x, y in itertools.product((2.0, 6.0, 10.0, 14.0), (0.0, 2.4)):
        inner = (y, y + 0.02) if y == 0.0 else (y - 0.02, y)
        outer = (y, y + 0.05) if y == 0.0 else (y - 0.05, y)
        solids.append(box((x - 0.45, inner[0], 0.0), (x + 0.45, inner[1], 2.05), door))
        for low, high in ((x - 0.53, x - 0.45), (x + 0.45, x + 0.53)):
            solids.append(box((low, outer[0], 0.0), (high, outer[1], 2.13), frame))
    for x in (2.0, 6.0, 10.0, 14.0):
        solids.append(box((x - 0.6, 1.1, 2.54), (x + 0.6, 1.3, 2.6), lamp))
    solids += [
        box((0.0, 0.8, 0.0), (0.03, 1.6, 2.0), replace(door, colour=(0.25, 0.30, 0.40))),
        box((15.97, 0.7, 0.8), (16.0, 1.7, 1.9), replace(sign, scale_m=0.2)),
        box((7.6, 2.36, 1.4), (8.1, 2.4, 1.8), sign),
        box((3.7, 0.0, 0.15), (4.6, 0.12, 0.75), replace(frame, celsius=36.0, rise_celsius=4.0)),
        box((11.7, 0.0, 0.15), (12.6, 0.12, 0.75), replace(frame, celsius=34.0, rise_celsius=4.0)),
        cylinder('x', (2.2, 2.40), 0.05, 0.0, 16.0, replace(frame, celsius=31.0)),
    ]
    spots = (HeatSpot((4.15, 0.0, 1.0), 0.5, 3.0), HeatSpot((12.15, 0.0, 1.0), 0.5, 2.5),
             HeatSpot((0.0, 1.2, 0.0), 1.2, -2.0), HeatSpot((13.0, 2.4, 0.3), 0.6, 1.5))
    lamps = tuple(Lamp((x, 1.2, 2.45), 0.35) for x in (2.0, 6.0, 10.0, 14.0))
    loop = ((1.4, 0.95, 1.2), (4.5, 0.85, 1.2), (8.0, 0.95, 1.2), (11.5, 0.85, 1.2),
            (14.4, 0.95, 1.2), (14.6, 1.45, 1.2), (11.5, 1.55, 1.2), (8.0, 1.45, 1.2),
            (4.5, 1.55, 1.2), (1.6, 1.45, 1.2))
    return Layout('hall', tuple(solids), spots, lamps, 0.35, loop, speed_m_per_s=0.6)


def _machine_room() -> Layout:
    """8 x 6 x 3 m; tanks, pipes and cabinets from 20 to 90 deg C, all of one dull grey."""
    dull = (0.10, 0.08, 0.04)
    wall = Material(GREY, grain=dull, celsius=24.0, texture_celsius=0.8, texture_m=1.2,
                    rise_celsius=1.2, studs_celsius=-0.8)
    floor = replace(wall, colour=(0.40, 0.40, 0.41), celsius=22.0, rise_celsius=0.0,
                    studs_celsius=0.0)
    block = replace(wall, second=(0.42, 0.43, 0.44), pattern='bricks', scale_m=0.4,
                    pattern_celsius=-0.6)
    steel = Material((0.50, 0.50, 0.51), (0.47, 0.47, 0.48), 'stripes', 0.5, 0.0, dull, 60.0,
                     2.5, 0.4, pattern_celsius=-3.0)
    cabinet = Material((0.43, 0.45, 0.46), (0.39, 0.41, 0.42), 'cells', 0.35, 0.05, dull,
                       33.0, 1.5, rise_celsius=3.0, pattern_celsius=3.0)
    solids: list[Solid] = [
        room((0.0, 0.0, 0.0), (8.0, 6.0, 3.0), block, wall, block, wall, floor, wall),
        cylinder('z', (1.0, 1.0), 0.55, 0.0, 2.3, replace(steel, celsius=78.0, rise_celsius=3.0)),
        cylinder('z', (1.0, 2.6), 0.55, 0.0, 2.3, replace(steel, celsius=55.0, rise_celsius=8.0)),
        sphere((7.0, 0.9, 0.8), 0.6, replace(steel, celsius=46.0), 'vessel'),
        cylinder('x', (4.1, 0.6), 0.40, 3.4, 5.0, replace(steel, celsius=67.0, scale_m=0.2)),
        box((3.5, 3.75, 0.0), (4.9, 4.45, 0.25), replace(wall, celsius=38.0)),  # its skid
        box((5.0, 3.85, 0.2), (5.5, 4.35, 0.95), replace(cabinet, celsius=52.0), name='motor'),
        box((7.5, 2.2, 0.0), (8.0, 4.6, 2.0), cabinet),
        box((0.0, 4.3, 0.0), (0.5, 5.6, 1.9), replace(cabinet, celsius=29.0), name='locker'),
        box((2.6, 5.6, 0.9), (4.2, 6.0, 1.6), replace(cabinet, celsius=40.0, scale_m=0.2)),
        box((2.8, 0.0, 0.0), (4.4, 0.6, 1.0), replace(cabinet, celsius=36.0), name='bench'),
        cylinder('x', (0.30, 2.65), 0.10, 0.0, 8.0, replace(steel, celsius=83.0, scale_m=1.3)),
        cylinder('x', (0.62, 2.72), 0.07, 0.0, 8.0, replace(steel, celsius=30.0, scale_m=1.3)),
        cylinder('x', (5.75, 2.60), 0.12, 0.0, 8.0, replace(steel, celsius=71.0, scale_m=1.7)),
        cylinder('y', (2.70, 6.3), 0.09, 0.0, 6.0, replace(steel, celsius=63.0, scale_m=0.9)),
        cylinder('y', (2.80, 1.9), 0.08, 0.0, 6.0, replace(steel, celsius=49.0, scale_m=1.1)),
        cylinder('y', (0.35, 7.88), 0.07, 0.0, 6.0, replace(steel, celsius=22.5, scale_m=0.8)),
        cylinder('z', (5.5, 5.8), 0.09, 0.0, 2.6, replace(steel, celsius=71.0, scale_m=0.6)),
        cylinder('z', (2.2, 0.25), 0.10, 0.0, 2.65, replace(steel, celsius=83.0, scale_m=0.7)),
        cylinder('z', (5.6, 0.2), 0.06, 0.0, 2.7, replace(steel, celsius=34.0, scale_m=0.7)),
    ]
    for x, height in ((5.7, 1.3), (6.2, 1.5)):
        solids.append(sphere((x, 5.72, height), 0.16, replace(steel, celsius=79.0, scale_m=0.1)))
    spots = tuple(HeatSpot(*spot) for spot in (
        ((0.0, 1.0, 1.8), 0.7, 7.0), ((1.0, 0.0, 1.2), 0.7, 7.0), ((4.2, 4.1, 0.0), 0.8, 9.0),
        ((5.8, 6.0, 1.4), 0.5, 9.0), ((8.0, 3.4, 1.8), 0.8, 5.0), ((0.0, 6.0, 0.0), 1.2, -1.5)))
    lamps = (Lamp((2.5, 3.0, 2.9), 0.55), Lamp((5.5, 2.5, 2.9), 0.45))
    loop: tuple[Point, ...] = ((2.6, 1.5, 1.3), (4.2, 1.5, 1.3), (5.8, 1.8, 1.3), (6.6, 3.0, 1.3),
                               (6.4, 4.6, 1.3), (4.6, 5.05, 1.3), (2.8, 4.9, 1.3),
                               (2.2, 3.4, 1.3))
    return Layout('machine_room', tuple(solids), spots, lamps, 0.45, loop, speed_m_per_s=0.45,
                  gaze_rad=0.4, loose=('locker', 'bench', 'vessel'))


LAYOUTS = {'room': _room, 'hall': _hall, 'machine_room': _machine_room}

WORLD_NAMES = tuple(LAYOUTS)


def make_world(name: str) -> World:
    """Build one of `WORLD_NAMES`."""
    if name not in LAYOUTS:
        raise InputError('no such scene', expected='one of ' + ', '.join(WORLD_NAMES),
                         got=repr(name))
    return World(LAYOUTS[name]())

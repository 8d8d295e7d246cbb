# SPDX-License-Identifier: Apache-2.0
"""
The same scene some time later: other temperatures, other light, moved furniture, people.

`heat`: machines are off, or run hotter or cooler; the building is warmer or colder; the sun is on
a wall; the thermal bridges of one wall turn around; a warm spot is elsewhere, a heater is new.
`light`: one lamp is out, others are brighter, daylight comes from a side. `furniture`: loose
pieces are moved, a crate is new. `people`: two stand about. What is drawn depends on the seed
alone, and leaves the robot's paths free.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.simulation.paths import CLEARANCE_M, KINDS, make_motion
from thermal_nerf_loc.simulation.world import (box, cylinder, HeatSpot, Lamp, Layout, Material,
                                               Point, Solid, sphere, World)

Array = NDArray[np.float64]

CHANGES = ('heat', 'light', 'furniture', 'people')

_HOT_CELSIUS = 27.0  # surfaces above it are of machines, which can be switched off
_OFF_SHARE, _OTHER_SHARE = 0.4, 0.35  # of the machines: off, running differently
_DRAWS = 400  # places tried for each thing
_SHIFT_M = (0.3, 0.9)  # how far furniture is moved
_GAP_M = 0.02  # between things
_PATH_LAPS, _PATH_POINTS = 3, 240  # of each path that has to stay free
_SURFACE_POINTS = 7  # along each side of a thing, to see whether it touches another
_CRATE = Material((0.52, 0.40, 0.24), (0.40, 0.30, 0.17), 'stripes', 0.11, 0.3, (0.3, 0.2, 0.1),
                  21.0, 0.4)
_CLOTHES = Material((0.20, 0.24, 0.38), (0.42, 0.36, 0.30), 'stripes', 0.09, 0.2,
                    (0.3, 0.2, 0.1), 29.5, 1.2, texture_m=0.25)
_SKIN = Material((0.72, 0.54, 0.44), grain=(0.2, 0.1, 0.1), celsius=34.0, texture_celsius=0.6,
                 texture_m=0.1)
_HEATER = Material((0.75, 0.74, 0.72), (0.55, 0.55, 0.55), 'stripes', 0.06, 0.0,
                   (0.1, 0.1, 0.05), 52.0, 1.0, rise_celsius=8.0)


@dataclass(frozen=True, slots=True)
class SceneChange:
    """One thing that is not as before."""

    kind: str  # one of `CHANGES`
    what: str
    change: str


def changed_world(world: World, kinds: Collection[str], seed: int,
                  ) -> tuple[World, tuple[SceneChange, ...]]:
    """The world after changes of these kinds, and what they were."""
    unknown = sorted(set(kinds).difference(CHANGES))
    if unknown or not kinds:
        raise InputError('no such change of the scene', where='later',
                         expected='some of ' + ', '.join(CHANGES),
                         got=', '.join(unknown) or 'none')
    layout, changes = world.layout, []
    for number, kind in enumerate(CHANGES):
        if kind in kinds:
            rng = np.random.default_rng([seed, 31, number])
            layout, made = _CHANGE[kind](layout, _Room(world, seed), rng)
            changes += [SceneChange(kind, what, change) for what, change in made]
    return world.with_layout(layout), tuple(changes)


class _Room:
    """Where things can stand: clear of each other and of the robot's paths."""

    def __init__(self, world: World, seed: int) -> None:
        """Sample the paths of the unchanged world."""
        motions = [make_motion(world, kind, seed, held_out=held_out)
                   for kind in KINDS for held_out in (False, True)]
        self._path = np.concatenate([motion.poses(np.linspace(
            0.0, _PATH_LAPS * motion.lap_s, _PATH_POINTS))[:, :3, 3] for motion in motions])

    def has_space(self, layout: Layout, things: Sequence[Solid], left_out: Collection[Solid] = (),
                  ) -> bool:
        """Whether things of a piece fit into the layout, of which some solids do not count."""
        others = World(replace(layout, solids=tuple(
            solid for solid in layout.solids if solid not in left_out)))
        for thing in things:
            alone = World(replace(layout, solids=(layout.solids[0], thing)))
            if (alone.clearance_m(self._path) < CLEARANCE_M).any():
                return False
            if (others.clearance_m(_points_of(thing)) < -1e-9).any():
                return False
        return True


def _change_heat(layout: Layout, room: _Room, rng: np.random.Generator,
                 ) -> tuple[Layout, list[tuple[str, str]]]:
    """Machines, building, the sun on a wall, a heater."""
    made = []
    ambient = float(np.median([face.celsius for face in layout.solids[0].faces]))
    warmer = float(rng.choice((-1.0, 1.0)) * rng.uniform(1.5, 4.0))
    made.append(('the building', f'{warmer:+.1f} deg C'))
    solids = [_warmed_room(layout.solids[0], warmer, rng)]
    for solid in layout.solids[1:]:
        hottest = max(face.celsius for face in solid.faces)
        share, chance = 1.0, rng.random()
        if hottest > _HOT_CELSIUS and chance < _OFF_SHARE + _OTHER_SHARE:
            off = chance < _OFF_SHARE
            share = float(rng.uniform(0.03, 0.15) if off else rng.choice(
                (rng.uniform(0.4, 0.75), rng.uniform(1.2, 1.4))))
            now = ambient + warmer + share * (hottest - ambient)
            made.append((describe(solid), f'{hottest:.0f} -> {now:.0f} deg C'
                         + (' (off)' if off else '')))
        solids.append(replace(solid, faces=tuple(
            _heated(face, share, ambient, warmer) for face in solid.faces)))
    spots = [replace(spot, celsius=float(spot.celsius * rng.uniform(0.0, 1.3)))
             for spot in layout.spots]
    if spots:
        k = int(np.argmax([spot.celsius for spot in layout.spots]))
        centre, old = _beside(layout, rng), spots[k].centre
        spots[k] = replace(layout.spots[k], centre=centre)
        made.append((f'warm spot at {_place(old)}', f'now at {_place(centre)}'))
    spots.append(_sun(layout, rng))
    made.append(('the sun', f'on the wall at {_place(spots[-1].centre)}, '
                 f'+{spots[-1].celsius:.0f} deg C'))
    layout = replace(layout, solids=tuple(solids), spots=tuple(spots))
    heater = _placed(layout, room, rng, lambda x, y: (
        box((x - 0.3, y - 0.08, 0.05), (x + 0.3, y + 0.08, 0.6), _HEATER),))
    if heater:
        layout = replace(layout, solids=(*layout.solids, *heater))
        made.append(('a heater', f'stands at {_place(_middle(heater[0]))}'))
    return layout, made


def _warmed_room(walls: Solid, warmer: float, rng: np.random.Generator) -> Solid:
    """The room's surfaces, each a little different; one wall's thermal bridges turn around."""
    sunny = int(rng.integers(0, 4))
    faces = []
    for k, face in enumerate(walls.faces):
        bridges = -1.0 if k % len(walls.faces) == sunny else rng.uniform(0.3, 1.3)
        faces.append(replace(
            face, celsius=face.celsius + warmer + float(rng.uniform(-1.0, 1.0)),
            rise_celsius=face.rise_celsius * float(rng.uniform(0.4, 1.8)),
            pattern_celsius=face.pattern_celsius * float(rng.uniform(0.5, 1.3)),
            studs_celsius=face.studs_celsius * float(bridges)))
    return replace(walls, faces=tuple(faces))


def _heated(face: Material, share: float, ambient: float, warmer: float) -> Material:
    """A surface at a share of its excess over the air, and the contrasts that come of it."""
    return replace(face, celsius=ambient + warmer + share * (face.celsius - ambient),
                   rise_celsius=share * face.rise_celsius,
                   pattern_celsius=share * face.pattern_celsius,
                   texture_celsius=max(share, 0.3) * face.texture_celsius)


def _sun(layout: Layout, rng: np.random.Generator) -> HeatSpot:
    """A wide warm patch on a wall."""
    low, high = World(layout).bounds
    centre = low + rng.uniform(0.25, 0.75, 3) * (high - low)
    axis = int(rng.integers(0, 2))
    centre[axis] = (low, high)[int(rng.integers(0, 2))][axis]
    return HeatSpot(_point(centre), 0.3 * float((high - low)[2]) + 0.2,
                    float(rng.uniform(5.0, 8.0)))


def _beside(layout: Layout, rng: np.random.Generator) -> Point:
    """Somewhere on the floor, or on a wall."""
    low, high = World(layout).bounds
    centre = low + rng.uniform(0.1, 0.9, 3) * (high - low)
    axis = int(rng.integers(0, 3))
    centre[axis] = low[axis]
    return _point(centre)


def _change_light(layout: Layout, room: _Room, rng: np.random.Generator,
                  ) -> tuple[Layout, list[tuple[str, str]]]:
    """One lamp out, others brighter, less light from everywhere, daylight from a side."""
    out = int(rng.integers(0, len(layout.lamps)))
    lamps = [replace(lamp, power=float(lamp.power * (0.1 if k == out else rng.uniform(0.9, 1.5))))
             for k, lamp in enumerate(layout.lamps)]
    low, high = World(layout).bounds
    centre = low + np.append(rng.uniform(0.2, 0.8, 2), 0.6) * (high - low)
    axis = int(rng.integers(0, 2))
    centre[axis] = (low, high)[int(rng.integers(0, 2))][axis]
    day = Lamp(_point(centre), float(rng.uniform(0.4, 0.8)))
    ambient = layout.ambient * float(rng.uniform(0.55, 0.9))
    return replace(layout, lamps=(*lamps, day), ambient=ambient), [
        (f'lamp at {_place(layout.lamps[out].centre)}', 'nearly out'),
        ('daylight', f'from {_place(day.centre)}'),
        ('light from everywhere', f'{ambient / layout.ambient:.0%} of before')]


def _change_furniture(layout: Layout, room: _Room, rng: np.random.Generator,
                      ) -> tuple[Layout, list[tuple[str, str]]]:
    """Move each loose piece where there is space, and put a crate on the floor."""
    made = []
    for name in layout.loose:
        piece = [solid for solid in layout.solids if solid.name == name]
        for _ in range(_DRAWS):
            turn, length = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(*_SHIFT_M)
            step = length * float(np.cos(turn)), length * float(np.sin(turn))
            moved = [solid.moved(*step) for solid in piece]
            if room.has_space(layout, moved, piece):
                new = dict(zip(piece, moved, strict=True))
                layout = replace(layout, solids=tuple(new.get(s, s) for s in layout.solids))
                made.append((name, f'moved by {length:.2f} m, to {_place(_middle(moved[0]))}'))
                break
    crate = _placed(layout, room, rng, lambda x, y: (
        box((x - 0.25, y - 0.2, 0.0), (x + 0.25, y + 0.2, 0.45), _CRATE),))
    if crate:
        layout = replace(layout, solids=(*layout.solids, *crate))
        made.append(('a crate', f'new, at {_place(_middle(crate[0]))}'))
    return layout, made


def _person(height_m: float, x: float, y: float) -> tuple[Solid, ...]:
    return (cylinder('z', (x, y), 0.17, 0.0, height_m - 0.27, _CLOTHES),
            sphere((x, y, height_m - 0.13), 0.12, _SKIN))


def _change_people(layout: Layout, room: _Room, rng: np.random.Generator,
                   ) -> tuple[Layout, list[tuple[str, str]]]:
    """Two people, where there is space."""
    made = []
    for _ in range(2):
        person = _placed(layout, room, rng, partial(_person, float(rng.uniform(1.55, 1.85))))
        if person:
            layout = replace(layout, solids=(*layout.solids, *person))
            made.append(('a person', f'stands at {_place(_middle(person[0]))}'))
    return layout, made


_CHANGE: Mapping[str, Callable[[Layout, _Room, np.random.Generator],
                               tuple[Layout, list[tuple[str, str]]]]] = {
    'heat': _change_heat, 'light': _change_light, 'furniture': _change_furniture,
    'people': _change_people}


def _placed(layout: Layout, room: _Room, rng: np.random.Generator,
            make: Callable[[float, float], tuple[Solid, ...]]) -> tuple[Solid, ...]:
    """Things made somewhere on the floor where there is space; () where there is none."""
    low, high = World(layout).bounds
    for _ in range(_DRAWS):
        x, y = low[:2] + rng.uniform(0.0, 1.0, 2) * (high - low)[:2]
        things = make(float(x), float(y))
        if room.has_space(layout, things):
            return things
    return ()


def describe(solid: Solid) -> str:
    """A solid as a person finds it."""
    return f'{solid.name or solid.kind_name} at {_place(_middle(solid))}'


def _points_of(solid: Solid) -> Array:
    """Points on and in a solid, a little wider than it is, (n, 3)."""
    wider = np.array([_GAP_M, _GAP_M, 0.0])  # a thing may stand on another, or on the floor
    low, high = (np.array(corner) for corner in solid.corners)
    axes = [np.linspace(a, b, _SURFACE_POINTS) for a, b in zip(low - wider, high + wider)]
    return np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 3)


def _middle(solid: Solid) -> Array:
    low, high = solid.corners
    return 0.5 * (np.array(low, np.float64) + np.array(high, np.float64))


def _place(point: Sequence[float] | Array) -> str:
    return ' '.join(f'{value:.1f}' for value in point) + ' m'


def _point(values: Array) -> Point:
    x, y, z = (float(value) for value in values)
    return x, y, z

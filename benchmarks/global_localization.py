# SPDX-License-Identifier: Apache-2.0
"""
Localization without a start: views from random poses in a simulated world, in a map of it.

    python benchmarks/global_localization.py --map room.map --views 40
    thermal-nerf-loc simulate hall --scene hall --frames 160 --thermal-size 160x120 --survey
    thermal-nerf-loc train hall --map hall.map
    python benchmarks/global_localization.py --map hall.map --scene hall
    python benchmarks/global_localization.py --scene machine_room --exact   # the world itself

Positions lie anywhere in free space, `CLEARANCE_M` from every surface, at the heights of the
scene's robots; headings are uniform, pitch and roll are those of a drone. Cameras have their
noise. Every view is localized with both modalities, with each alone, and with both in darkness.
A pose is 'right' within 5 cm and 5 deg, and 'wrong ok' if its verdict is 'ok' and it is more than
10 cm or 5 deg off. 'near' is the share within 50 cm and 15 deg: retrieval was right, whatever the
refinement made of it. 'truth' is the share that is right from the true pose as a start: the bound
that map and images set. 'either' is the share that is right or ambiguous, 'honest' the share that
is right or not 'ok'.
"""

import argparse
from dataclasses import replace
from pathlib import Path
import sys
from typing import Any

from _bench import finish, guarded, KEPT, parser, prepare, room, show, trained_map

CASES = {'both': (('rgb', 'thermal'), 0.0), 'rgb': (('rgb',), 0.0),
         'thermal': (('thermal',), 0.0), 'dark': (('rgb', 'thermal'), 1.0)}
CLEARANCE_M = 0.4
HEIGHTS_M, PITCH_RAD, ROLL_RAD = 0.3, 0.3, 0.1  # about the robots' own
NEAR = (0.5, 15.0)
TARGETS = {('room', 'both'): 0.95, ('machine_room', 'both'): 0.95,
           ('machine_room', 'thermal'): 0.90}


def main() -> int:
    """Localize every view in every case."""
    args = parse()
    prepare(args)
    from thermal_nerf_loc.localization.localizer import Localizer
    from thermal_nerf_loc.mapping.map.localization_map import with_panoramas

    renderer = the_map(args)
    if renderer.panoramas is None:
        print('looking around in the map ...', flush=True)
    renderer = with_panoramas(renderer)
    places = len(renderer.panoramas)
    localizer = Localizer(renderer)
    localizer.localize_anywhere(random_views(args.scene, 1, args.seed + 1)[0])  # compiles
    rows = {}
    for case in args.cases:
        modalities, darkness = CASES[case]
        if set(modalities) <= set(renderer.modalities):
            views = random_views(args.scene, args.views, args.seed, darkness)
            rows[case] = summary([attempt(localizer, view.only(*modalities)) for view in views])
            report(args.scene, {case: rows[case]})
    report(f'{args.scene}, {args.views} views, {places} places', rows)
    return finish(args, {'scene': args.scene, 'map': str(args.map or 'exact'), 'places': places,
                         'cases': rows})


def parse() -> argparse.Namespace:
    """Command line."""
    made = parser(__doc__)
    made.add_argument('--map', type=Path, metavar='FILE', help='map (default: one learned now)')
    made.add_argument('--scene', choices=('room', 'machine_room', 'hall'), default='room',
                      help='the world that the map shows (default: room)')
    made.add_argument('--exact', action='store_true', help='search the exact world, not a map')
    made.add_argument('--views', type=int, default=40, metavar='N', help='(default: 40)')
    made.add_argument('--cases', nargs='+', choices=tuple(CASES), default=list(CASES),
                      help='(default: all)')
    made.add_argument('--seed', type=int, default=0, help='(default: 0)')
    made.add_argument('--train-seconds', type=float, default=150.0, metavar='S',
                      help='of a map learned now (default: 150)')
    args = made.parse_args()
    if args.quick:
        args.views, args.cases, args.exact = 2, ['both'], args.map is None
    return args


def the_map(args: argparse.Namespace) -> Any:
    """The map, or the world in its place."""
    from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
    from thermal_nerf_loc.simulation.layouts import make_world

    if args.exact:
        return make_world(args.scene)
    if args.map is not None:
        return RadianceMap.load(args.map)
    KEPT.mkdir(parents=True, exist_ok=True)
    return RadianceMap.load(trained_map(room(scene=args.scene), None, args.train_seconds))


def random_views(scene: str, count: int, seed: int, darkness: float = 0.0) -> list[Any]:
    """Frames with true poses, the same for the same seed."""
    import numpy as np

    from thermal_nerf_loc.sensing.frame import Frame, RGB, SensorImage, THERMAL
    from thermal_nerf_loc.simulation.layouts import make_world
    from thermal_nerf_loc.simulation.record import (
        make_rig, render_image, SimulationConfig, START_NS)
    from thermal_nerf_loc.simulation.sensors import RgbCamera, ThermalCamera

    settings = SimulationConfig(scene=scene, thermal_size=(160, 120))
    rig, world = make_rig(settings), make_world(scene)
    rgb = RgbCamera(replace(settings.rgb, darkness=darkness), seed)
    thermal = ThermalCamera(rig.cameras[THERMAL], settings.thermal, seed)
    rng, views, elapsed_ns = np.random.default_rng([seed, 77]), [], 0
    while len(views) < count:
        T = random_pose(world, rng)
        if not world.is_free(T[None, :3, 3], CLEARANCE_M)[0]:
            continue
        elapsed_ns = thermal.next_open_ns(elapsed_ns + 2_300_000_000)
        colour = render_image(world, RGB, rig.cameras[RGB], T, 2)
        celsius = render_image(world, THERMAL, rig.cameras[THERMAL], T @ rig.T_rgb_thermal, 2)
        stamp = START_NS + elapsed_ns
        images = {RGB: SensorImage(rig.cameras[RGB], rgb.expose(colour, elapsed_ns), stamp),
                  THERMAL: SensorImage(rig.cameras[THERMAL], thermal.expose(
                      celsius[..., 0], elapsed_ns).celsius[..., None], stamp, rig.T_rgb_thermal)}
        views.append(Frame(stamp, images, T, f'{scene} {len(views)}'))
    return views


def random_pose(world: Any, rng: Any) -> Any:
    """Pose of a camera somewhere between the walls, free or not."""
    import numpy as np

    from thermal_nerf_loc.geometry import se3

    low, high = world.bounds
    heights = np.array(world.layout.waypoints)[:, 2]
    low[2], high[2] = heights.min() - HEIGHTS_M, heights.max() + HEIGHTS_M
    position, yaw = rng.uniform(low, high), rng.uniform(-np.pi, np.pi)
    pitch, roll = rng.uniform(-PITCH_RAD, PITCH_RAD), rng.uniform(-ROLL_RAD, ROLL_RAD)
    optical = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    R = se3.so3_exp([0, 0, yaw]) @ se3.so3_exp([0, pitch, 0]) @ se3.so3_exp([roll, 0, 0])
    return se3.from_parts(R @ optical, position)


def attempt(localizer: Any, view: Any) -> dict[str, Any]:
    """Localize one view without a guess, and once more from the truth."""
    from thermal_nerf_loc.geometry import se3

    found = localizer.localize_anywhere(view)
    metres, degrees = se3.distance(found.T_world_cam, view.T_world_cam)
    spared = localizer.localize(view, view.T_world_cam)
    at_best = se3.distance(spared.T_world_cam, view.T_world_cam)
    return {'metres': metres, 'degrees': degrees, 'verdict': found.verdict,
            'seconds': found.seconds, 'rivals': len(found.rivals), 'reason': found.reason,
            'best_m': at_best[0], 'best_deg': at_best[1]}


def summary(trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Shares and medians."""
    import numpy as np

    from thermal_nerf_loc.evaluation.metrics import PoseErrors, SUCCESS_DEG, SUCCESS_M

    metres, degrees, seconds, best_m, best_deg = (
        np.array([trial[name] for trial in trials])
        for name in ('metres', 'degrees', 'seconds', 'best_m', 'best_deg'))
    verdicts = np.array([trial['verdict'] for trial in trials])
    errors = PoseErrors(metres, degrees)
    right = (metres < SUCCESS_M) & (degrees < SUCCESS_DEG)
    return {'views': len(trials), 'success_5cm_5deg': float(right.mean()),
            'near': float(((metres < NEAR[0]) & (degrees < NEAR[1])).mean()),
            'from_truth_5cm_5deg': PoseErrors(best_m, best_deg).success_5cm_5deg,
            'right_or_ambiguous': float((right | (verdicts == 'ambiguous')).mean()),
            'honest': float((right | (verdicts != 'ok')).mean()),
            'ok_share': float((verdicts == 'ok').mean()),
            'ambiguous_share': float((verdicts == 'ambiguous').mean()),
            'wrong_and_confident': float((errors.wrong & (verdicts == 'ok')).mean()),
            'median_seconds': float(np.median(seconds)),
            'p95_seconds': float(np.quantile(seconds, 0.95)), 'trials': trials}


def report(title: str, rows: dict[str, dict[str, Any]]) -> None:
    """A table, targets beside it."""
    scene = title.split(',')[0]
    show(title, ('images', 'right %', 'target', 'truth %', 'near %', 'ok %', 'ambig. %',
                 'either %', 'honest %', 'wrong ok %', 'median s'),
         [[case, 100 * row['success_5cm_5deg'],
           100 * TARGETS[scene, case] if (scene, case) in TARGETS else None,
           100 * row['from_truth_5cm_5deg'], 100 * row['near'], 100 * row['ok_share'],
           100 * row['ambiguous_share'], 100 * row['right_or_ambiguous'], 100 * row['honest'],
           100 * row['wrong_and_confident'], row['median_seconds']] for case, row in rows.items()])


if __name__ == '__main__':
    sys.exit(guarded(main))

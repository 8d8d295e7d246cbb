# SPDX-License-Identifier: Apache-2.0
"""
Localize images of a scene that has changed since it was mapped.

    python benchmarks/appearance_change.py [--scene machine_room --map FILE]

The map is of before. The images, at the same poses, show the scene as it was, and later: other
temperatures, other light, moved furniture, people (`simulate --later`), one kind at a time and all
together. Each is localized from a rough start and, with --search, without one, by RGB, by heat,
and by both; with values alone, and with edges where values do not fit. SIFT + PnP (COLMAP), with
--peer, from the training images of before.
Targets, from a rough start, all changed: both 95 %, heat 80 % within 5 cm and 5 deg; wrong and ok
below 0.5 %.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
import math
from pathlib import Path
import sys
import tempfile
from typing import Any

from _bench import finish, guarded, parser, prepare, room, show
from _poses import (
    add_inputs, attempt, configured, disturbed, held_out, map_of, modalities_of, ProgressPrinter,
    summary, Trial, warm_up)

CASES = {'before': (), 'heat': ('heat',), 'light': ('light',),
         'things': ('furniture', 'people'), 'all': ('heat', 'light', 'furniture', 'people')}
WAYS = ('values', 'edges')
START = (10.0, 0.1)


def main() -> int:
    """Localize, and print a table."""
    made = parser(__doc__)
    add_inputs(made, 16)
    made.add_argument('--scene', default='machine_room', metavar='NAME',
                      help='the simulated scene (default: machine_room)')
    made.add_argument('--cases', default=','.join(CASES), metavar='NAMES',
                      help=f'some of {",".join(CASES)} (default: all of these)')
    made.add_argument('--search', action='store_true', help='without a start, too')
    made.add_argument('--peer', action='store_true', help='SIFT + PnP beside it (needs pycolmap)')
    args = made.parse_args()
    prepare(args)
    cases = args.cases.split(',')
    if not set(cases) <= set(CASES):
        made.error(f'--cases: some of {", ".join(CASES)}')
    if args.quick:
        args.frames, cases = 2, cases[:2]
    data = args.data or (room(12, (64, 48), args.scene) if args.quick else
                         room(160, scene=args.scene))
    renderer = map_of(args, data)
    frames = {case: later_frames(data, case, args) for case in cases}
    rows = list(localized(args, renderer, frames))
    if args.peer:
        rows += list(by_features(data, frames))
    show(f'{args.scene}, {args.frames} views from before and later',
         ('case', 'by', 'way', 'median cm', 'median deg', '5 cm 5 deg %', 'ok %', 'ok and wrong',
          'ms'),
         [[r['case'], r['modality'], r['way'], 100 * r['median_m'], r['median_deg'],
           100 * r['success_5cm_5deg'], 100 * r['ok_share'], r['wrong_but_ok'],
           1e3 * r['median_seconds']] for r in rows])
    return finish(args, {'data': str(data), 'rows': rows})


def later_frames(data: Path, case: str, args: argparse.Namespace) -> list[Any]:
    """Held-out views of the changed scene, at the same poses as those of before."""
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    from thermal_nerf_loc.simulation.record import simulate_dataset, SimulationConfig

    scene = load_scene(data)
    first = scene.load(scene.test[0])
    sizes = {name: image.camera.size for name, image in first.images.items()}
    settings = SimulationConfig(
        scene=args.scene, frames=2, seed=args.seed, later=CASES[case], size=sizes['rgb'],
        thermal_size=sizes['thermal'], held_out_share=args.frames / 2)
    with tempfile.TemporaryDirectory() as folder:
        simulate_dataset(Path(folder) / case, settings)
        return held_out(Path(folder) / case, args.frames)


def localized(args: argparse.Namespace, renderer: Any, frames: dict[str, list[Any]],
              ) -> Iterator[dict[str, Any]]:
    """One row for each case, set of modalities and way; the ways in turns on each view."""
    from thermal_nerf_loc.localization.localizer import Localizer

    config = configured(START, seed=args.seed)
    localizers = {
        name: Localizer(renderer, replace(config, edges=replace(config.edges, when=when)))
        for name, when in (('values', 'never'), ('edges', 'always'))}
    views = next(iter(frames.values()))
    warm_up(localizers.values(), views[0])
    modalities, starts = modalities_of(renderer, views), (False, True)[:1 + args.search]
    progress = ProgressPrinter(len(frames) * len(modalities) * len(starts) * len(views))
    for case, views in frames.items():
        for modality in modalities:
            for search in starts:
                trials: dict[str, list[Trial]] = {way: [] for way in WAYS}
                for k, frame in enumerate(views):
                    T = None if search else disturbed(frame.T_world_cam, START, (args.seed, k))
                    for way in WAYS:
                        trials[way].append(attempt(localizers[way], frame, modality, T))
                    progress.step(f'{case}, {modality}')
                for way, part in trials.items():
                    yield {'case': case, 'modality': modality,
                           'way': f'{way}{", search" * search}', **summary(part)}


def by_features(data: Path, frames: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """SIFT + PnP, by each modality alone, from the training images; it gives no verdict."""
    from _sfm import build
    import numpy as np

    from thermal_nerf_loc.geometry import se3
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene

    scene = load_scene(data)
    training = [scene.load(index) for index in scene.train]
    for modality in ('rgb', 'thermal'):
        images = [(picture(frame, modality), frame.images[modality].camera,
                   frame.T_world_cam @ frame.images[modality].T_cam_sensor) for frame in training]
        with tempfile.TemporaryDirectory() as folder:
            peer = build(Path(folder), images, lambda done, total, status='': None)
        for case, views in frames.items():
            trials = []
            for frame in views:
                image = frame.images[modality]
                T, seconds = peer.localize(picture(frame, modality), image.camera)
                metres, degrees = (math.inf, math.inf) if T is None else se3.distance(
                    T @ se3.inverse(image.T_cam_sensor), frame.T_world_cam)
                trials.append(Trial(metres, degrees, seconds, 'none', np.inf))
            yield {'case': case, 'modality': modality, 'way': 'SIFT + PnP', **summary(trials)}


def picture(frame: Any, modality: str) -> Any:
    """8 bits, as SIFT takes them."""
    from _sfm import grey, stretched
    values = frame.images[modality].values
    return grey(values) if modality == 'rgb' else stretched(values[..., 0])


if __name__ == '__main__':
    sys.exit(guarded(main))

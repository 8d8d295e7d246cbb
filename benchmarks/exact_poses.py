# SPDX-License-Identifier: Apache-2.0
"""
How exact poses get on one map: more rays, less blur, and the pixels that hold the pose best.

    python benchmarks/exact_poses.py [--data DIR --map FILE] [--start-m M] [--modalities rgb]

Each row is one choice of the last round, all from the same starts on the same held-out views:

1. the last round as the localizer node has it (the baseline); more rays alone; less blur alone;
2. at one number of rays, blurred alike: random pixels, interest regions, edges, and pixels by
   their leverage on the pose (`localization/refinement/informative_pixels.py`);
3. the exact round as `localize` has it.

With --exact the simulated world itself takes the place of the map: what is left then is the
localizer's own error, the rest is the map's.
"""

import argparse
from dataclasses import replace
import sys
from typing import Any

from _bench import finish, guarded, parser, prepare, show
from _poses import (
    add_inputs, attempts, configured, data_of, held_out, map_of, MODALITIES, modalities_of,
    ProgressPrinter, Trial, warm_up)

START_DEG = 10.0
EQUAL_RAYS, MANY_RAYS = 2000, 20_000
FINE_PX = 0.3  # of an image 160 px wide


def main() -> int:
    """Localize by every choice, compare."""
    made = parser(__doc__)
    add_inputs(made, 16)
    made.add_argument('--start-m', type=float, default=0.1, metavar='M',
                      help='error of the starts, besides 10 deg (default: 0.1)')
    made.add_argument('--repeats', type=int, default=2, metavar='N',
                      help='starts of each view (default: 2)')
    made.add_argument('--modalities', nargs='+', choices=tuple(MODALITIES), metavar='NAME',
                      help='of both rgb thermal (default: all that map and data have)')
    made.add_argument('--exact', metavar='SCENE', help='a simulated world as the map: room, hall '
                      'or machine_room')
    args = made.parse_args()
    prepare(args)
    if args.repeats < 1:
        made.error('--repeats: 1 or more')
    if args.quick:
        args.frames, args.repeats = 2, 1
    data = data_of(args, args.exact or 'room')
    frames = held_out(data, args.frames)
    renderer = world(args.exact) if args.exact else map_of(args, data)
    figures: dict[str, Any] = {'data': str(data), 'views': len(frames), 'start_m': args.start_m}
    for modality in args.modalities or modalities_of(renderer, frames):
        figures[modality] = compared(args, renderer, frames, modality)
    return finish(args, figures)


def world(name: str) -> Any:
    """A simulated world, exact."""
    from thermal_nerf_loc.simulation.layouts import make_world
    return make_world(name)


def choices() -> dict[str, Any]:
    """Settings of the refinement, by name."""
    from thermal_nerf_loc.cli.poses.localize import EXACT_RAYS
    from thermal_nerf_loc.localization.refinement.coarse_to_fine import RefinementConfig

    plain = RefinementConfig()
    fine = (*plain.sigmas_px[:-1], FINE_PX)
    found = {'as the node (baseline)': plain,
             'more rays alone': replace(plain, last_rays=MANY_RAYS),
             'less blur alone': replace(plain, sigmas_px=fine),
             'more rays, less blur': replace(plain, sigmas_px=fine, last_rays=MANY_RAYS)}
    for sampler in ('random', 'interest_regions', 'edges'):
        found[f'{EQUAL_RAYS} rays, {sampler}'] = replace(
            plain, sigmas_px=fine, last_rays=EQUAL_RAYS, sampler=sampler)
    for name, rays in ((f'{EQUAL_RAYS} rays, by leverage', EQUAL_RAYS),
                       ('exact, as localize', EXACT_RAYS)):
        found[name] = replace(plain, exact=replace(plain.exact, rays=rays))
    return found


def compared(args: argparse.Namespace, renderer: Any, frames: list[Any],
             modality: str) -> list[dict[str, Any]]:
    """One row for each choice."""
    from thermal_nerf_loc.localization.localizer import Localizer

    start, rows = (START_DEG, args.start_m), []
    progress = ProgressPrinter(len(choices()))
    for name, refinement in choices().items():
        localizer = Localizer(renderer, replace(configured(start, seed=args.seed),
                                                refinement=refinement))
        warm_up([localizer], frames[0])
        trials = [trial for repeat in range(args.repeats) for trial in attempts(
            localizer, frames, modality, start, args.seed + 1000 * repeat)]
        rows.append({'choice': name, **errors(trials)})
        progress.step(f'{modality}, {name}')
    show(f'{modality}: {len(frames)} views, {args.repeats} starts each, from {START_DEG:g} deg '
         f'{args.start_m:g} m', ('last round', 'cm', '90 %', 'deg', '90 %', '5 cm 5 deg %',
                                 'chi2', 's'),
         [[r['choice'], 100 * r['median_m'], 100 * r['ninety_m'], r['median_deg'],
           r['ninety_deg'], 100 * r['success_5cm_5deg'], r['chi2'], r['median_seconds']]
          for r in rows])
    return rows


def errors(trials: list[Trial]) -> dict[str, Any]:
    """Medians and ninth deciles; `chi2` is the median normalised error squared (expected: 5.3)."""
    import numpy as np
    metres, degrees, seconds = np.array([
        (t.error_m, t.error_deg, t.seconds) for t in trials]).T
    return {'trials': len(trials), 'median_m': float(np.median(metres)),
            'ninety_m': float(np.quantile(metres, 0.9)), 'median_deg': float(np.median(degrees)),
            'ninety_deg': float(np.quantile(degrees, 0.9)),
            'success_5cm_5deg': float(np.mean([t.succeeded for t in trials])),
            'chi2': float(np.median([t.chi2 for t in trials])),
            'median_seconds': float(np.median(seconds))}


if __name__ == '__main__':
    sys.exit(guarded(main))

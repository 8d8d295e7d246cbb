# SPDX-License-Identifier: Apache-2.0
"""
iNeRF: success by ray sampler and by rays per step, as in the studies of the iNeRF paper.

    python benchmarks/ray_sampling.py [--samplers random edges] [--batches 256 1024]

All cells have the same starts, drawn as in the paper: rotated about a random axis by up to 40 deg,
shifted along each axis by up to 0.2 m. Success is within 5 deg, within 5 cm, and both. Baseline:
the paper's order, interest regions before interest points before random rays.
"""

import argparse
import sys
from typing import Any

from _bench import finish, guarded, parser, prepare, show
from _poses import add_inputs, data_of, held_out, map_of, MODALITIES, ProgressPrinter

PUBLISHED = ('random', 'interest_points', 'interest_regions')


def main() -> int:
    """Run every cell."""
    made = parser(__doc__)
    add_inputs(made, 8)
    made.add_argument('--samplers', nargs='+', default=list(PUBLISHED), metavar='NAME',
                      help=f'names of the localizer\'s samplers (default: {" ".join(PUBLISHED)})')
    made.add_argument('--batches', type=int, nargs='+', default=[256, 512, 1024], metavar='N',
                      help='rays of a step (default: 256 512 1024)')
    made.add_argument('--steps', type=int, default=200, metavar='N', help='(default: 200)')
    made.add_argument('--rate', type=float, default=0.02, metavar='R',
                      help='first step of Adam (default: 0.02)')
    made.add_argument('--modality', choices=tuple(MODALITIES), default='rgb',
                      help='(default: rgb, as in the paper)')
    made.add_argument('--max-deg', type=float, default=40.0, metavar='DEG',
                      help='of a start (default: 40)')
    made.add_argument('--max-m', type=float, default=0.2, metavar='M',
                      help='of a start, along each axis (default: 0.2)')
    args = made.parse_args()
    prepare(args)
    if args.quick:
        args.frames, args.batches, args.steps = 2, [64, 128], 5
    data = data_of(args)
    renderer, frames = map_of(args, data), held_out(data, args.frames)
    cells = study(args, renderer, frames)
    columns = ('sampler', 'rays', '< 5 deg %', '< 5 cm %', 'both %', 'median deg', 'median cm',
               's')
    show(f'iNeRF, {args.modality}, {len(frames)} views, {args.steps} steps', columns,
         [[c['sampler'], c['rays'], 100 * c['within_5deg'], 100 * c['within_5cm'],
           100 * c['success_5cm_5deg'], c['median_deg'], 100 * c['median_m'],
           c['median_seconds']] for c in cells])
    return finish(args, {'cells': cells, 'views': len(frames), 'steps': args.steps,
                         'modality': args.modality})


def study(args: argparse.Namespace, renderer: Any, frames: list[Any]) -> list[dict[str, Any]]:
    """One row for each sampler and batch size."""
    import numpy as np

    from thermal_nerf_loc.evaluation.metrics import PoseErrors
    from thermal_nerf_loc.localization.refinement.inerf import InerfConfig

    starts = [paper_start(frame.T_world_cam, args.max_deg, args.max_m, (args.seed, k))
              for k, frame in enumerate(frames)]
    descend(renderer, frames[0], args, starts[0], InerfConfig(steps=2))  # kernels compile
    cells, progress = [], ProgressPrinter(len(args.samplers) * len(args.batches))
    for rays in args.batches:
        for sampler in args.samplers:
            config = InerfConfig(steps=args.steps, rays=rays, rate=args.rate, sampler=sampler)
            ends = [descend(renderer, frame, args, start, config)
                    for frame, start in zip(frames, starts)]
            metres, degrees, seconds = np.array(ends).T
            cells.append({
                'sampler': sampler, 'rays': rays, 'within_5deg': float((degrees < 5.0).mean()),
                'within_5cm': float((metres < 0.05).mean()),
                'success_5cm_5deg': PoseErrors(metres, degrees).success_5cm_5deg,
                'median_m': float(np.median(metres)), 'median_deg': float(np.median(degrees)),
                'median_seconds': float(np.median(seconds))})
            progress.step(f'{sampler}, {rays} rays')
    return cells


def paper_start(T: Any, max_deg: float, max_m: float, seed: tuple[int, int]) -> Any:
    """A start as the paper draws it."""
    import numpy as np

    from thermal_nerf_loc.geometry import se3

    rng = np.random.default_rng(seed)
    axis = rng.normal(size=3)
    turn = np.deg2rad(rng.uniform(-max_deg, max_deg)) * axis / np.linalg.norm(axis)
    return se3.plus(T, np.concatenate([rng.uniform(-max_m, max_m, 3), turn]))


def descend(renderer: Any, frame: Any, args: argparse.Namespace, T_start: Any,
            config: Any) -> tuple[float, float, float]:
    """Metres and degrees off at the end, and seconds."""
    import time

    from thermal_nerf_loc.geometry import se3
    from thermal_nerf_loc.localization.refinement import inerf
    from thermal_nerf_loc.localization.refinement.image_pyramid import observe

    images, _ = observe(frame, MODALITIES[args.modality])
    started = time.perf_counter()
    found = inerf.refine(renderer, images, T_start, config, args.seed)
    seconds = time.perf_counter() - started
    return (*se3.distance(found.T_world_cam, frame.T_world_cam), seconds)


if __name__ == '__main__':
    sys.exit(guarded(main))

# SPDX-License-Identifier: Apache-2.0
"""
What training images without poses add to a map, after they were localized in it.

    python benchmarks/self_supervision.py [--unposed 0.5] [--pattern block]

In a simulated room a map is trained on a share of the views, the other views are localized in it,
those that are accepted are added, and the map is trained anew, as `thermal-nerf-loc extend` does.
Compared with the map before, and with a map of all views with their true poses, which bounds what
can be gained. The pattern `spread` takes poses away evenly along the path, `block` from its end,
as if they were of another drive.
"""

import argparse
from pathlib import Path
import sys
import tempfile
from typing import Any

from _bench import add_data, finish, guarded, parser, prepare, room, show

_QUALITY = {'rgb_psnr': 'rgb dB', 'rgb_ssim': 'rgb SSIM', 'thermal_psnr': 'thermal dB',
            'thermal_mae_celsius': 'MAE C', 'depth_median_error_m': 'depth m'}


def options() -> argparse.ArgumentParser:
    """What can be chosen."""
    made = parser(__doc__)
    add_data(made)
    made.add_argument('--frames', type=int, default=80, metavar='N',
                      help='views of the simulated room (default: 80)')
    made.add_argument('--unposed', type=float, default=0.5, metavar='SHARE',
                      help='of the training views (default: 0.5)')
    made.add_argument('--pattern', choices=('spread', 'block'), default='spread',
                      help='which of them (default: spread)')
    made.add_argument('--rounds', type=int, default=2, metavar='N', help='(default: 2)')
    made.add_argument('--steps', type=int, default=1500, metavar='N', help='(default: 1500)')
    return made


def main() -> int:
    """Train three maps, compare, print."""
    args = options().parse_args()
    prepare(args)
    from thermal_nerf_loc.common.errors import UserError
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    from thermal_nerf_loc.simulation.perturbations import without_poses

    if args.quick:
        args.frames, args.steps, args.rounds = 16, 20, 1
    size = (32, 24) if args.quick else (160, 120)
    scene = load_scene(args.data or room(args.frames, size))
    bare = without_poses(scene, args.unposed, args.pattern)
    try:
        figures = compared(args, scene, bare)
    except UserError as error:
        if not args.quick:
            raise
        print(f'so rough a map finds nothing: {error}')
        return finish(args, {'refused': str(error)})
    report(args, figures)
    return finish(args, figures)


def compared(args: argparse.Namespace, scene: Any, bare: Any) -> dict[str, Any]:
    """The map of the posed views, the one extended, and the one of all true poses."""
    from dataclasses import asdict

    from thermal_nerf_loc.evaluation.map_quality import evaluate_map
    from thermal_nerf_loc.evaluation.refined_poses import extension_figures
    from thermal_nerf_loc.localization.build_map import build_map, build_map_file
    from thermal_nerf_loc.localization.extend_map import extend_map
    from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
    from thermal_nerf_loc.mapping.training.config import TrainConfig

    config = TrainConfig(steps=args.steps, checkpoint_seconds=0.0)
    with tempfile.TemporaryDirectory() as folder:
        few, more = (Path(folder) / name for name in ('few', 'more'))
        print(f'training on {len(bare.train)} of {len(scene.train)} views ...', flush=True)
        build_map_file(bare, few, config)
        start = RadianceMap.load(few)
        print('finding the others, training with them ...', flush=True)
        extended = extend_map(start, bare, more, config, rounds=args.rounds)
        figures = extension_figures(start, bare, extended)
        print('training on all views with their true poses ...', flush=True)
        best = asdict(evaluate_map(build_map(scene, config).map, scene))
    return {**figures, 'true_poses': {name: best[name] for name in figures['before']},
            'views': {'before': len(bare.train), 'after': len(extended.scene.train),
                      'true_poses': len(scene.train)}}


def report(args: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Maps side by side, then what was found."""
    rows = {'posed views alone': 'before', 'with those found': 'after',
            'all true poses': 'true_poses'}
    show(f'held-out views, {args.steps} steps, poses of {args.unposed:.0%} ({args.pattern}) '
         'taken away', ('learned from', 'views', *_QUALITY.values()),
         [(name, figures['views'][key], *(figures[key][column] for column in _QUALITY))
          for name, key in rows.items()])
    truth = figures.get('accepted_truth', {})
    show('frames without a pose', ('tried', 'accepted %', 'refused', 'median cm', 'median deg',
                                   'worst cm', 'worst deg', '> 5 cm, 2 deg'),
         [(str(figures['tried']), 100.0 * figures['accepted_share'],
           ', '.join(f'{n} {kind}' for kind, n in figures['refused'].items()) or None,
           *(100.0 * truth[k] if k.endswith('_m') else truth[k] for k in (
               'median_m', 'median_deg', 'worst_m', 'worst_deg', 'worse_than_5cm_2deg')))])


if __name__ == '__main__':
    sys.exit(guarded(main))

# SPDX-License-Identifier: Apache-2.0
"""
A training that starts from stereo, beside one without depth, judged on held-out views.

    python benchmarks/depth_start.py [--data DIR] [--steps N] [--modality thermal] [--maps FOLDER]

Each row is one training on the same images and by the same seed: without depth, with stereo in
half the time of the first, with stereo at the same steps. The time of a row is that of the
training, stereo included. Real sets have no true depth: points matched between held-out images,
and the agreement of rendered depth between views, stand for it.
Targets: half the median depth error in half the time; at the default length <= 0.8 cm in the room
(80 views) and <= 1.2 cm in the machine room (160), >= 95 % within 5 cm; <= 3 cm from twelve views;
<= 2 cm from heat alone; PSNR never 0.1 dB worse.
"""

import argparse
from dataclasses import replace
from pathlib import Path
import sys
from typing import Any

from _bench import add_data, add_seed, finish, guarded, parser, prepare, show, training_data

# column of the table: (figure, factor); points are off by, views agree to 1 % in
_COLUMNS = {'RGB dB': ('rgb_psnr', 1.0), 'heat dB': ('thermal_psnr', 1.0),
            'depth cm': ('depth_median_error_m', 100.0), 'mean': ('depth_mean_error_m', 100.0),
            '5cm %': ('depth_within_5cm', 100.0), 'points %': ('points_median', 100.0),
            'views %': ('views_within_1pct', 100.0), 'steps': ('steps', 1),
            's': ('seconds', 1.0)}
_QUALITY = ('rgb_psnr', 'thermal_psnr', 'depth_median_error_m', 'depth_mean_error_m',
            'depth_within_5cm')


def options() -> argparse.ArgumentParser:
    """What can be chosen."""
    made = parser(__doc__)
    add_data(made)
    made.add_argument('--steps', type=int, metavar='N', help='(default: by the number of images)')
    made.add_argument('--modality', choices=('both', 'rgb', 'thermal'), default='both',
                      help='images to use (default: both)')
    made.add_argument('--maps', type=Path, metavar='FOLDER',
                      help='complete the maps and keep them here, to localize in them')
    add_seed(made)
    return made


def main() -> int:
    """Train without and with depth, compare."""
    args = options().parse_args()
    prepare(args)
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    from thermal_nerf_loc.mapping.training.config import capacity_factor, TrainConfig
    from thermal_nerf_loc.mapping.training.trainer import train

    scene = load_scene(training_data(args))
    steps = 40 if args.quick else args.steps or round(
        TrainConfig().planned_steps * capacity_factor(len(scene.train)))
    config = TrainConfig(steps=steps, modality=args.modality, seed=args.seed,
                         checkpoint_seconds=0.0)
    train(scene, replace(config, steps=2, depth_from='stereo'))  # kernels compile
    rows = {'none': trained(scene, args, replace(config, depth_from='none'))}
    half = max(2.0, 0.5 * rows['none']['seconds'])
    stereo = replace(config, depth_from='stereo')
    rows['stereo, half time'] = trained(scene, args, replace(stereo, max_seconds=half))
    rows['stereo'] = trained(scene, args, stereo)
    show(f'{scene.root.name}: {len(scene.train)} views, {args.modality}, {steps} steps',
         ('depth from', *_COLUMNS),
         [(name, *(None if row[figure] is None else round(factor * row[figure], 2)
                   for figure, factor in _COLUMNS.values())) for name, row in rows.items()])
    return finish(args, {'data': str(scene.root), 'steps': steps, 'modality': args.modality,
                         'rows': rows})


def trained(scene: Any, args: argparse.Namespace, config: Any) -> dict[str, Any]:
    """Figures of one map."""
    from thermal_nerf_loc.evaluation.geometry_quality import check_geometry
    from thermal_nerf_loc.evaluation.map_quality import evaluate_map
    from thermal_nerf_loc.localization.build_map import build_map_file
    from thermal_nerf_loc.mapping.training.trainer import train

    name = config.depth_from + ('' if config.max_seconds is None else '_half')
    if args.maps is None:
        result: Any = train(scene, config)
    else:
        args.maps.mkdir(parents=True, exist_ok=True)
        result = build_map_file(scene, args.maps / f'{scene.root.name}_{args.modality}_{name}.map',
                                config)
    quality = evaluate_map(result.map, scene)
    print(f'{name}: {result.steps} steps in {result.seconds:.0f} s', flush=True)
    return {**{key: getattr(quality, key) for key in _QUALITY},
            **geometry(check_geometry(result.map, scene)),
            'seconds': result.seconds, 'steps': result.steps}


def geometry(checked: Any) -> dict[str, float | None]:
    """Relative error at held-out points and agreement between views; colour's where there is."""
    found = checked.get('rgb') or checked.get('thermal') or {}
    points, views = found.get('points') or {}, found.get('views') or {}
    return {'points_median': points.get('median'), 'views_within_1pct': views.get('within_1pct')}


if __name__ == '__main__':
    sys.exit(guarded(main))

# SPDX-License-Identifier: Apache-2.0
"""
Refinement in a simulated room: poses, the rig, and the errors of a thermal camera.

    python benchmarks/refinement.py [--what poses rig thermal] [--method features]

Every case is trained three times: with perfect input, with perturbed input as it is (the
baseline), and with perturbed input that is refined. Errors of poses are RMSE after Sim(3)
alignment; held-out views of refined maps are aligned with the training poses and then refined
against the frozen map.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
import sys
from typing import Any

from _bench import finish, guarded, parser, prepare, room, show

CASES = ('poses', 'rig', 'thermal')
_POSES = ('rmse_deg', 'rmse_m')
_RIG = ('rig_deg', 'rig_m')


def options() -> argparse.ArgumentParser:
    """What can be chosen."""
    made = parser(__doc__)
    made.add_argument('--what', nargs='+', choices=CASES, default=list(CASES),
                      help='(default: all)')
    made.add_argument('--method', choices=('features', 'gradient', 'both', 'edges'),
                      default='features',
                      help='of refinement (default: features)')
    made.add_argument('--frames', type=int, default=80, metavar='N', help='(default: 80)')
    made.add_argument('--steps', type=int, default=3000, metavar='N', help='(default: 3000)')
    return made


def main() -> int:
    """Train, compare, print."""
    args = options().parse_args()
    prepare(args)
    if args.quick:
        args.frames, args.steps = 12, 30
    runs: dict[str, Callable[[Any], dict[str, Any]]] = {
        'poses': poses, 'rig': rig, 'thermal': thermal}
    return finish(args, {name: runs[name](args) for name in args.what})


def poses(args: argparse.Namespace) -> dict[str, Any]:
    """Every pose off by 3 deg and 5 cm."""
    from thermal_nerf_loc.simulation.perturbations import PerturbationConfig, perturbed_scene

    scene = scene_of(args)
    bad = perturbed_scene(scene, PerturbationConfig(pose_deg=3.0, pose_m=0.05))
    found = {'perfect': trained(args, scene), 'as they are': trained(args, bad),
             'refined': trained(args, bad, ('poses',))}
    report('poses off by 3 deg and 5 cm', found, _POSES)
    return found


def rig(args: argparse.Namespace) -> dict[str, Any]:
    """The thermal camera elsewhere than the data set says, by 5 deg and 8 cm."""
    from thermal_nerf_loc.simulation.perturbations import PerturbationConfig, perturbed_scene

    scene = scene_of(args)
    bad = perturbed_scene(scene, PerturbationConfig(rig_deg=5.0, rig_m=0.08))
    found = {'perfect': trained(args, scene), 'as it is': trained(args, bad),
             'refined': trained(args, bad, ('rig',))}
    report('rig off by 5 deg and 8 cm', found, _RIG)
    return found


def thermal(args: argparse.Namespace) -> dict[str, Any]:
    """Vignetting and drift, held against a clean camera's images of the same views."""
    clean, real = scene_of(args, clean=True), scene_of(args)
    found = {'clean camera': trained(args, clean), 'nothing learned': trained(
        args, real, judge=clean, camera_response=False),
             'learned': trained(args, real, judge=clean)}
    report('thermal camera with vignetting and drift', found, ())
    return found


def scene_of(args: argparse.Namespace, clean: bool = False) -> Any:
    """The room's views, made once."""
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene

    size = (48, 36) if args.quick else (160, 120)
    return load_scene(room(args.frames, size, clean=clean))


def trained(args: argparse.Namespace, scene: Any, what: tuple[str, ...] = (), judge: Any = None,
            **settings: Any) -> dict[str, Any]:
    """Figures of one training; `judge` has other images of the held-out views."""
    from thermal_nerf_loc.evaluation.map_quality import evaluate_map
    from thermal_nerf_loc.evaluation.refined_poses import truth_errors
    from thermal_nerf_loc.localization.held_out_poses import with_held_out
    from thermal_nerf_loc.mapping.training.config import RefineConfig, TrainConfig
    from thermal_nerf_loc.mapping.training.trainer import train

    refine = RefineConfig(what, 'gradient' if args.quick else args.method)
    config = TrainConfig(steps=args.steps, rays=256 if args.quick else 2048, refine=refine,
                         checkpoint_seconds=0.0, **settings)
    result = train(scene, config)
    seen = with_held_out(scene, result.scene, result.map) if 'poses' in what else result.scene
    quality = evaluate_map(result.map, seen) if judge is None else evaluate_map(
        replace(result.map, flat_fields={}), judge)  # which are the camera's, not the scene's
    found = {name: getattr(quality, name) for name in (
        'rgb_psnr', 'thermal_psnr', 'thermal_mae_celsius', 'depth_median_error_m')}
    return {**found, **(truth_errors(result.scene) or {}), 'seconds': result.seconds}


def report(title: str, found: dict[str, dict[str, Any]], errors: tuple[str, ...]) -> None:
    """One row for each training."""
    columns = {'rgb_psnr': 'rgb dB', 'thermal_psnr': 'thermal dB', 'thermal_mae_celsius': 'MAE C',
               'depth_median_error_m': 'depth m', **{name: name for name in errors},
               'seconds': 's'}
    show(title, ('poses and rig', *columns.values()),
         [(name, *(figures.get(column) for column in columns))
          for name, figures in found.items()])


if __name__ == '__main__':
    sys.exit(guarded(main))

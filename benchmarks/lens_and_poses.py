# SPDX-License-Identifier: Apache-2.0
"""
Lens and poses wrong at once, found from what images share.

    python benchmarks/lens_and_poses.py [--data DIR] [--focal-factor 1.1] [--train-steps N]

The simulated room, seen through a distorted lens; the data set states a focal length a tenth too
long and no distortion, and poses that are 2 deg and 3 cm off. Compared are: all kept as given (the
baseline), poses refined alone, lens and poses refined; and the lens alone beside true poses.
Errors of poses are RMSE after Sim(3) alignment. With --train-steps each is trained too.
"""

import argparse
from dataclasses import replace
import sys
import time
from typing import Any

from _bench import add_data, finish, guarded, KEPT, parser, prepare, show

POSE_DEG, POSE_M = 2.0, 0.03
CASES = {'as given': (), 'poses': ('poses',), 'poses,intrinsics': ('poses', 'intrinsics'),
         'intrinsics, true poses': ('intrinsics',)}


def options() -> argparse.ArgumentParser:
    """What can be chosen."""
    made = parser(__doc__)
    add_data(made)
    made.add_argument('--focal-factor', type=float, default=1.1, metavar='F',
                      help='stated focal length over the true one (default: 1.1)')
    made.add_argument('--modality', choices=('rgb', 'thermal'), default='rgb',
                      help='whose lens and images (default: rgb)')
    made.add_argument('--frames', type=int, default=80, metavar='N', help='(default: 80)')
    made.add_argument('--train-steps', type=int, default=0, metavar='N',
                      help='train that long on each (default: 0, not at all)')
    return made


def main() -> int:
    """Spoil, refine, compare, print."""
    args = options().parse_args()
    prepare(args)
    scene = true_scene(args)
    found = {name: refined(args, scene, what) for name, what in CASES.items()}
    camera = camera_of(scene, args.modality)
    show(f'{args.modality} lens stated {args.focal_factor:g} times too long, without distortion '
         f'({" ".join(f"{k:.4g}" for k in camera.distortion) or "none"}); poses off by '
         f'{POSE_DEG:g} deg, {POSE_M:g} m',
         ('refined', 'focal %', 'k1', 'deg', 'm', 'px', 'depth m', 'dB', 's'),
         [(name, *map(rounded, (row['focal_error_percent'], (row['distortion'] or [None])[0],
                                row['rmse_deg'], row['rmse_m'], row['residual_px'],
                                row.get('depth_median_error_m'), row.get('psnr'),
                                row['seconds']))) for name, row in found.items()])
    return finish(args, {'true_distortion': list(camera.distortion), **found})


def true_scene(args: argparse.Namespace) -> Any:
    """The data set that was given, else a room seen through a distorted lens."""
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    from thermal_nerf_loc.simulation.record import simulate_dataset, SimulationConfig

    if args.data is not None:
        return load_scene(args.data)
    frames, size = (12, (96, 72)) if args.quick else (args.frames, (160, 120))
    path = KEPT / f'room-{frames}-{size[0]}x{size[1]}-distorted'
    if not path.is_dir():
        print(f'simulating {path.name} ...', flush=True)
        simulate_dataset(path, SimulationConfig(frames=frames, size=size, distorted=True))
    return load_scene(path)


def spoiled(args: argparse.Namespace, scene: Any, true_poses: bool) -> Any:
    """The scene as a data set with a wrong lens and wrong poses would state it."""
    from thermal_nerf_loc.geometry.camera import CameraModel
    from thermal_nerf_loc.simulation.perturbations import PerturbationConfig, perturbed_scene

    off = PerturbationConfig() if true_poses else PerturbationConfig(POSE_DEG, POSE_M)
    bad = perturbed_scene(scene, off)
    frames = []
    for frame in bad.frames:
        records = dict(frame.records)
        if args.modality in records:
            camera = records[args.modality].camera
            fisheye = camera.model is CameraModel.OPENCV_FISHEYE
            records[args.modality] = replace(records[args.modality], camera=replace(
                camera, fx=camera.fx * args.focal_factor, fy=camera.fy * args.focal_factor,
                model=camera.model if fisheye else CameraModel.PINHOLE,
                distortion=(0.0,) * 4 if fisheye else ()))
        frames.append(replace(frame, records=records))
    return replace(bad, frames=tuple(frames))


def refined(args: argparse.Namespace, scene: Any, what: tuple[str, ...]) -> dict[str, Any]:
    """Errors of lens and poses, and of a map that was trained with them."""
    from thermal_nerf_loc.common.progress import silent
    from thermal_nerf_loc.evaluation.refined_poses import truth_errors
    from thermal_nerf_loc.field.contraction import space_around_cameras
    from thermal_nerf_loc.mapping.camera_poses.camera_optimizer import CameraOptimizer
    from thermal_nerf_loc.mapping.camera_poses.pose_initialization import initialize_by_points
    from thermal_nerf_loc.localization.held_out_poses import poses_of
    from thermal_nerf_loc.mapping.training.config import RefineConfig

    bad = spoiled(args, scene, what == ('intrinsics',))
    after, residual_px, began = bad, None, time.perf_counter()
    if what:
        scale_m = space_around_cameras(poses_of(bad, bad.train)[:, :3, 3]).scale_m
        optimizer = CameraOptimizer(RefineConfig(what), bad, (args.modality,), scale_m)
        solutions, _ = initialize_by_points(optimizer, bad, silent)
        residual_px = solutions[-1].residual_px[args.modality]
        after = optimizer.applied(bad)
    seconds = time.perf_counter() - began
    camera, true = camera_of(after, args.modality), camera_of(scene, args.modality)
    return {'focal_error_percent': 100.0 * (camera.fx / true.fx - 1.0),
            'distortion': list(camera.distortion), 'residual_px': residual_px,
            **(truth_errors(after) or {}), 'seconds': seconds, **trained(args, bad, after)}


def trained(args: argparse.Namespace, bad: Any, after: Any) -> dict[str, float | None]:
    """Quality of a map of these cameras, held-out views aligned with it first."""
    from thermal_nerf_loc.evaluation.map_quality import evaluate_map
    from thermal_nerf_loc.localization.held_out_poses import with_held_out
    from thermal_nerf_loc.mapping.training.config import TrainConfig
    from thermal_nerf_loc.mapping.training.trainer import train

    if not args.train_steps:
        return {}
    config = TrainConfig(steps=args.train_steps, modality=args.modality, checkpoint_seconds=0.0)
    result = train(after, config)
    quality = evaluate_map(result.map, with_held_out(bad, result.scene, result.map))
    return {'psnr': getattr(quality, f'{args.modality}_psnr'),
            'depth_median_error_m': quality.depth_median_error_m}


def rounded(value: float | None) -> float | None:
    """Three decimals: the table is wide."""
    return None if value is None else round(value, 3)


def camera_of(scene: Any, modality: str) -> Any:
    """The camera of the first image of a modality."""
    return next(frame.records[modality].camera for frame in scene.frames
                if modality in frame.records)


if __name__ == '__main__':
    sys.exit(guarded(main))

# SPDX-License-Identifier: Apache-2.0
"""`train DATA --map M`: build a radiance map and compare it with the held-out images."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from thermal_nerf_loc.cli.options import add_device

_OPTIONS = ('strategy', 'modality', 'steps', 'max_seconds', 'device', 'seed', 'loss')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare options; those not given keep the default of `TrainConfig`."""
    parser.add_argument('data', type=Path, help='data set: a folder with transforms.json')
    parser.add_argument('--map', type=Path, required=True, metavar='M', help='map file to write')
    parser.add_argument('--strategy', choices=('rgbx', 'scratch', 'finetune', 'separate'),
                        help='how colour and temperature share the field (default: rgbx)')
    parser.add_argument('--modality', choices=('both', 'rgb', 'thermal'),
                        help='images to use (default: both)')
    parser.add_argument('--steps', type=int, metavar='N', help='optimisation steps')
    parser.add_argument('--max-seconds', type=float, metavar='S',
                        help='time from the start to the written map; the schedule is fitted '
                        'to it, so the map depends on how fast this machine is')
    parser.add_argument('--loss', choices=('l2', 'huber'),
                        help='huber: if people or things moved while the images were taken '
                        '(default: l2)')
    parser.add_argument('--resume', action='store_true',
                        help='continue an interrupted training from M.checkpoint')
    parser.add_argument('--refine', type=_names, metavar='WHAT',
                        help='learn poses, rig (where the thermal camera is), intrinsics (focal '
                        'length, centre and distortion of the lenses), time (the delay of the '
                        'thermal camera); several with commas (default: none)')
    parser.add_argument('--refine-method', choices=('features', 'gradient', 'both', 'edges'),
                        help='features: bundle adjustment before training; gradient: gradients of '
                        'the image loss during training; both: one after the other; edges: the '
                        'rig by image edges, the rest by gradients (default: features)')
    parser.add_argument('--refined', type=Path, metavar='FILE',
                        help='write transforms.json anew, with what was refined')
    add_depth(parser)
    add_device(parser, None)
    parser.add_argument('--seed', type=int, help='seed of every random choice (default: 0)')
    parser.add_argument('--config', type=Path, metavar='FILE', help='YAML file with any setting')


def add_depth(parser: argparse.ArgumentParser) -> None:
    """Declare options of depth supervision."""
    parser.add_argument('--depth-from', metavar='SOURCE', help="where depth comes from: "
                        "'measured' (depth maps of the data set), 'stereo' (dense, between the "
                        "images), 'points' (that images share), 'none', or a folder with a depth "
                        'map for each training image, of the same name; confidence maps may lie '
                        "beside them (default: 'auto', measured if there is any, else stereo, "
                        'else points)')
    parser.add_argument('--depth-camera', choices=('rgb', 'thermal'), help='camera of the depth '
                        "maps (default: both for 'measured'; as depth_maps.json of the folder "
                        'says, else rgb)')
    parser.add_argument('--depth-unit', type=float, metavar='METRES', help='metres per count '
                        '(default: 0.001 for integers, 1 for floats)')
    parser.add_argument('--depth-kind', choices=('metric', 'affine', 'inverse'),
                        help='metres; or the depth (affine) or inverse depth of a network that '
                        'knows no scale: fitted for each image (default: metric)')
    parser.add_argument('--depth-weight', type=float, metavar='W',
                        help='weight of depth in the loss, at first (default: 0.1; 0.3 of affine '
                        'and inverse depth)')


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Build, save, evaluate."""
    import time

    from thermal_nerf_loc.cli.output import compile_kernels, progress_bar, show_note
    from thermal_nerf_loc.common.config import check, load_yaml
    from thermal_nerf_loc.evaluation.geometry_quality import geometry_lines
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    from thermal_nerf_loc.mapping.training.checkpoint import Checkpoint
    from thermal_nerf_loc.mapping.training.config import TrainConfig
    from thermal_nerf_loc.mapping.training.distributed import leads
    from thermal_nerf_loc.mapping.training.trainer import train

    config = load_yaml(TrainConfig, args.config) if args.config else TrainConfig()
    given = {name: getattr(args, name) for name in _OPTIONS if getattr(args, name) is not None}
    config = replace(config, **given, **_depth_settings(args),
                     refine=_refinement(config.refine, args))
    check(config, 'option')
    scene = _with_depth(load_scene(args.data), config, args)
    if not leads():  # of the processes of torchrun only the first one saves and prints
        train(scene, config, checkpoint=Checkpoint.beside(args.map, args.resume))
        args.json = None
        return {}
    keep = _refined_writer(args)
    compile_kernels()
    began = time.monotonic()
    with progress_bar('train') as progress:
        agreement = _pose_agreement(scene, config, progress)
        figures = train_map(scene, args.map, config, progress, args.resume, keep, began)
    if not figures['test']:
        show_note('no images were held out: nothing shows how good this map is (see eval-map)')
    show_note(_depth_line(figures['geometry']))
    for line in geometry_lines(figures['geometry_check']):
        show_note(line)
    return {**figures, 'pose_agreement': agreement}


def _pose_agreement(scene: Any, config: Any, progress: Any) -> dict[str, Any]:
    """Say whether the images agree with the given poses and lenses; the figures of it."""
    from thermal_nerf_loc.cli.output import show_note
    from thermal_nerf_loc.mapping.camera_poses.pose_agreement import check_poses

    scene.require(*(() if config.modality == 'both' else (config.modality,)))
    found = check_poses(scene, [name for name in scene.modalities
                                if config.modality in ('both', name)], progress)
    show_note(found.text)
    return found.figures


def _depth_line(geometry: Mapping[str, Any]) -> str:
    """Where the depth of the training came from, and what it cost."""
    if geometry['source'] in ('none', 'measured'):
        return f'depth for the training: {geometry["source"]}'
    shares = ', '.join(f'{share:.0%} of {name} pixels' for name, share in
                       geometry['share'].items())
    return f'depth for the training: {geometry["source"]}, {shares}, {geometry["seconds"]:.0f} s'


def _depth_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Settings of depth supervision."""
    from thermal_nerf_loc.common.errors import InputError
    from thermal_nerf_loc.io.datasets.depth_maps import MEASURED, SOURCES
    from thermal_nerf_loc.mapping.training.config import METRIC, RELATIVE_DEPTH_WEIGHT

    details = {'--depth-camera': args.depth_camera, '--depth-unit': args.depth_unit,
               '--depth-kind': args.depth_kind}
    alone = [name for name, value in details.items() if value is not None]
    if alone and args.depth_from is None:
        raise InputError('says something about depth that is not asked for', where=alone[0],
                         expected='--depth-from measured, or --depth-from FOLDER')
    given: dict[str, Any] = {}
    if args.depth_kind is not None:
        given['depth_kind'] = args.depth_kind
    if args.depth_from is not None:  # maps in a folder count as the data set's own
        given['depth_from'] = args.depth_from if args.depth_from in SOURCES else MEASURED
    if args.depth_weight is not None:
        given['depth_weight'] = args.depth_weight
    elif args.depth_kind not in (None, METRIC):
        given['depth_weight'] = RELATIVE_DEPTH_WEIGHT
    return given


def _with_depth(scene: Any, config: Any, args: argparse.Namespace) -> Any:
    """The scene with the depth of --depth-from."""
    from thermal_nerf_loc.io.datasets.depth_maps import DepthSource, with_depth
    from thermal_nerf_loc.mapping.training.config import METRIC

    source = args.depth_from or config.depth_from
    return with_depth(scene, DepthSource(source, args.depth_camera, args.depth_unit,
                                         config.depth_kind == METRIC))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(',') if name.strip())


def _refinement(config: Any, args: argparse.Namespace) -> Any:
    given: dict[str, Any] = {}
    if args.refine is not None:
        given['what'] = args.refine
    if args.refine_method is not None:
        given['method'] = args.refine_method
    return replace(config, **given)


def _refined_writer(args: argparse.Namespace) -> Callable[[Any], None]:
    """A function that writes the refined scene to --refined; without --refined it does nothing."""
    from thermal_nerf_loc.io.datasets.refined_dataset import check_refined_path, write_refined

    if args.refined is None:
        return lambda scene: None
    check_refined_path(args.data, args.refined)
    return lambda scene: write_refined(args.data, scene, args.refined)


def train_map(scene: Any, path: Path, config: Any, progress: Any, resume: bool = False,
              keep: Callable[[Any], None] = lambda scene: None, began: float | None = None,
              ) -> dict[str, Any]:
    """
    Build and save a map; `keep` is called with the refined scene. Returns the figures.

    The time limit counts from `began` (`time.monotonic()`; None: now).
    """
    from thermal_nerf_loc.localization.build_map import build_map_file

    built = build_map_file(scene, path, config, progress, resume,
                           lambda result: keep(result.scene), began)
    keep(built.scene)  # held-out poses are refined too by now
    return {**map_figures(built, scene, progress), 'map': str(path)}


def map_figures(built: Any, given: Any, progress: Any) -> dict[str, Any]:
    """Figures of the training (time, steps, memory) and of the quality of the map."""
    from dataclasses import asdict

    from thermal_nerf_loc.evaluation.geometry_quality import check_geometry
    from thermal_nerf_loc.evaluation.map_quality import evaluate_map
    from thermal_nerf_loc.evaluation.refined_poses import refinement_figures

    info = built.map.info
    refinement = refinement_figures(info.refinement, given, built.scene)
    return {'seconds': built.seconds, 'steps': built.steps,
            'rays_per_second': built.rays_per_second, 'peak_memory_mb': built.peak_memory_mb,
            'backend': built.backend,
            'test': (asdict(evaluate_map(built.map, built.scene, 'test', progress=progress))
                     if built.scene.test else {}),
            'geometry_check': check_geometry(built.map, built.scene, progress),
            'calibration': {name: {'covariance_factor': factor, 'floor_m': floor_m}
                            for name, (factor, floor_m) in built.map.calibration.items()},
            'least_confidence': built.least_confidence(),
            'geometry': dict(info.geometry),
            **({'refinement': refinement} if refinement else {}),
            **({'zero': dict(info.temperature_offset)} if info.temperature_offset else {}),
            'places': len(built.map.panoramas)}

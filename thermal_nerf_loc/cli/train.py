# SPDX-License-Identifier: Apache-2.0
"""`train DATA --map M`: learn a radiance map and hold it against the images kept back."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

_OPTIONS = ('strategy', 'modality', 'steps', 'max_seconds', 'device', 'seed', 'loss')
_CALIBRATION_VIEWS = 24  # some seconds of work
_PLACES_SHARE = 0.25  # of the training's rays, at most, are spent on places
_FEWEST_PLACES = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare; what is not given keeps the default of `TrainConfig`."""
    parser.add_argument('data', type=Path, help='data set: a folder with transforms.json')
    parser.add_argument('--map', type=Path, required=True, metavar='M', help='map file to write')
    parser.add_argument('--strategy', choices=('rgbx', 'scratch', 'finetune', 'separate'),
                        help='how colour and temperature share the field (default: rgbx)')
    parser.add_argument('--modality', choices=('both', 'rgb', 'thermal'),
                        help='images to use (default: both)')
    parser.add_argument('--steps', type=int, metavar='N', help='optimisation steps')
    parser.add_argument('--max-seconds', type=float, metavar='S',
                        help='stop after this time; the schedule is fitted to it, so the map '
                        'depends on how fast this machine is')
    parser.add_argument('--loss', choices=('l2', 'huber'),
                        help='huber: where people and things moved in some of the images '
                        '(default: l2)')
    parser.add_argument('--resume', action='store_true',
                        help='continue an interrupted training from M.checkpoint')
    parser.add_argument('--refine', type=_names, metavar='WHAT',
                        help='learn poses, rig (where the thermal camera is), intrinsics (its '
                        'lens), time (its delay); several with commas (default: none)')
    parser.add_argument('--refine-method', choices=('features', 'gradient', 'both', 'edges'),
                        help='bundle adjustment before training, gradients of the images while '
                        'training, both in turn, or the rig by its edges, all else by gradients '
                        '(default: features)')
    parser.add_argument('--refined', type=Path, metavar='FILE',
                        help='write transforms.json anew, with what was refined')
    add_depth(parser)
    parser.add_argument('--device', choices=('auto', 'cpu', 'cuda'), help='(default: auto)')
    parser.add_argument('--seed', type=int, help='seed of every random choice (default: 0)')
    parser.add_argument('--config', type=Path, metavar='FILE', help='YAML file with any setting')


def add_depth(parser: argparse.ArgumentParser) -> None:
    """Declare what helps with depth."""
    parser.add_argument('--depth-from', metavar='SOURCE', help="depth that helps: 'points' (that "
                        "images share, where few lie far apart), 'measured' (maps of the data "
                        'set), or a folder with a map for each training image, named as it is; '
                        'confidence maps may lie beside them (default: none)')
    parser.add_argument('--depth-camera', choices=('rgb', 'thermal'), help='whose maps they are '
                        "(default: both of 'measured'; what a folder says, else rgb)")
    parser.add_argument('--depth-unit', type=float, metavar='METRES', help='of a count (default: '
                        '0.001 for integers, 1 for floats)')
    parser.add_argument('--depth-kind', choices=('metric', 'affine', 'inverse'),
                        help='metres; or the depth (affine) or inverse depth of a network that '
                        'knows no scale: fitted for each image (default: metric)')
    parser.add_argument('--depth-weight', type=float, metavar='W',
                        help='of depth in the loss (default: 0.3 with --depth-from, else 0)')


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Train, save, evaluate."""
    from thermal_nerf_loc.cli.output import progress_bar
    from thermal_nerf_loc.common.config import check, load_yaml
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    from thermal_nerf_loc.mapping.training.checkpoint import Checkpoint
    from thermal_nerf_loc.mapping.training.config import TrainConfig
    from thermal_nerf_loc.mapping.training.distributed import leads
    from thermal_nerf_loc.mapping.training.trainer import train

    config = load_yaml(TrainConfig, args.config) if args.config else TrainConfig()
    given = {name: getattr(args, name) for name in _OPTIONS if getattr(args, name) is not None}
    config = replace(config, **given, **_depth_settings(config, args),
                     refine=_refinement(config.refine, args))
    check(config, 'option')
    scene = _helped(load_scene(args.data), config, args)
    if not leads():  # one process speaks for all that torchrun has started
        train(scene, config, checkpoint=Checkpoint.beside(args.map, args.resume))
        args.json = None
        return {}
    with progress_bar('train') as progress:
        return train_map(scene, args.map, config, progress, args.resume, _writer(args))


def _depth_settings(config: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Weight and kind of depth, where they were given; depth that is asked for has a weight."""
    from thermal_nerf_loc.common.errors import InputError
    from thermal_nerf_loc.io.datasets.depth_maps import POINTS
    from thermal_nerf_loc.mapping.training.config import DEPTH_WEIGHT

    about = {'--depth-camera': args.depth_camera, '--depth-unit': args.depth_unit,
             '--depth-kind': args.depth_kind}
    alone = [name for name, value in about.items() if value is not None]
    if alone and args.depth_from is None:
        raise InputError('says something about depth that is not asked for', where=alone[0],
                         expected='--depth-from measured, or --depth-from FOLDER')
    given: dict[str, Any] = {}
    if args.depth_kind is not None:
        given['depth_kind'] = args.depth_kind
    if args.depth_from == POINTS:
        given['depth_points'] = True
    weight = args.depth_weight
    if weight is None and args.depth_from is not None and config.depth_weight == 0.0:
        weight = DEPTH_WEIGHT
    return given if weight is None else {**given, 'depth_weight': weight}


def _helped(scene: Any, config: Any, args: argparse.Namespace) -> Any:
    """The scene with the depth that was asked for."""
    from thermal_nerf_loc.io.datasets.depth_maps import DepthSource, with_depth
    from thermal_nerf_loc.mapping.training.config import METRIC

    if args.depth_from is None:
        return scene
    return with_depth(scene, DepthSource(args.depth_from, args.depth_camera, args.depth_unit,
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


def _writer(args: argparse.Namespace) -> Callable[[Any], None]:
    """What becomes of the refined scene: a file, where one was asked for."""
    from thermal_nerf_loc.io.datasets.refined_dataset import check_refined_path, write_refined

    if args.refined is None:
        return lambda scene: None
    check_refined_path(args.data, args.refined)
    return lambda scene: write_refined(args.data, scene, args.refined)


def train_map(scene: Any, path: Path, config: Any, progress: Any, resume: bool = False,
              keep: Callable[[Any], None] = lambda scene: None) -> dict[str, Any]:
    """Train and save; figures as the command line promises them."""
    from thermal_nerf_loc.cli.eval_map import quality_figures
    from thermal_nerf_loc.io.atomic_files import check_writable
    from thermal_nerf_loc.mapping.map.uncertainty import uncertainty_of
    from thermal_nerf_loc.mapping.training.checkpoint import Checkpoint
    from thermal_nerf_loc.mapping.training.trainer import train

    check_writable(path)
    checkpoint = Checkpoint.beside(path, resume)
    result = train(scene, config, progress, checkpoint)
    result.map.save(path)
    checkpoint.remove()
    scene, refinement = _refined(scene, result)
    keep(scene)
    result.map.uncertainty = uncertainty_of(result.map, scene)  # the localizer weighs by it
    calibration, false_confidence = _calibrate(result.map, scene)
    result.map.places = _look_around(result.map, scene, config, progress)
    result.map.save(path)
    figures = {'seconds': result.seconds, 'steps': result.steps,
               'rays_per_second': result.rays_per_second,
               'peak_memory_mb': result.peak_memory_mb, 'backend': result.backend}
    return {**figures, 'test': quality_figures(result.map, scene, 'test'),
            'calibration': {name: {'covariance_factor': factor, 'floor_m': floor_m}
                            for name, (factor, floor_m) in calibration.items()},
            'least_confidence': false_confidence,
            **({'refinement': refinement} if refinement else {}),
            **({'zero': dict(result.map.info.zero)} if result.map.info.zero else {}),
            'places': len(result.map.places), 'map': str(path)}


def _refined(given: Any, result: Any) -> tuple[Any, dict[str, Any]]:
    """The scene to judge the map by, and what refinement has done to it."""
    from thermal_nerf_loc.evaluation.refined_poses import HELD_OUT, summary, with_held_out

    facts = dict(result.map.info.refinement)
    if not facts:
        return given, {}
    figures = summary(facts, given, result.scene)
    if 'poses' not in facts['what'] or not given.test:
        return result.scene, figures
    return (with_held_out(given, result.scene, result.map),
            {**figures, 'held_out_poses': HELD_OUT})


def _look_around(radiance_map: Any, scene: Any, config: Any, progress: Any) -> Any:
    """Panoramas from free space, for localization without a guess."""
    import numpy as np

    from thermal_nerf_loc.mapping.map.panoramas import find_panoramas

    poses = np.array([scene.frames[i].T_world_cam for i in scene.train])
    affordable = int(_PLACES_SHARE * radiance_map.info.steps * config.rays
                     / (config.panoramas.rays * len(radiance_map.modalities)))
    most = min(config.panoramas.most, max(affordable, _FEWEST_PLACES))
    return find_panoramas(radiance_map, poses, replace(config.panoramas, most=most), progress)


def _calibrate(radiance_map: Any, scene: Any,
               ) -> tuple[dict[str, tuple[float, float]], dict[str, float]]:
    """Hold covariances and confidence against the views kept back; {}: too few of them."""
    from thermal_nerf_loc.localization.confidence import false_positives
    from thermal_nerf_loc.localization.confidence.covariance_calibration import calibrate
    from thermal_nerf_loc.localization.confidence.verdict import ConfidenceConfig, least_confidence

    chosen = scene.test[::max(1, -(-len(scene.test) // _CALIBRATION_VIEWS))]
    frames = [scene.load(index) for index in chosen]
    factors = calibrate(radiance_map, frames)
    tails = false_positives.measure(radiance_map, frames)
    rate = ConfidenceConfig().false_confidence
    return factors, {name: least_confidence(tail, rate) for name, tail in tails.items()}

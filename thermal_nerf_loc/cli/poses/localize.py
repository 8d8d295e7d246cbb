# SPDX-License-Identifier: Apache-2.0
"""
`localize M DATA`: find the images of a data set in a map, from disturbed starts or from none.

`localize M --rgb FILE --thermal FILE --camera FILE [--guess POSE]`: find single images.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_MODALITIES = {'both': ('rgb', 'thermal'), 'rgb': ('rgb',), 'thermal': ('thermal',)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare."""
    parser.add_argument('map', type=Path, metavar='M', help='map file, as train writes it')
    parser.add_argument('data', type=Path, nargs='?', metavar='DATA',
                        help='a folder with transforms.json; or give single images:')
    parser.add_argument('--rgb', type=Path, metavar='FILE', help='a colour image')
    parser.add_argument('--thermal', type=Path, metavar='FILE', help='a thermal image')
    parser.add_argument('--camera', type=Path, metavar='FILE', help='YAML file of their cameras')
    parser.add_argument('--guess', metavar='POSE', help='about where: "x y z qx qy qz qw" of the '
                        'RGB camera (z forward) in the map, or a file that holds it '
                        '(default: anywhere)')
    parser.add_argument('--split', choices=('test', 'train', 'all'), default='test',
                        help='images to localize (default: %(default)s)')
    parser.add_argument('--modality', choices=tuple(_MODALITIES), default='both',
                        help='images to use (default: %(default)s)')
    parser.add_argument('--method', choices=('align', 'inerf'), default='align',
                        help='align: fast; inerf: the published method (default: %(default)s)')
    parser.add_argument('--init', choices=('perturb', 'global'), default='perturb',
                        help='start near the true pose, or anywhere (default: %(default)s)')
    parser.add_argument('--candidates', choices=('panoramas', 'regression', 'particles'),
                        default='panoramas', help='who proposes poses where there is no start; '
                        'regression first learns from views of the map, which takes minutes '
                        '(default: %(default)s)')
    parser.add_argument('--perturb-deg', type=_positive, default=10.0, metavar='DEG',
                        help='how far the start is turned, or may be (default: %(default)s)')
    parser.add_argument('--perturb-m', type=_positive, default=0.1, metavar='M',
                        help='how far it is shifted, or may be (default: %(default)s)')
    parser.add_argument('--frames', type=int, metavar='N', help='only the first N images')
    parser.add_argument('--seed', type=int, default=0, help='(default: %(default)s)')
    parser.add_argument('--config', type=Path, metavar='FILE', help='YAML file with any setting')
    parser.add_argument('--plot', type=Path, metavar='FILE', help='write the errors as a PNG')


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Localize every image of the split, or the images that were named."""
    from thermal_nerf_loc.cli import single_frame
    from thermal_nerf_loc.cli.output import progress_bar
    from thermal_nerf_loc.common.errors import InputError

    if args.frames is not None and args.frames < 1:
        raise InputError('no image to localize', where='--frames', expected='1 or more',
                         got=args.frames)
    if args.candidates != 'panoramas' and (
            args.method == 'inerf' or args.guess is not None
            or (args.data is not None and args.init != 'global')):
        raise InputError('candidates are asked for only where there is no start',
                         where='--candidates', got=args.candidates,
                         hint='Add --init global, and leave --guess and --method inerf out.')
    config = _configured(args)
    if single_frame.is_asked_for(args):
        return single_frame.localize(args, config, _MODALITIES[args.modality])

    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    from thermal_nerf_loc.localization.localizer import Localizer
    from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap

    scene, renderer = load_scene(args.data), RadianceMap.load(args.map)
    wanted = tuple(name for name in _MODALITIES[args.modality] if name in renderer.modalities)
    if args.modality != 'both' and not wanted:
        raise InputError(f'map has no {args.modality}', where=args.map,
                         expected=' or '.join(renderer.modalities))
    searched, source = renderer, None
    if args.init == 'global':
        searched, indices = with_panoramas(renderer), scene.split(args.split)
        source = candidate_source(args.candidates, searched, scene.load(indices[0]).only(*wanted)
                                  if len(indices) else None)
    localizer = Localizer(searched, config, source)
    with progress_bar('localize') as progress:
        figures = {**localize_scene(localizer, scene, wanted, args, progress),
                   'backend': renderer.backend}
    if args.plot is not None:
        _plot(args.plot, figures['frames'])
    return figures


def candidate_source(name: str, renderer: Any, frame: Any) -> Any:
    """Who proposes poses; ready for the cameras of a frame. None: the map's panoramas."""
    if name == 'panoramas' or frame is None:
        return None
    if name == 'particles':
        from thermal_nerf_loc.localization.alternatives.particles import ParticleSearch
        return ParticleSearch(renderer)

    from thermal_nerf_loc.cli.output import progress_bar
    from thermal_nerf_loc.localization.alternatives.pose_regression import PoseRegression
    with progress_bar('learn from views of the map') as progress:
        source = PoseRegression(renderer, progress=progress)
        source.regressor_for(frame)
    return source


def with_panoramas(renderer: Any) -> Any:
    """Return a map with panoramas; for one that brings none they are rendered now, visibly."""
    from thermal_nerf_loc.cli.output import progress_bar
    from thermal_nerf_loc.mapping.map import localization_map

    if renderer.panoramas is not None:
        return renderer
    with progress_bar('look around') as progress:
        return localization_map.with_panoramas(renderer, progress)


def _configured(args: argparse.Namespace) -> Any:
    from dataclasses import replace

    from thermal_nerf_loc.common.config import check, load_yaml
    from thermal_nerf_loc.localization.localizer import LocalizerConfig

    base = load_yaml(LocalizerConfig, args.config) if args.config else LocalizerConfig()
    config = replace(base, method=args.method, seed=args.seed, guess_sigma_m=args.perturb_m,
                     guess_sigma_deg=args.perturb_deg)
    check(config, 'option')
    return config


def localize_scene(localizer: Any, scene: Any, modalities: tuple[str, ...],
                   args: argparse.Namespace, progress: Any) -> dict[str, Any]:
    """Localize the images of one split from starts as far off as asked; figures for JSON."""
    import numpy as np

    from thermal_nerf_loc.evaluation.metrics import pose_errors

    indices = scene.split(args.split)[:args.frames]
    rows, found, truth = [], [], []
    for done, index in enumerate(indices):
        frame = scene.load(index)
        start = None if args.init == 'global' else disturbed(
            frame.T_world_cam, args.perturb_deg, args.perturb_m, (args.seed, int(index)))
        result = localizer.localize(frame.only(*modalities), start)
        errors = pose_errors(result.T_world_cam, frame.T_world_cam)
        found.append(result.T_world_cam)
        truth.append(frame.T_world_cam)
        rows.append({'name': frame.name, 'error_m': float(errors.metres[0]),
                     'error_deg': float(errors.degrees[0]), 'seconds': result.seconds,
                     'confident': result.verdict == 'ok', 'confidence': result.confidence,
                     'verdict': result.verdict, 'reason': result.reason,
                     'rivals': len(result.rivals)})
        progress(done + 1, len(indices), frame.name)
    errors = pose_errors(np.array(found), np.array(truth))
    confident = np.array([row['confident'] for row in rows])
    wrong = confident & ((errors.metres > 0.1) | (errors.degrees > 5.0))
    return {'frames': rows, 'success_5cm_5deg': errors.success_5cm_5deg,
            'median_m': float(np.median(errors.metres)),
            'median_deg': float(np.median(errors.degrees)),
            'median_seconds': float(np.median([row['seconds'] for row in rows])),
            'confident_share': float(confident.mean()),
            'ambiguous_share': float(np.mean([row['verdict'] == 'ambiguous' for row in rows])),
            'wrong_but_confident_share': float(wrong.mean())}


def disturbed(T_world_cam: Any, degrees: float, metres: float, seed: tuple[int, int]) -> Any:
    """Turn and shift a pose by exactly so much, in a random direction."""
    import numpy as np

    from thermal_nerf_loc.geometry import se3

    v, w = np.random.default_rng(seed).normal(size=(2, 3))
    return se3.plus(T_world_cam, np.concatenate([
        metres * v / np.linalg.norm(v), np.deg2rad(degrees) * w / np.linalg.norm(w)]))


def _plot(path: Path, rows: list[dict[str, Any]]) -> None:
    import numpy as np

    from thermal_nerf_loc.evaluation.report.plots import plot_error_histogram
    from thermal_nerf_loc.io.atomic_files import write_atomically

    write_atomically(path, plot_error_histogram(np.array([row['error_m'] for row in rows]),
                                                np.array([row['error_deg'] for row in rows])))


def _positive(text: str) -> float:
    value = float(text)
    if not 0.0 <= value < 1000.0:
        raise argparse.ArgumentTypeError(f'{text} is not in 0 to 1000')
    return value

# SPDX-License-Identifier: Apache-2.0
"""
`localize M DATA`: localize the images of a data set, from perturbed starts or without any.

`localize M --rgb FILE --thermal FILE --camera FILE [--guess POSE]`: localize one frame.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thermal_nerf_loc.cli.options import add_device
from thermal_nerf_loc.common.errors import InputError

_MODALITIES = {'both': ('rgb', 'thermal'), 'rgb': ('rgb',), 'thermal': ('thermal',)}
EXACT_RAYS = 20_000  # offline a pose may take a second
_SINGLE_FRAME = ('rgb', 'thermal', 'camera', 'guess')  # options that DATA excludes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare."""
    parser.add_argument('map', type=Path, metavar='M', help='map file, as train writes it')
    parser.add_argument('data', type=Path, nargs='?', metavar='DATA',
                        help='a folder with transforms.json; or give single images:')
    parser.add_argument('--rgb', type=Path, metavar='FILE', help='a colour image')
    parser.add_argument('--thermal', type=Path, metavar='FILE', help='a thermal image')
    parser.add_argument('--camera', type=Path, metavar='FILE', help='YAML file of their cameras')
    parser.add_argument('--guess', metavar='POSE', help='approximate pose: "x y z qx qy qz qw" of '
                        'the RGB camera (z forward) in the map, or a file that holds it '
                        '(default: none, the whole map is searched)')
    parser.add_argument('--split', choices=('test', 'train', 'all'), default='test',
                        help='images to localize (default: %(default)s)')
    parser.add_argument('--modality', choices=tuple(_MODALITIES), default='both',
                        help='images to use (default: %(default)s)')
    parser.add_argument('--method', choices=('align', 'inerf'), default='align',
                        help='align: fast; inerf: the published method (default: %(default)s)')
    parser.add_argument('--exact-rays', type=int, metavar='N', help='most rays for each image '
                        'that make the pose exact in the end; 0: as fast as the node (default: '
                        f'{EXACT_RAYS}, or what --config says)')
    parser.add_argument('--landmarks', choices=('always', 'search', 'never'),
                        help='when keypoints are matched with those of the map: always, only in '
                        'a search of the whole map, or never (default: always, or what --config '
                        'says)')
    parser.add_argument('--init', choices=('perturb', 'global'), default='perturb',
                        help='perturb: start near the true pose; global: search the whole map '
                        '(default: %(default)s)')
    parser.add_argument('--candidates', choices=('panoramas', 'regression', 'particles'),
                        default='panoramas', help='source of candidate poses for a '
                        'global search; regression first trains on views of the map for minutes '
                        '(default: %(default)s)')
    parser.add_argument('--perturb-deg', type=_positive, default=10.0, metavar='DEG',
                        help='rotation error of the start; with --guess its standard deviation '
                        '(default: %(default)s)')
    parser.add_argument('--perturb-m', type=_positive, default=0.1, metavar='M',
                        help='position error of the start; with --guess its standard deviation '
                        '(default: %(default)s)')
    parser.add_argument('--frames', type=int, metavar='N', help='only the first N images')
    parser.add_argument('--seed', type=int, default=0,
                        help='seed of every random choice (default: %(default)s)')
    parser.add_argument('--config', type=Path, metavar='FILE', help='YAML file with any setting')
    parser.add_argument('--plot', type=Path, metavar='FILE', help='write the errors as a PNG')
    add_device(parser)


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Localize every image of the split, or the images that were named."""
    from thermal_nerf_loc.cli.output import progress_bar

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
    if _is_single_frame(args):
        return _localize_single_frame(args, config, _MODALITIES[args.modality])

    from thermal_nerf_loc.evaluation.localization_quality import localize_scene
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    from thermal_nerf_loc.localization.localizer import Localizer

    scene, renderer = load_scene(args.data), _loaded(args.map, args.device)
    wanted = tuple(name for name in _MODALITIES[args.modality] if name in renderer.modalities)
    if args.modality != 'both' and not wanted:
        raise InputError(f'map has no {args.modality}', where=args.map,
                         expected=' or '.join(renderer.modalities))
    searched, source = renderer, None
    if args.init == 'global':
        searched, indices = with_panoramas(renderer), scene.split(args.split)
        first = scene.load(indices[0]).only(*wanted) if len(indices) else None
        source = _candidate_source(args.candidates, searched, first)
    localizer = Localizer(searched, config, source)
    with progress_bar('localize') as progress:
        start_error = None if args.init == 'global' else (args.perturb_m, args.perturb_deg)
        figures = {**localize_scene(localizer, scene, wanted, args.split, start_error,
                                    args.frames, args.seed, progress),
                   'backend': renderer.backend}
    if args.plot is not None:
        _plot(args.plot, figures['frames'])
    return figures


def _loaded(path: Path, device: str) -> Any:
    """The map; on the first start of all, kernels are compiled in two processes meanwhile."""
    from thermal_nerf_loc.cli.output import show_note
    from thermal_nerf_loc.localization.warm_up import (
        compiled_in_background, kernels_are_compiled, render_from_middle)
    from thermal_nerf_loc.mapping.tiles.map_loading import load_map

    if kernels_are_compiled():
        return load_map(path, device=device)
    show_note('kernels are compiled once on this machine, for half a minute '
              '(thermal-nerf-loc warm-up does it ahead)')
    with compiled_in_background():
        renderer = load_map(path, device=device)
        render_from_middle(renderer, renderer.modalities)
    return renderer


def _candidate_source(name: str, renderer: Any, frame: Any) -> Any:
    """A source of candidate poses for the cameras of a frame; None: the map's panoramas."""
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
    """The map with panoramas; if it has none they are rendered now, with a progress bar."""
    from thermal_nerf_loc.cli.output import progress_bar
    from thermal_nerf_loc.mapping.map import localization_map

    if renderer.panoramas is not None or renderer.panorama_index is not None:
        return renderer
    with progress_bar('render panoramas') as progress:
        return localization_map.with_panoramas(renderer, progress)


def _configured(args: argparse.Namespace) -> Any:
    from dataclasses import replace

    from thermal_nerf_loc.common.config import check, load_yaml
    from thermal_nerf_loc.localization.localizer import ALWAYS, LocalizerConfig

    base = load_yaml(LocalizerConfig, args.config) if args.config else LocalizerConfig()
    exact_rays = args.exact_rays
    if exact_rays is None:
        exact_rays = base.refinement.exact.rays if args.config else EXACT_RAYS
    refinement = replace(base.refinement, exact=replace(base.refinement.exact, rays=exact_rays))
    landmarks = args.landmarks or (base.landmarks if args.config else ALWAYS)
    edges = base.edges if args.config else replace(base.edges, when=ALWAYS)
    config = replace(base, refinement=refinement, landmarks=landmarks, edges=edges,
                     method=args.method, seed=args.seed,
                     guess_sigma_m=args.perturb_m, guess_sigma_deg=args.perturb_deg)
    check(config, 'option')
    return config


def _is_single_frame(args: argparse.Namespace) -> bool:
    """Whether single images are given; a mixture of both forms is refused."""
    given = [f'--{name}' for name in _SINGLE_FRAME if getattr(args, name) is not None]
    if args.data is not None:
        if given:
            raise InputError('a data set and single images cannot be localized together',
                             where='localize', expected='either DATA or ' + ', '.join(given),
                             got=f'{args.data} and {", ".join(given)}')
        return False
    if not given:
        raise InputError('there is nothing to localize', where='localize',
                         expected='DATA, or --rgb and/or --thermal with --camera')
    if args.rgb is None and args.thermal is None:
        raise InputError('no image to localize', where='localize',
                         expected='--rgb FILE or --thermal FILE, or both', got=', '.join(given))
    if args.camera is None:
        raise InputError('--camera missing', where='localize',
                         expected='--camera FILE beside the images')
    if args.guess is not None and args.init == 'global':
        raise InputError('--init global needs no --guess', where='localize',
                         hint='Leave one of them out.')
    misplaced = [f'--{name}' for name in ('frames', 'plot') if getattr(args, name) is not None]
    if misplaced:
        raise InputError(f'{" and ".join(misplaced)} belongs to a data set', where='localize',
                         hint='Leave it out for single images.')
    return True


def _localize_single_frame(args: argparse.Namespace, config: Any,
                           modalities: tuple[str, ...]) -> Mapping[str, Any]:
    """Localize one frame; returns the figures for table and JSON."""
    from thermal_nerf_loc.io.datasets.camera_file import load_frame
    from thermal_nerf_loc.io.trajectory import parse_pose
    from thermal_nerf_loc.localization.localizer import Localizer

    given = {name: getattr(args, name) for name in ('rgb', 'thermal')}
    images = {name: path for name, path in given.items() if path and name in modalities}
    if not images:
        raise InputError('no image of that modality', where='--modality', got=args.modality,
                         expected=' or '.join(name for name, path in given.items() if path))
    T_guess = None if args.guess is None else parse_pose(args.guess, '--guess')
    frame = load_frame(args.camera, images)
    renderer = _loaded(args.map, args.device)
    foreign = [name for name in images if name not in renderer.modalities]
    if foreign:
        raise InputError(f'map has no {" and no ".join(foreign)}', where=args.map,
                         expected=' or '.join(renderer.modalities),
                         hint=f'Leave out --{foreign[0]}.')
    searched, source = renderer, None
    if T_guess is None:
        searched = with_panoramas(renderer)
        source = _candidate_source(args.candidates, searched, frame)
    found = Localizer(searched, config, source).localize(frame, T_guess)
    return _pose_figures(found) | _geodetic(renderer, found.T_world_cam)


def _geodetic(renderer: Any, T_world_cam: Any) -> dict[str, Any]:
    """Where on earth a camera stands; nothing where the map does not know."""
    anchor = {} if renderer.info is None else dict(renderer.info.geo_anchor)
    if not anchor:
        return {}
    from thermal_nerf_loc.geometry.geodesy import GeoAnchor
    (position,) = GeoAnchor(**anchor).geodetic([T_world_cam[:3, 3]]).tolist()
    return {'geodetic': dict(zip(GeoAnchor._fields, position))}


def _pose_figures(found: Any) -> dict[str, Any]:
    """The pose and its uncertainty; matrices are shown in the JSON file only."""
    from thermal_nerf_loc.io.trajectory import format_pose
    from thermal_nerf_loc.localization.confidence.verdict import sigmas

    sigma_m, sigma_deg = sigmas(found.covariance)
    figures = {
        'pose': format_pose(found.T_world_cam), 'sigma_m': sigma_m, 'sigma_deg': sigma_deg,
        'confidence': found.confidence, 'verdict': found.verdict, 'reason': found.reason or '-',
        'seconds': found.seconds, 'rays': found.rays, 'carried_by': found.carried_by,
        'T_world_cam': found.T_world_cam.tolist(), 'covariance': found.covariance.tolist(),
        'rivals': [format_pose(T) for T in found.rivals]}
    if found.landmarks is not None:
        figures['landmarks'] = {name: getattr(found.landmarks, name)
                                for name in ('matched', 'inliers', 'nearby', 'spread',
                                             'residual_px')}
    return figures | ({'ignored': dict(found.ignored)} if found.ignored else {})


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

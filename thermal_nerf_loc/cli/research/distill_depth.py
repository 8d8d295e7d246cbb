# SPDX-License-Identifier: Apache-2.0
"""`distill-depth M DATA --out FILE`: a small network that predicts depth from thermal images."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thermal_nerf_loc.cli.options import add_device

_OPTIONS = ('steps', 'max_seconds', 'seed')
_VIEWS = 400  # default of `TeacherChoice`, repeated: importing that would make --help slow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare; what is not given keeps the default of `DistillConfig`."""
    parser.add_argument('map', type=Path, metavar='M', help='map file')
    parser.add_argument('data', type=Path, metavar='DATA',
                        help='data set with thermal images of the same scene')
    parser.add_argument('--out', type=Path, required=True, metavar='FILE',
                        help='network file to write')
    parser.add_argument('--teacher', default='map', metavar='WHO', help="'map' (its own depth), "
                        "'none' (measured depth alone), or an ONNX file with a monocular RGB "
                        'depth network (default: map)')
    parser.add_argument('--teacher-kind', choices=('metric', 'affine', 'inverse'),
                        default='inverse', help='what an ONNX teacher gives: metres; or depth or '
                        "inverse depth, fitted to the map's (default: inverse)")
    parser.add_argument('--labels', type=int, metavar='N', help='training frames whose measured '
                        'thermal depth is used too (default: 0; all with --teacher none)')
    parser.add_argument('--views', type=int, default=_VIEWS, metavar='N', help='views to render '
                        f'from the map as further training images (default: {_VIEWS})')
    parser.add_argument('--steps', type=int, metavar='N', help='training steps')
    parser.add_argument('--max-seconds', type=float, metavar='S', help='time limit of training')
    parser.add_argument('--seed', type=int, help='seed of every random choice (default: 0)')
    parser.add_argument('--config', type=Path, metavar='FILE', help='YAML file with any setting')
    parser.add_argument('--sheet', type=Path, metavar='FILE.png',
                        help='draw thermal images, measured and predicted depth')
    add_device(parser)


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Collect the depth of the teacher, train, save, compare with measured depth."""
    from dataclasses import replace
    import time

    from thermal_nerf_loc.cli.output import progress_bar
    from thermal_nerf_loc.common.config import load_yaml
    from thermal_nerf_loc.evaluation.depth_quality import network_scores, write_depth_sheet
    from thermal_nerf_loc.io.atomic_files import check_writable
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
    from thermal_nerf_loc.mapping.thermal_depth.dataset import collect_examples, TeacherChoice
    from thermal_nerf_loc.mapping.thermal_depth.distillation import distill, DistillConfig

    config = load_yaml(DistillConfig, args.config) if args.config else DistillConfig()
    config = _with_options(config, args)
    check_writable(args.out)
    renderer, scene = RadianceMap.load(args.map, args.device), load_scene(args.data)
    began = time.monotonic()
    with progress_bar('depth of the teacher') as progress:
        choice = TeacherChoice(args.teacher, args.teacher_kind, args.labels, args.views)
        found = collect_examples(renderer, scene, choice, config.seed, progress)
    with progress_bar('distill') as progress:
        model, steps = distill(found.labels, found.examples, found.camera, config, progress)
    model = replace(model, facts={'map': renderer.name, 'data': scene.root.name, 'steps': steps,
                                  'teacher': args.teacher, 'labels': len(found.labels)})
    model.save(args.out)
    figures = {'out': str(args.out), 'teacher': args.teacher, 'labels': len(found.labels),
               'lessons': len(found.examples), 'steps': steps, 'seconds': time.monotonic() - began}
    if args.sheet is not None:
        write_depth_sheet(args.sheet, model, scene)
        figures['sheet'] = str(args.sheet)
    return {**figures, **{split: network_scores(model, scene, split)
                          for split in ('train', 'test')}}


def _with_options(config: Any, args: argparse.Namespace) -> Any:
    """Settings with the options that were given, all within their ranges."""
    from dataclasses import replace

    from thermal_nerf_loc.common.config import check
    from thermal_nerf_loc.common.errors import InputError

    given = {name: getattr(args, name) for name in _OPTIONS if getattr(args, name) is not None}
    config = replace(config, **given)
    check(config, 'option')
    if args.views < 0 or (args.labels is not None and args.labels < 0):
        raise InputError('is out of range', where='--views or --labels', expected='0 or more',
                         got=min(args.views, args.labels or 0))
    if args.sheet is not None and args.sheet.suffix.lower() != '.png':
        raise InputError('sheet is a PNG', where='--sheet', expected='a name that ends in .png',
                         got=args.sheet)
    return config

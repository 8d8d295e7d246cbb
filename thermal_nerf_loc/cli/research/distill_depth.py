# SPDX-License-Identifier: Apache-2.0
"""`distill-depth M DATA --out FILE`: a small network that sees depth in thermal images."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_OPTIONS = ('steps', 'max_seconds', 'seed')
_VIEWS = 400
_SHOWN = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare; what is not given keeps the default of `DistillConfig`."""
    parser.add_argument('map', type=Path, metavar='M', help='map file of the place')
    parser.add_argument('data', type=Path, metavar='DATA',
                        help='data set with thermal images of the place')
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
    parser.add_argument('--views', type=int, default=_VIEWS, metavar='N', help='views that nobody '
                        f'took, rendered by the map to learn from (default: {_VIEWS})')
    parser.add_argument('--steps', type=int, metavar='N', help='of training')
    parser.add_argument('--max-seconds', type=float, metavar='S', help='of training, at most')
    parser.add_argument('--seed', type=int, help='of every random choice (default: 0)')
    parser.add_argument('--config', type=Path, metavar='FILE', help='YAML file with any setting')
    parser.add_argument('--sheet', type=Path, metavar='FILE.png',
                        help='draw thermal images, measured and predicted depth')


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Ask the teacher, train, save, hold against measured depth."""
    from dataclasses import replace
    import time

    from thermal_nerf_loc.cli.output import progress_bar
    from thermal_nerf_loc.common.config import load_yaml
    from thermal_nerf_loc.io.atomic_files import check_writable
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
    from thermal_nerf_loc.mapping.thermal_depth.distillation import distill, DistillConfig

    config = load_yaml(DistillConfig, args.config) if args.config else DistillConfig()
    config = _with_options(config, args)
    check_writable(args.out)
    renderer, scene = RadianceMap.load(args.map), load_scene(args.data)
    began = time.monotonic()
    with progress_bar('ask the teacher') as progress:
        camera, labels, examples = gather(renderer, scene, args, config.seed, progress)
    with progress_bar('distill') as progress:
        model, steps = distill(labels, examples, camera, config, progress)
    model = replace(model, facts={'map': renderer.name, 'data': scene.root.name, 'steps': steps,
                                  'teacher': args.teacher, 'labels': len(labels)})
    model.save(args.out)
    figures = {'out': str(args.out), 'teacher': args.teacher, 'labels': len(labels),
               'lessons': len(examples), 'steps': steps, 'seconds': time.monotonic() - began}
    if args.sheet is not None:
        write_sheet(args.sheet, model, scene)
        figures['sheet'] = str(args.sheet)
    return {**figures, **{split: scores(model, scene, split) for split in ('train', 'test')}}


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


def gather(renderer: Any, scene: Any, args: argparse.Namespace, seed: int, progress: Any,
           ) -> tuple[Any, list[Any], list[Any]]:
    """The small camera, lessons with measured depth, and lessons of the teacher."""
    import numpy as np

    from thermal_nerf_loc.mapping.thermal_depth import teacher as teacher
    from thermal_nerf_loc.mapping.thermal_depth.onnx_network import OnnxDepth
    from thermal_nerf_loc.sensing.frame import THERMAL

    scene.require(THERMAL)
    renderer.learner(THERMAL)
    frames = tuple(i for i in scene.train if THERMAL in scene.frames[i].records)
    camera = _one_lens(scene, frames)
    deep = [i for i in frames if scene.frames[i].records[THERMAL].depth_path is not None]
    wanted = args.labels if args.labels is not None else (len(deep) if args.teacher == 'none'
                                                          else 0)
    labels = teacher.measured_examples(scene, _spread(deep, wanted, scene), camera)
    if args.teacher == 'none':
        unlabelled = teacher.measured_examples(_without_depth(scene), frames, camera)
        return camera, labels, unlabelled
    if args.teacher == 'map':
        examples = teacher.map_examples(renderer, scene, frames, camera, progress)
    else:
        examples = teacher.rgb_examples(OnnxDepth(Path(args.teacher)), args.teacher_kind, renderer,
                                        scene, _with_rgb(scene, frames), camera, progress)
    rng = np.random.default_rng(seed)
    examples += teacher.novel_view_examples(renderer, scene, frames, camera, args.views, rng,
                                            progress)
    return camera, labels, examples


def _one_lens(scene: Any, frames: tuple[int, ...]) -> Any:
    """The small camera of all these frames' thermal images."""
    from thermal_nerf_loc.common.errors import InputError
    from thermal_nerf_loc.mapping.thermal_depth.model import same_lens, small_camera
    from thermal_nerf_loc.sensing.frame import THERMAL

    if not frames:
        raise InputError('no training frame has a thermal image', where=scene.root)
    camera = small_camera(scene.frames[frames[0]].records[THERMAL].camera)
    for index in frames:
        if not same_lens(scene.frames[index].records[THERMAL].camera, camera):
            raise InputError('thermal images have several lenses', where=scene.root,
                             expected='one: a depth network knows a single lens',
                             got=f'another one at {scene.frames[index].name}')
    return camera


def _spread(deep: list[int], wanted: int, scene: Any) -> tuple[int, ...]:
    """So many of the frames with measured depth, evenly spread."""
    import numpy as np

    from thermal_nerf_loc.common.errors import InputError

    if wanted > len(deep):
        raise InputError('too few training frames have measured thermal depth', where=scene.root,
                         expected=wanted, got=len(deep))
    return tuple(deep[k] for k in np.linspace(0, len(deep) - 1, wanted).round().astype(int))


def _with_rgb(scene: Any, frames: tuple[int, ...]) -> tuple[int, ...]:
    from thermal_nerf_loc.sensing.frame import RGB

    scene.require(RGB)
    return tuple(i for i in frames if RGB in scene.frames[i].records)


def _without_depth(scene: Any) -> Any:
    from dataclasses import replace

    return replace(scene, frames=tuple(replace(frame, records={
        name: replace(record, depth_path=None) for name, record in frame.records.items()})
        for frame in scene.frames))


def predictor(model: Any) -> Any:
    """Depth and spread of an image, as evaluation asks for them."""
    def predict(image: Any) -> tuple[Any, Any]:
        seen = model.predict_image(image)
        return seen.depth_m, seen.spread_m
    return predict


def scores(model: Any, scene: Any, split: str) -> dict[str, Any] | None:
    """Errors of a split against measured depth; None where there is none."""
    from dataclasses import asdict

    from thermal_nerf_loc.evaluation.depth_quality import score_depth
    from thermal_nerf_loc.sensing.frame import THERMAL

    indices = [i for i in scene.split(split) if THERMAL in scene.frames[i].records
               and scene.frames[i].records[THERMAL].depth_path is not None]
    return asdict(score_depth(predictor(model), scene, indices)) if indices else None


def write_sheet(path: Path, model: Any, scene: Any) -> None:
    """Draw a few held-out views, or training views where none was held out."""
    import numpy as np

    from thermal_nerf_loc.evaluation.depth_quality import draw_depth
    from thermal_nerf_loc.io.atomic_files import write_atomically
    from thermal_nerf_loc.sensing.frame import THERMAL

    frames = [i for i in scene.test or scene.train if THERMAL in scene.frames[i].records]
    chosen = np.unique(np.linspace(0, len(frames) - 1, _SHOWN).round().astype(int))
    write_atomically(path, draw_depth(predictor(model), scene, [frames[k] for k in chosen]))

# SPDX-License-Identifier: Apache-2.0
"""
Depth from one thermal image: the gain by distillation, and the gain of a map by such depth.

    python benchmarks/thermal_depth.py [--data DIR --map FILE] [--what distillation few-views]

Distillation: the same network is trained for the same number of steps on a few labelled frames
alone (the baseline; all thermal images serve for self-consistency), and with a teacher. Teachers
are the depth of the map, and a stand-in for a monocular RGB network: true inverse depth of the RGB
camera with a random scale and shift and a smooth error of 10 %, fitted to the map and warped into
the thermal camera. Errors are against true depth on held-out views.

Few views: a map is trained on few views, without depth (the baseline), with measured depth, and
with the network's depth of their thermal images. (The network knows the scene already: its teacher
was a map of all views.)
"""

import argparse
from dataclasses import asdict, replace
from pathlib import Path
import sys
import time
from typing import Any

from _bench import add_data, add_seed, finish, guarded, parser, prepare, room, show, trained_map

CASES = ('distillation', 'few-views')
_WITHOUT, _MAP, _RGB = 'labels alone', 'labels and the map', 'labels and an RGB network'


def options() -> argparse.ArgumentParser:
    """What can be chosen."""
    made = parser(__doc__)
    add_data(made)
    add_seed(made)
    made.add_argument('--map', type=Path, metavar='M',
                      help='the teacher (default: one trained now on all views)')
    made.add_argument('--map-seconds', type=float, default=150.0, metavar='S',
                      help='of that training (default: 150)')
    made.add_argument('--what', nargs='+', choices=CASES, default=list(CASES),
                      help='(default: all)')
    made.add_argument('--teachers', nargs='+', choices=('map', 'rgb'), default=['map', 'rgb'],
                      help='(default: both)')
    made.add_argument('--labels', type=int, default=8, metavar='N',
                      help='frames with measured depth (default: 8)')
    made.add_argument('--views', type=int, default=400, metavar='N',
                      help='that the map shows beside (default: 400)')
    made.add_argument('--steps', type=int, default=1000, metavar='N',
                      help='of distillation (default: 1000)')
    made.add_argument('--few', type=int, default=8, metavar='N',
                      help='views of the second map (default: 8)')
    made.add_argument('--map-steps', type=int, default=600, metavar='N',
                      help='of its training (default: 600)')
    made.add_argument('--depth-weight', type=float, metavar='W',
                      help="of depth in its loss (default: the command train's own)")
    made.add_argument('--sheet', type=Path, metavar='FILE.png',
                      help='draw held-out views as the network that the map taught sees them')
    return made


def main() -> int:
    """Distil, then train on few views."""
    args = options().parse_args()
    prepare(args)
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
    if args.quick:
        args.labels, args.views, args.steps, args.few, args.map_steps = 3, 4, 4, 4, 10
        args.map_seconds = 5.0
    data = args.data or (room(8, (32, 24)) if args.quick else room())
    scene, renderer = load_scene(data), RadianceMap.load(
        trained_map(data, args.map, args.map_seconds))
    figures: dict[str, Any] = {'labels': args.labels, 'steps': args.steps}
    models: dict[str, Any] = {}
    if 'distillation' in args.what:
        figures['distillation'] = distillation(args, scene, renderer, models)
    if 'few-views' in args.what:
        model = models.get(_MAP) or taught(args, scene, renderer, _MAP)
        figures['few_views'] = few_views(args, scene, model)
    return finish(args, figures)


def distillation(args: argparse.Namespace, scene: Any, renderer: Any, models: dict[str, Any],
                 ) -> dict[str, Any]:
    """Errors on held-out views, without and with each teacher."""
    from thermal_nerf_loc.evaluation.depth_quality import (
        network_scores, score_depth, write_depth_sheet)

    found = {'the map itself': asdict(score_depth(rendered_by(renderer, scene), scene,
                                                  scene.test))}
    rows = [name for key, name in (('map', _MAP), ('rgb', _RGB)) if key in args.teachers]
    for name in (_WITHOUT, *rows):
        started = time.monotonic()
        models[name] = taught(args, scene, renderer, name)
        found[name] = {**(network_scores(models[name], scene, 'test') or {}),
                       'seconds': time.monotonic() - started}
        found[name]['abs_rel_gain'] = 1.0 - found[name]['abs_rel'] / found[_WITHOUT]['abs_rel']
        print(f'{name}: AbsRel {found[name]["abs_rel"]:.3f}', flush=True)
    if args.sheet is not None and _MAP in models:
        write_depth_sheet(args.sheet, models[_MAP], scene)
    columns = {'abs_rel': 'AbsRel', 'rmse_m': 'RMSE m', 'delta1': '< 1.25',
               'within_spread': 'in spread', 'abs_rel_gain': 'gain', 'seconds': 's'}
    show(f'depth from one thermal image, {args.labels} labelled frames, held-out views',
         ('taught by', *columns.values()),
         [(name, *(row.get(column) for column in columns)) for name, row in found.items()])
    return found


def taught(args: argparse.Namespace, scene: Any, renderer: Any, by: str) -> Any:
    """A network, trained as its row says."""
    import numpy as np

    from thermal_nerf_loc.mapping.thermal_depth import teacher
    from thermal_nerf_loc.mapping.thermal_depth.dataset import (
        collect_examples, MAP_TEACHER, NO_TEACHER, TeacherChoice)
    from thermal_nerf_loc.mapping.thermal_depth.distillation import distill, DistillConfig

    choice = TeacherChoice(MAP_TEACHER if by == _MAP else NO_TEACHER, labels=args.labels,
                           views=args.views)
    found = collect_examples(renderer, scene, choice, args.seed)
    examples = found.examples
    if by == _RGB:  # of frames alone: the views that a map shows stay out
        examples = teacher.rgb_examples(RgbStandIn(scene, np.random.default_rng(args.seed)),
                                        'inverse', renderer, scene, scene.train, found.camera)
    config = DistillConfig(steps=args.steps, seed=args.seed)
    return distill(found.labels, examples, found.camera, config)[0]


class RgbStandIn:
    """What a good monocular RGB network gives: smooth errors, no scale, no shift."""

    def __init__(self, scene: Any, rng: Any) -> None:
        """Remember the training images."""
        import cv2
        import numpy as np

        from thermal_nerf_loc.io.datasets.scene import load_image
        self._of = {}
        for index in scene.train:
            image = load_image('rgb', scene.frames[index].records['rgb'])
            rough = rng.normal(0.0, 0.1, (4, 5)).astype(np.float32)
            smooth = cv2.resize(rough, image.camera.size, interpolation=cv2.INTER_CUBIC)
            z = np.where(image.depth_m > 0.0, image.depth_m, np.inf) * np.exp(smooth)
            self._of[image.values.tobytes()] = (rng.uniform(1.0, 5.0) / z
                                                + rng.uniform(0.0, 0.5)).astype(np.float32)

    def __call__(self, rgb: Any) -> Any:
        """Inverse depth (h, w)."""
        return self._of[rgb.tobytes()]


def rendered_by(renderer: Any, scene: Any) -> Any:
    """What the teacher itself would say of a held-out view, whose pose it is told."""
    from thermal_nerf_loc.mapping.thermal_depth.teacher import render_view

    poses = {}
    for index in scene.test:
        record = scene.frames[index].records['thermal']
        poses[record.stamp_ns] = scene.frames[index].T_world_cam @ record.T_cam_sensor

    def predict(image: Any) -> tuple[Any, Any]:
        _, depth, _, relative_spread = render_view(renderer, 'thermal', image.camera,
                                                   poses[image.stamp_ns])
        return depth, relative_spread * depth
    return predict


def few_views(args: argparse.Namespace, scene: Any, model: Any) -> dict[str, Any]:
    """A map of few views with and without depth, held against the same held-out views."""
    import tempfile

    import numpy as np

    from thermal_nerf_loc.io.datasets.depth_maps import (
        DepthSource, MEASURED, with_depth, write_depth_maps)
    from thermal_nerf_loc.mapping.thermal_depth.dataset import predict_depth_maps

    chosen = np.linspace(0, len(scene.train) - 1, args.few).round().astype(int)
    few = replace(scene, train=tuple(scene.train[k] for k in chosen))
    with tempfile.TemporaryDirectory() as folder:
        maps = Path(folder) / 'maps'
        write_depth_maps(maps, predict_depth_maps(model, few, 'train'), 'thermal', {})
        found = {'images alone': trained(args, few, 0.0)}
        for name, source in (('thermal network', str(maps)), ('measured', MEASURED)):
            found[name] = trained(args, with_depth(few, DepthSource(source)), args.depth_weight)
    columns = {'depth_median_error_m': 'depth m', 'depth_within_5cm': 'in 5 cm',
               'rgb_psnr': 'rgb dB', 'thermal_psnr': 'thermal dB', 'seconds': 's'}
    show(f'map of {args.few} views, {args.map_steps} steps', ('--depth-from', *columns.values()),
         [(name, *(row[column] for column in columns)) for name, row in found.items()])
    return found


def trained(args: argparse.Namespace, scene: Any, weight: float | None) -> dict[str, Any]:
    """Figures of one map; the weight of depth is the command's own, unless given."""
    from thermal_nerf_loc.evaluation.map_quality import evaluate_map
    from thermal_nerf_loc.mapping.training.config import TrainConfig
    from thermal_nerf_loc.mapping.training.trainer import train

    config = TrainConfig(steps=args.map_steps, checkpoint_seconds=0.0, seed=args.seed,
                         depth_from='measured')
    config = config if weight is None else replace(config, depth_weight=weight)
    result = train(scene, config)
    quality = evaluate_map(result.map, scene)
    return {**{name: getattr(quality, name) for name in (
        'depth_median_error_m', 'depth_within_5cm', 'rgb_psnr', 'thermal_psnr')},
        'seconds': result.seconds}


if __name__ == '__main__':
    sys.exit(guarded(main))

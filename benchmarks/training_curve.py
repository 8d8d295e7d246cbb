# SPDX-License-Identifier: Apache-2.0
"""
Quality of a map on held-out views over training time, without the time of evaluation.

    python benchmarks/training_curve.py [--data DIR] [--marks 30 60 120 240]

One training is interrupted at each mark, evaluated, and continued to the last mark. With
--sparse-depth so many pixels of each RGB training view have a noisy depth, as points from
structure from motion would give. Targets on the simulated room, 80 views of 160x120 in both
modalities: RGB >= 28 dB, thermal >= 33 dB and <= 0.4 deg C, median depth error <= 3 cm at 240 s;
with 500 points <= 2 cm at 120 s.
"""

import copy
from dataclasses import replace
from pathlib import Path
import resource
import sys
import tempfile
import time
from typing import Any

from _bench import (
    add_data, add_marks, add_seed, finish, guarded, parser, prepare, show, training_data)


def main() -> int:
    """Train once, evaluate at every mark."""
    made = parser(__doc__)
    add_data(made)
    add_marks(made, (30.0, 60.0, 120.0, 240.0), 'training')
    made.add_argument('--sparse-depth', type=int, default=0, metavar='N',
                      help='depths a view (default: 0)')
    made.add_argument('--depth-noise', type=float, default=0.01, metavar='R',
                      help='their standard deviation, relative (default: 0.01)')
    made.add_argument('--depth-weight', type=float, default=0.1, metavar='W',
                      help='weight of their loss (default: 0.1)')
    add_seed(made)
    args = made.parse_args()
    prepare(args)
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    from thermal_nerf_loc.mapping.training.config import TrainConfig

    marks = sorted(args.marks) if not args.quick else [2.0, 4.0]
    scene = load_scene(training_data(args))
    config = TrainConfig(max_seconds=marks[-1], seed=args.seed, depth_from='none')
    learned_from = scene
    if args.sparse_depth:
        learned_from = with_sparse_depth(scene, args.sparse_depth, args.depth_noise, args.seed,
                                         Path(tempfile.mkdtemp()))
        config = replace(config, depth_from='measured', depth_weight=args.depth_weight)
    warm_up(learned_from, config)
    rows = [(mark, *row) for mark, row in curve(learned_from, scene, config, marks)]
    names = ('seconds', 'steps', 'rays_per_second', 'rgb_psnr', 'thermal_psnr',
             'thermal_mae_celsius', 'depth_median_cm', 'depth_within_5cm')
    points = f', {args.sparse_depth} depths a view' if args.sparse_depth else ''
    show(f'{scene.root.name}: {len(scene.train)} views{points}, {len(scene.test)} held out',
         ('s', 'steps', 'rays/s', 'RGB dB', 'thermal dB', 'MAE deg C', 'depth cm', '<= 5 cm'),
         rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
    print(f'peak memory of the process {peak:,.0f} MB')
    return finish(args, {'data': str(scene.root), 'sparse_depth': args.sparse_depth,
                         'peak_memory_mb': peak,
                         'curve': [dict(zip(names, row)) for row in rows]})


def curve(learned_from: Any, scene: Any, config: Any, marks: list[float]) -> Any:
    """(mark, figures) of one training; `scene` holds the truth to compare with."""
    from thermal_nerf_loc.evaluation.map_quality import evaluate_map
    from thermal_nerf_loc.mapping.training.pixel_sources import load_sources
    from thermal_nerf_loc.mapping.training.trainer import Trainer

    sources, temperatures = load_sources(learned_from, config)
    trainer, seconds = Trainer(config, sources, learned_from), 0.0
    for mark in marks:
        while seconds < mark and not trainer.finished(seconds):
            started = time.monotonic()
            trainer.step(seconds)
            seconds += time.monotonic() - started
        quality = evaluate_map(snapshot(trainer, temperatures, seconds), scene)
        print(f'{seconds:.0f} s: {trainer.status(seconds)}', flush=True)
        depth = quality.depth_median_error_m
        yield round(seconds, 1), (
            trainer.steps, trainer.steps * config.rays / seconds, quality.rgb_psnr,
            quality.thermal_psnr, quality.thermal_mae_celsius,
            None if depth is None else 100.0 * depth, quality.depth_within_5cm)


def snapshot(trainer: Any, temperatures: Any, seconds: float) -> Any:
    """The map that `train` would give now; training goes on untouched."""
    from thermal_nerf_loc.mapping.map.localization_map import MapInfo
    from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap

    return RadianceMap(copy.deepcopy(trainer.learners), temperatures,
                       MapInfo('', {}, trainer.steps, seconds))


def warm_up(scene: Any, config: Any) -> None:
    """Let kernels compile before the clock runs."""
    from thermal_nerf_loc.mapping.training.trainer import train
    train(scene, replace(config, steps=2, max_seconds=None))


def with_sparse_depth(scene: Any, count: int, noise: float, seed: int, folder: Path) -> Any:
    """
    The scene, whose RGB training views know the depth of `count` random pixels, noisily.

    They are written as depth images into `folder`; what else the scene knows of depth in training
    is hidden, in both modalities.
    """
    frames = list(scene.frames)
    for index in scene.train:
        records = {}
        for name, record in frames[index].records.items():
            path = None
            if name == 'rgb':
                path = folder / f'{index:05d}.png'
                write_sparse(scene.load(index).images[name].depth_m, count, noise,
                             [seed, index], path, record.depth_unit_m)
            records[name] = replace(record, depth_path=path)
        frames[index] = replace(frames[index], records=records)
    return replace(scene, frames=tuple(frames))


def write_sparse(depth_m: Any, count: int, noise: float, seed: list[int], path: Path,
                 unit_m: float) -> None:
    """Keep `count` depths of an image, with relative noise; 0 elsewhere."""
    import numpy as np

    from thermal_nerf_loc.io.images import write_png

    rng = np.random.default_rng(seed)
    known = np.flatnonzero(depth_m.ravel() > 0.0)
    chosen = rng.choice(known, min(count, len(known)), replace=False)
    sparse = np.zeros_like(depth_m)
    sparse.flat[chosen] = depth_m.flat[chosen] * (1.0 + noise * rng.standard_normal(len(chosen)))
    write_png(path, np.round(sparse / unit_m).astype(np.uint16))


if __name__ == '__main__':
    sys.exit(guarded(main))

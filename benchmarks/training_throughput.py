# SPDX-License-Identifier: Apache-2.0
"""
Rays per second in training: the CPU kernels against the reference in plain torch.

    python benchmarks/training_throughput.py [--data DIR]

Two trainers with the same seed draw the same batches for the same networks; the baseline has the
hash grid, the ray sampling and the density grid in plain torch (autograd). Steps are interleaved
A B A B. Target: 5 times the rays per second, over a whole run of the default schedule.
"""

from dataclasses import replace
import statistics
import sys
from typing import Any

from _bench import (
    add_data, finish, guarded, interleaved, parser, prepare, show, spread, torch_grid,
    training_data)

TARGET = 5.0
WAYS = ('kernels', 'torch reference')


def main() -> int:
    """Measure both phases of the schedule."""
    made = parser(__doc__)
    add_data(made)
    made.add_argument('--steps', type=int, default=15, metavar='N', help='of each (default: 15)')
    args = made.parse_args()
    prepare(args)
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    from thermal_nerf_loc.mapping.training.config import TrainConfig

    rounds = 3 if args.quick else args.steps
    scene = load_scene(training_data(args))
    config = TrainConfig()
    begin = config.schedule.uniform_until(config.steps)
    phases = {
        f'uniform samples (first {begin:.0f} steps)': (config, begin / config.steps),
        'samples at surfaces (all others)': (replace(config, schedule=replace(
            config.schedule, uniform_steps=0, adaptive_steps=1, direction_steps=0)),
            1.0 - begin / config.steps)}
    rows, whole = [], {'kernels': 0.0, 'torch reference': 0.0}
    for name, (setting, share) in phases.items():
        seconds = measure(scene, setting, rounds)
        medians = {way: statistics.median(times) for way, times in seconds.items()}
        for way, times in seconds.items():
            whole[way] += share * medians[way]
            rows.append((name, way, 1e3 * medians[way], spread([1e3 * t for t in times]),
                         config.rays / medians[way], medians['torch reference'] / medians[way]))
    ratio = whole['torch reference'] / whole['kernels']
    rows += [('whole run', way, 1e3 * s, '', config.rays / s, whole['torch reference'] / s)
             for way, s in whole.items()]
    show(f'training, {config.rays} rays a step', ('phase', 'way', 'ms a\nstep', 'middle\nhalf',
                                                  'rays/s', 'times\nfaster'), rows)
    print(f'whole run: {ratio:.1f} times the torch reference (target {TARGET:g})')
    return finish(args, {'ratio': ratio, 'target': TARGET, 'rays_a_step': config.rays,
                         'rays_per_second': config.rays / whole['kernels'],
                         'rows': [dict(zip(('phase', 'way', 'ms', 'middle_half_ms', 'rays_per_s',
                                            'times_faster'), row)) for row in rows]})


def measure(scene: Any, config: Any, rounds: int, ways: tuple[str, ...] = WAYS,
            ) -> dict[str, list[float]]:
    """Seconds of single steps of both ways."""
    from thermal_nerf_loc.mapping.training.pixel_sources import load_sources
    from thermal_nerf_loc.mapping.training.trainer import Trainer

    runs = {}
    for way in ways:
        sources, _ = load_sources(scene, config)
        trainer = Trainer(config, sources, scene)
        if way == 'torch reference':
            trainer.learners = tuple(replace(learner, grid=torch_grid(learner.grid))
                                     for learner in trainer.learners)
            for learner in trainer.learners:
                learner.field.encoding.reference = True
        runs[way] = lambda trainer=trainer: trainer.step(0.0)
    return interleaved(runs, rounds, warm_up=3)


if __name__ == '__main__':
    sys.exit(guarded(main))

# SPDX-License-Identifier: Apache-2.0
"""
Rays per second in training: the compiled kernels, numba with torch, and the torch reference.

    python benchmarks/training_throughput.py [--data DIR]

Trainers with the same seed draw the same batches for the same networks. `kernels` is what trains
where the compiled kernels are built, `numba and torch` what trains elsewhere (numba for the hash
grid and the rays, torch for the networks), `torch reference` has all of it in plain torch. Steps
are interleaved A B C A B C. Targets, over a whole run of the default schedule: 2.5 times numba
and torch, 8 times the torch reference.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
import os
import statistics
import sys
from typing import Any

from _bench import (
    add_data, finish, guarded, interleaved, parser, prepare, show, spread, torch_grid,
    training_data)

KERNELS, NUMBA, REFERENCE = WAYS = 'kernels', 'numba and torch', 'torch reference'
TARGETS = {NUMBA: 2.5, REFERENCE: 8.0}


def main() -> int:
    """Measure both phases of the schedule."""
    made = parser(__doc__)
    add_data(made)
    made.add_argument('--steps', type=int, default=15, metavar='N', help='of each (default: 15)')
    args = made.parse_args()
    prepare(args)
    import torch

    from thermal_nerf_loc.field.native.library import instruction_set
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    from thermal_nerf_loc.mapping.training.config import TrainConfig

    rounds = 3 if args.quick else args.steps
    scene = load_scene(training_data(args))
    config = TrainConfig()
    begin = config.schedule.uniform_until(config.planned_steps)
    share = begin / config.planned_steps
    at_surfaces = replace(config, schedule=replace(config.schedule, uniform_steps=0,
                                                   adaptive_steps=1, direction_steps=0))
    phases = {f'uniform samples (first {begin:.0f} steps)': (config, share),
              'samples at surfaces (all others)': (at_surfaces, 1.0 - share)}
    rows, whole = [], dict.fromkeys(WAYS, 0.0)
    for name, (setting, share) in phases.items():
        seconds = measure(scene, setting, rounds)
        medians = {way: statistics.median(times) for way, times in seconds.items()}
        for way, times in seconds.items():
            whole[way] += share * medians[way]
            rows.append((name, way, 1e3 * medians[way], spread([1e3 * t for t in times]),
                         config.rays / medians[way], medians[REFERENCE] / medians[way]))
    rows += [('whole run', way, 1e3 * s, '', config.rays / s, whole[REFERENCE] / s)
             for way, s in whole.items()]
    show(f'training, {config.rays} rays a step', ('phase', 'way', 'ms a\nstep', 'middle\nhalf',
                                                  'rays/s', 'times\nfaster'), rows)
    ratios = {way: whole[way] / whole[KERNELS] for way in TARGETS}
    for way, ratio in ratios.items():
        print(f'whole run: {ratio:.1f} times {way} (target {TARGETS[way]:g})')
    sets = {'kernels': instruction_set(), 'torch': torch.backends.cpu.get_cpu_capability()}
    print(f'instruction set: {sets["kernels"] or "none, they are not built"} for the kernels, '
          f'{sets["torch"]} for torch')
    return finish(args, {'ratio': ratios[REFERENCE], 'target': TARGETS[REFERENCE],
                         'ratio_to_numba': ratios[NUMBA], 'target_to_numba': TARGETS[NUMBA],
                         'rays_a_step': config.rays, 'instruction_sets': sets,
                         'rays_per_second': config.rays / whole[KERNELS],
                         'rows': [dict(zip(('phase', 'way', 'ms', 'middle_half_ms', 'rays_per_s',
                                            'times_faster'), row)) for row in rows]})


def measure(scene: Any, config: Any, rounds: int, ways: tuple[str, ...] = WAYS,
            ) -> dict[str, list[float]]:
    """Seconds of single steps of each way."""
    from thermal_nerf_loc.mapping.training.pixel_sources import load_sources
    from thermal_nerf_loc.mapping.training.trainer import Trainer

    def step(trainer: Trainer, way: str) -> None:
        with compiled_kernels(way == KERNELS):
            trainer.step(0.0)

    runs = {}
    sources, _ = load_sources(scene, config)
    for way in ways:
        with compiled_kernels(way == KERNELS):
            trainer = Trainer(config, sources, scene)
        if way == REFERENCE:
            trainer.learners = tuple(replace(learner, grid=torch_grid(learner.grid))
                                     for learner in trainer.learners)
            for learner in trainer.learners:
                learner.field.encoding.reference = True
        runs[way] = lambda trainer=trainer, way=way: step(trainer, way)
    return interleaved(runs, rounds, warm_up=3)


@contextmanager
def compiled_kernels(used: bool) -> Iterator[None]:
    """With the compiled kernels, or as on a machine that has none."""
    from thermal_nerf_loc.field.native.library import library, VARIABLE
    before = os.environ.get(VARIABLE)
    if not used:
        os.environ[VARIABLE] = 'off'
        library.cache_clear()
    yield
    if not used:
        del os.environ[VARIABLE]
        if before is not None:
            os.environ[VARIABLE] = before
        library.cache_clear()


if __name__ == '__main__':
    sys.exit(guarded(main))

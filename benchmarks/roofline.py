# SPDX-License-Identifier: Apache-2.0
"""
Rendering and training against the limits of this processor.

    python benchmarks/roofline.py [--data DIR --map FILE]

Ceilings are measured: stream bandwidth, random reads of table rows by the size of the table,
multiply-adds, matrix products, exponentials. The bytes and operations of a ray follow from the
settings of the map. Each stage is bound by the slower of the two; stages follow each other, so
that their times add up to the least time of a ray. Networks have two bounds: the best rate of a
large matrix product, and the rate of torch for a network of their own narrow shape.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
import statistics
import sys
import time
from typing import Any

from _bench import (
    add_data, camera_rays, finish, guarded, parser, prepare, show, trained_map, training_data)

MB = 2**20
POINTS = 2**16  # handed to a network at once: torch is at its best


@dataclass(frozen=True)
class Stage:
    """One part of a ray's way, and the least seconds that it takes by either bound."""

    name: str
    needs: str
    least_s: float
    least_with_torch_s: float | None = None  # networks only

    @property
    def with_torch_s(self) -> float:
        """The bound with networks as fast as torch runs their shapes."""
        return self.least_s if self.least_with_torch_s is None else self.least_with_torch_s


def main() -> int:
    """Ceilings, then a ray's needs, then what is reached."""
    made = parser(__doc__)
    add_data(made)
    made.add_argument('--map', type=Path, help='map (default: one trained for a minute)')
    args = made.parse_args()
    prepare(args)
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap

    data = training_data(args)
    radiance_map = RadianceMap.load(trained_map(data, args.map, 3.0 if args.quick else 60.0))
    scene = load_scene(data)
    ceilings = measure_ceilings(radiance_map, 3 if args.quick else 15)
    show('ceilings of this machine', ('what', 'rate', 'unit'),
         [(name, rate / scale, unit) for name, (rate, scale, unit) in ceilings.items()])
    rates = {name: rate for name, (rate, _, _) in ceilings.items()}
    figures: dict[str, Any] = {'ceilings': rates}
    for modality in radiance_map.modalities:
        stages = render_stages(radiance_map, scene, modality, rates)
        reached = speed_of(radiance_map, scene, modality, 3 if args.quick else 15)
        figures[modality] = report(f'rendering {modality}', stages, reached)
    stages = training_stages(radiance_map, rates)
    figures['training'] = report('training, samples at surfaces', stages,
                                 training_speed(scene, 3 if args.quick else 15))
    return finish(args, figures)


def measure_ceilings(radiance_map: Any, runs: int) -> dict[str, tuple[float, float, str]]:
    """Rate, and a scale and unit to print it in."""
    import numpy as np
    import torch

    learner = radiance_map.learners[0]
    table = learner.field.encoding.table.numel() * 4
    rng = np.random.default_rng(0)
    found: dict[str, tuple[float, float, str]] = {}
    a, b, c = (np.ones(16 * MB, np.float32) for _ in range(3))
    found['stream'] = (best(lambda: KERNELS.triad(a, b, c), runs, 3 * a.nbytes), 1e9, 'GB/s')
    grid = learner.grid.values.nbytes
    for name, size, width in (('rows of one level', 2 * MB, 4),
                              ('cells of the density grid', grid, 1),
                              ('rows of the whole table', table, 4)):
        rows = np.ones((size // (4 * width), width), np.float32)
        index = rng.integers(0, len(rows), 2 * MB).astype(np.int32)
        out = np.zeros(len(index), np.float32)
        found[name] = (best(lambda r=rows, i=index, o=out: KERNELS.gather(r, i, o), runs,
                            len(index)), 1e6, 'million/s')
    found['multiply-adds, float32'] = (best(lambda: KERNELS.multiply(4096), runs,
                                            2 * 2 * 128 * 4096 * 512), 1e9, 'Gflop/s')
    x = np.linspace(-10.0, 2.0, 4 * MB, dtype=np.float32)
    y = np.empty_like(x)
    found['exponentials'] = (best(lambda: KERNELS.exponentials(x, y), runs, len(x)), 1e6,
                             'million/s')
    config = learner.field.config
    for kind in (torch.float32, torch.bfloat16):
        net = torch.nn.Sequential(
            torch.nn.Linear(learner.field.encoding.width, config.density_width), torch.nn.ReLU(),
            torch.nn.Linear(config.density_width, 1 + config.features)).to(kind)
        points = torch.ones(POINTS, learner.field.encoding.width, dtype=kind)
        name = str(kind).removeprefix('torch.')
        with torch.inference_mode():
            found[f'density network, {name}'] = (
                best(lambda n=net, p=points: n(p), runs, len(points) * density_operations(config)),
                1e9, 'Gflop/s')
        square = torch.ones(1536, 1536, dtype=kind)
        found[f'matrix product, {name}'] = (best(lambda s=square: s @ s, runs, 2 * 1536**3), 1e9,
                                            'Gflop/s')
    return found


def best(run: Callable[[], Any], runs: int, work: float) -> float:
    """Work a second of the fastest of some runs: a ceiling is not a mean."""
    run()
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return work / min(seconds)


def density_operations(config: Any) -> int:
    """Floating-point operations of one sample in the density network."""
    inputs = config.encoding.levels * config.encoding.features
    return 2 * (inputs * config.density_width + config.density_width * (1 + config.features))


def branch_operations(field: Any, modality: str) -> int:
    """The same in one branch."""
    return sum(2 * layer.in_features * layer.out_features for layer in field.branches[modality]
               if hasattr(layer, 'in_features'))


def network_rates(rates: dict[str, float]) -> tuple[float, float]:
    """Operations a second of a large product, and of torch at the density network's shape."""
    return tuple(max(rates[f'{what}, {kind}'] for kind in ('float32', 'bfloat16'))
                 for what in ('matrix product', 'density network'))


def render_stages(radiance_map: Any, scene: Any, modality: str, rates: dict[str, float],
                  ) -> list[Stage]:
    """What each part of a rendered ray needs at least."""
    from thermal_nerf_loc.mapping.map.radiance_map import RENDER_SAMPLES

    learner = next(x for x in radiance_map.learners if modality in x.modalities)
    config, samples = learner.field.config, RENDER_SAMPLES
    bins = learner.grid.config.bins
    rows = 8 * config.encoding.levels * samples
    kept = kept_samples(radiance_map, scene, modality)
    wide, narrow = network_rates(rates)
    density = samples * density_operations(config)
    branch = kept * branch_operations(learner.field, modality)
    return [
        Stage('proposal', f'{bins} grid cells, {bins} exp',
         bins / rates['cells of the density grid'] + bins / rates['exponentials']),
        Stage('hash grid', f'{rows} rows, {rows * 4 * config.encoding.features / 1024:.0f} kB, '
         f'{rows * 2 * config.encoding.features / 1e3:.0f} kflop', max(
             rows / rates['rows of one level'],
             rows * 2 * config.encoding.features / rates['multiply-adds, float32'])),
        Stage('density network', f'{density / 1e3:.0f} kflop', density / wide, density / narrow),
        Stage('weights', f'{2 * samples} exp', 2 * samples / rates['exponentials']),
        Stage('branch', f'{branch / 1e3:.1f} kflop, {kept:.1f} samples kept', branch / wide,
              branch / narrow)]


def training_stages(radiance_map: Any, rates: dict[str, float]) -> list[Stage]:
    """The same for a training ray: forward, backward (twice the products), and Adam's share."""
    from thermal_nerf_loc.mapping.training.config import TrainConfig

    train, learner = TrainConfig(), radiance_map.learners[0]
    config, samples = learner.field.config, train.schedule.adaptive_samples
    bins, rows = train.sampling.bins, 8 * config.encoding.levels * samples
    wide, narrow = network_rates(rates)
    branches = [branch_operations(learner.field, m) for m in learner.field.channels]
    operations = 3 * samples * (density_operations(config) + sum(branches) / len(branches))
    table = learner.field.encoding.table.numel() * 4
    return [
        Stage('proposal', f'{bins} grid cells, {bins} exp',
         bins / rates['cells of the density grid'] + bins / rates['exponentials']),
        Stage('hash grid', f'{rows} rows', rows / rates['rows of one level']),
        Stage('table gradient', f'{rows} rows read and written',
              2 * rows / rates['rows of one level']),
        Stage('networks', f'{operations / 1e3:.0f} kflop, backward included',
              operations / wide, operations / narrow),
        Stage('Adam', f'{8 * table / train.rays / 1e3:.0f} kB: 8 streams of the table a step',
         8 * table / train.rays / rates['stream'])]


def kept_samples(radiance_map: Any, scene: Any, modality: str) -> float:
    """Samples per ray with a weight that counts, for which the branch runs; mean of a view."""
    import torch

    from thermal_nerf_loc.field.volume_rendering import composite, NEGLIGIBLE_WEIGHT
    from thermal_nerf_loc.mapping.map.radiance_map import RENDER_EXPLORING, RENDER_SAMPLES

    learner = next(x for x in radiance_map.learners if modality in x.modalities)
    origins, directions = camera_rays(scene, scene.test[:1], modality)
    t, width = learner.grid.sample(origins, directions, RENDER_SAMPLES,
                                   RENDER_EXPLORING)
    points = torch.from_numpy((origins[:, None] + t[..., None] * directions[:, None])
                              .reshape(-1, 3))
    with torch.no_grad():
        sigma, _ = learner.field.density(points)
        weights = composite(sigma.view(t.shape), torch.from_numpy(width))
    return float((weights > NEGLIGIBLE_WEIGHT).sum(dim=1).float().mean())


def speed_of(radiance_map: Any, scene: Any, modality: str, runs: int) -> float:
    """Rays a second, median."""
    rays = camera_rays(scene, scene.test[:1], modality)
    seconds = []
    for run in range(runs + 1):
        started = time.perf_counter()
        radiance_map.render_rays(modality, *rays)
        if run:
            seconds.append(time.perf_counter() - started)
    return len(rays[0]) / statistics.median(seconds)


def training_speed(scene: Any, steps: int) -> float:
    """Rays a second of steps with samples at surfaces, median."""
    from dataclasses import replace

    from training_throughput import measure

    from thermal_nerf_loc.mapping.training.config import TrainConfig

    config = TrainConfig()
    config = replace(config, schedule=replace(config.schedule, uniform_steps=0, adaptive_steps=1,
                                              direction_steps=0))
    return config.rays / statistics.median(measure(scene, config, steps, ('kernels',))['kernels'])


def report(title: str, stages: list[Stage], reached: float) -> dict[str, Any]:
    """Print a ray's stages with their bounds, and what share of the bounds is reached."""
    hard = sum(stage.least_s for stage in stages)
    soft = sum(stage.with_torch_s for stage in stages)
    rows = [(stage.name, stage.needs, 1e6 * stage.least_s, 1e6 * stage.with_torch_s)
            for stage in stages]
    rows += [('all together', '', 1e6 * hard, 1e6 * soft), ('rays/s', '', 1.0 / hard, 1.0 / soft),
             ('measured rays/s', '', reached, reached),
             ('reached, %', '', 100.0 * reached * hard, 100.0 * reached * soft)]
    show(title, ('stage', 'a ray needs', 'least us,\nhardware', 'least us,\ntorch products'), rows)
    return {'rays_per_second': reached, 'hardware_bound_rays_per_second': 1.0 / hard,
            'torch_bound_rays_per_second': 1.0 / soft, 'share_of_hardware': reached * hard,
            'share_of_torch': reached * soft,
            'stages': [{'stage': stage.name, 'needs': stage.needs, 'least_s': stage.least_s,
                        'with_torch_s': stage.with_torch_s} for stage in stages]}


class _Kernels:
    """Loops that do one thing only; compiled when first asked for."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        if not self._made:
            self._made = _compile()
        return self._made[name]


KERNELS = _Kernels()


def _compile() -> dict[str, Any]:  # noqa: C901  (four loops)
    import numba as nb
    import numpy as np

    options = {'parallel': True, 'fastmath': True, 'cache': False}

    @nb.njit(**options)
    def triad(a: Any, b: Any, c: Any) -> None:
        for i in nb.prange(a.shape[0]):
            a[i] = b[i] + np.float32(3.0) * c[i]

    @nb.njit(**options)
    def gather(rows: Any, index: Any, out: Any) -> None:
        for i in nb.prange(index.shape[0]):
            total = np.float32(0.0)
            row = index[i]
            for f in range(rows.shape[1]):
                total += rows[row, f]
            out[i] = total

    # Without reassociation: else the compiler would fold the multiply-adds into fewer.
    @nb.njit(parallel=True, fastmath={'contract'})
    def multiply(blocks: int) -> float:
        """2 multiply-adds on each of 128 accumulators, 512 times a block."""
        result = 0.0
        for block in nb.prange(blocks):
            held = np.empty(128, np.float32)
            held[:] = np.float32(block) * np.float32(1e-6)
            a, b = np.float32(0.999), np.float32(1e-3)
            for _ in range(512):
                for j in range(128):
                    held[j] = (held[j] * a + b) * a - b
            result += held.sum()
        return result

    @nb.njit(**options)
    def exponentials(x: Any, y: Any) -> None:
        for i in nb.prange(x.shape[0]):
            y[i] = np.exp(x[i])

    return {'triad': triad, 'gather': gather, 'multiply': multiply, 'exponentials': exponentials}


if __name__ == '__main__':
    sys.exit(guarded(main))

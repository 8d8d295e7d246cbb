# SPDX-License-Identifier: Apache-2.0
"""
Rendering and training against the limits of this processor.

    python benchmarks/roofline.py [--data DIR --map FILE]

Ceilings are measured: stream bandwidth, reads of table rows and grid cells, at random and in the
order in which the rays of a view ask for them (neighbours share cells), multiply-adds, matrix
products, exponentials. The bytes and operations of a ray follow from the settings of the map. Each
stage is bound by the slower of the two; stages follow each other, so that their times add up to
the least time of a ray. Networks have three bounds: the best rate of a large matrix product of any
precision, of float32 (in which the compiled kernels work), and the rate of torch for a network of
their own narrow shape. Rendering is measured by the compiled pass, by what serves without it, and
by plain torch; as for the ceilings, the fastest run counts.

To restrict torch's products to AVX2, MKL_ENABLE_INSTRUCTIONS=AVX2 is needed besides
ATEN_CPU_CAPABILITY=avx2 and ONEDNN_MAX_CPU_ISA=AVX2.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
import statistics
import sys
import time
from typing import Any

from _bench import (
    add_data, camera_rays, finish, guarded, interleaved, parser, prepare, show, trained_map,
    training_data)

MB = 2**20
POINTS = 2**16  # handed to a network at once: torch is at its best


@dataclass(frozen=True)
class Stage:
    """One part of a ray's way, and the least seconds that it takes by either bound."""

    name: str
    needs: str
    least_s: float
    in_float32_s: float
    with_torch_s: float  # networks as fast as torch runs their shapes

    @classmethod
    def of_memory(cls, name: str, needs: str, least_s: float) -> 'Stage':
        """A stage without networks: one bound."""
        return cls(name, needs, least_s, least_s, least_s)

    @classmethod
    def of_networks(cls, name: str, needs: str, operations: float, rates: dict[str, float],
                    ) -> 'Stage':
        """Products: the hardware's best, float32's, and torch's narrow ones."""
        wide = {kind: rates[f'matrix product, {kind}'] for kind in ('float32', 'bfloat16')}
        narrow = max(rates[f'density network, {kind}'] for kind in wide)
        full = max(wide['float32'], rates['multiply-adds, float32'])
        return cls(name, needs, operations / max(full, wide['bfloat16']), operations / full,
                   operations / narrow)


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
    runs = 3 if args.quick else 15
    ceilings = measure_ceilings(radiance_map, scene, runs)
    show('ceilings of this machine', ('what', 'rate', 'unit'),
         [(name, rate / scale, unit) for name, (rate, scale, unit) in ceilings.items()])
    rates = {name: rate for name, (rate, _, _) in ceilings.items()}
    figures: dict[str, Any] = {'ceilings': rates}
    for modality in radiance_map.modalities:
        stages = render_stages(radiance_map, scene, modality, rates)
        figures[modality] = report(f'rendering {modality}', stages,
                                   rendering_speeds(radiance_map, scene, modality, runs))
    stages = training_stages(radiance_map, rates)
    figures['training'] = report('training, samples at surfaces', stages,
                                 {'training': training_speed(scene, runs)})
    return finish(args, figures)


def measure_ceilings(radiance_map: Any, scene: Any, runs: int,
                     ) -> dict[str, tuple[float, float, str]]:
    """Rate, and a scale and unit to print it in."""
    import numpy as np
    import torch

    learner = radiance_map.learners[0]
    table = learner.field.encoding.table.numel() * 4
    rng = np.random.default_rng(0)
    found: dict[str, tuple[float, float, str]] = {}
    a, b, c = (np.ones(16 * MB, np.float32) for _ in range(3))
    found['stream'] = (best(lambda: KERNELS.triad(a, b, c), runs, 3 * a.nbytes), 1e9, 'GB/s')
    cells = learner.grid.values.reshape(-1, 1)
    level, whole = (np.ones((size // 16, 4), np.float32) for size in (2 * MB, table))
    asked_rows, asked_cells = what_rays_read(radiance_map, scene)
    for name, rows, index in (
            ('rows of one level, at random', level, rng.integers(0, len(level), 2 * MB)),
            ('rows of the whole table, at random', whole, rng.integers(0, len(whole), 2 * MB)),
            ('rows that rays read', learner.field.encoding.table.detach().numpy(), asked_rows),
            ('cells of the density grid, at random', cells, rng.integers(0, len(cells), 2 * MB)),
            ('cells that rays read', cells, asked_cells)):
        index = index.astype(np.int32)
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


def what_rays_read(radiance_map: Any, scene: Any) -> tuple[Any, Any]:
    """Rows of the table, level by level for 64 rays at a time, and cells along whole rays."""
    import numpy as np
    import torch

    from thermal_nerf_loc.field.kernels import torch_reference
    from thermal_nerf_loc.mapping.map.radiance_map import RENDER_EXPLORING, RENDER_SAMPLES

    learner = radiance_map.learners[0]
    origins, directions = (rays[:2048] for rays in camera_rays(scene, scene.test[:1],
                                                               learner.modalities[0]))
    space, levels = learner.field.space, learner.field.encoding.levels
    side = learner.grid.config.cells

    def unit(distances: Any) -> Any:
        return space.to_unit(torch.from_numpy(
            origins[:, None] + distances[..., None] * directions[:, None]))

    points = unit(learner.grid.sample(origins, directions, RENDER_SAMPLES, RENDER_EXPLORING)[0])
    corners = torch.tensor([[i & 1, i >> 1 & 1, i >> 2] for i in range(8)])
    rows = [torch_reference.grid_rows((block.reshape(-1, 1, 3) * scale + 0.5).long() + corners,
                                      levels, level).reshape(-1)
            for block in points.split(64) for level, scale in enumerate(levels.scales.tolist())]
    even, _ = learner.grid.sample(origins, directions, learner.grid.config.bins, 1.0)
    cells = (unit(even) * side).long().clamp(0, side - 1).reshape(-1, 3).numpy()
    return torch.cat(rows).numpy(), np.ravel_multi_index(tuple(cells.T), (side,) * 3)


def render_stages(radiance_map: Any, scene: Any, modality: str, rates: dict[str, float],
                  ) -> list[Stage]:
    """What each part of a rendered ray needs at least."""
    from thermal_nerf_loc.mapping.map.radiance_map import RENDER_SAMPLES

    learner, samples = radiance_map.learner(modality), RENDER_SAMPLES
    config, bins = learner.field.config, learner.grid.config.bins
    rows = 8 * config.encoding.levels * samples
    kept = kept_samples(radiance_map, scene, modality)
    density = samples * density_operations(config)
    branch = kept * branch_operations(learner.field, modality)
    return [
        Stage.of_memory('proposal', f'{bins} grid cells, {bins} exp',
                        bins / rates['cells that rays read'] + bins / rates['exponentials']),
        Stage.of_memory(
            'hash grid', f'{rows} rows, {rows * 4 * config.encoding.features / 1024:.0f} kB, '
            f'{rows * 2 * config.encoding.features / 1e3:.0f} kflop', max(
                rows / rates['rows that rays read'],
                rows * 2 * config.encoding.features / rates['multiply-adds, float32'])),
        Stage.of_networks('density network', f'{density / 1e3:.0f} kflop', density, rates),
        Stage.of_memory('weights', f'{2 * samples} exp', 2 * samples / rates['exponentials']),
        Stage.of_networks('branch', f'{branch / 1e3:.1f} kflop, {kept:.1f} samples kept', branch,
                          rates)]


def training_stages(radiance_map: Any, rates: dict[str, float]) -> list[Stage]:
    """The same for a training ray: forward, backward (twice the products), and Adam's share."""
    from thermal_nerf_loc.mapping.training.config import TrainConfig

    train, learner = TrainConfig(), radiance_map.learners[0]
    config, samples = learner.field.config, train.schedule.adaptive_samples
    bins, rows = train.sampling.bins, 8 * config.encoding.levels * samples
    branches = [branch_operations(learner.field, m) for m in learner.field.channels]
    operations = 3 * samples * (density_operations(config) + sum(branches) / len(branches))
    table = learner.field.encoding.table.numel() * 4
    return [
        Stage.of_memory('proposal', f'{bins} grid cells, {bins} exp',
                        bins / rates['cells of the density grid, at random']
                        + bins / rates['exponentials']),
        Stage.of_memory('hash grid', f'{rows} rows', rows / rates['rows of one level, at random']),
        Stage.of_memory('table gradient', f'{rows} rows read and written',
                        2 * rows / rates['rows of one level, at random']),
        Stage.of_networks('networks', f'{operations / 1e3:.0f} kflop, backward included',
                          operations, rates),
        Stage.of_memory(
            'Adam', f'{8 * table / train.rays / 1e3:.0f} kB: 8 streams of the table a step',
            8 * table / train.rays / rates['stream'])]


def kept_samples(radiance_map: Any, scene: Any, modality: str) -> float:
    """Samples per ray with a weight that counts, for which the branch runs; mean of a view."""
    import torch

    from thermal_nerf_loc.field.volume_rendering import composite, NEGLIGIBLE_WEIGHT
    from thermal_nerf_loc.mapping.map.radiance_map import RENDER_EXPLORING, RENDER_SAMPLES

    learner = radiance_map.learner(modality)
    origins, directions = camera_rays(scene, scene.test[:1], modality)
    t, width = learner.grid.sample(origins, directions, RENDER_SAMPLES,
                                   RENDER_EXPLORING)
    points = torch.from_numpy((origins[:, None] + t[..., None] * directions[:, None])
                              .reshape(-1, 3))
    with torch.no_grad():
        sigma, _ = learner.field.density(points)
        weights = composite(sigma.view(t.shape), torch.from_numpy(width))
    return float((weights > NEGLIGIBLE_WEIGHT).sum(dim=1).float().mean())


def rendering_speeds(radiance_map: Any, scene: Any, modality: str, runs: int) -> dict[str, float]:
    """Rays a second by each way, fastest of interleaved runs."""
    from rendering_speed import staged, torch_path

    from thermal_nerf_loc.field.native.library import instruction_set

    rays = camera_rays(scene, scene.test[:1], modality)
    few = [part[:1024] for part in rays]  # plain torch is slow, and as fast with few rays
    by_stages = staged(radiance_map, modality)
    seconds = interleaved({'map': lambda: radiance_map.render_rays(modality, *rays),
                           'stages': lambda: by_stages(*rays),
                           'torch': lambda: torch_path(radiance_map, modality, *few)}, runs)
    counts = {'map': len(rays[0]), 'stages': len(rays[0]), 'torch': len(few[0])}
    names = {'map': f'{instruction_set()} compiled pass' if instruction_set() else 'map',
             'stages': 'numba and torch', 'torch': 'plain torch'}
    return {names[way]: counts[way] / min(times) for way, times in seconds.items()}


def training_speed(scene: Any, steps: int) -> float:
    """Rays a second of steps with samples at surfaces, median."""
    from dataclasses import replace

    from training_throughput import measure

    from thermal_nerf_loc.mapping.training.config import TrainConfig

    config = TrainConfig()
    config = replace(config, schedule=replace(config.schedule, uniform_steps=0, adaptive_steps=1,
                                              direction_steps=0))
    return config.rays / statistics.median(measure(scene, config, steps, ('kernels',))['kernels'])


def report(title: str, stages: list[Stage], reached: dict[str, float]) -> dict[str, Any]:
    """Print a ray's stages with their bounds, and what share of the bounds each way reaches."""
    bounds = [sum(seconds) for seconds in zip(*(
        (stage.least_s, stage.in_float32_s, stage.with_torch_s) for stage in stages))]
    rows: list[tuple[Any, ...]] = [
        (stage.name, stage.needs, *(1e6 * seconds for seconds in (
            stage.least_s, stage.in_float32_s, stage.with_torch_s))) for stage in stages]
    rows += [('all together', '', *(1e6 * bound for bound in bounds)),
             ('rays/s', '', *(1.0 / bound for bound in bounds))]
    first = next(iter(reached.values()))
    for way, speed in reached.items():
        slower = '' if speed == first else f', {first / speed:.1f} times slower'
        rows.append((way, f'{speed:,.0f} rays/s{slower}: %',
                     *(100.0 * speed * bound for bound in bounds)))
    show(title, ('stage', 'a ray needs', 'least us,\nhardware', 'least us,\nfloat32',
                 'least us,\ntorch products'), rows)
    shares = dict(zip(('share_of_hardware', 'share_of_float32', 'share_of_torch'),
                      (first * bound for bound in bounds)))
    return {'rays_per_second': first, 'ways': reached, **shares,
            'hardware_bound_rays_per_second': 1.0 / bounds[0],
            'float32_bound_rays_per_second': 1.0 / bounds[1],
            'torch_bound_rays_per_second': 1.0 / bounds[2],
            'stages': [{'stage': stage.name, 'needs': stage.needs, 'least_s': stage.least_s,
                        'in_float32_s': stage.in_float32_s, 'with_torch_s': stage.with_torch_s}
                       for stage in stages]}


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

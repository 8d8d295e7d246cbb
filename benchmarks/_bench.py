# SPDX-License-Identifier: Apache-2.0
"""Shared by the benchmarks: options, data sets, maps, interleaved timing, tables, JSON."""

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
import os
from pathlib import Path
import platform
import statistics
import sys
import time
from typing import Any

_INSTRUCTIONS = (('AVX2', 'avx2'), ('FMA', 'fma'), ('AVX-512', 'avx512f'),
                 ('bfloat16', 'avx512bf16'), ('AMX', 'amx-bf16'))
_QUICK_SECONDS, _QUICK_STEPS = 20.0, 30  # shorter trainings take so many steps a second
KEPT = Path(__file__).resolve().parents[1] / 'build' / 'benchmarks'


def parser(text: str | None) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark; `text` is the docstring of the benchmark."""
    made = argparse.ArgumentParser(description=(text or '').strip(),
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument('--quick', action='store_true', help='small and rough: does it run?')
    made.add_argument('--json', type=Path, metavar='FILE', help='write the figures to FILE')
    made.add_argument('--threads', type=int, default=2, metavar='N', help='(default: 2)')
    return made


def add_data(made: argparse.ArgumentParser) -> None:
    """Option for the data set; None stands for the simulated room."""
    made.add_argument('--data', type=Path, metavar='DIR',
                      help='data set (default: the simulated room, made now)')


def add_marks(made: argparse.ArgumentParser, seconds: Sequence[float], of: str) -> None:
    """Option for the times (s) at which a training is evaluated."""
    made.add_argument('--marks', type=float, nargs='+', default=list(seconds), metavar='S',
                      help=f'seconds of {of} '
                           f'(default: {" ".join(f"{value:g}" for value in seconds)})')


def add_seed(made: argparse.ArgumentParser) -> None:
    """Option for the seed of all random numbers."""
    made.add_argument('--seed', type=int, default=0, help='(default: 0)')


def training_data(args: argparse.Namespace) -> Path:
    """The data set that was given, else the simulated room; a tiny one for --quick."""
    made: Path = args.data or (room(8, (32, 24)) if args.quick else room())
    return made


def prepare(args: argparse.Namespace) -> None:
    """Set the number of threads of numba and of torch."""
    import thermal_nerf_loc  # noqa: F401  (before torch: idle OpenMP threads shall sleep)

    import numba
    import torch
    numba.set_num_threads(min(args.threads, numba.config.NUMBA_NUM_THREADS))
    torch.set_num_threads(args.threads)


def interleaved(runs: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 1,
                ) -> dict[str, list[float]]:
    """Seconds of each run, in the order A B A B, so that load on the machine affects both."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(warm_up + rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if round_ >= warm_up:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def spread(values: Sequence[float]) -> str:
    """The middle half of the values."""
    if len(values) < 4:
        return f'{min(values):.4g} to {max(values):.4g}'
    low, _, high = statistics.quantiles(values, n=4)
    return f'{low:.4g} to {high:.4g}'


def room(frames: int = 80, size: tuple[int, int] = (160, 120), scene: str = 'room',
         clean: bool = False) -> Path:
    """A simulated data set, both cameras of `size`; made once and kept under build/."""
    from thermal_nerf_loc.simulation.record import simulate_dataset, SimulationConfig

    path = KEPT / f'{scene}-{frames}-{size[0]}x{size[1]}{"-clean" * clean}'
    if not path.is_dir():
        print(f'simulating {path.name} ...', flush=True)
        simulate_dataset(path, SimulationConfig(scene=scene, frames=frames, size=size,
                                                thermal_size=size, clean=clean))
    return path


def trained_map(data: Path, path: Path | None, seconds: float) -> Path:
    """The map that was given, else one trained now for `seconds`; kept under build/."""
    if path is not None:
        return path
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    from thermal_nerf_loc.mapping.training.config import TrainConfig
    from thermal_nerf_loc.mapping.training.trainer import train

    made = KEPT / f'{data.name}-{seconds:g}s.safetensors'
    if not is_usable(made):
        print(f'training {made.name} ...', flush=True)
        limit = ({'steps': round(_QUICK_STEPS * seconds)} if seconds < _QUICK_SECONDS else
                 {'max_seconds': seconds})  # a few seconds may be over before anything is learned
        train(load_scene(data), TrainConfig(**limit)).map.save(made)
    return made


def is_usable(path: Path) -> bool:
    """False for a map that is not there, or was written by another version of the code."""
    from thermal_nerf_loc.common.errors import InputError
    from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
    try:
        RadianceMap.load(path)
    except InputError:
        return False
    return True


def camera_rays(scene: Any, indices: Sequence[int], modality: str) -> tuple[Any, Any]:
    """Origins and unit directions (n, 3) float32 of all pixels of these frames."""
    import numpy as np
    parts = []
    for index in indices:
        record = scene.frames[index].records[modality]
        T = scene.frames[index].T_world_cam @ record.T_cam_sensor
        directions = (record.camera.rays() @ T[:3, :3].T).astype(np.float32)
        parts.append((np.broadcast_to(T[:3, 3].astype(np.float32), directions.shape), directions))
    origins, directions = (np.ascontiguousarray(np.concatenate(part)) for part in zip(*parts))
    return origins, directions


def torch_grid(grid: Any) -> Any:
    """A copy of a density grid that samples and updates by plain torch, not by the CPU kernels."""
    import numpy as np
    import torch

    from thermal_nerf_loc.field.density_grid import DensityGrid
    from thermal_nerf_loc.field.kernels import torch_reference

    class TorchGrid(DensityGrid):
        def sample(self, origins: Any, directions: Any, count: int, exploring: float,
                   rng: Any = None) -> tuple[Any, Any]:
            shape, scale = (len(origins), count), self.space.scale_m
            jitter = (torch.full(shape, 0.5) if rng is None
                      else torch.from_numpy(rng.random(shape, dtype='float32')))
            t, width = np.empty(shape, np.float32), np.empty(shape, np.float32)
            of_ray = np.broadcast_to(np.float32(exploring), len(origins))
            for uniform in np.unique(of_ray):
                mine = of_ray == uniform
                drawn = torch_reference.propose(
                    torch.from_numpy(origins[mine]), torch.from_numpy(directions[mine]),
                    torch.from_numpy(self.values), self.space,
                    self.config.near * self.space.least_m, 2.0 * scale, self.config.far * scale,
                    self.config.bins, float(uniform), jitter[torch.from_numpy(mine)])
                t[mine], width[mine] = (part.numpy() for part in drawn)
            return t, width

        def observe(self, points: Any, densities: Any, decay: float = 0.1) -> None:
            torch_reference.splat(points.detach(), densities.detach(),
                                  torch.from_numpy(self.values), self.space, decay)

    made = TorchGrid(grid.config, grid.space)
    made.values[:] = grid.values
    return made


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table; the first column is text."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify='left', header_style='bold')
    for i, name in enumerate(columns):
        table.add_column(name, justify='right' if i else 'left', no_wrap=True)
    for row in rows:
        table.add_row(*(cell(value) for value in row))
    Console(width=110).print(table)


def cell(value: Any) -> str:
    """A value with four digits; `-` for None."""
    if value is None:
        return '-'
    if isinstance(value, float):
        return f'{value:,.0f}' if abs(value) >= 1e4 else f'{value:.4g}'
    return str(value)


def finish(args: argparse.Namespace, figures: Mapping[str, Any]) -> int:
    """Print the machine and its load, write them with the figures to --json; returns 0."""
    from thermal_nerf_loc.io.atomic_files import write_json

    facts = machine()
    print(f'{facts["processor"]}, {facts["cores"]} cores, {args.threads} threads, '
          f'load {facts["load"]:.1f}')
    print(f'instructions: {facts["instructions"]}; used by torch: {facts["torch_uses"]}, oneDNN: '
          f'{facts["onednn_uses"]}, numba: {facts["numba_uses"]}')
    if facts['load'] > facts['cores'] + 1:
        print('the machine is busy with other work: ratios mean more than times')
    if args.json is not None:
        write_json(args.json, {**figures, 'machine': facts, 'quick': args.quick})
    return 0


def need_ros() -> None:
    """Refuse to run where ROS 2 cannot be imported."""
    from thermal_nerf_loc.evaluation.study.live_replay import ros_is_here
    from thermal_nerf_loc.common.errors import RunError
    if not ros_is_here():
        raise RunError('rclpy and tf2_msgs do not import here',
                       hint='Source a ROS 2, or let make setup bring one.')


def guarded(main: Callable[[], int]) -> int:
    """The exit code of `main`; a `UserError` is printed in one line."""
    from thermal_nerf_loc.common.errors import UserError
    try:
        return main()
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        return error.exit_code


def machine() -> dict[str, Any]:
    """The machine and the versions with which figures were measured."""
    import numba
    import torch

    lines = Path('/proc/cpuinfo').read_text().splitlines() if Path(
        '/proc/cpuinfo').is_file() else []
    names = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
    return {'processor': names[0] if names else platform.processor(), 'cores': os.cpu_count(),
            'load': os.getloadavg()[0], 'python': platform.python_version(),
            'torch': torch.__version__, 'numba': numba.__version__, **instruction_sets()}


def instruction_sets() -> dict[str, str]:
    """What the processor has, and what torch, oneDNN and numba use of it."""
    import llvmlite.binding as llvm
    import numba
    import torch

    processor = {name for name, there in llvm.get_host_cpu_features().items() if there}
    name = numba.config.CPU_NAME
    if name is None:
        of_numba = instructions(processor)
    else:  # with its features, '' stands for those that LLVM knows of this processor
        given = {word[1:] for word in (numba.config.CPU_FEATURES or '').split(',')
                 if word.startswith('+')}
        of_numba = f'{name} {instructions(given)}' if given else f'{name} as LLVM knows it'
    return {'instructions': instructions(processor),
            'torch_uses': torch.backends.cpu.get_cpu_capability(),
            'onednn_uses': os.environ.get('ONEDNN_MAX_CPU_ISA', 'all'), 'numba_uses': of_numba}


def instructions(features: Iterable[str]) -> str:
    """The names that matter, of LLVM's names of features."""
    return ' '.join(shown for shown, name in _INSTRUCTIONS if name in features) or 'none of AVX'

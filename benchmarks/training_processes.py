# SPDX-License-Identifier: Apache-2.0
"""
Rays per second of one training by one process with all threads, and by several under torchrun.

    python benchmarks/training_processes.py [--data DIR] [--processes 1 2 4]

Processes share the cores of this machine, and average their gradients over gloo at every step; on
one machine that costs, several machines or GPUs are what it is for. Rounds take turns.
"""

import json
from pathlib import Path
import statistics
import subprocess
import sys
import tempfile
import time

from _bench import add_data, finish, guarded, parser, show, training_data


def main() -> int:
    """Measure each number of processes."""
    made = parser(__doc__)
    add_data(made)
    made.add_argument('--processes', type=int, nargs='+', default=[1, 2], metavar='N',
                      help='(default: 1 2)')
    made.add_argument('--steps', type=int, default=60, metavar='N', help='(default: 60)')
    made.add_argument('--rounds', type=int, default=3, metavar='N', help='(default: 3)')
    made.add_argument('--worker', type=Path, help='used by the benchmark itself')
    args = made.parse_args()
    if args.quick:
        args.steps, args.rounds = 6, 1
    if args.worker is not None:
        return work(args.worker, args.data, args.steps)
    data = training_data(args)
    found: dict[int, list[float]] = {count: [] for count in args.processes}
    for _ in range(args.rounds):
        for count, speeds in found.items():
            speeds.append(measure(count, data, args.steps))
    medians = {count: statistics.median(speeds) for count, speeds in found.items()}
    alone = medians[args.processes[0]]
    show('training, gradients averaged at every step', ('processes', 'rays/s', 'over the first'),
         [(str(count), speed, speed / alone) for count, speed in medians.items()])
    return finish(args, {'rays_per_second': medians,
                         'scaling': {count: speed / alone for count, speed in medians.items()}})


def measure(count: int, data: Path, steps: int) -> float:
    """Rays a second of so many processes."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / 'speed.json'
        subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone',
                        '--nproc-per-node', str(count), __file__, '--worker', str(out), '--data',
                        str(data), '--steps', str(steps)], check=True, stderr=subprocess.DEVNULL)
        speed: float = json.loads(out.read_text())
    return speed


def work(out: Path, data: Path, steps: int) -> int:
    """Train in this process among its others; the first writes the speed."""
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    from thermal_nerf_loc.mapping.training.config import TrainConfig
    from thermal_nerf_loc.mapping.training.distributed import joined
    from thermal_nerf_loc.mapping.training.pixel_sources import load_sources
    from thermal_nerf_loc.mapping.training.trainer import Trainer

    scene, config = load_scene(data), TrainConfig(device='cpu')
    sources, _ = load_sources(scene, config)
    with joined('cpu') as processes:
        trainer = Trainer(config, sources, scene, processes)
        for _ in range(3):
            trainer.step(0.0)
        started = time.perf_counter()
        for _ in range(steps):
            trainer.step(0.0)
        if processes.leads:
            out.write_text(json.dumps(steps * config.rays / (time.perf_counter() - started)))
    return 0


if __name__ == '__main__':
    sys.exit(guarded(main))

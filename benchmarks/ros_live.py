# SPDX-License-Identifier: Apache-2.0
"""
The real node under a robot's load: thermal 320x256 at 30 Hz, RGB 640x480 at 15 Hz, over DDS.

    python benchmarks/ros_live.py --map room.map --seconds 30 [--darkness 1 --modality thermal]

Node and player are processes of their own, in real time. Prints pose updates a second, latency
from an image's stamp to its pose, trajectory error, and the node's memory over time. Without a
map the exact simulated world is rendered in its place: then it measures all but the map.
"""

import argparse
from dataclasses import replace
import os
from pathlib import Path
import sys
import tempfile
import threading
import time

import numpy as np

from thermal_nerf_loc.cli.live import LiveRun, run_live
from thermal_nerf_loc.data.bag import BagReader
from thermal_nerf_loc.errors import UserError
from thermal_nerf_loc.evaluation.metrics import trajectory_metrics, TrajectoryMetrics
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.ros.offline import read_truth
from thermal_nerf_loc.ros.recorder import Recording
from thermal_nerf_loc.simulation.record import simulate_bag, SimulationConfig

DISTURBANCE = (0.06, -0.06, 0.05, 0.04, 0.05, -0.06)  # of the start: m and rad, in the body
IN_WORLD = '--as-node-in-world'


def main() -> int:
    """Record (unless there is a bag), play, print."""
    if sys.argv[1:2] == [IN_WORLD]:
        return node_in_world()
    args, began = parse(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        bag = args.bag or Path(folder) / 'bag'
        if not bag.exists():
            print(f'recording {args.seconds:g} s of {args.scene} ...', flush=True)
            simulate_bag(bag, simulation(args))
        try:
            measure(args, bag)
        except UserError as error:
            print(f'ros_live: {error}', file=sys.stderr)
            return error.exit_code
    print(f'{time.monotonic() - began:.0f} s in all')
    return 0


def parse() -> argparse.Namespace:
    """Command line; every default makes a short run."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--map', type=Path, help='map file (default: the exact world)')
    parser.add_argument('--bag', type=Path, help='play this one; made there if it is missing')
    parser.add_argument('--scene', default='room')
    parser.add_argument('--seconds', type=float, default=15.0, help='length of a new bag')
    parser.add_argument('--laps', type=int, default=1, help='how often the bag is played to one '
                        'node, for memory; poses are measured in the first lap')
    parser.add_argument('--darkness', type=float, default=0.0, help='of a new bag, 0 to 1')
    parser.add_argument('--modality', default='both', choices=('both', 'rgb', 'thermal'))
    parser.add_argument('--parameter', action='append', default=[], metavar='NAME:=VALUE')
    return parser.parse_args()


def simulation(args: argparse.Namespace) -> SimulationConfig:
    """The cameras of the requirement."""
    settings = SimulationConfig(scene=args.scene, seconds=args.seconds, size=(640, 480),
                                thermal_size=(320, 256), supersampling=1)
    return replace(settings, rgb=replace(settings.rgb, darkness=args.darkness))


def measure(args: argparse.Namespace, bag: Path) -> None:
    """Play the bag to the node and print what came of it."""
    with BagReader(bag) as reader:
        truth, seconds = read_truth(reader), reader.duration_ns / 1e9
    T = se3.plus(truth.poses[0], DISTURBANCE)
    start = (*T[:3, 3].tolist(), *se3.quaternion_from_matrix(T[:3, :3]).tolist())
    node = (() if args.map else (str(Path(__file__).resolve()), IN_WORLD))
    run = LiveRun(args.map or Path(args.scene), bag,
                  [f'modality:={args.modality}', f'initial_pose:={list(start)!r}',
                   *args.parameter], [], ['/rgb/image_raw', '/thermal/image_raw'], seconds,
                  laps=args.laps, **({'node': node} if node else {}))
    memory = MemoryWatch(node[0] if node else 'localizer_node')
    recording, _ = run_live(run, lambda *_: None)
    report(recording, trajectory_metrics(recording.tf, truth), memory.end(), args.laps)


def report(recording: Recording, figures: TrajectoryMetrics, rss_mib: list[float],
           laps: int) -> None:
    """Print it; poses are of the first lap."""
    stamps, latencies, told = (recording.updates.stamps_ns, recording.latencies_s,
                               recording.diagnostics)
    rows = {
        'pose updates a second': (len(stamps) - 1) / max((stamps[-1] - stamps[0]) / 1e9, 1e-9),
        'latency median, ms': 1e3 * np.quantile(latencies, 0.5),
        'latency p95, ms': 1e3 * np.quantile(latencies, 0.95),
        'odometry messages with an answer on tf, %': 100.0 * len(recording.tf) * laps
        / max(recording.odometry_count, 1),
        'trajectory RMSE, m': figures.ate_rmse_m, 'trajectory RMSE, deg': figures.ate_rmse_deg,
        'trajectory worst, m': figures.ate_max_m}
    for name, value in rows.items():
        print(f'{name:<44} {value:9.3f}')
    print('memory over time, MiB: ', ' '.join(f'{value:.0f}' for value in rss_mib))
    print('at the end: ', ', '.join(f'{k} {told.get(k, "?")}' for k in (
        'state', 'carried_by', 'inlier_share', 'step_median_s', 'updates', 'frames_dropped')))


class MemoryWatch:
    """Resident memory of the child that runs the node, sampled twice a second."""

    def __init__(self, mark: str) -> None:
        """Know the child by a word of its command line."""
        self._mark = mark
        self._samples: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> list[float]:
        """Stop; the medians of ten spans of the run."""
        self._over.set()
        self._thread.join()
        return [float(np.median(span)) for span in np.array_split(self._samples, 10) if len(span)]

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            for task in Path('/proc/self/task').iterdir():
                for child in (task / 'children').read_text().split():
                    self._sample(Path('/proc') / child)

    def _sample(self, process: Path) -> None:
        try:
            if self._mark in (process / 'cmdline').read_text():
                pages = int((process / 'statm').read_text().split()[1])
                self._samples.append(pages * os.sysconf('SC_PAGE_SIZE') / 2**20)
        except OSError:
            pass  # it has just ended


def node_in_world() -> int:
    """Run the node with the exact world as its map."""
    from thermal_nerf_loc.ros.localizer_node import main as run_node
    from thermal_nerf_loc.simulation.world import make_world
    del sys.argv[1]
    return run_node(load_map=lambda path: make_world(path.name))


if __name__ == '__main__':
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""
Rates, latency, accuracy and memory of the node: thermal 320x256 at 30 Hz, RGB 640x480 at 15 Hz.

Node and bag player are processes of their own, in real time, connected by DDS. `--what` chooses,
each with its targets:
  realtime   both cameras in light: 8 pose updates a second, p95 latency from an image's stamp to
             its pose 200 ms, tf at the odometry's rate, 2 cm and 0.5 deg RMSE
  darkness   the thermal camera alone: 5 cm
  soak       the bag over and over for `--soak-minutes`: resident memory flat within 5 %
  effort     as realtime, with adaptive effort (fewer rays before dropped frames) and without it
  cold       from the start of the process to the first pose: 20 s with an empty cache of compiled
             kernels, 6 s afterwards
Without --map the exact simulated world is rendered in its place, to measure all but the map.

    python benchmarks/ros_live.py --map room.map --what realtime darkness cold
    python benchmarks/ros_live.py --map room.map --what soak --soak-minutes 15
"""

import argparse
from dataclasses import replace
import os
from pathlib import Path
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

from _bench import finish, guarded, KEPT, need_ros, parser, show

WHAT = ('realtime', 'darkness', 'soak', 'effort', 'cold')
OF_EFFORT = ('updates_hz', 'latency_p95_s', 'ate_rmse_m', 'frames_dropped', 'frame_rays',
             'frame_cpu_s', 'effort')
DISTURBANCE = (0.06, -0.06, 0.05, 0.04, 0.05, -0.06)  # of the start: m and rad, in the body
IN_WORLD = '--as-node-in-world'
IMAGES = ('/rgb/image_raw', '/thermal/image_raw')
REAL_NODE = ('-m', 'thermal_nerf_loc.ros.localizer_node')
FIRST_POSE_PATIENCE_S = 180.0
# figure: (target, whether more is better)
TARGETS = {
    'realtime': {'updates_hz': (8.0, True), 'latency_p95_s': (0.2, False),
                 'tf_answers_share': (0.99, True), 'ate_rmse_m': (0.02, False),
                 'ate_rmse_deg': (0.5, False)},
    'darkness': {'ate_rmse_m': (0.05, False)},
    'soak': {'rss_growth_percent': (5.0, False)},
    'effort': {},
    'cold': {'first_ever_s': (20.0, False), 'afterwards_s': (6.0, False)}}


def main() -> int:
    """Measure what was chosen, print, and write the figures."""
    args = parse()
    need_ros()
    figures: dict[str, dict[str, Any]] = {}
    for what in args.what:
        bag = recorded(args, dark=what == 'darkness')
        if what == 'cold':
            figures[what] = cold_start(args, bag)
        elif what == 'effort':
            figures[what] = with_and_without_effort(args, bag)
        else:
            figures[what] = play(args, bag, what)
        report(what, figures[what])
    return finish(args, figures)


def parse() -> argparse.Namespace:
    """Command line; every default makes a short run."""
    made = parser(__doc__)
    made.add_argument('--what', nargs='+', choices=WHAT, default=['realtime'],
                      help='(default: realtime)')
    made.add_argument('--map', type=Path, metavar='FILE', help='map (default: the exact world)')
    made.add_argument('--bag', type=Path, metavar='DIR', help='play this one (default: simulated '
                      'once and kept under build/)')
    made.add_argument('--scene', default='room', metavar='NAME', help='(default: room)')
    made.add_argument('--seconds', type=float, default=15.0, metavar='S',
                      help='length of a simulated bag (default: 15)')
    made.add_argument('--soak-minutes', type=float, default=15.0, metavar='M',
                      help='(default: 15)')
    made.add_argument('--parameter', action='append', default=[], metavar='NAME:=VALUE',
                      help='of the node; may be given several times')
    args = made.parse_args()
    if args.quick:
        args.seconds, args.soak_minutes = 3.0, 0.3
    return args


def recorded(args: argparse.Namespace, dark: bool) -> Path:
    """The bag to play: the one given, else one with the cameras of the requirement."""
    if args.bag is not None:
        return Path(args.bag)
    from thermal_nerf_loc.simulation.record import simulate_bag, SimulationConfig

    size, thermal_size = ((96, 72), (96, 72)) if args.quick else ((640, 480), (320, 256))
    path = KEPT / (f'bag-{args.scene}-{size[0]}x{size[1]}-{args.seconds:g}s'
                   + ('-dark' if dark else ''))
    if not path.is_dir():
        print(f'recording {path.name} ...', flush=True)
        settings = SimulationConfig(scene=args.scene, seconds=args.seconds, size=size,
                                    thermal_size=thermal_size, supersampling=1)
        simulate_bag(path, replace(settings, rgb=replace(settings.rgb, darkness=float(dark))))
    return path


def play(args: argparse.Namespace, bag: Path, what: str) -> dict[str, Any]:
    """Play the bag to the node in real time; poses are those of the first lap."""
    from thermal_nerf_loc.evaluation.study.live_replay import LiveRun, run_live
    from thermal_nerf_loc.evaluation.metrics import trajectory_metrics
    from thermal_nerf_loc.io.bags.reader import BagReader
    from thermal_nerf_loc.tracking.bag_replay import read_truth

    with BagReader(bag) as reader:
        truth, seconds = read_truth(reader), reader.duration_ns / 1e9
    laps = max(round(args.soak_minutes * 60.0 / seconds), 2) if what == 'soak' else 1
    modality = 'thermal' if what == 'darkness' else 'both'
    images = [topic for topic in IMAGES if modality == 'both' or modality in topic]
    run = LiveRun(args.map or Path(args.scene), bag,
                  [f'modality:={modality}', start_near(truth), *args.parameter], [], images,
                  seconds, laps=laps, node=node_words(args))
    memory = MemoryWatch(run.node[0] if args.map is None else 'localizer_node')
    recording, _ = run_live(run, lambda *_: None)
    rss = memory.end()
    if what == 'soak':
        return {'laps': laps, **growth(rss)}
    metrics = trajectory_metrics(recording.tf, truth)
    return {**live_figures(recording), 'ate_rmse_m': metrics.ate_rmse_m,
            'ate_rmse_deg': metrics.ate_rmse_deg, 'ate_max_m': metrics.ate_max_m,
            'rss_mib': rss[-1][1] if rss else None,
            **{name: recording.diagnostics.get(name, '?') for name in (
                'state', 'carried_by', 'inlier_share', 'step_median_s', 'frames_dropped',
                'frame_rays', 'frame_cpu_s', 'cores_used', 'effort')}}


def with_and_without_effort(args: argparse.Namespace, bag: Path) -> dict[str, Any]:
    """Figures with adaptive effort and without it, in turns."""
    figures: dict[str, Any] = {}
    for adaptive in ('true', 'false'):
        of_run = argparse.Namespace(**vars(args))
        of_run.parameter = [*args.parameter, f'adaptive_effort:={adaptive}']
        found = play(of_run, bag, 'effort')
        name = 'adaptive' if adaptive == 'true' else 'all rays'
        figures.update({f'{name}: {key}': found[key] for key in OF_EFFORT})
    return figures


def live_figures(recording: Any) -> dict[str, Any]:
    """Rates and latencies of one lap."""
    import numpy as np

    stamps, latencies = recording.updates.stamps_ns, recording.latencies_s
    tf = recording.tf.stamps_ns
    return {'updates_hz': rate_hz(stamps), 'latency_median_s': float(np.quantile(latencies, 0.5)),
            'latency_p95_s': float(np.quantile(latencies, 0.95)), 'tf_hz': rate_hz(tf),
            'tf_answers_share': len(tf) / max(recording.odometry_count, 1)}


def rate_hz(stamps_ns: Any) -> float:
    """Mean rate of rising stamps."""
    span_s = (int(stamps_ns[-1]) - int(stamps_ns[0])) / 1e9 if len(stamps_ns) > 1 else 0.0
    return (len(stamps_ns) - 1) / span_s if span_s > 0.0 else 0.0


def growth(samples: list[tuple[float, float]]) -> dict[str, Any]:
    """Memory after warm-up, at the end and its slope, from samples (s, MiB)."""
    import numpy as np

    seconds, mib = np.array(samples, dtype=float).reshape(-1, 2).T
    warm = seconds >= seconds[0] + min(60.0, 0.3 * (seconds[-1] - seconds[0]))
    seconds, mib = seconds[warm], mib[warm]
    tenth = max(len(mib) // 10, 1)
    start, end = float(np.median(mib[:tenth])), float(np.median(mib[-tenth:]))
    slope = np.polyfit((seconds - seconds[0]) / 60.0, mib, 1)[0] if len(mib) > 1 else 0.0
    return {'minutes': (seconds[-1] - seconds[0]) / 60.0, 'rss_start_mib': start,
            'rss_end_mib': end, 'rss_slope_mib_per_minute': float(slope),
            'rss_growth_percent': 100.0 * (end / start - 1.0)}


def cold_start(args: argparse.Namespace, bag: Path) -> dict[str, Any]:
    """Seconds to the first pose: with no compiled kernels kept, and with those then kept."""
    with tempfile.TemporaryDirectory() as cache:
        first, again = (seconds_to_first_pose(args, bag, cache) for _ in range(2))
    return {'first_ever_s': first, 'afterwards_s': again}


def seconds_to_first_pose(args: argparse.Namespace, bag: Path, cache: str) -> float:
    """From the start of the node's process until its first pose arrives here."""
    from thermal_nerf_loc.evaluation.study.live_replay import dds_profile
    from thermal_nerf_loc.common.errors import RunError
    from thermal_nerf_loc.io.bags.reader import BagReader
    from thermal_nerf_loc.ros.recorder import Recorder
    from thermal_nerf_loc.tracking.bag_replay import read_truth

    with BagReader(bag) as reader:
        start = start_near(read_truth(reader))
    domain = 1 + os.getpid() % 100
    env = {'NUMBA_CACHE_DIR': cache, 'ROS_DOMAIN_ID': str(domain),
           'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST', **dds_profile()}
    os.environ.update(env)
    map_ = Path(args.map).resolve() if args.map else args.scene
    node = [sys.executable, *node_words(args), '--ros-args', '-p', f'map:={map_}', '-p',
            'use_sim_time:=true', '-p', start, *(word for p in args.parameter
                                                 for word in ('-p', p))]
    player = [sys.executable, '-m', 'thermal_nerf_loc.ros.bag_player', str(bag), '--laps', '100',
              '--wait-for', *IMAGES, '--patience-s', str(FIRST_POSE_PATIENCE_S)]
    with Recorder(domain) as recorder, tempfile.TemporaryFile('w+') as log:
        began = time.monotonic()
        children = [subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
                    for command in (node, player)]
        try:
            while not len(recorder.result().updates):
                if (any(child.poll() is not None for child in children)
                        or time.monotonic() - began > FIRST_POSE_PATIENCE_S):
                    log.seek(0)
                    raise RunError('there was no pose', got=log.read()[-400:])
                time.sleep(0.02)
            return time.monotonic() - began
        finally:
            for child in children:
                child.terminate()
                child.wait(20)


def start_near(truth: Any) -> str:
    """The node's start, somewhat off the truth."""
    from thermal_nerf_loc.geometry import se3

    T = se3.plus(truth.poses[0], DISTURBANCE)
    pose = [*T[:3, 3].tolist(), *se3.quaternion_from_matrix(T[:3, :3]).tolist()]
    return f'initial_pose:={pose!r}'


def node_words(args: argparse.Namespace) -> tuple[str, ...]:
    """What Python runs as the node."""
    return REAL_NODE if args.map else (str(Path(__file__).resolve()), IN_WORLD)


def report(what: str, figures: dict[str, Any]) -> None:
    """Print a table, targets beside the figures."""
    targets = TARGETS[what]
    rows = []
    for name, value in figures.items():
        target, more = targets.get(name, (None, True))
        reached = '' if target is None else 'yes' if (value >= target) == more else 'no'
        bound = '' if target is None else f'{">=" if more else "<="} {target:g}'
        rows.append((name, value, bound, reached))
    show(what, ('figure', 'value', 'target', 'reached'), rows)


class MemoryWatch:
    """Resident memory of the child that runs the node, sampled twice a second."""

    def __init__(self, mark: str) -> None:
        """Know the child by a word of its command line."""
        self._mark = mark
        self._samples: list[tuple[float, float]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> list[tuple[float, float]]:
        """Stop; the samples (s, MiB)."""
        self._over.set()
        self._thread.join()
        return self._samples

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            for task in Path('/proc/self/task').iterdir():
                for child in (task / 'children').read_text().split():
                    self._sample(Path('/proc') / child)

    def _sample(self, process: Path) -> None:
        try:
            if self._mark in (process / 'cmdline').read_text():
                pages = int((process / 'statm').read_text().split()[1])
                self._samples.append((time.monotonic(),
                                      pages * os.sysconf('SC_PAGE_SIZE') / 2**20))
        except OSError:
            pass  # it has just ended


def node_in_world() -> int:
    """Run the node with the exact world as its map."""
    from thermal_nerf_loc.ros.localizer_node import main as run_node
    from thermal_nerf_loc.simulation.layouts import make_world
    del sys.argv[1]
    return run_node(load_map=lambda path: make_world(path.name))


if __name__ == '__main__':
    sys.exit(node_in_world() if sys.argv[1:2] == [IN_WORLD] else guarded(main))

# SPDX-License-Identifier: Apache-2.0
"""
Time of `import-bag` for a bag of 5 minutes: RGB 640x480 at 15 Hz, thermal 320x256 at 30 Hz.

    python benchmarks/import_bag.py [--images compressed] [--json FILE]

A shorter recording is simulated once (kept under build/) and repeated with later stamps until the
bag is long enough: the robot drives the same stretch again and again, and jumps back in between.
The long bag (6 GB with raw images) is removed at the end. The command runs as a process of its
own. Limit: the duration of the bag; beyond it the exit code is 1.
"""

import json
from pathlib import Path
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from typing import Any

from _bench import finish, guarded, KEPT, parser, show

# where a serialized message holds its stamp: behind the encapsulation; tf has a length before it
STAMP_AT, TF_STAMP_AT = 4, 8


def main() -> int:
    """Make the bag, import it, print a table; 1 where it took longer than the bag lasts."""
    options = parser(__doc__)
    options.add_argument('--seconds', type=float, default=300.0, help='length of the bag')
    options.add_argument('--lap', type=float, default=10.0, help='seconds that are simulated')
    options.add_argument('--images', choices=('raw', 'compressed'), default='raw',
                         help='which topics the long bag holds')
    args = options.parse_args()
    if args.quick:
        args.seconds, args.lap = 6.0, 2.0
    size, small = ((160, 120), (80, 64)) if args.quick else ((640, 480), (320, 256))
    with tempfile.TemporaryDirectory(dir=made_folder()) as folder:
        bag, out = Path(folder) / 'bag', Path(folder) / 'data'
        megabytes = repeat(lap_of(args.lap, size, small), bag, args.seconds, args.images)
        figures = measure(bag, out, folder) | {'bag_megabytes': megabytes}
        shutil.rmtree(bag)
    show(f'importing {figures["bag_seconds"]:.0f} s, {megabytes:,.0f} MB, {args.images} images',
         ('what', 'figure'), [(name.replace('_', ' '), figures[name]) for name in (
             'seconds', 'realtime_factor', 'processor_seconds', 'peak_memory_mb', 'train_frames',
             'test_frames', 'rgb_images', 'thermal_images')])
    finish(args, figures)
    is_slow = figures['realtime_factor'] < 1.0 and not args.quick  # then most of it is imports
    if is_slow:
        print('slower than the bag was recorded')
    return int(is_slow)


def made_folder() -> Path:
    """The folder of this benchmark's data."""
    KEPT.mkdir(parents=True, exist_ok=True)
    return KEPT


def lap_of(seconds: float, size: tuple[int, int], small: tuple[int, int]) -> Path:
    """A simulated recording, made once."""
    from thermal_nerf_loc.simulation.record import simulate_bag, SimulationConfig

    path = KEPT / f'bag-{seconds:g}s-{size[0]}x{size[1]}'
    if not path.is_dir():
        print(f'simulating {seconds:g} s ...', flush=True)
        simulate_bag(path, SimulationConfig(size=size, thermal_size=small, seconds=seconds,
                                            supersampling=1))
    return path


def repeat(lap: Path, bag: Path, seconds: float, images: str) -> float:
    """Write the same messages again and again, later each time; returns the size in MB."""
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import get_typestore, Stores

    from thermal_nerf_loc.io.bags.reader import BagReader
    store, started = get_typestore(Stores.ROS2_JAZZY), time.monotonic()
    with BagReader(lap) as reader, Writer(bag, version=9,
                                          storage_plugin=StoragePlugin.MCAP) as writer:
        wanted = [topic for topic in reader.topics if 'image_raw' not in topic
                  or topic.endswith('/compressed') == (images == 'compressed')]
        connections = {topic: writer.add_connection(topic, reader.topics[topic], typestore=store)
                       for topic in wanted}
        step_ns = reader.duration_ns + 20_000_000
        for turn in range(max(1, round(seconds * 1e9 / step_ns))):
            for topic, kind, stamp_ns, data in reader.raw_messages(wanted):
                writer.write(connections[topic], stamp_ns + turn * step_ns,
                             later(data, kind, turn * step_ns))
    print(f'wrote a bag of {seconds:g} s in {time.monotonic() - started:.0f} s', flush=True)
    return sum(file.stat().st_size for file in bag.iterdir()) / 1e6


def later(data: bytes, kind: str, by_ns: int) -> bytes:
    """A message with a header (or a single transform), its stamp moved."""
    at = TF_STAMP_AT if kind.endswith('TFMessage') else STAMP_AT
    sec, nanosec = struct.unpack_from('<iI', data, at)
    moved = bytearray(data)
    struct.pack_into('<iI', moved, at, *divmod(sec * 10**9 + nanosec + by_ns, 10**9))
    return bytes(moved)


def measure(bag: Path, out: Path, folder: str) -> dict[str, Any]:
    """Time and memory of the command, as a user has them."""
    figures_file, started = Path(folder) / 'figures.json', time.perf_counter()
    subprocess.run([sys.executable, '-m', 'thermal_nerf_loc.cli', 'import-bag', str(bag), str(out),
                    '--thermal-camera', 'flir-boson', '--json', str(figures_file)], check=True,
                   stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    figures = json.loads(figures_file.read_text())
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {**figures, 'seconds': seconds, 'realtime_factor': figures['bag_seconds'] / seconds,
            'processor_seconds': used.ru_utime + used.ru_stime,
            'peak_memory_mb': used.ru_maxrss / 1024.0}


if __name__ == '__main__':
    sys.exit(guarded(main))

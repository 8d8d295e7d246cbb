# SPDX-License-Identifier: Apache-2.0
"""
Cost of a map by the number of its training views: time of rendering, memory, size of the file.

    python benchmarks/map_cost.py [--views 20 80 320]

Rendering asks the field and never the views, so its cost must not grow with them; the map of the
fewest views is the baseline. Memory is that of the operating system, each in a process of its own.
Targets: training <= 2 GB, a loaded map <= 300 MB, the same rays per second for each number of
views.
"""

import json
from pathlib import Path
import statistics
import subprocess
import sys
import time
from typing import Any

from _bench import (
    camera_rays, finish, guarded, interleaved, KEPT, parser, prepare, room, show, spread)


def main() -> int:
    """Train in children, render here."""
    made = parser(__doc__)
    made.add_argument('--views', type=int, nargs='+', default=[20, 80, 320], metavar='N',
                      help='training views (default: 20 80 320)')
    made.add_argument('--train-seconds', type=float, default=30.0, metavar='S',
                      help='of each map (default: 30)')
    made.add_argument('--runs', type=int, default=15, metavar='N', help='(default: 15)')
    made.add_argument('--child', nargs='+', help=argparse_suppress())
    args = made.parse_args()
    prepare(args)
    if args.child:
        return child(*args.child)
    views = [4, 8] if args.quick else args.views
    size = (32, 24) if args.quick else (160, 120)
    seconds = 3.0 if args.quick else args.train_seconds
    maps, rows = {}, []
    for count in views:
        data = room(count, size)
        maps[count] = KEPT / f'{data.name}-cost.safetensors'
        trained = ask(args, 'train', data, maps[count], seconds)
        loaded = ask(args, 'load', data, maps[count])
        rows.append([count, trained['peak_mb'], maps[count].stat().st_size / 2**20,
                     loaded['before_mb'], loaded['loaded_mb'], loaded['rendered_mb']])
    times = render_times(maps, room(views[0], size), args.runs)
    base = statistics.median(times[views[0]])
    for row in rows:
        median = statistics.median(times[row[0]])
        row += [1e3 * median, spread([1e3 * t for t in times[row[0]]]), median / base]
    columns = ('views', 'training\nMB', 'file\nMB', 'before\nMB', 'loaded\nMB', 'rendered\nMB',
               'render\nms', 'middle half\nms', 'ratio')
    show('cost of a map: memory of the whole process, time of one RGB image', columns, rows)
    print('before: imports alone; loaded: with the map; rendered: peak after rendering a view')
    grown = max(row[5] - row[3] for row in rows)
    print(f'training takes at most {max(row[1] for row in rows):,.0f} MB (target 2048), a map '
          f'adds at most {grown:,.0f} MB (target 300)')
    names = ('views', 'training_mb', 'file_mb', 'before_mb', 'loaded_mb', 'rendered_mb',
             'render_ms', 'middle_half_ms', 'ratio')
    return finish(args, {'rows': [dict(zip(names, row)) for row in rows], 'map_adds_mb': grown})


def argparse_suppress() -> str:
    """What hides an option from the help."""
    import argparse
    return argparse.SUPPRESS


def render_times(maps: dict[int, Path], data: Path, runs: int) -> dict[Any, list[float]]:
    """Seconds of one RGB image from the same place in each map, interleaved."""
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap

    scene = load_scene(data)
    rays = camera_rays(scene, scene.test[:1], 'rgb')
    loaded = {count: RadianceMap.load(path) for count, path in maps.items()}
    return interleaved({count: lambda m=m: m.render_rays('rgb', *rays)
                        for count, m in loaded.items()}, runs, warm_up=2)


def ask(args: Any, *words: object) -> dict[str, float]:
    """Run this script in another process, and read its last line."""
    command = [sys.executable, __file__, '--threads', str(args.threads), '--child',
               *map(str, words)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def child(task: str, data: str, path: str, seconds: str = '0') -> int:
    """`train` or `load`, on a memory of its own."""
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
    from thermal_nerf_loc.mapping.training.config import TrainConfig
    from thermal_nerf_loc.mapping.training.trainer import train

    scene = load_scene(Path(data))
    if task == 'train':
        started = time.monotonic()
        train(scene, TrainConfig(max_seconds=float(seconds))).map.save(Path(path))
        print(json.dumps({'peak_mb': memory_mb('VmHWM'), 's': time.monotonic() - started}))
        return 0
    rays = camera_rays(scene, scene.test[:1], 'rgb')
    before = memory_mb('VmRSS')
    radiance_map = RadianceMap.load(Path(path))
    loaded = memory_mb('VmRSS')
    radiance_map.render_rays('rgb', *rays)
    print(json.dumps({'before_mb': before, 'loaded_mb': loaded,
                      'rendered_mb': memory_mb('VmHWM')}))
    return 0


def memory_mb(which: str) -> float:
    """This process's memory now (VmRSS) or at its highest (VmHWM)."""
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) / 1024.0 for line in lines if line.startswith(which))


if __name__ == '__main__':
    sys.exit(guarded(main))

# SPDX-License-Identifier: Apache-2.0
"""
Time to equal PSNR against nerfstudio's nerfacto, in its torch implementation on the CPU.

nerfstudio is no dependency: it lives in an environment of its own,
    python -m venv /tmp/nerfstudio && /tmp/nerfstudio/bin/pip install nerfstudio
and --nerfstudio names that environment's Python. Both learn from the same RGB images, one after
the other with the same number of threads, and are judged by the same held-out views; evaluation is
not counted. For each mark of nerfacto the table shows when our map had that PSNR.
Target: 5 times shorter.
"""

from dataclasses import replace
import json
from pathlib import Path
import subprocess
import sys
from typing import Any

from _bench import add_data, add_marks, finish, guarded, parser, prepare, show, training_data

TARGET = 5.0


def main() -> int:
    """Train both, compare."""
    made = parser(__doc__)
    made.add_argument('--nerfstudio', metavar='PYTHON', help='a Python that has nerfstudio')
    add_data(made)
    add_marks(made, (60.0, 120.0, 240.0, 480.0), 'nerfacto')
    made.add_argument('--ours', type=float, default=60.0, metavar='S',
                      help='seconds of our training at most (default: 60)')
    made.add_argument('--views', type=int, default=2, metavar='N',
                      help='held-out views to judge by (default: 2; nerfacto renders slowly)')
    made.add_argument('--rays', type=int, default=4096, metavar='N',
                      help='rays of a step of nerfacto (default: its own 4096; fewer suit a CPU)')
    args = made.parse_args()
    if args.nerfstudio is None:
        print('nerfacto: left out, as --nerfstudio does not name a Python that has it')
        return 0
    prepare(args)
    data = training_data(args)
    marks = [5.0] if args.quick else sorted(args.marks)
    ours = our_curve(data, args)
    theirs = nerfacto_curve(data, marks, args)
    rows = [compare(mark, ours) for mark in theirs]
    show(f'{data.name}, RGB alone, {args.views} held-out views; nerfacto: {args.rays} rays a step',
         ('nerfacto\ns', 'steps', 'rays/s', 'PSNR\ndB', 'ours\ns', 'PSNR\ndB', 'times\nshorter'),
         rows)
    ratio = rows[-1][-1]
    print(f'ours after {ours[-1][0]:.0f} s: {ours[-1][2]:.2f} dB')
    print(f'time to equal PSNR: {ratio:.1f} times shorter (target {TARGET:g})' if ratio else
          'ours did not reach the PSNR of nerfacto')
    return finish(args, {'ratio': ratio, 'target': TARGET, 'nerfacto_rays': args.rays,
                         'nerfacto': theirs,
                         'ours': [{'seconds': s, 'steps': n, 'psnr': p} for s, n, p in ours]})


def compare(mark: dict[str, float], ours: list[tuple[float, int, float]]) -> tuple[Any, ...]:
    """One row: their mark, our first moment that is as good, and how much sooner it was."""
    reached = next(((s, p) for s, _, p in ours if p >= mark['psnr']), (None, None))
    return (mark['seconds'], mark['steps'], mark['rays_per_second'], mark['psnr'], *reached,
            mark['seconds'] / reached[0] if reached[0] else None)


def our_curve(data: Path, args: Any) -> list[tuple[float, int, float]]:
    """(seconds, steps, PSNR) of our training on RGB alone, every few seconds."""
    from training_curve import curve, warm_up

    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    from thermal_nerf_loc.mapping.training.config import TrainConfig

    scene = load_scene(data)
    judged = replace(scene, test=scene.test[:args.views])
    config = TrainConfig(modality='rgb', max_seconds=args.ours)
    warm_up(scene, config)
    marks = [args.ours * i / 20 for i in range(1, 21)]
    return [(seconds, row[0], row[2]) for seconds, row in curve(scene, judged, config, marks)]


def nerfacto_curve(data: Path, marks: list[float], args: Any) -> list[dict[str, float]]:
    """What the other environment prints, mark by mark."""
    script = Path(__file__).with_name('_nerfacto_child.py')
    process = subprocess.Popen(
        [args.nerfstudio, str(script), str(data), str(args.views), str(args.threads),
         str(args.rays), *map(str, marks)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    rows = []
    for line in process.stdout:
        if line.startswith('{"seconds"'):
            rows.append(json.loads(line))
            print(f'nerfacto: {rows[-1]}', flush=True)
    if process.wait() or len(rows) < len(marks):
        raise SystemExit(f'nerfacto failed; look at: {args.nerfstudio} {script} {data} '
                         f'{args.views} {args.threads} {args.rays} {marks[0]:g}')
    return rows


if __name__ == '__main__':
    sys.exit(guarded(main))

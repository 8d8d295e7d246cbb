# SPDX-License-Identifier: Apache-2.0
"""
Time of `--help` of every command, each in a process of its own.

    python benchmarks/help_time.py [--repeats N] [--quick]

Limit: 0.5 s for the slowest median; beyond it the exit code is 1 (not with --quick).
"""

from pathlib import Path
import statistics
import subprocess
import sys
import time

from _bench import finish, parser

from thermal_nerf_loc.cli import COMMANDS

LIMIT_S = 0.5


def main() -> int:
    """Print a table; 1 where the slowest median is above the limit."""
    made = parser(__doc__)
    made.add_argument('--repeats', type=int, default=5, metavar='N', help='(default: 5)')
    args = made.parse_args()
    repeats = 1 if args.quick else args.repeats
    script = Path(sys.executable).with_name('thermal-nerf-loc')
    program = [str(script)] if script.is_file() else [sys.executable, '-m', 'thermal_nerf_loc.cli']
    print(f'{" ".join(program)}, {repeats} runs each, seconds')
    print(f'{"command":<20} {"median":>7} {"worst":>7}')
    medians = {}
    for command in ([], *([name] for name in COMMANDS)):
        times = [measure([*program, *command, '--help']) for _ in range(repeats)]
        name = ' '.join(command) or '(none)'
        medians[name] = statistics.median(times)
        print(f'{name:<20} {medians[name]:7.3f} {max(times):7.3f}')
    slowest = max(medians.values())
    print(f'slowest median {slowest:.3f} s, limit {LIMIT_S} s')
    return finish(args, {'slowest_median_s': slowest, 'medians_s': medians}) or int(
        slowest > LIMIT_S and not args.quick)


def measure(command: list[str]) -> float:
    """Wall-clock time of one run that must succeed."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == '__main__':
    sys.exit(main())

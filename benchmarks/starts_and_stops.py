# SPDX-License-Identifier: Apache-2.0
"""
Starts and stops: 50 of a node that images flow to, each ended by SIGINT or SIGTERM at any moment.

    python benchmarks/starts_and_stops.py --trials 50

The node and the robot of the tests (`test/support`), in the exact simulated room, over DDS. It is
stopped while it searches, tracks, or waits, after a random time from its first diagnostics on.
Targets: exit code 0 of all, each within 3 s.
"""

from pathlib import Path
import random
import signal
import statistics
import sys
import time
from typing import Any

from _bench import add_seed, finish, guarded, need_ros, parser, show

STOP_S, PATIENCE_S, LONGEST_S = 3.0, 60.0, 3.0


def main() -> int:
    """Start and stop again and again."""
    made = parser(__doc__)
    add_seed(made)
    made.add_argument('--trials', type=int, default=50, metavar='N', help='(default: 50)')
    args = made.parse_args()
    need_ros()
    trials = starts_and_stops(2 if args.quick else args.trials, args.seed)
    show(f'{len(trials)} starts and stops',
         ('trial', 'signal', 'ready after s', 'ran for s', 'state', 'exit code', 'stop took s'),
         [[str(k), *trial.values()] for k, trial in enumerate(trials)])
    figures = {'exit_code_0': sum(trial['exit_code'] == 0 for trial in trials),
               'within_3s': sum(trial['stopped_s'] <= STOP_S for trial in trials),
               'stopped_median_s': statistics.median(t['stopped_s'] for t in trials),
               'stopped_worst_s': max(t['stopped_s'] for t in trials),
               'ready_median_s': statistics.median(t['ready_s'] for t in trials)}
    show('all', ('figure', 'value', 'target'),
         [[name, value, {'exit_code_0': len(trials), 'within_3s': len(trials)}.get(name)]
          for name, value in figures.items()])
    return finish(args, {**figures, 'trials': trials})


def starts_and_stops(count: int, seed: int) -> list[dict[str, Any]]:
    """Signal, times and exit code of each."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'test/support'))
    import ros_drive

    rng, trials = random.Random(seed), []
    domain, recorded = ros_drive.other_domain(), ros_drive.record_drive()
    with ros_drive.Drive(recorded, domain=domain) as robot:
        for k in range(count):
            number = (signal.SIGINT, signal.SIGTERM)[k % 2]
            robot.status = {}
            began = time.monotonic()
            process = ros_drive.start('diagnostics_period_s:=0.2', domain=domain)
            with ros_drive.ended(process):
                process.output = ros_drive.Output(process)
                assert robot.until(lambda: robot.status, PATIENCE_S, process), str(process.output)
                ready_s = time.monotonic() - began
                running_s = rng.uniform(0.0, LONGEST_S)
                robot.wait(running_s)
                state, stopped = robot.status['state'], time.monotonic()
                process.send_signal(number)
                code = process.wait(PATIENCE_S)
                trials.append({'signal': number.name, 'ready_s': ready_s, 'ran_s': running_s,
                               'state': state, 'exit_code': code,
                               'stopped_s': time.monotonic() - stopped})
                if code != 0:
                    print(*process.output.lines[-20:], sep='\n')
                print(f'{k + 1} of {count}: {number.name} {code}', flush=True)
    return trials


if __name__ == '__main__':
    sys.exit(guarded(main))

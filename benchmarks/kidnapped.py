# SPDX-License-Identifier: Apache-2.0
"""
Kidnapped robot: time until the node reports that it is lost, and until it has recovered.

    python benchmarks/kidnapped.py --trials 40

The node and the robot of the tests (`test/support/ros_drive.py`), in the exact simulated room,
over DDS. The robot is carried a metre away, which its odometry does not notice, and the node never
gets a start. Times are those of arrival here: 'lost' of the diagnostics (five a second), recovery
of the first of two right poses. Targets: lost within 1 s, recovered within 5 s.
"""

import os
from pathlib import Path
import sys
import time
from typing import Any

from _bench import finish, guarded, need_ros, parser, show

PATIENCE_S, REST_S = 20.0, 3.0
RIGHT_M = 0.15
LOST_S, RECOVERED_S = 1.0, 5.0


def main() -> int:
    """Carry it away again and again."""
    made = parser(__doc__)
    made.add_argument('--trials', type=int, default=40, metavar='N', help='(default: 40)')
    args = made.parse_args()
    need_ros()
    trials = kidnappings(2 if args.quick else args.trials)
    figures = {'lost_within_1s': share(trials, 'lost_s', LOST_S),
               'recovered_within_5s': share(trials, 'recovered_s', RECOVERED_S)}
    show(f'{len(trials)} times carried away', ('trial', 'metres', 'lost after s', 'back after s'),
         [[k, *trial.values()] for k, trial in enumerate(trials)])
    show('shares', ('figure', 'value', 'target'),
         [['lost_within_1s', figures['lost_within_1s'], 1.0],
          ['recovered_within_5s', figures['recovered_within_5s'], 0.95]])
    return finish(args, {**figures, 'trials': trials})


def share(trials: list[dict[str, Any]], name: str, limit_s: float) -> float:
    """How often something happened in time."""
    times = [trial[name] for trial in trials]
    return sum(t is not None and t <= limit_s for t in times) / len(times)


def kidnappings(count: int) -> list[dict[str, Any]]:
    """Metres and seconds of each."""
    root = Path(__file__).resolve().parents[1]
    sys.path.insert(0, str(root / 'test/support'))
    from thermal_nerf_loc.evaluation.study.live_replay import dds_profile
    os.environ.update(dds_profile())
    import ros_drive

    domain = ros_drive.other_domain()
    process = ros_drive.start('diagnostics_period_s:=0.2', 'map_points:=false', domain=domain)
    recorded = ros_drive.record_drive()
    with ros_drive.ended(process), ros_drive.Drive(recorded, domain=domain) as robot:
        process.output = ros_drive.Output(process)
        return [kidnapped(robot, process) for _ in range(count)]


def kidnapped(robot: Any, process: Any) -> dict[str, Any]:
    """Once, from tracking to tracking."""
    from thermal_nerf_loc.common.errors import RunError

    if not robot.until(lambda: robot.status.get('state') == 'tracking', 60.0, process):
        raise RunError('the robot is not tracked', got=str(robot.status))
    mark, metres, stamp = robot.mark(), robot.kidnap(), robot.newest_ns
    lost_s = recovered_s = None
    while recovered_s is None and robot.mark() - mark < PATIENCE_S:
        lost = [row[0] for row in robot.states_since(mark) if row[1] == 'lost']
        lost_s = lost[0] - mark if lost else None
        right = [row for row in robot.poses_since(mark) if row[1] > stamp and row[2] < RIGHT_M]
        recovered_s = right[0][0] - mark if len(right) > 1 else None
        time.sleep(0.02)
    robot.reset_faults()
    robot.start_at(robot.here())
    robot.wait(REST_S)
    return {'metres': metres, 'lost_s': lost_s, 'recovered_s': recovered_s}


if __name__ == '__main__':
    sys.exit(guarded(main))

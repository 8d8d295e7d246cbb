# SPDX-License-Identifier: Apache-2.0
"""
Hostile messages: 10,000 random ones, from a seed, on every topic and service of a tracking node.

    python benchmarks/hostile_messages.py --messages 10000

Images of noise, cut short, and with sizes that would not fit in memory; lenses, transforms and
poses that are not finite; floods of frames, parameters and names; transitions that the state does
not allow. The node of the tests (`test/support`) tracks a robot in the exact simulated room over
DDS meanwhile. Targets: the process lives, its memory grows by at most 10 %, no pose is false
(beyond 0.5 m and three of its own sigmas), no message is a fault of the program, and it tracks
again afterwards.
"""

from pathlib import Path
import sys
import time
from typing import Any

from _bench import add_seed, finish, guarded, need_ros, parser, show

PARTS = 10  # memory is read after each; the first two warm up: what is allocated once
PATIENCE_S = 60.0


def main() -> int:
    """Attack, print and write."""
    made = parser(__doc__)
    add_seed(made)
    made.add_argument('--messages', type=int, default=10_000, metavar='N', help='(default: 10000)')
    args = made.parse_args()
    need_ros()
    figures = attack(300 if args.quick else args.messages, args.seed)
    show('hostile messages', ('figure', 'value', 'target'), [
        ['messages', figures['messages'], None], ['seconds', figures['seconds'], None],
        ['lives', str(figures['lives']), 'True'],
        ['memory grows by %', figures['growth_percent'], '<= 10'],
        ['  MiB after each tenth', ' '.join(map(str, figures['mib'])), None],
        ['poses published', figures['poses'], None],
        ['false poses', figures['false_poses'], 0], ['faults', figures['faults'], 0],
        ['refused messages', figures['refused'], None],
        ['tracks again after s', figures['tracks_again_s'], f'<= {PATIENCE_S:.0f}']])
    show('sent', ('kind', 'messages'), sorted(figures['sent'].items()))
    return finish(args, figures)


def attack(count: int, seed: int) -> dict[str, Any]:
    """Figures of one attack."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'test/support'))
    from message_attacker import Attacker, resident_mib
    import ros_drive

    domain = ros_drive.other_domain()
    process = ros_drive.start('diagnostics_period_s:=0.2', 'map_points:=false', domain=domain)
    recorded = ros_drive.record_drive()
    with ros_drive.ended(process), ros_drive.Drive(recorded, domain=domain) as robot:
        process.output = ros_drive.Output(process)
        assert robot.until(lambda: robot.status, PATIENCE_S, process), str(process.output)
        robot.start_afresh(process)
        attacker = Attacker(robot, seed)
        started = time.monotonic()
        mib = []
        for _ in range(PARTS):
            attacker.send(count // PARTS, process)
            mib.append(round(resident_mib(process)))
        seconds, before_mib, after_mib = time.monotonic() - started, mib[1], mib[-1]
        attacker.go_back()
        again = time.monotonic()
        tracks = robot.until(lambda: robot.status['state'] == 'tracking'
                             and robot.poses_since(again), PATIENCE_S, process)
        if process.poll() is not None or attacker.false_poses or 'faults' in robot.status:
            print(*process.output.lines[-60:], *attacker.false_poses[:5], sep='\n')
        return {'messages': count, 'seed': seed, 'seconds': seconds,
                'lives': process.poll() is None, 'before_mib': before_mib, 'after_mib': after_mib,
                'mib': mib, 'growth_percent': 100.0 * (after_mib / before_mib - 1.0),
                'poses': attacker.poses,
                'false_poses': len(attacker.false_poses),
                'faults': int(robot.status.get('faults', 0)),
                'refused': int(robot.status.get('problems', 0)),
                'tracks_again_s': time.monotonic() - again if tracks else None,
                'sent': attacker.sent}


if __name__ == '__main__':
    sys.exit(guarded(main))

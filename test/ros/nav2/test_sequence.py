# SPDX-License-Identifier: Apache-2.0
"""The node in AMCL's place: what Nav2's own programs ask of it, played by a process of its own."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip('rclpy')
pytest.importorskip('tf2_msgs')
pytestmark = [pytest.mark.ros, pytest.mark.slow]  # may build two messages: half a minute

import nav2_interfaces  # noqa: E402, I100, I202
import ros_drive  # noqa: E402

from thermal_nerf_loc.geometry import se3  # noqa: E402

pytest_plugins = ('ros_fixtures',)

MANAGER = ros_drive.ROOT / 'test/support/nav2_manager.py'


@pytest.fixture(scope='session')
def interfaces(tmp_path_factory):
    """Variables by which processes find the messages."""
    if not nav2_interfaces.are_installed() and nav2_interfaces.why_not():
        pytest.skip(nav2_interfaces.why_not())
    return nav2_interfaces.environment(nav2_interfaces.build(tmp_path_factory.mktemp('nav2')))


def test_the_lifecycle_manager_and_the_simple_commander_are_served(recorded, interfaces):
    domain = ros_drive.other_domain()
    process = ros_drive.start('autostart:=false', 'amcl_names:=true', 'tracker.search:=false',
                              'map_points:=false', domain=domain, extra_env=interfaces)
    with ros_drive.ended(process), ros_drive.Drive(recorded, domain=domain) as drive:
        process.output = ros_drive.Output(process)
        drive.stand_at(drive.here())
        T = drive.here()
        env = {**os.environ, **interfaces, 'ROS_DOMAIN_ID': str(domain)}
        numbers = [*T[:3, 3], *se3.quaternion_from_matrix(T[:3, :3]), drive.patience]
        done = subprocess.run([sys.executable, str(MANAGER), *map(str, numbers)], env=env,
                              text=True, capture_output=True, timeout=300, check=False)
        told = done.stdout + done.stderr + str(process.output)
        assert done.returncode == 0, told
        steps = [json.loads(line) for line in done.stdout.splitlines()]
        states = [step['state'] for step in steps if step['step'] == 'change']
        assert states == ['inactive', 'active', 'inactive', 'active', 'inactive', 'unconfigured',
                          'finalized'], told
        assert all(step['made'] for step in steps if step['step'] == 'change')
        bonds = [step for step in steps if step['step'] == 'bond']
        assert all(step['formed'] for step in bonds), told
        assert bonds[0]['instance'] != bonds[1]['instance']  # a bond that broke is another's
        by_name = {step['step']: step for step in steps}
        assert by_name['kept']['came'], told  # the pose given while it was inactive
        assert by_name['held']['beats'] >= 4, told
        assert by_name['held']['worst_s'] < 2.0, told
        assert by_name['broken']['ended'] and not by_name['broken']['beats_afterwards'], told
        assert by_name['amcl_pose']['count'] > 0, told
        assert process.output.has('kept until the node is active')

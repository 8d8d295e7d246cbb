# SPDX-License-Identifier: Apache-2.0
"""A short run of `benchmarks/hostile_messages.py`: what anyone on the network may send."""

import pytest

pytest.importorskip('rclpy')
pytest.importorskip('tf2_msgs')
pytestmark = pytest.mark.ros

from message_attacker import Attacker  # noqa: E402, I100, I202

pytest_plugins = ('ros_fixtures',)


@pytest.fixture(scope='module')
def node_parameters():
    return ('map_points:=false',)


def test_hostile_messages_on_every_topic_and_service(tracked, node):
    attacker = Attacker(tracked, seed=1)
    attacker.send(600, node)
    attacker.go_back()
    assert set(attacker.sent) >= {'image', 'camera_info', 'tf', 'initialpose', 'parameters'}
    assert not attacker.false_poses, attacker.false_poses[:3]
    tracked.start_afresh(node, 60.0)
    assert node.poll() is None
    assert 'faults' not in tracked.status, (tracked.status, str(node.output))

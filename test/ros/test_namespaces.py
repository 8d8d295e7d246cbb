# SPDX-License-Identifier: Apache-2.0
"""Two robots on one machine: Nav2's remapping of tf into namespaces, the same frames in both."""

from contextlib import ExitStack

import pytest

pytest.importorskip('rclpy')
pytest.importorskip('tf2_msgs')
pytestmark = pytest.mark.ros

import ros_drive  # noqa: E402, I202
from tf2_msgs.msg import TFMessage  # noqa: E402

pytest_plugins = ('ros_fixtures',)

NAV2 = ('/tf:=tf', '/tf_static:=tf_static')  # nav2_bringup's remappings
WRONG_M = 0.15


def test_tf_follows_the_remapping_of_nav2_into_each_namespace(recorded):
    domain = ros_drive.other_domain()
    with ExitStack() as stack:
        robots = {}
        for namespace in ('alpha', 'beta'):
            process = ros_drive.start('diagnostics_period_s:=0.2', 'map_points:=false',
                                      'tracker.search:=false', namespace=namespace,
                                      domain=domain, remappings=NAV2)
            stack.enter_context(ros_drive.ended(process))
            process.output = ros_drive.Output(process)
            robots[namespace] = process, stack.enter_context(
                ros_drive.Drive(recorded, namespace, domain=domain, tf='tf'))
        (alpha_node, alpha), (beta_node, beta) = robots.values()
        shared = []
        alpha.node.create_subscription(TFMessage, '/tf', shared.append, 100)
        for process, drive in robots.values():
            assert drive.until(lambda d=drive: d.status, 60.0, process), str(process.output)
        alpha.start_at(alpha.here())
        assert alpha.until(lambda: len(alpha.map_odom) > 5 and len(alpha.updates) > 3, 30.0,
                           alpha_node), (alpha.status, str(alpha_node.output))
        assert not beta.updates and not beta.map_odom  # nobody told it where it is
        beta.start_at(beta.here())
        assert beta.until(lambda: len(beta.map_odom) > 5 and len(beta.updates) > 3, 30.0,
                          beta_node), (beta.status, str(beta_node.output))
        for process, drive in robots.values():
            assert max(row[2] for row in list(drive.updates)) < WRONG_M
            assert max(row[1] for row in list(drive.map_odom)) < 2 * WRONG_M
            assert process.poll() is None
        assert not shared  # each has a tf of its own

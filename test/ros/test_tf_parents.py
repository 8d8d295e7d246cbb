# SPDX-License-Identifier: Apache-2.0
"""Every frame keeps one parent on tf, whatever `odometry` says. Real processes."""

import pytest

pytest.importorskip('rclpy')
pytest.importorskip('tf2_msgs')
pytestmark = pytest.mark.ros

import numpy as np  # noqa: E402, I100, I202
import ros_drive  # noqa: E402
from tf2_msgs.msg import TFMessage  # noqa: E402

from thermal_nerf_loc.ros import message_conversion  # noqa: E402

pytest_plugins = ('ros_fixtures',)

FOOTPRINT = 'base_footprint'


@pytest.mark.parametrize('odometry, is_odom_on_tf, child', [
    ('none', True, 'odom'), ('topic', True, 'odom'), ('none', False, FOOTPRINT)])
def test_the_base_has_one_parent(recorded, odometry, is_odom_on_tf, child):
    domain = ros_drive.other_domain()
    process = ros_drive.start('diagnostics_period_s:=0.2', 'map_points:=false',
                              f'odometry:={odometry}', domain=domain)
    with ros_drive.ended(process), ros_drive.Drive(recorded, domain=domain) as drive:
        process.output = ros_drive.Output(process)
        edges = set()
        drive.node.create_subscription(TFMessage, '/tf', lambda message: edges.update(
            (t.header.frame_id, t.child_frame_id) for t in message.transforms), 100)
        drive.stop_odometry = not is_odom_on_tf
        if not is_odom_on_tf:
            T = np.eye(4)
            T[2, 3] = 0.1
            drive.tf_static.publish(TFMessage(transforms=[
                message_conversion.matrix_to_transform(T, FOOTPRINT, 'base_link', 0)]))
        assert drive.until(lambda: drive.status, 60.0, process), str(process.output)
        if not is_odom_on_tf:
            edges.clear()  # a moment of odometry, before it was stopped
        drive.start_at(drive.here())
        assert drive.until(lambda: any(parent == 'map' for parent, _ in edges), 40.0, process), (
            drive.status, str(process.output))
        drive.wait(1.0)
        assert {edge for edge in edges if edge[0] == 'map'} == {('map', child)}
        assert process.output.has(f'publishes map -> {child}: others publish'), process.output
        if is_odom_on_tf:
            assert drive.map_odom and np.median([row[1] for row in drive.map_odom]) < 0.15

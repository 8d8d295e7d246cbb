# SPDX-License-Identifier: Apache-2.0
"""The node's subscription to an IMU, and the pose as robot_localization reads it."""

from types import SimpleNamespace

import numpy as np
import pytest

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.bags.transform_tree import TransformBuffer
from thermal_nerf_loc.tracking.frame_synchronizer import FrameSynchronizer
from thermal_nerf_loc.tracking.motion.inertial_motion import InertialMotion
from thermal_nerf_loc.tracking.node_config import NodeConfig

pytest.importorskip('rclpy')
pytest.importorskip('tf2_msgs')
pytestmark = pytest.mark.ros

from sensor_msgs.msg import Imu  # noqa: E402, I100, I202

from thermal_nerf_loc.ros.publishers import Publishers  # noqa: E402
from thermal_nerf_loc.ros.subscribers import Subscribers  # noqa: E402


class FakeImuNode:
    """Keeps callbacks and published messages by topic."""

    def __init__(self):
        self.callbacks, self.sent = {}, {}

    def resolve_topic_name(self, name, *, only_expand=False):
        return '/' + name.lstrip('/')

    def create_subscription(self, kind, topic, callback, qos):
        self.callbacks[topic] = callback
        return topic

    def create_lifecycle_publisher(self, kind, topic, qos):
        messages = self.sent.setdefault(topic, [])
        return SimpleNamespace(publish=messages.append, get_subscription_count=lambda: 0)


def sample(ns, accel=9.8, frame='imu_link'):
    message = Imu()
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(ns, 10**9)
    message.header.frame_id = frame
    message.linear_acceleration.z = accel
    return message


def test_hostile_imu_messages_are_problems_and_the_rest_is_used():
    config, node, problems = NodeConfig(odometry='imu'), FakeImuNode(), []
    synchronizer = FrameSynchronizer(config.synchronizer, TransformBuffer(), ('rgb',))
    synchronizer.tf.set_transform('base_link', 'imu_link', np.eye(4), 0, True)
    inertial = InertialMotion(config.imu)
    Subscribers(node, config, synchronizer, SimpleNamespace(
        on_data=lambda: None, on_problem=problems.append, on_time_jump=lambda: None), inertial)
    send = node.callbacks['imu/data']
    hostile = [sample(10**9, float('nan')), sample(10**9, 1e300), sample(10**9, float('-inf')),
               sample(10**9, frame='elsewhere'), sample(10**9, frame='x' * 10_000)]
    for message in hostile:
        send(message)
    assert len(problems) == len(hostile)
    send(sample(2**31 * 10**9 - 1))  # the end of time, and back
    send(sample(-5 * 10**9))
    for ns in range(10**9, 2 * 10**9, 5_000_000):
        send(sample(ns))
    assert len(problems) == len(hostile) and len(inertial._samples) == 200


def test_without_the_parameter_no_imu_is_subscribed_to():
    config, node = NodeConfig(), FakeImuNode()
    Subscribers(node, config, FrameSynchronizer(config.synchronizer, TransformBuffer(), ('rgb',)),
                SimpleNamespace(on_time_jump=lambda: None))
    assert 'imu/data' not in node.callbacks


def test_the_pose_alone_is_what_robot_localization_reads():
    """As `RosFilter::preparePose` does: frames, stamp, a unit quaternion, variances above 0."""
    node = FakeImuNode()
    publishers = Publishers(node, NodeConfig(publish_tf=False))
    root = np.random.default_rng(0).normal(size=(6, 6)) * 1e-2
    T = se3.exp([1.0, 2.0, 0.3, 0.1, 0.2, 3.0])
    publishers.publish_update(SimpleNamespace(
        T_map_base=T, stamp_ns=12 * 10**9 + 34, covariance=root @ root.T), 'odom', np.eye(4))
    publishers.repeat_map_to_odom(12 * 10**9 + 50)
    assert node.sent['/tf'] == []
    (pose,), (odometry,) = node.sent['~/pose'], node.sent['~/odometry']
    assert (pose.header.frame_id, odometry.child_frame_id) == ('map', 'base_link')
    assert (pose.header.stamp.sec, pose.header.stamp.nanosec) == (12, 34)
    q = pose.pose.pose.orientation
    np.testing.assert_allclose(
        se3.from_quaternion([1.0, 2.0, 0.3], [q.x, q.y, q.z, q.w])[:3, :3], T[:3, :3], atol=1e-9)
    covariance = np.reshape(pose.pose.covariance, (6, 6))
    np.testing.assert_allclose(covariance, root @ root.T, atol=1e-12)
    assert (np.diag(covariance) > 1e-9).all()  # below, the filter takes it for certain
    assert not np.any(odometry.twist.covariance)  # there is no twist: the guide says so

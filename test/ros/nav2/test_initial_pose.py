# SPDX-License-Identifier: Apache-2.0
"""Initial poses: what is taken, and what is refused at once; with a node that is none."""

import numpy as np
import pytest

from thermal_nerf_loc.common.errors import UserError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.tracking.node_config import NodeConfig
from thermal_nerf_loc.tracking.tracker_config import TrackerConfig

pytest.importorskip('rclpy')
pytest.importorskip('tf2_msgs')
pytestmark = pytest.mark.ros

from geometry_msgs.msg import PoseWithCovarianceStamped  # noqa: E402, I100, I202

from thermal_nerf_loc.ros.message_conversion import (  # noqa: E402, I202
    matrix_to_pose, stamp_from_ns)
from thermal_nerf_loc.ros.nav2.initial_pose import (  # noqa: E402
    InitialPoseInput, start_covariance)

T = se3.exp([1.0, 2.0, 0.1, 0.0, 0.0, 0.3])


class FakeNode:
    """Keeps the callback."""

    def create_subscription(self, kind, topic, callback, qos):
        self.topic, self.callback = topic, callback


@pytest.fixture
def given():
    """Send a message; returns what was taken, and what was refused."""
    def send(config, *messages):
        node, taken, problems = FakeNode(), [], []
        InitialPoseInput(node, config, lambda *start: taken.append(start), problems.append)
        assert node.topic == 'initialpose'
        for message in messages:
            node.callback(message)
        return taken, problems
    return send


def message(pose=T, frame='map', stamp_ns=0, covariance=None):
    made = PoseWithCovarianceStamped()
    made.header.frame_id, made.header.stamp = frame, stamp_from_ns(stamp_ns)
    made.pose.pose = matrix_to_pose(pose)
    made.pose.covariance = np.zeros(36) if covariance is None else np.ravel(covariance)
    return made


def test_a_pose_is_taken_with_its_stamp(given):
    ((pose, stamp_ns, covariance),), problems = given(NodeConfig(), message(stamp_ns=7))
    np.testing.assert_allclose(pose, T, atol=1e-9)
    assert (stamp_ns, covariance, problems) == (7, None, [])


def test_another_frame_is_refused(given):
    taken, (problem,) = given(NodeConfig(), message(frame='odom'))
    assert not taken and 'another frame' in str(problem)


@pytest.mark.parametrize('far_m', [1e300, -2e6, np.inf, np.nan])
def test_a_pose_out_of_this_world_is_refused(given, far_m):
    pose = message()
    pose.pose.pose.position.x = far_m
    taken, (problem,) = given(NodeConfig(), pose)
    assert not taken and isinstance(problem, UserError)


def test_a_quaternion_of_zeros_is_refused(given):
    pose = message()
    pose.pose.pose.orientation.w = pose.pose.pose.orientation.z = 0.0
    taken, (problem,) = given(NodeConfig(), pose)
    assert not taken and 'no pose' in str(problem)


INDEFINITE = np.eye(6)
INDEFINITE[0, 1] = INDEFINITE[1, 0] = 2.0


@pytest.mark.parametrize('covariance', [-np.eye(6), np.diag([1.0, 1.0, 1.0, 1.0, 1.0, -1e-3]),
                                        INDEFINITE, np.full((6, 6), np.nan),
                                        np.full((6, 6), 1e300)])
def test_a_covariance_that_is_none_is_refused_at_once(given, covariance):
    taken, (problem,) = given(NodeConfig(), message(covariance=covariance))
    assert not taken and 'covariance is none' in str(problem)


def test_a_variance_of_zero_means_unknown():
    rviz = np.diag([0.25, 0.25, 0.0, 0.0, 0.0, 0.0685])
    P = start_covariance(rviz.ravel(), TrackerConfig())
    assert np.diag(P)[[0, 1, 5]].tolist() == [0.25, 0.25, 0.0685]
    assert P[2, 2] == 1.0 and np.allclose(np.diag(P)[3:5], np.deg2rad(10.0)**2)
    assert start_covariance(np.zeros(36), TrackerConfig()) is None


def test_of_a_planar_robot_the_floor_says_height_and_tilt(given):
    rviz = np.diag([0.25, 0.25, 0.0, 0.0, 0.0, 0.0685])
    ((pose, _, P),), _ = given(NodeConfig(planar=True, planar_z_m=0.4), message(covariance=rviz))
    assert pose[2, 3] == 0.4 and P[2, 2] < 0.01 and P[3, 3] < 0.01
    np.testing.assert_allclose(pose[:2, 3], T[:2, 3])


def test_a_message_that_is_sent_again_does_not_begin_anew(given):
    again = [message(stamp_ns=5), message(stamp_ns=5), message(stamp_ns=6)]
    assert len(given(NodeConfig(), *again)[0]) == 2
    # Without a stamp it is said of now, each time.
    assert len(given(NodeConfig(), message(), message())[0]) == 2

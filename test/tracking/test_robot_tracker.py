# SPDX-License-Identifier: Apache-2.0
"""From a tracked camera to the robot's pose and its covariance; it needs no ROS."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.sensing.frame import Frame
from thermal_nerf_loc.tracking.frame_synchronizer import RobotFrame
from thermal_nerf_loc.tracking.robot_tracker import (covariance_for_ros, read_pose, RobotTracker,
                                                     save_pose)

T_MAP_BASE = se3.exp([1.0, -2.0, 0.5, 0.2, -0.1, 1.4])
T_BASE_CAM = se3.exp([0.2, 0.1, 0.4, -1.2, 1.1, -1.0])
T_ODOM_BASE = se3.exp([0.3, 0.8, 0.0, 0.0, 0.1, -0.7])


class FakeTracker:
    """Answers with a given pose and remembers what it was told."""

    def __init__(self, state='tracking', covariance=None):
        self.state, self.covariance = state, covariance
        self.started, self.odometry, self.resets = [], [], 0

    def initialize(self, T_world_cam, covariance=None):
        self.started.append((T_world_cam, covariance))

    def reset(self):
        self.resets += 1

    def step(self, frame, T_odom_cam=None):
        self.odometry.append(T_odom_cam)
        return SimpleNamespace(stamp_ns=frame.stamp_ns, state=self.state, reason='', searched='',
                               localization=None, T_world_cam=T_MAP_BASE @ T_BASE_CAM,
                               covariance=self.covariance)


def observe(T_odom_base=T_ODOM_BASE, restarted=False):
    return RobotFrame(Frame(5, {}), T_BASE_CAM, T_odom_base, restarted, ())


def test_the_cameras_pose_becomes_the_robots():
    tracker = FakeTracker()
    update = RobotTracker(tracker).step(observe())
    np.testing.assert_allclose(update.T_map_base, T_MAP_BASE, atol=1e-12)
    np.testing.assert_allclose(update.T_map_odom @ T_ODOM_BASE, T_MAP_BASE, atol=1e-12)
    np.testing.assert_allclose(tracker.odometry[0], T_ODOM_BASE @ T_BASE_CAM, atol=1e-12)
    assert update.stamp_ns == 5


def test_without_odometry_there_is_no_map_to_odom():
    update = RobotTracker(FakeTracker()).step(observe(None))
    assert update.T_map_base is not None
    assert update.T_map_odom is None


@pytest.mark.parametrize('state', ['lost', 'initializing'])
def test_without_trust_there_is_no_pose(state):
    update = RobotTracker(FakeTracker(state)).step(observe())
    assert (update.state, update.T_map_base, update.T_map_odom) == (state, None, None)


def test_an_initial_pose_moves_on_with_odometry():
    tracker = FakeTracker()
    robot = RobotTracker(tracker)
    given = np.diag([0.25, 0.25, 0.01, 0.0, 0.0, 0.07])
    robot.set_initial_pose(np.eye(4), T_odom_base=np.eye(4), covariance=given)
    robot.step(observe())
    T_map_cam, covariance = tracker.started[0]
    np.testing.assert_allclose(T_map_cam, T_ODOM_BASE @ T_BASE_CAM, atol=1e-12)
    np.testing.assert_allclose(covariance_for_ros(covariance, T_ODOM_BASE, T_BASE_CAM), given,
                               atol=1e-12)
    robot.step(observe())
    assert len(tracker.started) == 1


def test_a_restart_of_time_resets_and_a_new_start_survives_it():
    tracker = FakeTracker()
    robot = RobotTracker(tracker)
    robot.set_initial_pose(T_MAP_BASE)
    robot.step(observe(restarted=True))
    assert tracker.resets == 1
    assert len(tracker.started) == 1


def test_covariance_agrees_with_sampled_poses():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(6, 6)) * 1e-3
    samples = se3.plus(T_MAP_BASE @ T_BASE_CAM, rng.normal(size=(40000, 6)) @ root.T)
    bases = samples @ se3.inverse(T_BASE_CAM)
    turned = se3.so3_log(bases[:, :3, :3] @ T_MAP_BASE[:3, :3].T)  # about the map's fixed axes
    sampled = np.cov(np.concatenate([bases[:, :3, 3], turned], axis=1).T)
    computed = covariance_for_ros(root @ root.T, T_MAP_BASE, T_BASE_CAM)
    assert np.abs(computed - sampled).max() < 0.03 * np.abs(sampled).max()


def test_a_robot_starts_at_its_initial_pose_and_again_when_time_starts_over():
    tracker = FakeTracker()
    robot = RobotTracker(tracker, initial_pose=T_MAP_BASE)
    robot.step(observe())
    assert len(tracker.started) == 1
    np.testing.assert_allclose(tracker.started[0][0], T_MAP_BASE @ T_BASE_CAM, atol=1e-12)
    robot.step(observe())
    assert len(tracker.started) == 1
    robot.step(observe(restarted=True))
    assert (len(tracker.started), tracker.resets) == (2, 1)


def test_starting_again_means_the_last_pose_moved_on_by_odometry():
    tracker = FakeTracker()
    robot = RobotTracker(tracker)
    assert robot.restart_at_last_pose() is None
    robot.step(observe())
    np.testing.assert_allclose(robot.restart_at_last_pose(np.eye(6)), T_MAP_BASE, atol=1e-12)
    moved = se3.exp([0.5, 0.0, 0.0, 0.0, 0.0, 0.3])
    robot.step(observe(T_ODOM_BASE @ moved))
    ((T_started, covariance),) = tracker.started
    np.testing.assert_allclose(T_started, T_MAP_BASE @ moved @ T_BASE_CAM, atol=1e-9)
    assert np.linalg.eigvalsh(covariance)[0] > 0.0
    robot.reset()
    assert robot.last is None
    assert robot.restart_at_last_pose() is None


def test_another_localizer_is_used_from_the_next_frame_on():
    tracker = FakeTracker()
    robot = RobotTracker(tracker)
    robot.reconfigure('localizer', 'settings')
    assert not hasattr(tracker, 'localizer')
    robot.step(observe())
    assert (tracker.localizer, tracker.config) == ('localizer', 'settings')


def test_an_update_says_which_modality_carried_it():
    def fit(share, told):
        return SimpleNamespace(inlier_share=np.array([share]), information=told * np.eye(6),
                               noise_information=np.zeros((6, 6)))
    tracker = FakeTracker()
    step = tracker.step
    found = SimpleNamespace(fits={'rgb': fit(0.9, 3.0), 'thermal': fit(0.5, 1.0)}, seconds=0.1,
                            rays=0,
                            ignored={'depth': 'none'}, confidence=0.8)
    tracker.step = lambda *args: SimpleNamespace(**{**vars(step(*args)), 'localization': found})
    update = RobotTracker(tracker).step(observe())
    assert update.carried_by == pytest.approx({'rgb': 0.75, 'thermal': 0.25})
    assert update.inlier_share == pytest.approx(0.75 * 0.9 + 0.25 * 0.5)
    assert update.ignored == {'depth': 'none'}
    assert update.confidence == 0.8


def test_a_saved_pose_comes_back(tmp_path):
    path, T = tmp_path / 'pose.json', se3.exp([1.0, -2.0, 0.3, 0.4, -1.1, 2.0])
    assert read_pose(path, 'room') is None
    save_pose(path, 'room', T, 12)
    np.testing.assert_allclose(read_pose(path, 'room'), T, atol=1e-12)
    assert read_pose(path, 'hall') is None  # another place
    assert [p.name for p in tmp_path.iterdir()] == ['pose.json']


@pytest.mark.parametrize('change, told', [
    ({'format': 'x'}, 'no saved pose'), ({'position_m': [1, 2]}, 'position_m: saved pose is dam'),
    ({'quaternion_xyzw': [0, 0, 0, 2]}, 'unit quaternion'),
    ({'position_m': [1, 2, None]}, 'damaged')])
def test_a_damaged_pose_file_is_refused(tmp_path, change, told):
    path = tmp_path / 'pose.json'
    save_pose(path, 'room', np.eye(4), 0)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=told):
        read_pose(path, 'room')


def test_a_planar_robot_is_held_to_its_floor():
    from thermal_nerf_loc.tracking.robot_tracker import held_to_floor, on_floor
    level = se3.exp([1.0, 2.0, 0.0, 0.0, 0.0, 0.0]) @ se3.exp([0.0, 0.0, 0.0, 0.0, 0.0, 0.7])
    level[2, 3] = 0.3
    np.testing.assert_allclose(on_floor(level, 0.3), level, atol=1e-12)
    rng = np.random.default_rng(0)
    A = rng.normal(size=(6, 6))
    P = 1e-4 * (A @ A.T + np.eye(6))
    off = se3.from_parts(se3.so3_exp(np.array([0.02, -0.03, 0.01])) @ level[:3, :3],
                         level[:3, 3] + [0.02, 0.01, 0.05])
    T, held = held_to_floor(off, P, 0.3)
    assert T[2, 3] == 0.3
    np.testing.assert_allclose(T[:3, 2], [0.0, 0.0, 1.0], atol=1e-12)
    # By conditioning of the joint Gaussian, with the floor's noise.
    noise = np.diag([0.01**2, *2 * [np.deg2rad(0.3)**2]])
    mean_off = np.array([0.05, 0.02, -0.03])  # z and tilt, nearly: 0.01 of yaw is small
    step = -P[:, 2:5] @ np.linalg.solve(P[2:5, 2:5] + noise, mean_off)
    np.testing.assert_allclose(T[:2, 3], off[:2, 3] + step[:2], atol=1e-3)
    assert np.all(np.diag(held) < np.diag(P))
    assert np.sqrt(held[2, 2]) < 0.01 and np.linalg.eigvalsh(held)[0] > 0.0
    bare, nothing = held_to_floor(off, None, 0.3)
    assert nothing is None and bare[2, 3] == 0.3


def test_a_planar_tracker_publishes_poses_on_the_floor():
    robot = RobotTracker(FakeTracker(), floor_z_m=-0.2)
    update = robot.step(observe())
    assert update.T_map_base[2, 3] == -0.2
    np.testing.assert_allclose(update.T_map_base[2, :3], [0.0, 0.0, 1.0], atol=1e-12)
    np.testing.assert_allclose(update.T_map_odom @ se3.inverse(update.T_map_odom), np.eye(4),
                               atol=1e-12)

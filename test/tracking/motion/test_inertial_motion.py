# SPDX-License-Identifier: Apache-2.0
"""Messages of an IMU: what is taken, what is refused, and what a silence does."""

from dataclasses import replace
from types import SimpleNamespace as Message

import numpy as np
import pytest
from small_drive import START_NS, write_drive

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.geometry.pose_gaussian import diagonal, PoseGaussian
from thermal_nerf_loc.io.bags.reader import BagReader
from thermal_nerf_loc.io.bags.transform_tree import TransformBuffer
from thermal_nerf_loc.localization.localizer import Localization
from thermal_nerf_loc.sensing.frame import Frame, SensorImage
from thermal_nerf_loc.simulation.imu import exact_imu, T_BASE_IMU
from thermal_nerf_loc.simulation.layouts import make_world
from thermal_nerf_loc.simulation.paths import make_motion
from thermal_nerf_loc.tracking.bag_replay import find_odometry, find_replay_cameras, Replay
from thermal_nerf_loc.tracking.frame_synchronizer import (
    FrameSynchronizer, RobotFrame, SynchronizerConfig)
from thermal_nerf_loc.tracking.motion.inertial_motion import ImuInput, InertialMotion
from thermal_nerf_loc.tracking.node_config import NodeConfig
from thermal_nerf_loc.tracking.robot_tracker import RobotTracker
from thermal_nerf_loc.tracking.tracker import Tracker
from thermal_nerf_loc.tracking.tracker_config import TrackerConfig

S = 10**9
T_BASE_CAM = se3.exp([0.2, 0.1, 0.4, -1.2, 1.1, -1.0])
FIX = diagonal(0.003, 0.05)
AT_REST = tuple(T_BASE_IMU[:3, :3].T @ (0.0, 0.0, 9.80665))  # of a level robot


def imu_message(ns, gyro=(0.0, 0.0, 0.0), accel=AT_REST, frame='imu_link', known=0.0):
    def xyz(values):
        return Message(x=values[0], y=values[1], z=values[2])

    return Message(header=Message(stamp=Message(sec=ns // S, nanosec=ns % S), frame_id=frame),
                   angular_velocity=xyz(gyro), angular_velocity_covariance=[known] * 9,
                   linear_acceleration=xyz(accel), linear_acceleration_covariance=[0.0] * 9)


@pytest.fixture
def imu():
    synchronizer = FrameSynchronizer(SynchronizerConfig(), TransformBuffer(), ('rgb',))
    synchronizer.tf.set_transform('base_link', 'imu_link', T_BASE_IMU, 0, True)
    inertial = InertialMotion()
    return inertial, ImuInput(inertial, synchronizer)


def stand(imu, begin_ns, end_ns, step_ns=5_000_000):
    for ns in range(begin_ns, end_ns, step_ns):
        imu.add(imu_message(ns))


def camera(T=np.eye(4)):
    return PoseGaussian(T, FIX)


def test_a_camera_is_predicted_through_the_lever_arm_of_the_imu():
    """An exact path: the camera's pose from the IMU's samples, 2 s after the last fix."""
    path = make_motion(make_world('room'), 'drone', 0, held_out=True)
    inertial = InertialMotion()
    inertial.T_base_cam = T_BASE_CAM
    times = np.arange(0, 10.0, 0.005)
    samples = exact_imu(path, times, T_BASE_IMU)
    stamps = np.rint(times * S).astype(int)

    def truth(ns):
        return path.poses(ns * 1e-9)[0] @ T_BASE_CAM

    given = 0
    for ns in range(0, 8 * S, 66_700_000):
        while given < len(stamps) and stamps[given] <= ns:
            inertial.add(int(stamps[given]), samples.gyro[given], samples.accel[given],
                         T_BASE_IMU)
            given += 1
        if inertial.predict(ns) is None:
            inertial.start(camera(truth(ns)), ns)
        else:
            inertial.correct(camera(truth(ns)))
    for i in range(given, len(stamps)):
        inertial.add(int(stamps[i]), samples.gyro[i], samples.accel[i], T_BASE_IMU)
    found = inertial.predict(ns + 1_987_654_321)  # between two samples
    metres, degrees = se3.distance(found.T, truth(ns + 1_987_654_321))
    assert metres < 0.03 and degrees < 0.1


@pytest.mark.parametrize('wrong, reason', [
    ({'gyro': (np.nan, 0.0, 0.0)}, 'no measurement'), ({'accel': (0.0, 1e300, 0.0)}, 'no measure'),
    ({'accel': (0.0, -np.inf, 0.0)}, 'no measurement'), ({'known': -1.0}, 'lacks'),
    ({'frame': 'elsewhere'}, "tf from base_link.*'elsewhere'"), ({'frame': ''}, 'not known')])
def test_what_is_no_measurement_is_refused(imu, wrong, reason):
    inertial, messages = imu
    stand(messages, S, 2 * S)
    inertial.start(camera(), 2 * S - 5_000_000)
    with pytest.raises(InputError, match=reason):
        messages.add(imu_message(2 * S, **wrong))
    stand(messages, 2 * S, 3 * S)
    assert np.linalg.norm(inertial.predict(3 * S).T[:3, 3]) < 0.1


def test_a_silent_imu_rests_until_the_next_fix(imu):
    inertial, messages = imu
    inertial.start(camera(), S)
    assert not inertial.is_running and inertial.predict(2 * S) is None
    stand(messages, S, 2 * S)
    inertial.start(camera(), 2 * S)
    assert inertial.predict(2 * S + 50_000_000) is not None
    assert inertial.predict(2 * S + 500_000_000) is None and not inertial.is_running
    assert inertial.correct(camera()) is None
    stand(messages, 3 * S, 4 * S)
    inertial.start(camera(), 4 * S)
    assert inertial.predict(4 * S + 10_000_000) is not None


def test_a_gap_between_samples_is_not_bridged(imu):
    inertial, messages = imu
    stand(messages, S, 2 * S)
    inertial.start(camera(), 2 * S)
    stand(messages, 2 * S + 300_000_000, 3 * S)
    assert inertial.predict(3 * S) is None


@pytest.mark.parametrize('wrong_ns', [10**18, 0, S + S // 2])
def test_stamps_that_jump_and_back_do_not_end_it(imu, wrong_ns):
    inertial, messages = imu
    stand(messages, 5 * S, 6 * S)
    messages.add(imu_message(wrong_ns))
    stand(messages, 6 * S, 7 * S)
    inertial.start(camera(), 7 * S)
    assert inertial.predict(7 * S + 5_000_000) is not None


def test_repeated_and_older_samples_are_left_out(imu):
    inertial, messages = imu
    stand(messages, S, 2 * S)
    for ns in (2 * S - 5_000_000, S + S // 2):
        messages.add(imu_message(ns, accel=(100.0, 0.0, 0.0)))
    inertial.start(camera(), S + 100_000_000)
    stand(messages, 2 * S, 2 * S + 100_000_000)
    assert np.linalg.norm(inertial.predict(2 * S + 50_000_000).T[:3, 3]) < 0.1


def test_memory_stays_bounded():
    inertial = InertialMotion()
    for ns in range(0, 30_000 * 100_000, 100_000):
        inertial.add(ns, np.zeros(3), np.array([0.0, 0.0, 9.8]), T_BASE_IMU)
    assert len(inertial._samples) == 20_000


class Sighted:
    """A localizer that knows the truth while there is sight."""

    def __init__(self, truth):
        self.truth, self.is_dark = truth, False

    def localize(self, frame, T_world_cam_guess=None, guess_covariance=None):
        if self.is_dark:  # the images carry nothing
            return Localization(frame.stamp_ns, T_world_cam_guess, 9.0 * np.eye(6), 0.0, 'lost',
                                'dark', 0.01, 0)
        return Localization(frame.stamp_ns, self.truth(frame.stamp_ns), 1e-5 * np.eye(6), 0.9,
                            'ok', '', 0.01, 100)


def drive_through_darkness(inertial, silent_after_ns=None):
    """The largest error of the robot's pose in 2 s of darkness, and the states."""
    path = make_motion(make_world('room'), 'drone', 0, held_out=True)
    stamps = np.arange(0, 11 * S, 5_000_000)
    samples = exact_imu(path, stamps / S, T_BASE_IMU)
    sighted = Sighted(lambda ns: path.poses(ns / S)[0] @ T_BASE_CAM)
    robot = RobotTracker(Tracker(sighted, TrackerConfig(), None, inertial), inertial=inertial)
    robot.set_initial_pose(path.poses(66_700_000 / S)[0])
    errors, states, given = [], [], 0
    for ns in range(66_700_000, 10 * S, 66_700_000):
        while inertial is not None and given < len(stamps) and stamps[given] <= ns:
            if silent_after_ns is None or stamps[given] < silent_after_ns:
                inertial.add(int(stamps[given]), samples.gyro[given], samples.accel[given],
                             T_BASE_IMU)
            given += 1
        sighted.is_dark = 7 * S <= ns < 9 * S
        pixels = np.random.default_rng(ns).random((4, 4, 1)).astype(np.float32)
        image = SensorImage(Camera.from_fov(4, 4, 60.0), pixels, ns)
        update = robot.step(RobotFrame(Frame(ns, {'thermal': image}), T_BASE_CAM, None, False, ()))
        states.append(update.state)
        if sighted.is_dark and update.T_map_base is not None:
            errors.append(se3.distance(update.T_map_base, path.poses(ns / S)[0])[0])
    return max(errors, default=np.inf), states


def test_a_robot_is_tracked_through_two_seconds_of_darkness():
    error, states = drive_through_darkness(InertialMotion())
    assert error < 0.05 and states[-1] == 'tracking' and 'lost' not in states
    assert drive_through_darkness(None)[0] > 2 * error


def test_an_imu_that_falls_silent_costs_no_more_than_having_none():
    _, states = drive_through_darkness(InertialMotion(), silent_after_ns=5 * S)
    assert states[-1] == 'tracking'


def test_a_drive_with_an_imu_is_replayed_and_needs_the_topic(tmp_path):
    def with_imu(bag):
        bag.transforms(START_NS, [('base_link', 'imu_link', T_BASE_IMU)], static=True)
        for ns in range(START_NS, START_NS + 3 * S, 5_000_000):
            bag.imu('/imu/data', ns, 'imu_link', np.zeros(3), AT_REST)
        bag.imu('/imu/data', START_NS + 3 * S, 'imu_link', np.full(3, np.nan), AT_REST)

    with BagReader(write_drive(tmp_path / 'bare')) as reader, \
            pytest.raises(InputError, match=r'no /imu/data.*--imu-topic'):
        find_odometry(reader, 'imu', None)
    drive = write_drive(tmp_path / 'drive', change=with_imu)
    inertial, frames = InertialMotion(), []
    synchronizer = FrameSynchronizer(SynchronizerConfig(), TransformBuffer(), ('rgb',))
    robot = Message(step=lambda f: frames.append(f) or Message(stamp_ns=f.frame.stamp_ns))
    with BagReader(drive) as reader:
        replay = Replay(reader, find_replay_cameras(reader, drive, ('rgb',), {}), synchronizer,
                        robot, [], None, 'imu', find_odometry(reader, 'imu', None), inertial)
        assert list(replay.updates())
    assert all(frame.T_odom_base is None for frame in frames)  # that on tf is not taken
    inertial.start(camera(), START_NS + 2 * S)
    assert inertial.predict(START_NS + 2 * S + S // 2) is not None
    (problem,) = replay.problems
    assert 'IMU message holds no measurement' in problem


def test_the_parameter_makes_the_filter():
    assert NodeConfig().inertial() is None
    assert isinstance(replace(NodeConfig(), odometry='imu').inertial(), InertialMotion)

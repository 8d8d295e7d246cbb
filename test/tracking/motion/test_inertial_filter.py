# SPDX-License-Identifier: Apache-2.0
"""The error-state filter on exact paths: its prediction, its biases, and its own covariance."""

import numpy as np
import pytest

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.pose_gaussian import diagonal, PoseGaussian
from thermal_nerf_loc.simulation.imu import IDEAL_IMU, ImuNoise, simulate_imu, T_BASE_IMU
from thermal_nerf_loc.simulation.layouts import make_world
from thermal_nerf_loc.simulation.paths import make_motion
from thermal_nerf_loc.tracking.motion.inertial_filter import (
    GRAVITY_M_S2, ImuConfig, InertialFilter)

HZ, FIX_EVERY = 200, 10
FIX = diagonal(0.005, 0.1)


@pytest.fixture(scope='module')
def motion():
    return make_motion(make_world('room'), 'drone', 0, held_out=True)


def tracked(motion, config, noise, seconds, seed=0, T_map_world=np.eye(4), fixes=True):
    """A filter after so many seconds with fixes, and true poses of the IMU at any time."""
    rng = np.random.default_rng(seed)
    times = np.arange(0, (seconds + 3) * HZ) / HZ
    imu = simulate_imu(motion, times + 0.5 / HZ, T_BASE_IMU, seed, noise)

    def truth(time_s):
        return T_map_world @ motion.poses(time_s)[0] @ T_BASE_IMU

    def fix(time_s):
        error = rng.standard_normal(6) * np.sqrt(np.diag(FIX)) if fixes else np.zeros(6)
        return PoseGaussian(se3.plus(truth(time_s), error), FIX)

    found = InertialFilter.started(config, fix(0.0), imu.accel[0])
    for i in range(seconds * HZ):
        found.predict(imu.gyro[i], imu.accel[i], 1.0 / HZ)
        if (i + 1) % FIX_EVERY == 0:
            found.correct(fix((i + 1) / HZ))
    return found, imu, truth


def test_perfect_samples_carry_the_pose_for_two_seconds(motion):
    found, imu, truth = tracked(motion, ImuConfig(), IDEAL_IMU, 5, fixes=False)
    found.T = truth(5.0)
    found.velocity = (truth(5.0 + 1e-4) - truth(5.0 - 1e-4))[:3, 3] / 2e-4
    found.gravity, found.gyro_bias = np.array([0.0, 0.0, -GRAVITY_M_S2]), np.zeros(3)
    found.accel_bias = np.zeros(3)
    for i in range(5 * HZ, 7 * HZ):
        found.predict(imu.gyro[i], imu.accel[i], 1.0 / HZ)
    metres, degrees = se3.distance(found.T, truth(7.0))
    assert metres < 0.003 and degrees < 0.01


@pytest.mark.parametrize('seed', range(3))
def test_a_consumers_imu_drifts_less_than_5_cm_in_two_seconds(motion, seed):
    found, imu, truth = tracked(motion, ImuConfig(), ImuNoise(), 8, seed)
    true_bias = simulate_imu(motion, np.arange(1, 3) / HZ, T_BASE_IMU, seed, ImuNoise(
        0.0, 0.0, 0.0, 0.0)).gyro[0] - simulate_imu(
            motion, np.arange(1, 3) / HZ, T_BASE_IMU, seed, IDEAL_IMU).gyro[0]
    assert np.isfinite(true_bias).all()
    before = found.pose
    for i in range(8 * HZ, 10 * HZ):
        found.predict(imu.gyro[i], imu.accel[i], 1.0 / HZ)
    error = se3.minus(truth(10.0), found.T)
    assert np.linalg.norm(error[:3]) < 0.05
    assert error @ np.linalg.solve(found.pose.P, error) < 30.0  # chi square, 6 degrees: 1 in 1e5
    assert np.trace(found.pose.P) > np.trace(before.P)


def test_biases_are_found(motion):
    """Constant biases that are known exactly: added to perfect samples."""
    gyro_bias, accel_bias = np.array([0.02, -0.01, 0.015]), np.array([0.1, 0.15, -0.1])
    times = np.arange(0, 15 * HZ) / HZ
    imu = simulate_imu(motion, times + 0.5 / HZ, T_BASE_IMU, 0, IDEAL_IMU)
    start = PoseGaussian(motion.poses(0.0)[0] @ T_BASE_IMU, FIX)
    found = InertialFilter.started(ImuConfig(), start, imu.accel[0])
    for i in range(len(times)):
        found.predict(imu.gyro[i] + gyro_bias, imu.accel[i] + accel_bias, 1.0 / HZ)
        if (i + 1) % FIX_EVERY == 0:
            found.correct(PoseGaussian(motion.poses((i + 1) / HZ)[0] @ T_BASE_IMU, FIX))
    np.testing.assert_allclose(found.gyro_bias, gyro_bias, atol=2e-3)
    np.testing.assert_allclose(found.accel_bias, accel_bias, atol=0.06)


def test_a_map_that_lies_on_its_side_has_its_own_gravity(motion):
    T_map_world = se3.exp([1.0, 2.0, 3.0, 1.4, 0.2, -0.3])
    found, _, _ = tracked(motion, ImuConfig(map_tilt_deg=180.0), ImuNoise(), 10, 1, T_map_world)
    down = T_map_world[:3, :3] @ (0.0, 0.0, -GRAVITY_M_S2)
    np.testing.assert_allclose(found.gravity, down, atol=0.25)
    assert abs(np.linalg.norm(found.gravity) - GRAVITY_M_S2) < 0.05


def test_prediction_agrees_with_sampled_errors(motion):
    """The covariance after half a second against the spread of disturbed filters."""
    rng = np.random.default_rng(0)
    config = ImuConfig(gyro_noise=5e-3, accel_noise=5e-2, gyro_bias=0.02, accel_bias=0.1,
                       start_speed_m_s=0.1)
    times = np.arange(100) / HZ
    imu = simulate_imu(motion, times + 0.5 / HZ, T_BASE_IMU, 0, IDEAL_IMU)
    T = motion.poses(0.0)[0] @ T_BASE_IMU
    start = PoseGaussian(T, diagonal(0.01, 0.5))

    def run(disturbed):
        made = InertialFilter.started(config, start, imu.accel[0])
        if disturbed:
            error = np.linalg.cholesky(made.P + 1e-18 * np.eye(18)) @ rng.standard_normal(18)
            made.T = se3.from_parts(T[:3, :3] @ se3.so3_exp(error[6:9]), T[:3, 3] + error[:3])
            made.velocity, made.accel_bias = error[3:6], error[9:12]
            made.gyro_bias, made.gravity = error[12:15], made.gravity + error[15:]
        for gyro, accel in zip(*imu, strict=True):
            if disturbed:
                gyro = gyro + config.gyro_noise * np.sqrt(HZ) * rng.standard_normal(3)
                accel = accel + config.accel_noise * np.sqrt(HZ) * rng.standard_normal(3)
            made.predict(gyro, accel, 1.0 / HZ)
        return made.pose

    expected = run(False)
    errors = np.array([se3.minus(run(True).T, expected.T) for _ in range(300)])
    np.testing.assert_allclose(errors.std(axis=0), np.sqrt(np.diag(expected.P)), rtol=0.2)

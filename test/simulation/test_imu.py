# SPDX-License-Identifier: Apache-2.0
"""The simulated IMU against differences of the exact poses, and its noise by statistics."""

import numpy as np
import pytest

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.bags.reader import BagReader
from thermal_nerf_loc.simulation.imu import (
    exact_imu, IDEAL_IMU, ImuNoise, simulate_imu, T_BASE_IMU)
from thermal_nerf_loc.simulation.layouts import make_world
from thermal_nerf_loc.simulation.paths import make_motion
from thermal_nerf_loc.simulation.record import simulate_bag, SimulationConfig

STEP_S = 1e-3


@pytest.fixture(scope='module', params=['drone', 'planar'])
def motion(request):
    return make_motion(make_world('room'), request.param, 3, held_out=True)


def test_derivatives_are_those_of_the_poses(motion):
    """By central differences of the IMU's own poses: independent of Euler angles and levers."""
    times = np.linspace(0.3, 20.0, 40)
    before, at, after = (motion.poses(times + step) @ T_BASE_IMU for step in (-STEP_S, 0, STEP_S))
    imu = exact_imu(motion, times, T_BASE_IMU)
    omega = se3.so3_log(np.swapaxes(before[:, :3, :3], 1, 2) @ after[:, :3, :3]) / (2 * STEP_S)
    np.testing.assert_allclose(imu.gyro, omega, atol=1e-4)
    accel = (before[:, :3, 3] - 2.0 * at[:, :3, 3] + after[:, :3, 3]) / STEP_S**2
    force = np.einsum('nji,nj->ni', at[:, :3, :3],
                      accel - np.array([0.0, 0.0, -9.80665]))
    np.testing.assert_allclose(imu.accel, force, atol=2e-2)
    assert np.abs(np.linalg.norm(imu.accel, axis=1) - 9.80665).max() < 5.0


def test_integrated_samples_return_to_the_pose(motion):
    """The exact samples at 1 kHz, integrated by plain sums, end where the path does."""
    times = np.arange(0.0, 2.0, 1e-3)
    imu = exact_imu(motion, times + 0.5e-3, T_BASE_IMU)
    first, T_end = (motion.poses(t)[0] @ T_BASE_IMU for t in (0.0, 2.0))
    R, p = first[:3, :3], first[:3, 3].copy()
    v = ((motion.poses(1e-4)[0] @ T_BASE_IMU)[:3, 3]
         - (motion.poses(-1e-4)[0] @ T_BASE_IMU)[:3, 3]) / 2e-4
    for gyro, accel in zip(*imu, strict=True):
        a = R @ se3.so3_exp(0.5e-3 * gyro) @ accel - (0.0, 0.0, 9.80665)
        p, v, R = p + 1e-3 * v + 0.5e-6 * a, v + 1e-3 * a, R @ se3.so3_exp(1e-3 * gyro)
    assert np.linalg.norm(p - T_end[:3, 3]) < 2e-3
    assert np.linalg.norm(se3.so3_log(R.T @ T_end[:3, :3])) < 1e-4


def test_noise_has_the_stated_density_and_bias(motion):
    times = np.arange(0.0, 20.0, 0.005)
    exact = simulate_imu(motion, times, T_BASE_IMU, 0, IDEAL_IMU)
    np.testing.assert_array_equal(exact.gyro, exact_imu(motion, times, T_BASE_IMU).gyro)
    noise = ImuNoise(gyro_noise=1e-3, accel_noise=1e-2, gyro_walk=0.0, accel_walk=0.0)
    noisy = simulate_imu(motion, times, T_BASE_IMU, 0, noise)
    for values, truth, density, bias in ((noisy.gyro, exact.gyro, 1e-3, 0.01),
                                         (noisy.accel, exact.accel, 1e-2, 0.1)):
        error = values - truth
        np.testing.assert_allclose(error.std(axis=0), density * np.sqrt(200.0), rtol=0.05)
        assert 0.0 < np.abs(error.mean(axis=0)).max() < 4.0 * bias
    again = simulate_imu(motion, times, T_BASE_IMU, 0, noise)
    np.testing.assert_array_equal(noisy.accel, again.accel)
    assert not np.array_equal(noisy.accel, simulate_imu(motion, times, T_BASE_IMU, 1, noise).accel)


def test_a_bag_has_an_imu_on_request(tmp_path):
    small = {'seconds': 0.5, 'size': (16, 12), 'supersampling': 1}
    simulate_bag(tmp_path / 'with', SimulationConfig(imu_hz=200.0, **small))
    with BagReader(tmp_path / 'with') as reader:
        assert reader.topics['/imu/data'] == 'sensor_msgs/msg/Imu'
        samples = [m for _, _, m in reader.messages(['/imu/data'])]
        frames = {t.child_frame_id: t.header.frame_id
                  for _, _, m in reader.messages(['/tf_static']) for t in m.transforms}
    assert len(samples) == 101 and frames['imu_link'] == 'base_link'
    assert samples[0].header.frame_id == 'imu_link'
    assert samples[0].orientation_covariance[0] == -1.0
    simulate_bag(tmp_path / 'without', SimulationConfig(**small))
    with BagReader(tmp_path / 'without') as reader:
        assert '/imu/data' not in reader.topics

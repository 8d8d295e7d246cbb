# SPDX-License-Identifier: Apache-2.0
"""
An IMU on the simulated robot: exact derivatives of its path, then noise and bias.

Specific force and angular velocity follow from the first and second derivatives of position, yaw,
pitch and roll in closed form; nothing is differenced.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.config import setting
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.simulation.paths import Motion

Array = NDArray[np.float64]

GRAVITY = np.array([0.0, 0.0, -9.80665])
IMU_FRAME, IMU_TOPIC = 'imu_link', '/imu/data'
# Beside the middle of the robot, and not along its axes.
T_BASE_IMU = se3.from_parts(se3.so3_exp(np.array([0.05, -0.03, 1.5])), [-0.06, 0.03, 0.02])


@dataclass(frozen=True, slots=True)
class ImuNoise:
    """Errors of an IMU; the defaults are those of a consumer's MEMS chip."""

    gyro_noise: float = setting(2e-4, 'noise density, rad/s for each square root of Hz', 0, 1)
    accel_noise: float = setting(2e-3, 'noise density, m/s^2 for each square root of Hz', 0, 10)
    gyro_walk: float = setting(2e-5, 'random walk of the bias, rad/s for each square root of a '
                               'second', 0, 1)
    accel_walk: float = setting(3e-4, 'the same, m/s^2 for each square root of a second', 0, 10)
    gyro_bias: float = setting(0.01, 'bias at the start (standard deviation), rad/s', 0, 1)
    accel_bias: float = setting(0.1, 'the same, m/s^2', 0, 10)


IDEAL_IMU = ImuNoise(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


class ImuSamples(NamedTuple):
    """What an IMU measures, in its own frame."""

    gyro: Array  # (n, 3) rad/s
    accel: Array  # (n, 3) specific force, m/s^2: +g upwards at rest


def simulate_imu(motion: Motion, times_s: Array, T_base_imu: Array, seed: int,
                 noise: ImuNoise = ImuNoise()) -> ImuSamples:
    """Measure at rising times (n,)."""
    exact = exact_imu(motion, times_s, T_base_imu)
    rng = np.random.default_rng([seed, 31])
    gaps = np.diff(times_s, prepend=2.0 * times_s[0] - times_s[1] if len(times_s) > 1 else 0.0)

    def spoiled(values: Array, density: float, walk: float, bias: float) -> Array:
        white = rng.standard_normal(values.shape) * (density / np.sqrt(gaps))[:, None]
        walked = np.cumsum(rng.standard_normal(values.shape)
                           * (walk * np.sqrt(gaps))[:, None], axis=0)
        return np.asarray(values + white + walked + bias * rng.standard_normal(3))

    return ImuSamples(
        spoiled(exact.gyro, noise.gyro_noise, noise.gyro_walk, noise.gyro_bias),
        spoiled(exact.accel, noise.accel_noise, noise.accel_walk, noise.accel_bias))


def exact_imu(motion: Motion, times_s: Array, T_base_imu: Array) -> ImuSamples:
    """
    What a perfect IMU at `T_base_imu` measures.

    R = Rz(yaw) Ry(pitch) Rx(roll); of a rigid body, a_imu = a + alpha x r + omega x (omega x r).
    """
    laps = np.asarray(times_s, dtype=np.float64) / motion.lap_s
    length = float(motion.position.x[-1])
    along, speed, rate = laps * length, length / motion.lap_s, 1.0 / motion.lap_s
    turn = 2.0 * np.pi * motion.cycles * rate  # of the waves, rad/s
    phase = 2.0 * np.pi * laps[:, None] * motion.cycles + motion.phases
    waves1 = motion.swing * turn * np.cos(phase)
    waves2 = -motion.swing * turn**2 * np.sin(phase)
    accel = motion.position(along, 2) * speed**2 + waves2[:, :3]
    yaw1 = motion.yaw(along, 1) * speed + 2.0 * np.pi * motion.turns * rate + waves1[:, 3]
    yaw2 = motion.yaw(along, 2) * speed**2 + waves2[:, 3]
    pitch, roll = (motion.swing * np.sin(phase))[:, 4:].T
    omega, alpha = _rates(pitch, roll, (yaw1, *waves1[:, 4:].T), (yaw2, *waves2[:, 4:].T))
    R, lever = motion.poses(times_s)[:, :3, :3], T_base_imu[:3, 3]
    force = (np.einsum('nji,nj->ni', R, accel - GRAVITY) + np.cross(alpha, lever)
             + np.cross(omega, np.cross(omega, lever)))
    return ImuSamples(omega @ T_base_imu[:3, :3], force @ T_base_imu[:3, :3])


def _rates(pitch: Array, roll: Array, first: tuple[Array, ...], second: tuple[Array, ...],
           ) -> tuple[Array, Array]:
    """Angular velocity and acceleration in the body by derivatives of (yaw, pitch, roll)."""
    (y1, p1, r1), (y2, p2, r2) = first, second
    sp, cp, sr, cr = np.sin(pitch), np.cos(pitch), np.sin(roll), np.cos(roll)
    omega = np.stack([r1 - y1 * sp, p1 * cr + y1 * cp * sr, y1 * cp * cr - p1 * sr], axis=-1)
    alpha = np.stack([
        r2 - y2 * sp - y1 * p1 * cp,
        p2 * cr - p1 * r1 * sr + y2 * cp * sr - y1 * p1 * sp * sr + y1 * r1 * cp * cr,
        y2 * cp * cr - y1 * p1 * sp * cr - y1 * r1 * cp * sr - p2 * sr - p1 * r1 * cr], axis=-1)
    return omega, alpha

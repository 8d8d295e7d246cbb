# SPDX-License-Identifier: Apache-2.0
"""
The pose of an IMU in the map by an error-state Kalman filter.

Nominal state: position, velocity, rotation, the biases of accelerometer and gyro, and gravity in
the map. The error state (18) has the rotation as a vector in the body frame (J. Sola, Quaternion
kinematics for the error-state Kalman filter, 2017, sections 5 and 6). Gravity belongs to the
state: a map made of images need not stand upright; where it does, gravity holds roll and pitch.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.config import setting
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.pose_gaussian import PoseGaussian

Array = NDArray[np.float64]

GRAVITY_M_S2 = 9.80665
_GRAVITY_SIGMA = 0.02  # of its length, over the earth
_P, _V, _R, _BA, _BG, _G = (slice(3 * i, 3 * i + 3) for i in range(6))


@dataclass(frozen=True, slots=True)
class ImuConfig:
    """Noise of an IMU; the defaults are those of a consumer's with some reserve."""

    gyro_noise: float = setting(5e-4, 'noise density, rad/s for each square root of Hz', 1e-7, 1.)
    accel_noise: float = setting(5e-3, 'noise density, m/s^2 for each square root of Hz', 1e-6,
                                 10.0)
    gyro_walk: float = setting(5e-5, 'random walk of the bias, rad/s for each square root of a '
                               'second', 0.0, 1.0)
    accel_walk: float = setting(1e-3, 'the same, m/s^2 for each square root of a second', 0., 10.)
    gyro_bias: float = setting(0.02, 'standard deviation of the bias at the start, rad/s', 0., 1.)
    accel_bias: float = setting(0.2, 'the same, m/s^2', 0.0, 10.0)
    start_speed_m_s: float = setting(1.0, 'standard deviation of the speed at the start', 0.,
                                     100.0)
    map_tilt_deg: float = setting(1.0, 'how far z of the map may be off the vertical; above 20: '
                                  'gravity is found by the accelerometer', 0.0, 180.0)
    longest_gap_s: float = setting(0.1, 'a longer silence of the IMU ends its use until the next '
                                   'fix', 0.001, 1.0)


@dataclass(slots=True, eq=False)
class InertialFilter:
    """State at one time; `predict` moves it by one sample, `correct` takes a pose."""

    config: ImuConfig
    T: Array  # (4, 4) of the IMU in the map
    velocity: Array
    accel_bias: Array
    gyro_bias: Array
    gravity: Array
    P: Array  # (18, 18) of the errors: p v theta ba bg g

    @classmethod
    def started(cls, config: ImuConfig, pose: PoseGaussian, accel: Array,
                biases: 'InertialFilter | None' = None) -> 'InertialFilter':
        """Start at a pose with an unknown speed; `biases` of an earlier run are kept."""
        R = pose.T[:3, :3]
        gravity, sigma_g = np.array([0.0, 0.0, -GRAVITY_M_S2]), np.deg2rad(config.map_tilt_deg)
        if config.map_tilt_deg > 20.0:  # a slow start: specific force is gravity's opposite
            gravity, sigma_g = -R @ accel, 0.1
            gravity *= GRAVITY_M_S2 / max(float(np.linalg.norm(gravity)), 1e-9)
        P = np.zeros((18, 18))
        to_world = np.eye(6)  # right tangent (v, w) to (dp in the map, theta in the body)
        to_world[:3, :3] = R
        pose_part = np.r_[_P, _R]
        P[np.ix_(pose_part, pose_part)] = to_world @ pose.P @ to_world.T
        for part, sigma in ((_V, config.start_speed_m_s), (_BA, config.accel_bias),
                            (_BG, config.gyro_bias), (_G, GRAVITY_M_S2 * sigma_g)):
            P[part, part] = np.eye(3) * max(sigma, 1e-9)**2
        accel_bias, gyro_bias = np.zeros(3), np.zeros(3)
        if biases is not None:
            accel_bias, gyro_bias = biases.accel_bias.copy(), biases.gyro_bias.copy()
            for part in (_BA, _BG):
                P[part, part] = biases.P[part, part]
        return cls(config, pose.T.copy(), np.zeros(3), accel_bias, gyro_bias, gravity, P)

    def predict(self, gyro: Array, accel: Array, seconds: float) -> None:
        """Move on by one sample that holds for so many seconds."""
        dt, eye = seconds, np.eye(3)
        w, a = gyro - self.gyro_bias, accel - self.accel_bias
        R = self.T[:3, :3] @ se3.so3_exp(0.5 * dt * w)  # in the middle of the step
        force = R @ a + self.gravity
        turned = R @ se3.hat(a)
        F = np.eye(18)
        F[_P, _V] = eye * dt
        F[_V, _R], F[_P, _R] = -turned * dt, -turned * (0.5 * dt**2)
        F[_V, _BA], F[_P, _BA] = -R * dt, -R * (0.5 * dt**2)
        F[_V, _G], F[_P, _G] = eye * dt, eye * (0.5 * dt**2)
        step = se3.so3_exp(dt * w)
        F[_R, _R], F[_R, _BG] = step.T, -eye * dt
        self.P = F @ self.P @ F.T
        config = self.config
        for part, density in ((_V, config.accel_noise), (_R, config.gyro_noise),
                              (_BA, config.accel_walk), (_BG, config.gyro_walk)):
            self.P[part, part] += eye * (density**2 * dt)
        self.T = se3.from_parts(self.T[:3, :3] @ step, self.T[:3, 3] + dt * self.velocity
                                + 0.5 * dt**2 * force)
        self.velocity = self.velocity + dt * force

    def correct(self, fix: PoseGaussian) -> None:
        """Take a measured pose of the IMU in the map, and the known length of gravity."""
        self._update(self._pose_jacobian(), se3.minus(fix.T, self.T), fix.P)
        length = float(np.linalg.norm(self.gravity))
        H = np.zeros((1, 18))
        H[0, _G] = self.gravity / length
        self._update(H, np.array([GRAVITY_M_S2 - length]), np.array([[_GRAVITY_SIGMA**2]]))
        self.T = se3.from_parts(se3.so3_exp(se3.so3_log(self.T[:3, :3])), self.T[:3, 3])

    @property
    def pose(self) -> PoseGaussian:
        """Pose of the IMU, its covariance over the right tangent."""
        J = self._pose_jacobian()
        return PoseGaussian(self.T.copy(), J @ self.P @ J.T)

    @property
    def is_finite(self) -> bool:
        """Whether the filter has not diverged."""
        return bool(np.isfinite(self.T).all() and np.isfinite(self.P).all())

    def _pose_jacobian(self) -> Array:
        """Errors to the right tangent (v, w) of the pose."""
        H = np.zeros((6, 18))
        H[:3, _P], H[3:, _R] = self.T[:3, :3].T, np.eye(3)
        return H

    def _update(self, H: Array, residual: Array, noise: Array) -> None:
        """Kalman update in Joseph's form; the error goes into the nominal state."""
        gain = np.linalg.solve(H @ self.P @ H.T + noise, H @ self.P).T
        keep = np.eye(18) - gain @ H
        P = keep @ self.P @ keep.T + gain @ noise @ gain.T
        self.P = 0.5 * (P + P.T)
        x = gain @ residual
        self.T = se3.from_parts(self.T[:3, :3] @ se3.so3_exp(x[_R]), self.T[:3, 3] + x[_P])
        self.velocity = self.velocity + x[_V]
        self.accel_bias, self.gyro_bias = self.accel_bias + x[_BA], self.gyro_bias + x[_BG]
        self.gravity = self.gravity + x[_G]

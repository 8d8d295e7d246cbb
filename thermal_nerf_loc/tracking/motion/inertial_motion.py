# SPDX-License-Identifier: Apache-2.0
"""
The motion of a camera by an IMU: messages in (any thread), the camera's pose out (tracker).

Only the newest samples are kept. What an IMU cannot measure is refused with an `InputError`; after
a silence or a jump of time the filter rests until the tracker has its next fix.
"""

from collections import deque
from dataclasses import dataclass
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.pose_gaussian import PoseGaussian
from thermal_nerf_loc.io.bags.messages import stamp_ns
from thermal_nerf_loc.io.bags.transform_tree import frame_name, TransformUnavailable
from thermal_nerf_loc.tracking.frame_synchronizer import FrameSynchronizer
from thermal_nerf_loc.tracking.motion.inertial_filter import ImuConfig, InertialFilter

Array = NDArray[np.float64]

IMU_TOPIC = 'imu/data'  # sensor_msgs/Imu; in a replay without remapping: /imu/data
IMU = 'sensor_msgs/msg/Imu'
_SAMPLES = 20_000  # kept: 10 s at 2 kHz
_JUMP_NS = 1_000_000_000  # a step of stamps that is no pause any more
_MOST_RAD_S, _MOST_M_S2 = 100.0, 1000.0  # no IMU measures more


@dataclass(frozen=True, slots=True, eq=False)
class _ImuSample:
    stamp_ns: int
    gyro: Array  # rad/s in the IMU's frame
    accel: Array  # m/s^2, specific force: +g upwards at rest


class InertialMotion:
    """Predicts a camera by an IMU on the same robot; fixes correct it."""

    def __init__(self, config: ImuConfig = ImuConfig()) -> None:
        """Start without samples; the first fix starts the filter."""
        self._config = config
        self._samples: deque[_ImuSample] = deque(maxlen=_SAMPLES)
        self._lock = threading.Lock()
        self._T_base_imu: Array | None = None
        self.T_base_cam = np.eye(4)  # of the tracked camera; set before each step
        self._filter: InertialFilter | None = None  # also that of the last run, for its biases
        self._filter_ns: int | None = None  # the filter's time; None: it rests

    @property
    def is_running(self) -> bool:
        """Whether poses can be predicted."""
        return self._filter_ns is not None

    @property
    def filter(self) -> InertialFilter | None:
        """The filter of this or the last run, in the IMU's frame."""
        return self._filter

    def add(self, stamp: int, gyro: Array, accel: Array, T_base_imu: Array) -> None:
        """Take a sample; one that is not newer than the last is left out."""
        for values, most, what in ((gyro, _MOST_RAD_S, 'angular velocity, rad/s'),
                                   (accel, _MOST_M_S2, 'linear acceleration, m/s^2')):
            if not np.abs(values).max() <= most:  # NaN is refused, too
                raise InputError('IMU message holds no measurement', where=what,
                                 expected=f'finite, at most {most:g}', got=values.tolist())
        with self._lock:
            newest = self._samples[-1].stamp_ns if self._samples else stamp - 1
            if abs(stamp - newest) > _JUMP_NS:  # time jumped, or one stamp was wrong
                self._samples.clear()
            elif stamp <= newest:
                return
            self._T_base_imu = T_base_imu
            self._samples.append(_ImuSample(stamp, gyro, accel))

    def stop(self) -> None:
        """Rest until the next fix; the biases stay known."""
        self._filter_ns = None

    def predict(self, stamp: int) -> PoseGaussian | None:
        """Move to a stamp; the camera there, or None where the IMU does not reach so far."""
        if self._filter is None or self._filter_ns is None:
            return None
        steps = self._steps(self._filter_ns, stamp)
        if steps is None:
            self.stop()
            return None
        for gyro, accel, seconds in steps:
            self._filter.predict(gyro, accel, seconds)
        self._filter_ns = stamp
        if not self._filter.is_finite:
            self._filter = None
            self.stop()
            return None
        return self._camera()

    def correct(self, fix: PoseGaussian) -> PoseGaussian | None:
        """Take a fix of the camera at the time of the last prediction; the camera after it."""
        if self._filter is None or self._filter_ns is None:
            return None
        self._filter.correct(self._of_imu(fix))
        return self._camera()

    def start(self, estimate: PoseGaussian, stamp: int) -> None:
        """Start at the camera's pose, where the IMU has samples of that time."""
        self.stop()
        near = self._near(stamp)
        if near is not None:
            known = self._filter
            self._filter = InertialFilter.started(self._config, self._of_imu(estimate),
                                                  near.accel, known)
            self._filter_ns = stamp

    def _near(self, stamp: int) -> _ImuSample | None:
        with self._lock:
            nearest = min(self._samples, key=lambda s: abs(s.stamp_ns - stamp), default=None)
        is_near = nearest is not None and (
            abs(nearest.stamp_ns - stamp) <= self._config.longest_gap_s * 1e9)
        return nearest if is_near else None

    def _steps(self, start_ns: int, end_ns: int) -> list[tuple[Array, Array, float]] | None:
        """Mean rates and their durations from one time to another; None: a gap is too long."""
        with self._lock:
            while len(self._samples) > 1 and self._samples[1].stamp_ns <= start_ns:
                self._samples.popleft()
            used = [s for s in self._samples if s.stamp_ns < end_ns]
            after = next((s for s in self._samples if s.stamp_ns >= end_ns), None)
        if after is not None:
            used.append(after)
        if not used:
            return None
        longest_ns = self._config.longest_gap_s * 1e9
        times = [min(max(s.stamp_ns, start_ns), end_ns) for s in used]
        gaps = np.diff([start_ns, *times, end_ns])
        if gaps.max(initial=0) > longest_ns:
            return None
        if used[0].stamp_ns > start_ns:
            used, times = [used[0], *used], [start_ns, *times]
        if times[-1] < end_ns:  # the newest sample holds on
            used, times = [*used, used[-1]], [*times, end_ns]
        return [(*_mean(first, second, t0, t1), (t1 - t0) * 1e-9)
                for first, second, t0, t1 in zip(used, used[1:], times, times[1:], strict=False)
                if t1 > t0]

    def _T_cam_imu(self) -> Array:
        assert self._T_base_imu is not None
        return np.asarray(se3.inverse(self.T_base_cam) @ self._T_base_imu)

    def _of_imu(self, camera: PoseGaussian) -> PoseGaussian:
        return camera.moved(self._T_cam_imu(), np.zeros((6, 6)))

    def _camera(self) -> PoseGaussian:
        assert self._filter is not None
        return self._filter.pose.moved(se3.inverse(self._T_cam_imu()), np.zeros((6, 6)))


def _mean(first: _ImuSample, second: _ImuSample, t0: int, t1: int) -> tuple[Array, Array]:
    """Of gyro and accelerometer between two times, linear between the samples."""
    span = second.stamp_ns - first.stamp_ns
    share = (0.5 * (t0 + t1 - 2 * first.stamp_ns) / span) if span else 0.0
    return (first.gyro + share * (second.gyro - first.gyro),
            first.accel + share * (second.accel - first.accel))


class ImuInput:
    """Takes sensor_msgs/Imu into an `InertialMotion`; the IMU's frame must hang on the base."""

    def __init__(self, motion: InertialMotion, synchronizer: FrameSynchronizer) -> None:
        """`synchronizer` has the tf buffer and the name of the base."""
        self._motion, self._synchronizer = motion, synchronizer

    def add(self, message: Any) -> None:
        """Take one message."""
        if float(message.angular_velocity_covariance[0]) == -1.0 or (
                float(message.linear_acceleration_covariance[0]) == -1.0):
            raise InputError('IMU lacks a measurement', where='imu',
                             expected='angular velocity and linear acceleration',
                             got='covariance[0] is -1')
        self._motion.add(stamp_ns(message.header.stamp), _xyz(message.angular_velocity),
                         _xyz(message.linear_acceleration),
                         self._mounting(message.header.frame_id))

    def _mounting(self, frame_id: str) -> Array:
        base = self._synchronizer.config.base_frame
        try:
            return self._synchronizer.tf.lookup_transform(base, frame_id)
        except TransformUnavailable:
            raise InputError('pose of the IMU on the robot is not known', where='imu',
                             expected=f'tf from {frame_name(base)} to its frame',
                             got=f'frame {frame_id[:60]!r}') from None


def _xyz(vector: Any) -> Array:
    return np.array([vector.x, vector.y, vector.z], dtype=np.float64)

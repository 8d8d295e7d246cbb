# SPDX-License-Identifier: Apache-2.0
"""
Where odometry comes from, and how far a camera moves between two frames.

The parameter `odometry` decides which messages are taken, live and in a replay (`TransformInput`).
The motion between frames is odometry's, else that of constant velocity, else unknown; each comes
with its covariance (`CameraMotion`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.pose_gaussian import diagonal
from thermal_nerf_loc.io.bags.message_limits import check_name, MAX_FRAMES
from thermal_nerf_loc.io.bags.messages import matrix_from_pose, matrix_from_transform, stamp_ns
from thermal_nerf_loc.io.bags.transform_tree import (frame_name, TransformBuffer,
                                                     TransformUnavailable)
from thermal_nerf_loc.sensing.frame import Frame
from thermal_nerf_loc.tracking.frame_synchronizer import FrameSynchronizer, JUMP_BACK_NS
from thermal_nerf_loc.tracking.tracker_config import TrackerConfig

Array = NDArray[np.float64]

ODOMETRY_TOPIC = 'odom'  # nav_msgs/Odometry; in a replay without remapping: /odom
_MAX_SKEW_S = 0.25  # images further apart than this are not moved to a common stamp


class TransformInput:
    """
    Takes tf and odometry messages into the tf buffer of a synchronizer.

    `source` is the parameter `odometry`. 'tf': the transform of the base is that on tf. 'topic':
    it comes as nav_msgs/Odometry, and the one on tf is left out. 'none': neither is taken.
    Transforms whose parent is the map are never taken: they are a localizer's answers.
    """

    def __init__(self, source: str, map_frame: str, synchronizer: FrameSynchronizer,
                 on_time_jump: Callable[[], None] = lambda: None) -> None:
        """`on_time_jump` is called after stamps of odometry jumped back (a bag started over)."""
        self._source, self._map_frame = source, frame_name(map_frame)
        self._synchronizer, self._on_time_jump = synchronizer, on_time_jump
        self._newest_ns: int | None = None
        self._on_tf = TransformBuffer()  # all that others publish, also what is not taken
        self._newest_on_tf_ns = 0
        self._parents: dict[str, str] = {}

    def root_of_base(self, stamp_ns: int) -> tuple[str, Array | None]:
        """
        The frame to publish in the map, and the base in it: a frame has one parent on tf only.

        Odometry's frame where others publish the way from it to the base, even if that is not
        taken; else whatever frame the base hangs under (base_footprint); else the base itself.
        None: tf does not have it now.
        """
        odom_frame, base_frame = self._frames()
        root, seen = base_frame, {base_frame}
        while root != odom_frame and self._parents.get(root, root) not in seen:
            root = self._parents[root]
            seen.add(root)
        for at_ns in (stamp_ns, None):
            try:
                return root, self._on_tf.lookup_transform(root, base_frame, at_ns)
            except TransformUnavailable:
                continue
        return root, np.eye(4) if root == base_frame else None

    def add_transform(self, transform: Any, static: bool) -> bool:
        """Take a geometry_msgs/TransformStamped; True where it is odometry's."""
        parent, child = map(frame_name, (transform.header.frame_id, transform.child_frame_id))
        odom_frame, _ = self._frames()
        if parent == self._map_frame:
            return False
        self._check_frames(parent, child)
        stamp = stamp_ns(transform.header.stamp)
        T = matrix_from_transform(transform.transform)
        if parent == odom_frame and not static:
            if stamp < self._newest_on_tf_ns - JUMP_BACK_NS:
                self._on_tf.clear()
            self._newest_on_tf_ns = stamp
        self._on_tf.set_transform(parent, child, T, stamp, static)
        self._parents[child] = parent
        if self._is_left_out(parent, child):
            return parent == odom_frame
        if parent == odom_frame and not static:
            self._check_time_jump(stamp)
        self._synchronizer.tf.set_transform(parent, child, T, stamp, static)
        return parent == odom_frame

    def add_odometry(self, message: Any) -> None:
        """Take a nav_msgs/Odometry as the transform from odometry's frame to the base."""
        stamp = stamp_ns(message.header.stamp)
        self._check_time_jump(stamp)
        self._synchronizer.tf.set_transform(*self._frames(), matrix_from_pose(message.pose.pose),
                                            stamp)

    def _check_frames(self, parent: str, child: str) -> None:
        """Refuse floods of frames: each would be kept."""
        for name in (parent, child):
            check_name(name, 'tf')
        if child not in self._parents and len(self._parents) >= MAX_FRAMES:
            raise InputError('tf has too many frames', where=f'tf {parent} -> {child}',
                             expected=f'at most {MAX_FRAMES}')

    def _is_left_out(self, parent: str, child: str) -> bool:
        odom_frame, base_frame = self._frames()
        return self._source != 'tf' and (child == base_frame or parent == odom_frame)

    def _frames(self) -> tuple[str, str]:
        config = self._synchronizer.config
        return frame_name(config.odom_frame), frame_name(config.base_frame)

    def _check_time_jump(self, stamp: int) -> None:
        """Restart where stamps jump back: odometry shows it first, and older data is invalid."""
        before_ns, self._newest_ns = self._newest_ns, stamp
        if before_ns is not None and stamp < before_ns - JUMP_BACK_NS:
            self._synchronizer.restart()
            self._on_time_jump()


@dataclass(frozen=True, slots=True, eq=False)
class CameraMotion:
    """Motion of a camera since the last frame, `T_last_now`, with its covariance."""

    delta: Array
    Q: Array  # (6, 6) over the right tangent
    elapsed_s: float

    @property
    def velocity(self) -> Array:
        """Tangent (v, w) of a second."""
        return se3.log(self.delta) / self.elapsed_s if self.elapsed_s > 0.0 else np.zeros(6)

    @classmethod
    def predicted(cls, config: TrackerConfig, elapsed_s: float, T_odom_last: Array | None,
                  T_odom_now: Array | None, velocity: Array | None) -> 'CameraMotion':
        """By odometry of both frames, else at the given velocity; both None: unknown."""
        if T_odom_last is not None and T_odom_now is not None:
            return cls(*_by_odometry(config, T_odom_last, T_odom_now), elapsed_s)
        if velocity is None:
            return cls(np.eye(4), diagonal(config.unknown_speed_m_s * elapsed_s,
                                           config.unknown_turn_deg_s * elapsed_s), elapsed_s)
        return cls(se3.exp(velocity * elapsed_s),
                   diagonal(config.odometry_sigma_m + config.acceleration_m_s2 * elapsed_s**2,
                            config.odometry_sigma_deg
                            + config.acceleration_deg_s2 * elapsed_s**2), elapsed_s)

    @classmethod
    def between(cls, config: TrackerConfig, T_last: Array, T_now: Array, elapsed_s: float,
                ) -> 'CameraMotion':
        """From one pose to another, as uncertain as by odometry."""
        return cls(*_by_odometry(config, T_last, T_now), elapsed_s)


def _by_odometry(config: TrackerConfig, T_odom_last: Array, T_odom_now: Array,
                 ) -> tuple[Array, Array]:
    """Motion by odometry, and its covariance: a constant part and one that grows with it."""
    delta = se3.inverse(T_odom_last) @ T_odom_now
    xi = se3.log(delta)
    return delta, diagonal(
        config.odometry_sigma_m + config.odometry_drift * float(np.linalg.norm(xi[:3])),
        config.odometry_sigma_deg
        + config.odometry_drift * float(np.rad2deg(np.linalg.norm(xi[3:]))))


def at_one_stamp(frame: Frame, velocity: Array) -> Frame:
    """The frame with the cameras of earlier and later images moved to its own stamp."""
    images = {}
    for name, image in frame.images.items():
        skew_s = (image.stamp_ns - frame.stamp_ns) * 1e-9
        if 0.0 < abs(skew_s) <= _MAX_SKEW_S:
            image = replace(image, T_cam_sensor=se3.exp(velocity * skew_s) @ image.T_cam_sensor)
        images[name] = image
    return Frame(frame.stamp_ns, images, frame.T_world_cam, frame.name)

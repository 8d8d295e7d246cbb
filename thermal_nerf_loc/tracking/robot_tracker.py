# SPDX-License-Identifier: Apache-2.0
"""
The tracker in the frames of the robot: cameras in, the pose of `base_link` in the map out.

`T_map_odom` is what AMCL publishes: odometry gives the robot's motion, the map corrects its drift.
The live node and the offline replay both call `RobotTracker.step`. `save_pose` and `read_pose`
keep the robot's last pose in a file over a restart.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.atomic_files import read_json, write_json
from thermal_nerf_loc.localization.localizer import Localization
from thermal_nerf_loc.tracking.frame_synchronizer import RobotFrame
from thermal_nerf_loc.tracking.motion.inertial_motion import InertialMotion
from thermal_nerf_loc.tracking.tracker import FrameLocalizer, Tracker
from thermal_nerf_loc.tracking.tracker_config import CONFIRMED, TrackerConfig

Array = NDArray[np.float64]

_FORMAT = 'thermal_nerf_loc last pose'
_FLOOR_SIGMA_M, _FLOOR_SIGMA_DEG = 0.01, 0.3  # of a floor, its map, and a robot's suspension


@dataclass(frozen=True, slots=True, eq=False)
class RobotUpdate:
    """Where the robot is; without a pose while none is confirmed."""

    stamp_ns: int
    state: str
    reason: str
    T_map_base: Array | None
    T_map_odom: Array | None
    covariance: Array | None  # (6, 6) as ROS has it: x y z and rotations about the map's axes
    seconds: float
    modalities: tuple[str, ...]
    T_world_cam: Array | None = None  # of the frame's reference camera
    inlier_share: float | None = None  # of the rendered points; None: nothing was localized
    carried_by: Mapping[str, float] = field(default_factory=dict)  # modality: share of the pose
    ignored: Mapping[str, str] = field(default_factory=dict)  # modality: why it was of no use
    confidence: float | None = None  # of the localizer in this frame alone
    searched: str = ''  # outcome of a search of the whole map: see `TrackerUpdate`
    rays: int = 0  # rendered for this frame


@dataclass(frozen=True, slots=True, eq=False)
class _InitialPose:
    """A given pose, and odometry at its time (None: it holds for the next frame)."""

    T_map_base: Array
    T_odom_base: Array | None
    covariance: Array | None  # as in `RobotUpdate`


class RobotTracker:
    """
    Tracks the robot's base by a tracker of its camera.

    `step` belongs to one thread; the other methods may be called from any, and take effect with
    the next frame.
    """

    def __init__(self, tracker: Tracker, initial_pose: Array | None = None,
                 floor_z_m: float | None = None, inertial: InertialMotion | None = None) -> None:
        """
        Start at `T_map_base`, where given, and again whenever time starts over.

        `floor_z_m`: height of the base in the map, of a robot that is level and stays there.
        `inertial` is that of the tracker, which learns where the camera is on the robot.
        """
        self._tracker, self._initial_pose = tracker, initial_pose
        self.floor_z_m, self._inertial = floor_z_m, inertial
        self._start = None if initial_pose is None else _InitialPose(initial_pose, None, None)
        self._change: tuple[FrameLocalizer, TrackerConfig] | None = None
        self._last: RobotUpdate | None = None
        self._reset_requested = self._search_requested = False
        self._lock = threading.Lock()

    def set_initial_pose(self, T_map_base: Array, T_odom_base: Array | None = None,
                         covariance: Array | None = None) -> None:
        """Start at a pose that held when odometry was at `T_odom_base`."""
        with self._lock:
            self._start = _InitialPose(se3.check_pose(T_map_base, 'initial pose'), T_odom_base,
                                       covariance)

    def reconfigure(self, localizer: FrameLocalizer, config: TrackerConfig) -> None:
        """Go on with another localizer or other settings."""
        with self._lock:
            self._change = localizer, config

    def restart_at_last_pose(self, covariance: Array | None = None) -> Array | None:
        """Start at the last pose (else at the initial one) as if it had been given; returns it."""
        with self._lock:
            last = self._last
        if last is not None and last.T_map_base is not None:
            T_odom_base = (None if last.T_map_odom is None
                           else se3.inverse(last.T_map_odom) @ last.T_map_base)
            self.set_initial_pose(last.T_map_base, T_odom_base, covariance)
            return last.T_map_base
        if self._initial_pose is not None:
            self.set_initial_pose(self._initial_pose, None, covariance)
        return self._initial_pose

    def search_everywhere(self) -> None:
        """Forget the pose and search the whole map."""
        with self._lock:
            self._start, self._search_requested = None, True

    def reset(self) -> None:
        """Forget all poses: the map is of another place."""
        with self._lock:
            self._start = self._initial_pose = self._last = None
            self._reset_requested = True

    @property
    def last(self) -> RobotUpdate | None:
        """The newest update that had a pose."""
        with self._lock:
            return self._last

    def step(self, robot_frame: RobotFrame) -> RobotUpdate:
        """Track one frame."""
        self._apply_requests(robot_frame)
        T_base_cam, T_odom_base = robot_frame.T_base_cam, robot_frame.T_odom_base
        if self._inertial is not None:
            self._inertial.T_base_cam = T_base_cam
        T_odom_cam = None if T_odom_base is None else T_odom_base @ T_base_cam
        update = self._tracker.step(robot_frame.frame, T_odom_cam)
        T_map_base = T_map_odom = covariance = None
        if update.T_world_cam is not None and update.state in CONFIRMED:
            T_map_base = update.T_world_cam @ se3.inverse(T_base_cam)
            if update.covariance is not None:
                covariance = covariance_for_ros(update.covariance, T_map_base, T_base_cam)
            if self.floor_z_m is not None:
                T_map_base, covariance = held_to_floor(T_map_base, covariance, self.floor_z_m)
            if T_odom_base is not None:
                T_map_odom = T_map_base @ se3.inverse(T_odom_base)
        found = update.localization
        robot_update = RobotUpdate(
            robot_frame.frame.stamp_ns, update.state, update.reason, T_map_base, T_map_odom,
            covariance, found.seconds if found is not None else 0.0,
            tuple(robot_frame.frame.images), update.T_world_cam, *_evidence(found),
            found.confidence if found is not None else None, update.searched,
            found.rays if found is not None else 0)
        if T_map_base is not None:
            with self._lock:
                self._last = robot_update
        return robot_update

    def _apply_requests(self, robot_frame: RobotFrame) -> None:
        """Apply the changes requested since the last frame."""
        with self._lock:
            start, self._start = self._start, None
            change, self._change = self._change, None
            reset, self._reset_requested = self._reset_requested, False
            search, self._search_requested = self._search_requested, False
        if change is not None:
            self._tracker.localizer, self._tracker.config = change
        if reset:
            self._tracker.reset()
        if robot_frame.restarted:
            self._tracker.reset()
            if start is None and self._initial_pose is not None:
                start = _InitialPose(self._initial_pose, None, None)
        if start is not None:
            self._initialize(start, robot_frame)
        elif search:
            self._tracker.initialize_anywhere()

    def _initialize(self, start: _InitialPose, robot_frame: RobotFrame) -> None:
        T_map_base = start.T_map_base
        if start.T_odom_base is not None and robot_frame.T_odom_base is not None:
            moved = se3.inverse(start.T_odom_base) @ robot_frame.T_odom_base
            T_map_base = T_map_base @ moved
        T_base_cam = robot_frame.T_base_cam
        covariance = None
        if start.covariance is not None:
            J = np.linalg.inv(_to_ros(T_map_base, T_base_cam))
            covariance = J @ start.covariance @ J.T
        self._tracker.initialize(T_map_base @ T_base_cam, covariance)


def covariance_for_ros(covariance: Array, T_map_base: Array, T_base_cam: Array) -> Array:
    """Covariance of a right tangent at the camera to that of a ROS pose of the base."""
    J = _to_ros(T_map_base, T_base_cam)
    out = J @ covariance @ J.T
    return np.asarray(0.5 * (out + out.T))


def on_floor(T_map_base: Array, z_m: float) -> Array:
    """The pose with its height and tilt those of a robot on a level floor; x, y and yaw stay."""
    forward = T_map_base[:3, 0]
    yaw = np.arctan2(forward[1], forward[0])
    return se3.from_parts(se3.so3_exp(np.array([0.0, 0.0, yaw])),
                          np.array([*T_map_base[:2, 3], z_m]))


def held_to_floor(T_map_base: Array, covariance: Array | None, z_m: float,
                  ) -> tuple[Array, Array | None]:
    """
    The pose of a robot on a level floor, and its covariance as ROS has it.

    That z, roll and pitch are known is one more measurement (Kalman update): where their errors
    go along with those of x, y and yaw, it corrects these, too.
    """
    if covariance is None:
        return on_floor(T_map_base, z_m), None
    axis = np.cross(np.array([0.0, 0.0, 1.0]), T_map_base[:3, 2])  # of the tilt
    sine = float(np.linalg.norm(axis))
    tilt = axis * (np.arctan2(sine, T_map_base[2, 2]) / max(sine, 1e-12))
    held = [2, 3, 4]
    off = np.array([T_map_base[2, 3] - z_m, tilt[0], tilt[1]])
    noise = np.diag((_FLOOR_SIGMA_M**2, *2 * [np.deg2rad(_FLOOR_SIGMA_DEG)**2]))
    gain = covariance[:, held] @ np.linalg.inv(covariance[np.ix_(held, held)] + noise)
    step = -gain @ off
    P = covariance - gain @ covariance[held]
    T = se3.from_parts(se3.so3_exp(step[3:]) @ T_map_base[:3, :3], T_map_base[:3, 3] + step[:3])
    return on_floor(T, z_m), np.asarray(0.5 * (P + P.T))


def _evidence(found: Localization | None,
              ) -> tuple[float | None, dict[str, float], Mapping[str, str]]:
    """Inlier share, each modality's share of the information (beyond noise), what was ignored."""
    if found is None or not found.fits:
        return None, {}, {} if found is None else found.ignored
    information = {name: max(float(np.trace(fit.information - fit.noise_information)), 0.0)
                   for name, fit in found.fits.items()}
    total = max(sum(information.values()), 1e-30)
    shares = {name: value / total for name, value in information.items()}
    inliers = sum(shares[name] * float(np.mean(fit.inlier_share))
                  for name, fit in found.fits.items())
    return inliers, shares, found.ignored


def _to_ros(T_map_base: Array, T_base_cam: Array) -> Array:
    """From a tangent (v, w) at the camera to the base's x y z and rotations, in the map."""
    R = np.zeros((6, 6))
    R[:3, :3] = R[3:, 3:] = T_map_base[:3, :3]
    return np.asarray(R @ se3.adjoint(T_base_cam))


def save_pose(path: Path, map_name: str, T_map_base: Array, stamp_ns: int) -> None:
    """Write the pose beside `path`, then rename: a power cut leaves the old or the new one."""
    write_json(path, {'format': _FORMAT, 'version': 1, 'map': map_name, 'stamp_ns': stamp_ns,
                      'position_m': T_map_base[:3, 3],
                      'quaternion_xyzw': se3.quaternion_from_matrix(T_map_base[:3, :3])})


def read_pose(path: Path, map_name: str) -> Array | None:
    """The pose that was saved in this map; None: there is no file yet, or it is another map's."""
    if not path.exists():
        return None
    content = read_json(path)
    if not isinstance(content, dict) or content.get('format') != _FORMAT:
        raise InputError('is no saved pose', where=path, expected=repr(_FORMAT))
    if content.get('map') != map_name:
        return None
    t, q = _numbers(content, 'position_m', 3, path), _numbers(content, 'quaternion_xyzw', 4, path)
    if not abs(float(np.linalg.norm(q)) - 1.0) < 1e-6:
        raise InputError('saved pose has no unit quaternion', where=path, got=q.tolist())
    return se3.from_quaternion(t, q)


def _numbers(content: dict[str, Any], key: str, count: int, path: Path) -> Array:
    values = content.get(key)
    if (not isinstance(values, list) or len(values) != count
            or not all(isinstance(v, (int, float)) and np.isfinite(v) for v in values)):
        raise InputError('saved pose is damaged', where=f'{path}: {key}',
                         expected=f'{count} numbers', got=repr(values))
    return np.array(values, dtype=np.float64)

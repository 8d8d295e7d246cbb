# SPDX-License-Identifier: Apache-2.0
"""
The tracker seen from the robot: cameras in, the pose of `base_link` in the map out.

`T_map_odom` is what AMCL publishes: odometry keeps the robot's motion, the map corrects its drift.
The live node and the offline replay both call `RobotTracker.step`.

The robot's last pose, kept in a file over a restart.
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
from thermal_nerf_loc.tracking.tracker import FrameLocalizer, Tracker, TrackerConfig

Array = NDArray[np.float64]

STATES_WITH_POSE = ('tracking', 'degraded')


@dataclass(frozen=True, slots=True, eq=False)
class RobotUpdate:
    """Where the robot is; without a pose while the tracker has none to stand for."""

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
    carried_by: Mapping[str, float] = field(default_factory=dict)  # modality: share of the answer
    ignored: Mapping[str, str] = field(default_factory=dict)  # modality: why it was of no use
    confidence: float | None = None  # of the localizer in this frame alone
    searched: str = ''  # what a search of the whole map has come to: see `TrackerUpdate`


@dataclass(frozen=True, slots=True, eq=False)
class _Start:
    """A pose somebody gave, at a moment of the odometry (None: unknown)."""

    T_map_base: Array
    T_odom_base: Array | None
    covariance: Array | None  # as in `RobotUpdate`


class RobotTracker:
    """A tracker behind a change of frames; `step` belongs to one thread, `start_at` to any."""

    def __init__(self, tracker: Tracker, home: Array | None = None) -> None:
        """Start at `home` (map to base), where given, and again whenever time starts over."""
        self._tracker, self._home = tracker, home
        self._start = None if home is None else _Start(home, None, None)
        self._change: tuple[FrameLocalizer, TrackerConfig] | None = None
        self._last: RobotUpdate | None = None
        self._forget = self._search = False
        self._lock = threading.Lock()

    def start_at(self, T_map_base: Array, T_odom_base: Array | None = None,
                 covariance: Array | None = None) -> None:
        """Tell where the robot is; takes effect with the next frame."""
        with self._lock:
            self._start = _Start(se3.check_pose(T_map_base, 'initial pose'), T_odom_base,
                                 covariance)

    def use(self, localizer: FrameLocalizer, config: TrackerConfig) -> None:
        """Go on with another localizer or other settings, from the next frame on."""
        with self._lock:
            self._change = localizer, config

    def start_again(self, covariance: Array | None = None) -> Array | None:
        """Start at the last pose (else at home) as if it had been given; returns it."""
        with self._lock:
            last = self._last
        if last is not None and last.T_map_base is not None:
            T_odom_base = (None if last.T_map_odom is None
                           else se3.inverse(last.T_map_odom) @ last.T_map_base)
            self.start_at(last.T_map_base, T_odom_base, covariance)
            return last.T_map_base
        if self._home is not None:
            self.start_at(self._home, None, covariance)
        return self._home

    def search(self) -> None:
        """Forget the pose and search the whole map, from the next frame on."""
        with self._lock:
            self._start, self._search = None, True

    def forget(self) -> None:
        """Know nothing from the next frame on: the map is of another place."""
        with self._lock:
            self._start, self._home, self._last, self._forget = None, None, None, True

    @property
    def last(self) -> RobotUpdate | None:
        """The newest update that had a pose."""
        with self._lock:
            return self._last

    def step(self, observation: RobotFrame) -> RobotUpdate:
        """Track one frame."""
        self._follow_orders(observation)
        T_base_cam, T_odom_base = observation.T_base_cam, observation.T_odom_base
        T_odom_cam = None if T_odom_base is None else T_odom_base @ T_base_cam
        update = self._tracker.step(observation.frame, T_odom_cam)
        T_map_base = T_map_odom = covariance = None
        if update.T_world_cam is not None and update.state in STATES_WITH_POSE:
            T_map_base = update.T_world_cam @ se3.inverse(T_base_cam)
            if T_odom_base is not None:
                T_map_odom = T_map_base @ se3.inverse(T_odom_base)
            if update.covariance is not None:
                covariance = covariance_for_ros(update.covariance, T_map_base, T_base_cam)
        found = update.localization
        told = RobotUpdate(observation.frame.stamp_ns, update.state, update.reason, T_map_base,
                           T_map_odom, covariance, found.seconds if found is not None else 0.0,
                           tuple(observation.frame.images), update.T_world_cam,
                           *_evidence(found), found.confidence if found is not None else None,
                           update.searched)
        if T_map_base is not None:
            with self._lock:
                self._last = told
        return told

    def _follow_orders(self, observation: RobotFrame) -> None:
        """What was told since the last frame holds from this one on."""
        with self._lock:
            start, self._start = self._start, None
            change, self._change = self._change, None
            forget, self._forget = self._forget, False
            search, self._search = self._search, False
        if change is not None:
            self._tracker.localizer, self._tracker.config = change
        if forget:
            self._tracker.reset()
        if observation.restarted:
            self._tracker.reset()
            if start is None and self._home is not None:
                start = _Start(self._home, None, None)
        if start is not None:
            self._begin(start, observation)
        elif search:
            self._tracker.initialize_anywhere()

    def _begin(self, start: _Start, observation: RobotFrame) -> None:
        T_map_base = start.T_map_base
        if start.T_odom_base is not None and observation.T_odom_base is not None:
            moved = se3.inverse(start.T_odom_base) @ observation.T_odom_base
            T_map_base = T_map_base @ moved
        T_base_cam = observation.T_base_cam
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


def _evidence(found: Localization | None,
              ) -> tuple[float | None, dict[str, float], Mapping[str, str]]:
    """Inlier share, what each modality told of the pose (beyond its noise), what was ignored."""
    if found is None or not found.fits:
        return None, {}, {} if found is None else found.ignored
    told = {name: max(float(np.trace(fit.information - fit.noise_information)), 0.0)
            for name, fit in found.fits.items()}
    total = max(sum(told.values()), 1e-30)
    shares = {name: value / total for name, value in told.items()}
    inliers = sum(shares[name] * float(np.mean(fit.inlier_share))
                  for name, fit in found.fits.items())
    return inliers, shares, found.ignored


def _to_ros(T_map_base: Array, T_base_cam: Array) -> Array:
    """From a tangent (v, w) at the camera to the base's x y z and rotations, in the map."""
    R = np.zeros((6, 6))
    R[:3, :3] = R[3:, 3:] = T_map_base[:3, :3]
    return np.asarray(R @ se3.adjoint(T_base_cam))


_FORMAT = 'thermal_nerf_loc last pose'


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

# SPDX-License-Identifier: Apache-2.0
"""
From messages to frames: pair images, look up the poses of their cameras, decode them.

Used alike by the live node and by the offline replay. Each image counts at its own stamp: odometry
gives the robot's motion between the images of one frame. Only the newest images are kept.
"""

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
import math
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.config import setting
from thermal_nerf_loc.common.errors import InputError, RunError, UserError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.io.bags.message_limits import check_image, check_name, declared_size
from thermal_nerf_loc.io.bags.messages import camera_from_info, stamp_ns, values_from_message
from thermal_nerf_loc.io.bags.transform_tree import TfBuffer, TransformUnavailable
from thermal_nerf_loc.sensing.frame import Frame, RGB, SensorImage, THERMAL
from thermal_nerf_loc.sensing.frozen_images import FreezeDetector
from thermal_nerf_loc.sensing.thermal import Radiometry

Array = NDArray[np.float64]

_QUEUE = 8  # pairs that may wait for odometry
_PERIODS = 30  # between frames, of which the median is told
JUMP_BACK_NS = 1_000_000_000  # a stamp older by this much: the bag was restarted


@dataclass(frozen=True, slots=True)
class SynchronizerConfig:
    """How images and transforms are brought together."""

    odom_frame: str = setting('odom', 'frame that odometry moves in (REP-105)')
    base_frame: str = setting('base_link', 'frame of the robot itself')
    max_skew_s: float = setting(0.05, 'images further apart than this are no pair', 0.0, 1.0)
    silent_after_s: float = setting(
        0.3, 'a camera that sent nothing for so long is not waited for', 0.01, 10.0)
    first_wait_s: float = setting(
        1.0, 'how long the first frame waits for a camera that has sent nothing yet', 0.0, 60.0)
    odometry_wait_s: float = setting(
        0.15, 'how long an image waits for odometry of its stamp', 0.0, 5.0)


@dataclass(frozen=True, slots=True, eq=False)
class RobotFrame:
    """A frame with the robot around it; the frame's reference camera is rigid on the robot."""

    frame: Frame
    T_base_cam: Array
    T_odom_base: Array | None  # at the frame's stamp; None without odometry
    restarted: bool  # time jumped back before this frame
    problems: tuple[str, ...]  # images that were left out, and why


@dataclass(frozen=True, slots=True)
class _Image:
    """An image message that is not decoded yet."""

    message: Any
    stamp_ns: int
    arrival_ns: int
    frame_id: str


@dataclass(slots=True)
class _Stream:
    """What is known of one camera."""

    camera: Camera | None = None
    frame_id: str = ''
    waiting: _Image | None = None
    newest_ns: int | None = None
    freeze: FreezeDetector = field(default_factory=FreezeDetector)


@dataclass(slots=True)
class FrameSynchronizer:
    """Collects messages (from any thread) and returns frames (to one thread)."""

    config: SynchronizerConfig
    tf: TfBuffer
    modalities: tuple[str, ...]
    radiometry: Radiometry | None = None
    counts: Counter[str] = field(default_factory=Counter)
    masks: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)  # False on the robot
    time_offsets_s: Mapping[str, float] = field(default_factory=dict)  # added to a camera's stamps
    max_rate_hz: float = 0.0  # frames beyond it are left out; 0: none
    _streams: dict[str, _Stream] = field(init=False)
    _known: dict[str, _Stream] = field(default_factory=dict)  # also cameras not in use
    _ready: deque[dict[str, _Image]] = field(default_factory=deque)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _reference: str | None = None
    _first_ns: int | None = None
    _emitted_ns: int | None = None
    _due_ns: int | None = None  # of the next frame, where the rate is limited
    _periods_ns: deque[int] = field(default_factory=lambda: deque(maxlen=_PERIODS))
    _restarted: bool = False

    def __post_init__(self) -> None:
        """One stream for each modality."""
        self._streams = {modality: _Stream() for modality in self.modalities}

    def add_camera_info(self, modality: str, info: Any, rectified: bool = False) -> None:
        """Take a camera's lens; `rectified`: that of image_rect topics."""
        check_name(info.header.frame_id, f'{modality} camera_info')
        camera = camera_from_info(info, f'{modality} camera_info', rectified)
        with self._lock:
            self._streams[modality].camera = camera
            self._streams[modality].frame_id = info.header.frame_id
            self._pair(self._stamp_ns(modality, info))

    def add_image(self, modality: str, message: Any, now_ns: int) -> None:
        """Take an image; it makes a frame once every camera that is sending has one."""
        try:
            check_image(message, f'{modality} image')
        except UserError:
            self.counts[f'{modality}_rejected'] += 1
            raise
        image = _Image(message, self._stamp_ns(modality, message), now_ns,
                       message.header.frame_id)
        with self._lock:
            stream = self._streams[modality]
            self._check_time_jump(stream, image.stamp_ns)
            # only thermal cameras close a shutter
            frozen = modality == THERMAL and stream.freeze.is_frozen(message.data)
            self.counts[f'{modality}_received'] += 1
            if stream.newest_ns is not None and image.stamp_ns <= stream.newest_ns:
                self.counts[f'{modality}_repeated'] += 1
                return
            if frozen:  # the shutter is closed: the last image is sent again
                self.counts[f'{modality}_frozen'] += 1
                return
            stream.newest_ns = image.stamp_ns
            self._first_ns = image.stamp_ns if self._first_ns is None else self._first_ns
            self.counts[f'{modality}_superseded'] += stream.waiting is not None
            stream.waiting = image
            self._pair(image.stamp_ns)

    def next_frame(self, now_ns: int, newest: bool) -> RobotFrame | None:
        """The next frame whose odometry is there; `newest` drops (and counts) older ones."""
        pair = self._next_pair(now_ns, newest)
        return None if pair is None else self._make_frame(pair)

    @property
    def frame_period_s(self) -> float | None:
        """Median time between the stamps of the last frames, tracked or not; None: not known."""
        with self._lock:
            periods_ns = sorted(self._periods_ns)
        return periods_ns[len(periods_ns) // 2] / 1e9 if periods_ns else None

    def use_cameras(self, modalities: tuple[str, ...]) -> None:
        """Take images of these cameras from now on; what is known of a camera stays."""
        with self._lock:
            self._clear()
            self.modalities = modalities
            self._known |= self._streams
            self._streams = {name: self._known.get(name, _Stream()) for name in modalities}
            self._reference = None

    def restart(self) -> None:
        """Time jumped back: drop images and moving transforms; mark the next frame `restarted`."""
        with self._lock:
            self._restart()

    def clear(self) -> None:
        """Drop all images that wait."""
        with self._lock:
            self._clear()

    def _stamp_ns(self, modality: str, message: Any) -> int:
        """The stamp of a camera's message, with the camera's time offset."""
        offset_s = self.time_offsets_s.get(modality, 0.0)
        return stamp_ns(message.header.stamp) + round(offset_s * 1e9)

    def _check_time_jump(self, stream: _Stream, stamp_ns: int) -> None:
        """
        Restart where a camera's own stamps jump back.

        Not where another camera's are newer: a busy machine may deliver one late, and after a
        pause of both it is seconds behind the other's first new one.
        """
        if stream.newest_ns is not None and stamp_ns < stream.newest_ns - JUMP_BACK_NS:
            self._restart()

    def _restart(self) -> None:
        self._clear()
        self.tf.clear()
        self._restarted = True

    def _clear(self) -> None:
        self._ready.clear()
        self._first_ns = self._emitted_ns = self._due_ns = None
        for stream in self._streams.values():
            stream.waiting = stream.newest_ns = None
            stream.freeze.reset()

    def _pair(self, now_ns: int) -> None:
        """
        Make the waiting images a frame when no camera that is sending is missing.

        An image that is too old for its partner is a frame of its own; the partner goes on waiting
        for one of its own time, so that cameras that got out of step are paired again.
        """
        images = {m: s.waiting for m, s in self._streams.items() if s.waiting is not None}
        if not images:
            return
        latest_ns = max(image.stamp_ns for image in images.values())
        oldest_ns = latest_ns - round(self.config.max_skew_s * 1e9)
        late = {m: image for m, image in images.items() if image.stamp_ns < oldest_ns}
        if late:
            self._emit(late)
        if not any(self._is_awaited(s, now_ns) for s in self._streams.values()):
            self._emit({m: image for m, image in images.items() if m not in late})

    def _emit(self, pair: dict[str, _Image]) -> None:
        """Queue images as one frame; frames never go back in time."""
        for modality in pair:
            self._streams[modality].waiting = None
        stamp_ns = max(image.stamp_ns for image in pair.values())
        if self._emitted_ns is not None and stamp_ns <= self._emitted_ns:
            self.counts['images_unpaired'] += len(pair)
            return
        if self._is_early(stamp_ns):
            self.counts['frames_beyond_rate'] += 1
            return
        if self._emitted_ns is not None:
            self._periods_ns.append(stamp_ns - self._emitted_ns)
        self._emitted_ns = stamp_ns
        self._ready.append(pair)
        if len(self._ready) > _QUEUE:
            self._ready.popleft()
            self.counts['frames_dropped'] += 1

    def _is_early(self, stamp_ns: int) -> bool:
        """Whether a frame would exceed `max_rate_hz`, by stamps: alike live and in a replay."""
        if self.max_rate_hz <= 0.0:
            return False
        period_ns = round(1e9 / self.max_rate_hz)
        due_ns = stamp_ns if self._due_ns is None else self._due_ns
        if stamp_ns < due_ns:
            return True
        self._due_ns = due_ns + period_ns if stamp_ns < due_ns + period_ns else (
            stamp_ns + period_ns)
        return False

    def _is_awaited(self, stream: _Stream, now_ns: int) -> bool:
        """Whether to wait for a camera (or its camera_info) that has sent nothing new."""
        first_ns = now_ns if self._first_ns is None else self._first_ns
        starting = now_ns - first_ns < self.config.first_wait_s * 1e9
        if stream.newest_ns is None:
            return starting
        if stream.waiting is not None:
            return stream.camera is None and starting
        return now_ns - stream.newest_ns < self.config.silent_after_s * 1e9

    def _next_pair(self, now_ns: int, newest: bool) -> dict[str, _Image] | None:
        with self._lock:
            order = range(len(self._ready))
            for index in reversed(order) if newest else order:
                if self._odometry_is_there(self._ready[index], now_ns):
                    for _ in range(index):
                        self._ready.popleft()
                        self.counts['frames_dropped'] += 1
                    return self._ready.popleft()
                if not newest:
                    break
            return None

    def _odometry_is_there(self, pair: dict[str, _Image], now_ns: int) -> bool:
        latest = max(pair.values(), key=lambda image: image.stamp_ns)
        try:
            self.tf.lookup_transform(self.config.odom_frame, self.config.base_frame,
                                     latest.stamp_ns)
        except TransformUnavailable as unavailable:
            waited_ns = now_ns - latest.arrival_ns
            return not (unavailable.too_new and waited_ns < self.config.odometry_wait_s * 1e9)
        return True

    def _make_frame(self, pair: dict[str, _Image]) -> RobotFrame:
        reference = self._reference_frame(pair)
        T_base_cam = self._mounting(reference)
        stamp_ns = max(image.stamp_ns for image in pair.values())
        T_odom_base = self._odometry(stamp_ns)
        images, problems = {}, []
        for modality, image in pair.items():
            try:
                images[modality] = self._decode(modality, image, *self._sensor_pose(
                    image, T_base_cam, T_odom_base, stamp_ns))
            except UserError as error:
                problems.append(str(error))
                self.counts[f'{modality}_rejected'] += 1
        if not images:
            raise RunError('; '.join(problems))
        restarted, self._restarted = self._restarted, False
        return RobotFrame(Frame(stamp_ns, images), T_base_cam, T_odom_base, restarted,
                          tuple(problems))

    def _decode(self, modality: str, image: _Image, T_cam_sensor: Array, stamp_ns: int,
                ) -> SensorImage:
        camera = self._streams[modality].camera
        if camera is None:
            raise InputError('no camera_info yet', where=f'{modality} camera')
        width, height = declared_size(image.message, f'{modality} image')  # before decoding
        if (width, height) != camera.size:
            raise InputError('image and camera_info differ in size', where=f'{modality} camera',
                             expected=f'{camera.width}x{camera.height}', got=f'{width}x{height}')
        values, radiometric = values_from_message(image.message, modality, self.radiometry)
        if values.shape[:2] != (height, width):
            raise InputError('image is of another size than it says', where=f'{modality} camera',
                             expected=f'{width}x{height}',
                             got=f'{values.shape[1]}x{values.shape[0]}')
        valid = None
        if not math.isfinite(float(values.sum())):  # quick; no temperature has such a count
            valid = np.asarray(np.isfinite(values).all(axis=-1))
            values = np.nan_to_num(values)
        mask = self.masks.get(modality)
        if mask is not None:
            if mask.shape != values.shape[:2]:
                raise InputError('image and its mask differ in size', where=f'{modality} camera',
                                 expected=f'{mask.shape[1]}x{mask.shape[0]}',
                                 got=f'{values.shape[1]}x{values.shape[0]}')
            valid = mask if valid is None else valid & mask
        return SensorImage(camera, values, stamp_ns, T_cam_sensor, valid,
                           radiometric=radiometric)

    def _reference_frame(self, pair: dict[str, _Image]) -> str:
        """The RGB camera where it is known, else the thermal one; kept once chosen."""
        if self._reference is None:
            rgb = self._streams.get(RGB)
            known = rgb is not None and rgb.camera is not None and rgb.frame_id
            self._reference = (rgb.frame_id if rgb is not None and known else
                               pair[RGB if RGB in pair else THERMAL].frame_id)
        return self._reference

    def _mounting(self, frame_id: str) -> Array:
        """Pose of a camera on the robot."""
        if not frame_id:
            raise InputError('image has no frame_id', hint='The camera driver must set it.')
        return self.tf.lookup_transform(self.config.base_frame, frame_id)

    def _odometry(self, stamp_ns: int) -> Array | None:
        try:
            return self.tf.lookup_transform(self.config.odom_frame, self.config.base_frame,
                                            stamp_ns)
        except TransformUnavailable:
            return None

    def _sensor_pose(self, image: _Image, T_base_cam: Array, T_odom_base: Array | None,
                     frame_ns: int) -> tuple[Array, int]:
        """
        Pose of a sensor in the frame's reference camera, and the stamp that it holds for.

        With odometry: `T_cam(frame)_sensor(image)`, which holds at the frame's stamp. Without: the
        mounting, at the image's own stamp; the tracker adds the motion by its velocity.
        """
        T_base_sensor = self._mounting(image.frame_id)
        earlier = None if T_odom_base is None else self._odometry(image.stamp_ns)
        if T_odom_base is None or earlier is None:
            return se3.inverse(T_base_cam) @ T_base_sensor, image.stamp_ns
        motion = se3.inverse(T_odom_base) @ earlier
        return se3.inverse(T_base_cam) @ motion @ T_base_sensor, frame_ns

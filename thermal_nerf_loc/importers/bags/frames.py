# SPDX-License-Identifier: Apache-2.0
"""Second pass over a bag: decode the images near each keyframe, keep the sharpest, pair it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.common.progress import Progress
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.importers.bags.images import ImageReader
from thermal_nerf_loc.importers.bags.keyframe_selection import sharpness
from thermal_nerf_loc.importers.bags.survey import CameraLog
from thermal_nerf_loc.io.bags.messages import stamp_ns
from thermal_nerf_loc.io.bags.poses import PoseSource
from thermal_nerf_loc.io.bags.reader import BagReader
from thermal_nerf_loc.sensing.frame import Frame, RGB, SensorImage, THERMAL

Array = NDArray[np.float64]
Key = tuple[str, int]  # modality and stamp


@dataclass(frozen=True, slots=True, eq=False)
class MovingRig:
    """Where the cameras are, each at its own moment."""

    source: PoseSource
    frames: Mapping[str, str]  # tf frame by modality
    T_rgb_thermal: Array | None = None  # given; None: tf knows

    def T_world(self, modality: str, at_ns: int) -> Array | None:
        """Pose of a camera; None in a gap."""
        if modality == THERMAL and self.T_rgb_thermal is not None and RGB in self.frames:
            T = self.source.at(self.frames[RGB], at_ns)
            return None if T is None else T @ self.T_rgb_thermal
        return self.source.at(self.frames[modality], at_ns)

    def between(self, rgb_ns: int, thermal_ns: int) -> Array | None:
        """Pose of the thermal camera at its moment in the RGB camera at its own."""
        start, end = self.T_world(RGB, rgb_ns), self.T_world(THERMAL, thermal_ns)
        return None if start is None or end is None else se3.inverse(start) @ end


@dataclass(slots=True, eq=False)
class _Window:
    """Images of which one becomes a keyframe."""

    waiting: set[Key]
    partner: dict[int, int]  # stamp of the reference image: of its thermal image
    best: tuple[float, int, Any] | None = None  # sharpness, stamp, message
    others: dict[int, Any] = field(default_factory=dict)  # thermal messages by stamp


class FrameMaker:
    """Makes frames of windows of stamps; `counts` and `notes` tell what went wrong."""

    def __init__(self, reader: BagReader, logs: Mapping[str, CameraLog],
                 images: Mapping[str, ImageReader], rig: MovingRig, reference: str,
                 max_skew_s: float) -> None:
        """Nothing is read yet."""
        self._reader, self._logs, self._images = reader, logs, images
        self._rig, self._reference, self._max_skew_s = rig, reference, max_skew_s
        self.counts = {'unreadable_images': 0, 'frames_without_thermal': 0, 'keyframes_lost': 0}
        self.notes: list[str] = []

    def frames(self, windows: Sequence[NDArray[np.int64]], poses: Mapping[int, Array],
               progress: Progress) -> Iterator[Frame]:
        """Frames as they are completed; only open windows hold images."""
        wanted: dict[Key, list[_Window]] = {}
        for window in self._plan(windows):
            for key in window.waiting:
                wanted.setdefault(key, []).append(window)
        names = {log.topics.image: name for name, log in self._logs.items()}
        total_s, count = self._reader.duration_ns / 1e9, 0
        for topic, recorded_ns, message in self._reader.messages(list(names)):
            key = names[topic], stamp_ns(message.header.stamp)
            for window in wanted.pop(key, ()):
                self._take(window, key, message)
                frame = None if window.waiting else self._finish(window, poses, f'{count:05d}')
                if frame is not None:
                    count += 1
                    yield frame
            progress(total_s + (recorded_ns - self._reader.first_ns) / 1e9, 2.0 * total_s,
                     f'{count} keyframes')
            if not wanted:
                return

    def _plan(self, windows: Sequence[NDArray[np.int64]]) -> Iterator[_Window]:
        both = self._reference == RGB and THERMAL in self._logs
        thermal = self._logs[THERMAL].usable() if both else np.empty(0, np.int64)
        for stamps in windows:
            partner = {}
            for stamp in stamps.tolist():
                other = _nearest(thermal, stamp, self._max_skew_s)
                if other is not None and self._rig.between(stamp, other) is not None:
                    partner[stamp] = other
            waiting = {(self._reference, stamp) for stamp in stamps.tolist()}
            yield _Window(waiting | {(THERMAL, stamp) for stamp in partner.values()}, partner)

    def _take(self, window: _Window, key: Key, message: Any) -> None:
        name, stamp = key
        window.waiting.discard(key)
        if name != self._reference:
            window.others[stamp] = message
            return
        try:
            score = sharpness(self._images[name].pixels(message))
        except InputError as error:
            self._unreadable(error)
            return
        if window.best is None or score > window.best[0]:
            window.best = score, stamp, message

    def _finish(self, window: _Window, poses: Mapping[int, Array], name: str) -> Frame | None:
        """Join the sharpest image and its thermal partner."""
        best, others = window.best, window.others
        window.best, window.others = None, {}
        _, stamp, message = best or (0.0, 0, None)
        image = message and self._decode(self._reference, message, stamp, np.eye(4))
        if image is None:
            self.counts['keyframes_lost'] += 1
            return None
        images = {self._reference: image}
        other = window.partner.get(stamp)
        T = None if other is None else self._rig.between(stamp, other)
        if other in others and T is not None:
            thermal = self._decode(THERMAL, others[other], other, T)
            if thermal is not None:
                images[THERMAL] = thermal
        self.counts['frames_without_thermal'] += (THERMAL in self._images
                                                  and THERMAL not in images)
        return Frame(stamp, images, poses[stamp], name)

    def _decode(self, name: str, message: Any, stamp: int, T: Array) -> SensorImage | None:
        try:
            return self._images[name].image(message, stamp, T)
        except InputError as error:
            self._unreadable(error)
            return None

    def _unreadable(self, error: InputError) -> None:
        self.counts['unreadable_images'] += 1
        if self.counts['unreadable_images'] == 1:
            self.notes.append(f'an image cannot be read: {error}')


def _nearest(stamps: NDArray[np.int64], stamp: int, within_s: float) -> int | None:
    """The stamp closest to a moment, where one is close enough."""
    after = int(np.searchsorted(stamps, stamp))
    near = [int(s) for s in stamps[max(0, after - 1):after + 1]
            if abs(int(s) - stamp) <= within_s * 1e9]
    return min(near, key=lambda s: abs(s - stamp)) if near else None

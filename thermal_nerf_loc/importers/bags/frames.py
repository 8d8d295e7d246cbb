# SPDX-License-Identifier: Apache-2.0
"""
Second pass over a bag: the frames of the data set.

Of the images in the window of a keyframe the sharpest is kept, and paired with the thermal image
nearest in time.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.common.progress import Progress
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.importers.bags.images import ImageDecoder
from thermal_nerf_loc.importers.bags.keyframe_selection import sharpness
from thermal_nerf_loc.importers.bags.survey import CameraLog
from thermal_nerf_loc.io.bags.messages import stamp_ns
from thermal_nerf_loc.io.bags.poses import PoseSource
from thermal_nerf_loc.io.bags.reader import BagReader
from thermal_nerf_loc.sensing.frame import Frame, RGB, SensorImage, THERMAL

Array = NDArray[np.float64]
ImageKey = tuple[str, int]  # modality and stamp (ns)


@dataclass(frozen=True, slots=True, eq=False)
class MovingRig:
    """Poses of the cameras at the stamps of their own images."""

    source: PoseSource
    frames: Mapping[str, str]  # tf frame by modality
    T_rgb_thermal: Array | None = None  # of a camera file; None: tf holds it
    offsets_ns: Mapping[str, int] = field(default_factory=dict)  # added to stamps, by modality

    def T_world(self, modality: str, stamp_ns: int) -> Array | None:
        """Pose of a camera; None in a gap."""
        stamp_ns += self.offsets_ns.get(modality, 0)
        if modality == THERMAL and self.T_rgb_thermal is not None and RGB in self.frames:
            T = self.source.at(self.frames[RGB], stamp_ns)
            return None if T is None else T @ self.T_rgb_thermal
        return self.source.at(self.frames[modality], stamp_ns)

    def between(self, rgb_ns: int, thermal_ns: int) -> Array | None:
        """Pose of the thermal camera at one stamp in the RGB camera at another; None in a gap."""
        T_world_rgb, T_world_thermal = (self.T_world(RGB, rgb_ns),
                                        self.T_world(THERMAL, thermal_ns))
        if T_world_rgb is None or T_world_thermal is None:
            return None
        return se3.inverse(T_world_rgb) @ T_world_thermal


@dataclass(slots=True, eq=False)
class _Window:
    """Images of the reference camera of which one becomes a keyframe, and their thermal ones."""

    pending: set[ImageKey]  # not read yet
    thermal_stamps: dict[int, int]  # by stamp of the reference image
    sharpest: tuple[float, int, Any] | None = None  # sharpness, stamp, message
    thermal_messages: dict[int, Any] = field(default_factory=dict)  # by stamp


class FrameReader:
    """Reads one frame for each window of stamps; `counts` and `notes` say what failed."""

    def __init__(self, reader: BagReader, logs: Mapping[str, CameraLog],
                 decoders: Mapping[str, ImageDecoder], rig: MovingRig, reference: str,
                 max_skew_s: float) -> None:
        """Nothing is read yet."""
        self._reader, self._logs, self._decoders = reader, logs, decoders
        self._rig, self._reference, self._max_skew_s = rig, reference, max_skew_s
        self.counts = {'unreadable_images': 0, 'frames_without_thermal': 0, 'keyframes_lost': 0}
        self.notes: list[str] = []

    def frames(self, windows: Sequence[NDArray[np.int64]], poses: Mapping[int, Array],
               progress: Progress) -> Iterator[Frame]:
        """Yield frames as they are completed; images are held for unfinished windows only."""
        wanted: dict[ImageKey, list[_Window]] = {}
        for window in self._windows(windows):
            for key in window.pending:
                wanted.setdefault(key, []).append(window)
        names = {log.topics.image: name for name, log in self._logs.items()}
        total_s, count = self._reader.duration_ns / 1e9, 0
        for topic, recorded_ns, message in self._reader.messages(list(names)):
            key = names[topic], stamp_ns(message.header.stamp)
            for window in wanted.pop(key, ()):
                self._add(window, key, message)
                frame = None if window.pending else self._finish(window, poses, f'{count:05d}')
                if frame is not None:
                    count += 1
                    yield frame
            progress(total_s + (recorded_ns - self._reader.first_ns) / 1e9, 2.0 * total_s,
                     f'{count} keyframes')
            if not wanted:
                return

    def _windows(self, windows: Sequence[NDArray[np.int64]]) -> Iterator[_Window]:
        """Pair each image with the thermal one nearest in time, where both have a pose."""
        has_both = self._reference == RGB and THERMAL in self._logs
        thermal = self._logs[THERMAL].sorted_stamps() if has_both else np.empty(0, np.int64)
        for stamps in windows:
            paired = {}
            for stamp in stamps.tolist():
                nearest = _nearest(thermal, stamp, self._max_skew_s)
                if nearest is not None and self._rig.between(stamp, nearest) is not None:
                    paired[stamp] = nearest
            pending = {(self._reference, stamp) for stamp in stamps.tolist()}
            yield _Window(pending | {(THERMAL, stamp) for stamp in paired.values()}, paired)

    def _add(self, window: _Window, key: ImageKey, message: Any) -> None:
        modality, stamp = key
        window.pending.discard(key)
        if modality != self._reference:
            window.thermal_messages[stamp] = message
            return
        try:
            score = sharpness(self._decoders[modality].pixels(message))
        except InputError as error:
            self._count_unreadable(error)
            return
        if window.sharpest is None or score > window.sharpest[0]:
            window.sharpest = score, stamp, message

    def _finish(self, window: _Window, poses: Mapping[int, Array], name: str) -> Frame | None:
        """Join the sharpest image and its thermal one."""
        sharpest, thermal_messages = window.sharpest, window.thermal_messages
        window.sharpest, window.thermal_messages = None, {}
        _, stamp, message = sharpest or (0.0, 0, None)
        image = message and self._decode(self._reference, message, stamp, np.eye(4))
        if image is None:
            self.counts['keyframes_lost'] += 1
            return None
        images = {self._reference: image}
        paired = window.thermal_stamps.get(stamp)
        T_rgb_thermal = None if paired is None else self._rig.between(stamp, paired)
        if paired in thermal_messages and T_rgb_thermal is not None:
            thermal = self._decode(THERMAL, thermal_messages[paired], paired, T_rgb_thermal)
            if thermal is not None:
                images[THERMAL] = thermal
        self.counts['frames_without_thermal'] += (THERMAL in self._decoders
                                                  and THERMAL not in images)
        return Frame(stamp, images, poses[stamp], name)

    def _decode(self, modality: str, message: Any, stamp: int, T: Array) -> SensorImage | None:
        try:
            return self._decoders[modality].image(message, stamp, T)
        except InputError as error:
            self._count_unreadable(error)
            return None

    def _count_unreadable(self, error: InputError) -> None:
        self.counts['unreadable_images'] += 1
        if self.counts['unreadable_images'] == 1:
            self.notes.append(f'an image cannot be read: {error}')


def _nearest(stamps: NDArray[np.int64], stamp: int, within_s: float) -> int | None:
    """Of rising stamps the one closest to `stamp`; None where none is close enough."""
    after = int(np.searchsorted(stamps, stamp))
    near = [int(s) for s in stamps[max(0, after - 1):after + 1]
            if abs(int(s) - stamp) <= within_s * 1e9]
    return min(near, key=lambda s: abs(s - stamp)) if near else None

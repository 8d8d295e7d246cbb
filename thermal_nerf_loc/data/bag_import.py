# SPDX-License-Identifier: Apache-2.0
"""
A bag to a data set: keyframes of both cameras, each image at the pose of its own moment.

The bag is read twice. The first pass collects stamps, poses and calibrations; from these
keyframes are planned. The second decodes the images near each keyframe, keeps the sharpest and
writes it at once. A frame is one RGB image and the thermal image nearest in time; where their
stamps differ, the frame's own `transform_rgb_thermal` holds what the robot moved in between.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.config import check, setting
from thermal_nerf_loc.data.bag import BagReader
from thermal_nerf_loc.data.bag_pixels import ImageReader
from thermal_nerf_loc.data.bag_poses import PoseSource
from thermal_nerf_loc.data.bag_survey import CameraLog, Survey, survey_bag
from thermal_nerf_loc.data.bag_topics import find_cameras, pose_topics
from thermal_nerf_loc.data.bag_tracks import choose_source, PoseOptions
from thermal_nerf_loc.data.files import check_vacant
from thermal_nerf_loc.data.keyframe_choice import choose_windows, KeyframeRule, sharpness
from thermal_nerf_loc.data.messages import stamp_ns
from thermal_nerf_loc.data.nerfstudio import HOLD_OUT_EVERY
from thermal_nerf_loc.data.rig_file import read_rig, RigCamera
from thermal_nerf_loc.data.scene_writer import SceneWriter
from thermal_nerf_loc.errors import InputError, RunError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.progress import Progress, silent
from thermal_nerf_loc.sensing.frame import Frame, RGB, SensorImage, THERMAL
from thermal_nerf_loc.sensing.thermal import LinearRadiometry, Radiometry

Array = NDArray[np.float64]

_GAPS_TOLD = 10


@dataclass(frozen=True, slots=True)
class ImportConfig:
    """What to take from a bag; empty topics and frames are found."""

    modality: str = setting('both', 'cameras to take', choices=('both', RGB, THERMAL))
    rgb_topic: str = ''
    thermal_topic: str = ''
    rgb_info_topic: str = ''
    thermal_info_topic: str = ''
    cameras: Path | None = None
    poses: PoseOptions = setting(PoseOptions(), 'where poses come from')
    keyframes: KeyframeRule = setting(KeyframeRule(), 'which images to keep')
    max_skew_s: float = setting(0.05, 'between an RGB image and its thermal one', 0.0, 10.0)
    rectify: bool = False
    hold_out: int = setting(HOLD_OUT_EVERY, 'every so many frames one is held out', 2, 1_000_000)
    radiometry: LinearRadiometry | None = None
    radiometric: bool = True

    def __post_init__(self) -> None:
        """Check the ranges."""
        check(self, 'import')


@dataclass(frozen=True, slots=True, eq=False)
class Imported:
    """What came of it; `loss` is empty where the bag was whole."""

    figures: dict[str, Any]
    notes: tuple[str, ...]
    loss: str


@dataclass(slots=True, eq=False)
class _Window:
    """Images of which one becomes a keyframe."""

    waiting: set[tuple[str, int]]
    partner: dict[int, int]  # stamp of the reference image: of its thermal image
    best: tuple[float, int, SensorImage] | None = None
    others: dict[int, Any] | None = None  # thermal messages by stamp, not decoded yet


def import_bag(bag: Path, out: Path, config: ImportConfig = ImportConfig(),
               progress: Progress = silent) -> Imported:
    """Read a bag and write a data set; of a bag that was cut short, what is whole."""
    check_vacant(out)
    rig = read_rig(config.cameras) if config.cameras else {}
    lenses = [name for name, camera in rig.items() if camera.camera is not None]
    with BagReader(bag, salvage=True) as reader:
        topics = find_cameras(
            reader, bag, {RGB: config.rgb_topic, THERMAL: config.thermal_topic},
            {RGB: config.rgb_info_topic, THERMAL: config.thermal_info_topic}, config.modality)
        tracks = [] if config.poses.file else pose_topics(reader, bag, config.poses.topic)
        survey = survey_bag(reader, topics, tracks, lenses, bag, progress)
        return _Import(bag, out, config, rig, reader, survey).run(tracks, progress)


class _Import:
    """One import, after the first pass."""

    def __init__(self, bag: Path, out: Path, config: ImportConfig, rig: Mapping[str, RigCamera],
                 reader: BagReader, survey: Survey) -> None:
        self._bag, self._out, self._config, self._rig = bag, out, config, rig
        self._reader, self._survey = reader, survey
        self._reference = RGB if RGB in survey.cameras else THERMAL
        self._counts = {'unreadable_images': 0, 'frames_without_thermal': 0, 'keyframes_lost': 0}
        self._notes: list[str] = []

    def run(self, tracks: Sequence[str], progress: Progress) -> Imported:
        """Plan, read again, write."""
        logs, config = self._survey.cameras, self._config
        for name, log in logs.items():
            self._check(name, log)
        self._source = choose_source(self._bag, config.poses, self._survey, tracks,
                                     logs[self._reference].frame, self._reader)
        self._images = {name: ImageReader(name, self._lens(name), self._scale(name),
                                          config.rectify, config.radiometric)
                        for name in logs}
        self._probe()
        stamps, poses, gone = self._posed(logs[self._reference])
        windows = [stamps[list(window)] for window in choose_windows(poses, config.keyframes)]
        self._write(self._plan(windows), dict(zip(stamps.tolist(), poses)), progress)
        return self._report(stamps, gone)

    def _check(self, name: str, log: CameraLog) -> None:
        if not len(log.stamps):
            raise InputError(f'{name} camera sent no image with a stamp', where=self._bag,
                             got=f'{log.seen} images, {log.unstamped} without a stamp')
        if not log.frame and not (self._rig.get(name) and self._config.poses.frame):
            raise InputError('images have no frame_id', where=f'{self._bag} {log.topics.image}',
                             expected='the name of a tf frame in their headers')

    def _lens(self, name: str) -> Any:
        camera = self._rig[name].camera if name in self._rig else None
        camera = camera or self._survey.cameras[name].camera
        if camera is None:
            raise InputError(f'{name} camera has no camera_info', where=self._bag,
                             hint='Give its lens by --cameras FILE.')
        return camera

    def _scale(self, name: str) -> Radiometry | None:
        if name == RGB or not self._config.radiometric:
            return None
        in_file = self._rig[name].radiometry if name in self._rig else None
        return self._config.radiometry or in_file

    def _probe(self) -> None:
        """Decode one image of each camera now: wrong sizes and scales show before any work."""
        topics = {log.topics.image: name for name, log in self._survey.cameras.items()}
        for topic, _, message in self._reader.messages(list(topics)):
            if topic in topics:
                note = self._images[topics.pop(topic)].probe(message)
                self._notes += [note] if note else []
            if not topics:
                return

    def _posed(self, log: CameraLog) -> tuple[NDArray[np.int64], Array, NDArray[np.int64]]:
        """Stamps that have a pose, these poses, and the stamps that have none."""
        stamps = log.usable()
        found = [self._source.at(log.frame, int(stamp)) for stamp in stamps]
        has = np.array([T is not None for T in found], dtype=np.bool_)
        if not has.any():
            raise RunError('no image has a pose', where=self._bag,
                           got=f'{self._source.told}; {len(stamps)} images from '
                               f'{stamps[0]} to {stamps[-1]} ns',
                           hint='Do the poses and the images share one clock?')
        return stamps[has], np.stack([T for T in found if T is not None]), stamps[~has]

    def _plan(self, windows: list[NDArray[np.int64]]) -> list[_Window]:
        partner_stamps = np.empty(0, np.int64)
        if self._reference == RGB and THERMAL in self._survey.cameras:
            partner_stamps = self._survey.cameras[THERMAL].usable()
        planned = []
        for stamps in windows:
            partner = {}
            for stamp in stamps.tolist():
                other = _nearest(partner_stamps, stamp, self._config.max_skew_s)
                if other is not None and self._T_thermal(stamp, other) is not None:
                    partner[stamp] = other
            waiting = {(self._reference, stamp) for stamp in stamps.tolist()}
            waiting |= {(THERMAL, stamp) for stamp in partner.values()}
            planned.append(_Window(waiting, partner, others={}))
        return planned

    def _T_thermal(self, rgb_ns: int, thermal_ns: int) -> Array | None:
        """Pose of the thermal camera at its moment in the RGB camera at its own; None: a gap."""
        rgb, thermal = (self._survey.cameras[name].frame for name in (RGB, THERMAL))
        start = self._source.at(rgb, rgb_ns)
        mounting = self._rig[THERMAL].T_rgb_sensor if THERMAL in self._rig else None
        end = self._source.at(thermal if mounting is None else rgb, thermal_ns)
        if start is None or end is None:
            return None
        T = se3.inverse(start) @ end
        return T if mounting is None else T @ mounting

    def _mounting(self, stamp: int) -> Array | None:
        return self._T_thermal(stamp, stamp)

    def _write(self, windows: list[_Window], poses: Mapping[int, Array],
               progress: Progress) -> None:
        cameras = {name: reader.camera for name, reader in self._images.items()}
        rig = None
        if len(cameras) == 2:
            rig = next((T for T in map(self._mounting, poses) if T is not None), None)
        scale = self._images[THERMAL].radiometry if THERMAL in self._images else None
        self.train = self.test = 0
        with SceneWriter(self._out, cameras, rig, scale, rig_per_frame=True) as writer:
            for frame in self._frames(windows, poses, rig, progress):
                # not the first: it would be alone at the end of the path
                is_test = (self.train + self.test) % self._config.hold_out \
                    == self._config.hold_out // 2
                writer.add(frame, 'test' if is_test else 'train')
                self.test += is_test
                self.train += not is_test

    def _frames(self, windows: list[_Window], poses: Mapping[int, Array], rig: Array | None,
                progress: Progress) -> Iterator[Frame]:
        """Frames as the second pass completes them; only open windows hold images."""
        wanted: dict[tuple[str, int], list[_Window]] = {}
        for window in windows:
            for key in window.waiting:
                wanted.setdefault(key, []).append(window)
        names = {log.topics.image: name for name, log in self._survey.cameras.items()}
        total_s, count = self._reader.duration_ns / 1e9, 0
        for topic, recorded_ns, message in self._reader.messages(list(names)):
            key = names[topic], stamp_ns(message.header.stamp)
            for window in wanted.pop(key, ()):
                self._take(window, key, message)
                if not window.waiting:
                    frame = self._frame(window, poses, rig, f'{count:05d}')
                    if frame is not None:
                        count += 1
                        yield frame
            progress(total_s + (recorded_ns - self._reader.first_ns) / 1e9, 2.0 * total_s,
                     f'{count} keyframes')
            if not wanted:
                return

    def _take(self, window: _Window, key: tuple[str, int], message: Any) -> None:
        name, stamp = key
        window.waiting.discard(key)
        if name != self._reference:
            assert window.others is not None
            window.others[stamp] = message
            return
        image = self._decode(name, message, stamp, np.eye(4))
        if image is not None:
            score = sharpness(image.values)
            if window.best is None or score > window.best[0]:
                window.best = score, stamp, image

    def _frame(self, window: _Window, poses: Mapping[int, Array], rig: Array | None,
               name: str) -> Frame | None:
        """Join the sharpest image and its thermal partner."""
        others, window.others = window.others or {}, None
        if window.best is None:
            self._counts['keyframes_lost'] += 1
            return None
        _, stamp, image = window.best
        window.best = None
        images = {self._reference: image}
        other = window.partner.get(stamp)
        if other is not None and other in others:
            T = self._T_thermal(stamp, other)
            thermal = self._decode(THERMAL, others[other], other, rig if T is None else T)
            if thermal is not None:
                images[THERMAL] = thermal
        self._counts['frames_without_thermal'] += (THERMAL in self._images
                                                   and THERMAL not in images)
        return Frame(stamp, images, poses[stamp], name)

    def _decode(self, name: str, message: Any, stamp: int, T: Array | None) -> SensorImage | None:
        try:
            return self._images[name].image(message, stamp, np.eye(4) if T is None else T)
        except InputError as error:
            self._counts['unreadable_images'] += 1
            if self._counts['unreadable_images'] == 1:
                self._notes.append(f'an image cannot be read: {error}')
            return None

    def _report(self, stamps: NDArray[np.int64], gone: NDArray[np.int64]) -> Imported:
        source, logs = self._source, self._survey.cameras
        first = int(self._reader.first_ns)
        gaps = gaps_of(source, stamps, gone, first)
        if source.drifts:
            self._notes.append(f'poses come from {source.told}: odometry drifts, and the map '
                               'will be bent by as much')
        for start, end, images in gaps[:_GAPS_TOLD]:
            self._notes.append(f'no pose from {start:.2f} s to {end:.2f} s: {images} '
                               f'{self._reference} images left out')
        figures = {
            'data': str(self._out), 'bag': str(self._bag), 'train_frames': self.train,
            'test_frames': self.test, 'bag_seconds': self._reader.duration_ns / 1e9,
            'poses': source.told, **{f'{name}_topic': log.topics.image
                                     for name, log in logs.items()},
            **{f'{name}_images': log.seen for name, log in logs.items()},
            **{f'{name}_frozen': log.frozen for name, log in logs.items()},
            'images_without_stamp': sum(log.unstamped for log in logs.values()),
            'images_without_pose': len(gone), 'pose_gaps': len(gaps), **self._counts,
            'thermal_scale': self._images[THERMAL].told if THERMAL in self._images else None,
            'gaps': [{'start_s': start, 'end_s': end, 'images': images}
                     for start, end, images in gaps],
            'lost': self._reader.loss or None}
        return Imported(figures, tuple(self._notes), self._reader.loss)


def gaps_of(source: PoseSource, stamps: NDArray[np.int64], gone: NDArray[np.int64],
            first_ns: int) -> list[tuple[float, float, int]]:
    """Runs of images without a pose: (start, end) in seconds of the bag, and how many."""
    both = sorted([(int(s), True) for s in stamps] + [(int(s), False) for s in gone])
    runs: list[tuple[float, float, int]] = []
    was_posed = True
    for stamp, is_posed in both:
        at_s = (stamp - first_ns) / 1e9
        if not is_posed:
            start, _, count = (at_s, at_s, 0) if was_posed else runs.pop()
            runs.append((start, at_s, count + 1))
        was_posed = is_posed
    return runs


def _nearest(stamps: NDArray[np.int64], stamp: int, within_s: float) -> int | None:
    """The stamp closest to a moment, where one is close enough."""
    after = int(np.searchsorted(stamps, stamp))
    near = [int(s) for s in stamps[max(0, after - 1):after + 1]
            if abs(int(s) - stamp) <= within_s * 1e9]
    return min(near, key=lambda s: abs(s - stamp)) if near else None

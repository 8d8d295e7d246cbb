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

from thermal_nerf_loc.common.config import check, setting
from thermal_nerf_loc.common.errors import InputError, RunError
from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.importers.bags.frames import FrameMaker, MovingRig
from thermal_nerf_loc.importers.bags.images import ImageReader
from thermal_nerf_loc.importers.bags.keyframe_selection import choose_windows, KeyframeRule
from thermal_nerf_loc.importers.bags.pose_choice import choose_source, PoseOptions
from thermal_nerf_loc.importers.bags.survey import Survey, survey_bag
from thermal_nerf_loc.io.atomic_files import check_vacant
from thermal_nerf_loc.io.bags.poses import PoseSource
from thermal_nerf_loc.io.bags.reader import BagReader
from thermal_nerf_loc.io.bags.topics import find_cameras, pose_topics
from thermal_nerf_loc.io.datasets.camera_file import read_rig, RigCamera
from thermal_nerf_loc.io.datasets.nerfstudio import HOLD_OUT_EVERY
from thermal_nerf_loc.io.datasets.scene_writer import SceneWriter, split_of
from thermal_nerf_loc.io.images import read_mask
from thermal_nerf_loc.sensing.frame import Frame, RGB, THERMAL
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
        return _BagImport(bag, out, config, rig, reader, survey).run(tracks, progress)


class _BagImport:
    """One import, after the first pass."""

    def __init__(self, bag: Path, out: Path, config: ImportConfig, rig: Mapping[str, RigCamera],
                 reader: BagReader, survey: Survey) -> None:
        self._bag, self._out, self._config, self._given = bag, out, config, rig
        self._reader, self._logs, self._survey = reader, survey.cameras, survey
        self._reference = RGB if RGB in self._logs else THERMAL
        self._notes: list[str] = []

    def run(self, tracks: Sequence[str], progress: Progress) -> Imported:
        """Plan, read again, write."""
        config, log = self._config, self._logs[self._reference]
        for name in self._logs:
            self._check(name)
        source = choose_source(self._bag, config.poses, self._survey, tracks, log.frame,
                               self._reader)
        mounting = self._given[THERMAL].T_rgb_sensor if THERMAL in self._given else None
        rig = MovingRig(source, {name: log.frame for name, log in self._logs.items()}, mounting)
        images = {name: ImageReader(name, self._lens(name), self._scale(name), config.rectify,
                                    config.radiometric, self._mask(name))
                  for name in self._logs}
        self._probe(images)
        stamps, poses, gone = self._posed(rig)
        windows = [stamps[list(window)] for window in choose_windows(poses, config.keyframes)]
        maker = FrameMaker(self._reader, self._logs, images, rig, self._reference,
                           config.max_skew_s)
        by_stamp = dict(zip(stamps.tolist(), poses))
        counts = self._write(maker.frames(windows, by_stamp, progress), images, rig, stamps)
        self._notes += maker.notes
        return self._report(source, images, stamps, gone, {**counts, **maker.counts})

    def _mask(self, name: str) -> NDArray[np.bool_] | None:
        path = self._given[name].mask_path if name in self._given else None
        return None if path is None else read_mask(path)

    def _check(self, name: str) -> None:
        log = self._logs[name]
        if not len(log.stamps):
            raise InputError(f'{name} camera sent no image with a stamp', where=self._bag,
                             got=f'{log.seen} images, {log.unstamped} without a stamp')
        if not log.frame:
            raise InputError('images have no frame_id', where=f'{self._bag} {log.topics.image}',
                             expected='the name of a tf frame in their headers')

    def _lens(self, name: str) -> Camera:
        camera = self._given[name].camera if name in self._given else None
        camera = camera or self._logs[name].camera
        if camera is None:
            raise InputError(f'{name} camera has no camera_info', where=self._bag,
                             hint='Give its lens by --cameras FILE.')
        return camera

    def _scale(self, name: str) -> Radiometry | None:
        if name == RGB or not self._config.radiometric:
            return None
        in_file = self._given[name].radiometry if name in self._given else None
        return self._config.radiometry or in_file

    def _probe(self, images: Mapping[str, ImageReader]) -> None:
        """Decode one image of each camera now: wrong sizes and scales show before any work."""
        topics = {log.topics.image: name for name, log in self._logs.items()}
        for topic, _, message in self._reader.messages(list(topics)):
            if topic in topics:
                note = images[topics.pop(topic)].probe(message)
                self._notes += [note] if note else []
            if not topics:
                return

    def _posed(self, rig: MovingRig) -> tuple[NDArray[np.int64], Array, NDArray[np.int64]]:
        """Stamps that have a pose, these poses, and the stamps that have none."""
        stamps = self._logs[self._reference].usable()
        found = [rig.T_world(self._reference, int(stamp)) for stamp in stamps]
        has = np.array([T is not None for T in found], dtype=np.bool_)
        if not has.any():
            raise RunError('no image has a pose', where=self._bag,
                           got=f'{rig.source.told}; {len(stamps)} images from '
                               f'{stamps[0]} to {stamps[-1]} ns',
                           hint='Do poses and images share one clock? Poses further apart than '
                                '--max-gap are not bridged.')
        return stamps[has], np.stack([T for T in found if T is not None]), stamps[~has]

    def _write(self, frames: Iterator[Frame], images: Mapping[str, ImageReader], rig: MovingRig,
               stamps: NDArray[np.int64]) -> dict[str, int]:
        cameras = {name: reader.camera for name, reader in images.items()}
        mounting = None
        if len(cameras) == 2:  # both at one moment: what the frames' own mountings vary about
            still = (rig.between(int(stamp), int(stamp)) for stamp in stamps)
            mounting = next((T for T in still if T is not None), None)
        scale = images[THERMAL].radiometry if THERMAL in images else None
        counts = {'train': 0, 'test': 0}
        with SceneWriter(self._out, cameras, mounting, scale, rig_per_frame=True) as writer:
            for frame in frames:
                split = split_of(sum(counts.values()), self._config.hold_out)
                writer.add(frame, split)
                counts[split] += 1
        return {f'{split}_frames': count for split, count in counts.items()}

    def _report(self, source: PoseSource, images: Mapping[str, ImageReader],
                stamps: NDArray[np.int64], gone: NDArray[np.int64],
                counts: Mapping[str, int]) -> Imported:
        logs, notes = self._logs, self._notes
        gaps = gaps_of(stamps, gone, self._reader.first_ns)
        if source.drifts:
            notes.append(f'poses come from {source.told}: odometry drifts, and the map will be '
                         'bent by as much')
        if self._config.modality == 'both' and len(logs) < 2:
            notes.append(f'no other camera than the {self._reference} one was found')
        for start, end, left_out in gaps[:_GAPS_TOLD]:
            notes.append(f'no pose from {start:.2f} s to {end:.2f} s: {left_out} '
                         f'{self._reference} images left out')
        figures = {
            'data': str(self._out), 'bag': str(self._bag),
            'bag_seconds': self._reader.duration_ns / 1e9, 'poses': source.told,
            **{f'{name}_topic': log.topics.image for name, log in logs.items()},
            **{f'{name}_images': log.seen for name, log in logs.items()},
            **{f'{name}_frozen': log.frozen for name, log in logs.items()},
            'images_without_stamp': sum(log.unstamped for log in logs.values()),
            'images_without_pose': len(gone), 'pose_gaps': len(gaps), **counts,
            'thermal_scale': images[THERMAL].told if THERMAL in images else None,
            'gaps': [{'start_s': start, 'end_s': end, 'images': left_out}
                     for start, end, left_out in gaps],
            'lost': self._reader.loss or None}
        return Imported(figures, tuple(notes), self._reader.loss)


def gaps_of(stamps: NDArray[np.int64], gone: NDArray[np.int64], first_ns: int,
            ) -> list[tuple[float, float, int]]:
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

# SPDX-License-Identifier: Apache-2.0
"""
Import a bag as a data set: keyframes of both cameras, each image at the pose of its own stamp.

The bag is read twice. The first pass collects stamps, poses and calibrations, by which keyframes
are selected. The second decodes the images around each keyframe, keeps the sharpest and writes it
at once. A frame is one RGB image and the thermal image nearest in time; where their stamps differ,
the frame's own `transform_rgb_thermal` includes the motion of the robot in between.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.config import setting
from thermal_nerf_loc.common.errors import InputError, RunError
from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.importers.bags.frames import FrameReader, MovingRig
from thermal_nerf_loc.importers.bags.image_poses import find_poses
from thermal_nerf_loc.importers.bags.images import ImageDecoder
from thermal_nerf_loc.importers.bags.keyframe_selection import choose_windows, KeyframeRule
from thermal_nerf_loc.importers.bags.pose_choice import choose_source, PoseOptions
from thermal_nerf_loc.importers.bags.survey import Survey, survey_bag
from thermal_nerf_loc.importers.options import ImportOptions, ImportResult
from thermal_nerf_loc.io.atomic_files import check_vacant
from thermal_nerf_loc.io.bags.poses import PoseSource
from thermal_nerf_loc.io.bags.reader import BagReader
from thermal_nerf_loc.io.bags.topics import find_cameras, pose_topics
from thermal_nerf_loc.io.datasets.camera_file import read_rig, RigCamera
from thermal_nerf_loc.io.datasets.scene_writer import SceneWriter
from thermal_nerf_loc.io.datasets.splits import split_of
from thermal_nerf_loc.io.images import read_mask
from thermal_nerf_loc.sensing.frame import Frame, RGB, THERMAL

Array = NDArray[np.float64]

_GAPS_IN_NOTES = 10  # more are in the figures only


@dataclass(frozen=True, slots=True)
class ImportConfig(ImportOptions):
    """What to import from a bag; topics and frames that are empty are found."""

    modality: str = setting('both', 'cameras to take', choices=('both', RGB, THERMAL))
    rgb_topic: str = ''
    thermal_topic: str = ''
    rgb_info_topic: str = ''
    thermal_info_topic: str = ''
    poses: PoseOptions = setting(PoseOptions(), 'where poses come from')
    keyframes: KeyframeRule = setting(KeyframeRule(), 'which images to keep')
    max_skew_s: float = setting(0.05, 'between an RGB image and its thermal one', 0.0, 10.0)
    rectify: bool = False  # write images without distortion


def import_bag(bag: Path, out: Path, config: ImportConfig = ImportConfig(),
               progress: Progress = silent) -> ImportResult:
    """Read a bag and write a data set; a bag that was cut short is imported as far as it goes."""
    check_vacant(out)
    rig = read_rig(config.cameras)
    lenses = [name for name, camera in rig.items() if camera.camera is not None]
    with BagReader(bag, salvage=True) as reader:
        topics = find_cameras(
            reader, bag, {RGB: config.rgb_topic, THERMAL: config.thermal_topic},
            {RGB: config.rgb_info_topic, THERMAL: config.thermal_info_topic},
            (RGB, THERMAL) if config.modality == 'both' else (config.modality,))
        pose_candidates = ([] if config.poses.file or config.poses.from_images else
                           pose_topics(reader, bag, config.poses.topic))
        survey = survey_bag(reader, topics, pose_candidates, lenses, bag, progress)
        return _BagImport(bag, out, config, rig, reader, survey).run(pose_candidates, progress)


class _BagImport:
    """An import after the first pass; `run` has its steps."""

    def __init__(self, bag: Path, out: Path, config: ImportConfig, rig: Mapping[str, RigCamera],
                 reader: BagReader, survey: Survey) -> None:
        self._bag, self._out, self._config, self._rig_file = bag, out, config, rig
        self._reader, self._logs, self._survey = reader, survey.cameras, survey
        self._reference = RGB if RGB in self._logs else THERMAL
        self._notes: list[str] = []
        self._placed: NDArray[np.int64] | None = None  # stamps that structure from motion placed

    def run(self, pose_candidates: Sequence[str], progress: Progress) -> ImportResult:
        """Choose poses and keyframes, read the images, write the data set."""
        config = self._config
        for name in self._logs:
            self._check_images(name)
        decoders = {name: self._decoder(name) for name in self._logs}
        self._prepare(decoders)
        source = self._source(pose_candidates, decoders, progress)
        rig = MovingRig(source, {name: log.frame for name, log in self._logs.items()},
                        self._rig_file[THERMAL].T_rgb_sensor,
                        {name: camera.time_offset_ns for name, camera in self._rig_file.items()})
        stamps, poses, unposed = self._posed(rig)
        windows = [stamps[list(window)] for window in choose_windows(poses, config.keyframes)]
        frames = FrameReader(self._reader, self._logs, decoders, rig, self._reference,
                             config.max_skew_s)
        by_stamp = dict(zip(stamps.tolist(), poses))
        counts = self._write(frames.frames(windows, by_stamp, progress), decoders, rig, stamps)
        self._notes += frames.notes
        return self._result(source, decoders, stamps, unposed, {**counts, **frames.counts})

    def _source(self, pose_candidates: Sequence[str], decoders: Mapping[str, ImageDecoder],
                progress: Progress) -> PoseSource:
        """The poses of the bag, or those that its images give."""
        log = self._logs[self._reference]
        if not self._config.poses.from_images:
            return choose_source(self._bag, self._config.poses, self._survey, pose_candidates,
                                 log.frame, self._reader)
        found = find_poses(self._reader, log, decoders[self._reference],
                           self._lens(self._reference), self._survey.tree, progress)
        self._notes += found.notes
        self._placed = found.stamps
        return found.source

    def _check_images(self, name: str) -> None:
        log = self._logs[name]
        if not len(log.stamps):
            raise InputError(f'{name} camera sent no image with a stamp', where=self._bag,
                             got=f'{log.received} images, {log.unstamped} without a stamp')
        if not log.frame:
            raise InputError('images have no frame_id', where=f'{self._bag} {log.topics.image}',
                             expected='the name of a tf frame in their headers')

    def _decoder(self, name: str) -> ImageDecoder:
        config, mask_path = self._config, self._rig_file[name].mask_path
        radiometry = None if name == RGB else config.thermal_scale(self._rig_file)
        return ImageDecoder(name, self._lens(name), radiometry, config.rectify,
                            config.radiometric, None if mask_path is None else
                            read_mask(mask_path))

    def _lens(self, name: str) -> Camera:
        camera = self._rig_file[name].camera or self._logs[name].camera
        if camera is None:
            raise InputError(f'{name} camera has no camera_info', where=self._bag,
                             hint='Give its lens by --cameras FILE.')
        return camera

    def _prepare(self, decoders: Mapping[str, ImageDecoder]) -> None:
        """Decode one image of each camera, to find wrong sizes and scales before the work."""
        topics = {log.topics.image: name for name, log in self._logs.items()}
        for topic, _, message in self._reader.messages(list(topics)):
            if topic in topics:
                note = decoders[topics.pop(topic)].prepare(message)
                self._notes += [note] if note else []
            if not topics:
                return

    def _posed(self, rig: MovingRig) -> tuple[NDArray[np.int64], Array, NDArray[np.int64]]:
        """Stamps that have a pose, these poses, and the stamps without a pose."""
        stamps = self._logs[self._reference].sorted_stamps()
        if self._placed is not None:
            stamps = self._placed
        found = [rig.T_world(self._reference, int(stamp)) for stamp in stamps]
        is_posed = np.array([T is not None for T in found], dtype=np.bool_)
        if not is_posed.any():
            raise RunError('no image has a pose', where=self._bag,
                           got=f'{rig.source.description}; {len(stamps)} images from '
                               f'{stamps[0]} to {stamps[-1]} ns',
                           hint='Do poses and images share one clock? Poses further apart than '
                                '--max-gap are not bridged.')
        return (stamps[is_posed], np.stack([T for T in found if T is not None]),
                stamps[~is_posed])

    def _write(self, frames: Iterator[Frame], decoders: Mapping[str, ImageDecoder], rig: MovingRig,
               stamps: NDArray[np.int64]) -> dict[str, int]:
        cameras = {name: decoder.camera for name, decoder in decoders.items()}
        T_rgb_thermal = None
        if len(cameras) == 2:  # at equal stamps: that of a frame includes the robot's motion
            mountings = (rig.between(int(stamp), int(stamp)) for stamp in stamps)
            T_rgb_thermal = next((T for T in mountings if T is not None), None)
        scale = decoders[THERMAL].radiometry if THERMAL in decoders else None
        remarks = ({'scale': {'metric': False, 'from': 'arbitrary'}}
                   if self._placed is not None else {})
        counts = {'train': 0, 'test': 0}
        with SceneWriter(self._out, cameras, T_rgb_thermal, scale, rig_per_frame=True,
                         remarks=remarks) as writer:
            for frame in frames:
                split = split_of(sum(counts.values()), self._config.hold_out)
                writer.add(frame, split)
                counts[split] += 1
        return {f'{split}_frames': count for split, count in counts.items()}

    def _result(self, source: PoseSource, decoders: Mapping[str, ImageDecoder],
                stamps: NDArray[np.int64], unposed: NDArray[np.int64],
                counts: Mapping[str, int]) -> ImportResult:
        logs, notes = self._logs, self._notes
        gaps = gaps_of(stamps, unposed, self._reader.first_ns)
        if source.drifts:
            notes.append(f'poses come from {source.description}: odometry drifts, and the map '
                         'will be bent by as much')
        if self._config.modality == 'both' and len(logs) < 2:
            notes.append(f'no other camera than the {self._reference} one was found')
        for start, end, left_out in gaps[:_GAPS_IN_NOTES]:
            notes.append(f'no pose from {start:.2f} s to {end:.2f} s: {left_out} '
                         f'{self._reference} images left out')
        figures = {
            'data': str(self._out), 'bag': str(self._bag),
            'bag_seconds': self._reader.duration_ns / 1e9, 'poses': source.description,
            **{f'{name}_topic': log.topics.image for name, log in logs.items()},
            **{f'{name}_images': log.received for name, log in logs.items()},
            **{f'{name}_frozen': log.frozen for name, log in logs.items()},
            'images_without_stamp': sum(log.unstamped for log in logs.values()),
            'images_without_pose': len(unposed), 'pose_gaps': len(gaps), **counts,
            'thermal_scale': (decoders[THERMAL].scale_description if THERMAL in decoders
                              else None),
            'gaps': [{'start_s': start, 'end_s': end, 'images': left_out}
                     for start, end, left_out in gaps],
            'lost': self._reader.loss or None}
        return ImportResult(figures, tuple(notes), self._reader.loss)


def gaps_of(stamps: NDArray[np.int64], unposed: NDArray[np.int64], first_ns: int,
            ) -> list[tuple[float, float, int]]:
    """Runs of images without a pose: (start, end) in seconds of the bag, and how many."""
    both = sorted([(int(s), True) for s in stamps] + [(int(s), False) for s in unposed])
    runs: list[tuple[float, float, int]] = []
    was_posed = True
    for stamp, is_posed in both:
        at_s = (stamp - first_ns) / 1e9
        if not is_posed:
            start, _, count = (at_s, at_s, 0) if was_posed else runs.pop()
            runs.append((start, at_s, count + 1))
        was_posed = is_posed
    return runs

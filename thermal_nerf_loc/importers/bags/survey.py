# SPDX-License-Identifier: Apache-2.0
"""First pass over a bag: the stamps of all images, transforms, poses and calibrations."""

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.common.progress import Progress
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.io.bags.messages import camera_from_info, stamp_ns
from thermal_nerf_loc.io.bags.poses import add_pose
from thermal_nerf_loc.io.bags.reader import BagReader
from thermal_nerf_loc.io.bags.topics import CameraTopics
from thermal_nerf_loc.io.bags.transform_tree import FrameTree, PoseLog, TF_TYPES
from thermal_nerf_loc.sensing.frozen_images import FreezeDetector


@dataclass(slots=True)
class CameraLog:
    """The messages of a camera, without their pixels."""

    topics: CameraTopics
    frame: str = ''
    camera: Camera | None = None
    stamps: 'array[int]' = field(default_factory=lambda: array('q'))  # ns, without frozen images
    received: int = 0  # images
    frozen: int = 0  # see `sensing/frozen_images.py`
    unstamped: int = 0
    _freeze: FreezeDetector = field(default_factory=FreezeDetector)

    def add_image(self, message: Any) -> None:
        """Add an image, which is frozen where it repeats the one before."""
        self.received += 1
        self.frame = self.frame or message.header.frame_id.lstrip('/')
        stamp, frozen = stamp_ns(message.header.stamp), self._freeze.is_frozen(message.data)
        if stamp == 0:
            self.unstamped += 1
        elif frozen:
            self.frozen += 1
        else:
            self.stamps.append(stamp)

    def add_info(self, message: Any) -> None:
        """Add a calibration, which must not change during the bag."""
        where = self.topics.info
        camera = camera_from_info(message, where, self.topics.is_rectified)
        if self.camera is not None and camera != self.camera:
            raise InputError('camera_info changes during the bag', where=where,
                             expected=self.camera, got=camera,
                             hint='A data set has one lens a camera: give it by --cameras FILE, '
                                  'or cut the bag.')
        self.camera = camera
        self.frame = self.frame or message.header.frame_id.lstrip('/')

    def sorted_stamps(self) -> NDArray[np.int64]:
        """Stamps in rising order, each once."""
        return np.unique(np.array(self.stamps, dtype=np.int64))


@dataclass(slots=True)
class Survey:
    """What the first pass found."""

    cameras: dict[str, CameraLog]
    tree: FrameTree
    poses: dict[str, PoseLog]


def survey_bag(reader: BagReader, cameras: Mapping[str, CameraTopics],
               pose_topics: Iterable[str], fixed_lenses: Iterable[str], path: Path,
               progress: Progress) -> Survey:
    """Read the bag once; the cameras in `fixed_lenses` need no calibration from it."""
    logs = {name: CameraLog(topics) for name, topics in cameras.items()}
    poses = {topic: PoseLog() for topic in pose_topics}
    survey = Survey(logs, FrameTree(), poses)
    images = {log.topics.image: log for log in logs.values()}
    infos: dict[str, list[CameraLog]] = {}
    for name, log in logs.items():
        if name not in fixed_lenses:
            if not log.topics.info:
                raise _without_info(reader, path, name, log)
            infos.setdefault(log.topics.info, []).append(log)
    tf = {topic for topic, kind in reader.topics.items() if kind in TF_TYPES}
    total_s = reader.duration_ns / 1e9
    for topic, recorded_ns, message in reader.messages({*images, *infos, *poses, *tf}):
        if topic in images:
            images[topic].add_image(message)
        elif topic in poses:
            add_pose(poses[topic], message, topic)
        elif topic in tf:
            survey.tree.add(message, topic.endswith('static'))
        for log in infos.get(topic, ()):
            log.add_info(message)
        progress((recorded_ns - reader.first_ns) / 1e9, 2.0 * total_s, 'reading stamps and poses')
    return survey


def _without_info(reader: BagReader, path: Path, name: str, log: CameraLog) -> InputError:
    return InputError(f'{log.topics.image} has no camera_info beside it', where=path,
                      got=reader.listing(),
                      hint=f'Pass --{name}-info-topic, or its lens by --cameras FILE.')

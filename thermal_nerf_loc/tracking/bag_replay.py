# SPDX-License-Identifier: Apache-2.0
"""
Replay a bag without ROS: the same synchronizer, the same odometry and the same `step` as live.

Without a `pace` every frame is tracked, however long that takes. With one, the bag's time passes
at a rate on the wall clock: messages come no sooner, and those that come while a frame is being
tracked wait. The newest frame is next, the others are dropped and counted, as in the live node.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError, UserError
from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.io.bags.messages import matrix_from_pose, stamp_ns
from thermal_nerf_loc.io.bags.poses import ODOMETRY
from thermal_nerf_loc.io.bags.reader import BagReader
from thermal_nerf_loc.io.bags.topics import (CAMERA_INFO, CameraTopics, COMPRESSED, find_cameras,
                                             IMAGE)
from thermal_nerf_loc.io.trajectory import Trajectory
from thermal_nerf_loc.tracking.frame_synchronizer import FrameSynchronizer
from thermal_nerf_loc.tracking.motion.inertial_motion import (
    IMU, IMU_TOPIC, ImuInput, InertialMotion)
from thermal_nerf_loc.tracking.motion.odometry import ODOMETRY_TOPIC, TransformInput
from thermal_nerf_loc.tracking.robot_tracker import RobotTracker, RobotUpdate

Array = NDArray[np.float64]

TRUTH_TOPIC = '/ground_truth/pose'
_TF_TOPICS = ('/tf', '/tf_static')


@dataclass(slots=True)
class Pace:
    """`rate` seconds of the bag pass in each second of `clock`, from the first call on."""

    rate: float
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    latencies_s: list[float] = field(default_factory=list)  # from an image's stamp to its pose
    _start: tuple[float, int] | None = None

    def now_ns(self, first_ns: int) -> int:
        """The bag's time; the first call starts it at `first_ns`."""
        if self._start is None:
            self._start = self.clock(), first_ns
        start_s, start_ns = self._start
        return start_ns + round((self.clock() - start_s) * self.rate * 1e9)

    def wait_until(self, due_ns: int) -> None:
        """Sleep until the bag's time has come that far."""
        while (missing_ns := due_ns - self.now_ns(due_ns)) > 0:
            self.sleep(missing_ns / 1e9 / self.rate)

    def add_latency(self, stamp_ns: int) -> None:
        """The pose of an image with this stamp is known now."""
        self.latencies_s.append((self.now_ns(stamp_ns) - stamp_ns) / 1e9 / self.rate)


@dataclass(slots=True)
class Replay:
    """A bag on its way through a tracker; `problems` fills while it runs."""

    reader: BagReader
    cameras: Mapping[str, CameraTopics]
    synchronizer: FrameSynchronizer
    robot: RobotTracker
    problems: list[str]
    pace: Pace | None = None
    odometry: str = 'tf'  # parameter `odometry`: tf, topic, imu or none
    odometry_topic: str = f'/{ODOMETRY_TOPIC}'  # for 'topic', and for 'imu' that of the IMU
    inertial: InertialMotion | None = None  # for 'imu'

    def updates(self, map_frame: str = 'map', progress: Progress = silent,
                ) -> Iterator[RobotUpdate]:
        """Track frames in the order of the bag."""
        inputs = self._inputs(map_frame)
        total_s, first_ns, now_ns = self.reader.duration_ns / 1e9, None, 0
        for topic, now_ns, message in self.reader.messages(inputs):
            first_ns = now_ns if first_ns is None else first_ns
            if self.pace is not None:
                yield from self._step_until(now_ns, self.pace)
            inputs[topic](message, now_ns)
            if self.pace is None:
                yield from self._step(now_ns)
            progress((now_ns - first_ns) / 1e9, total_s)
        yield from self._step(now_ns + 10**10)  # the bag has ended: no frame waits any longer

    def _inputs(self, map_frame: str) -> dict[str, Callable[[Any, int], None]]:
        """What each topic's messages go to, with their time of recording."""
        inputs: dict[str, Callable[[Any, int], None]] = {}
        for modality, topics in self.cameras.items():
            inputs[topics.image] = self._image_input(modality)
            inputs[topics.info] = self._info_input(modality, topics.is_rectified)
        transforms = TransformInput(self.odometry, map_frame, self.synchronizer)
        for topic in _TF_TOPICS:
            if topic in self.reader.topics:
                inputs[topic] = _tf_input(transforms, topic == '/tf_static')
        if self.odometry == 'topic':
            inputs[self.odometry_topic] = lambda message, now_ns: transforms.add_odometry(message)
        if self.inertial is not None:
            inputs[self.odometry_topic] = self._imu_input(self.inertial)
        return inputs

    def _imu_input(self, inertial: InertialMotion) -> Callable[[Any, int], None]:
        imu, refused = ImuInput(inertial, self.synchronizer), set[str]()

        def add(message: Any, now_ns: int) -> None:
            try:
                imu.add(message)
            except UserError as error:  # each cause once: an IMU sends hundreds a second
                if error.what not in refused:
                    refused.add(error.what)
                    self.problems.append(str(error))

        return add

    def _image_input(self, modality: str) -> Callable[[Any, int], None]:
        def add(message: Any, now_ns: int) -> None:
            try:
                self.synchronizer.add_image(modality, message, now_ns)
            except UserError as error:
                self.problems.append(str(error))

        return add

    def _info_input(self, modality: str, rectified: bool) -> Callable[[Any, int], None]:
        return lambda message, now_ns: self.synchronizer.add_camera_info(modality, message,
                                                                         rectified)

    def _step(self, now_ns: int) -> Iterator[RobotUpdate]:
        while (update := self._track(now_ns, newest=self.pace is not None)) is not None:
            yield update

    def _step_until(self, due_ns: int, pace: Pace) -> Iterator[RobotUpdate]:
        """Track the frames that are there until the next message is due."""
        while (now_ns := pace.now_ns(due_ns)) < due_ns:
            update = self._track(now_ns, newest=True)
            if update is None:
                pace.wait_until(due_ns)
                return
            yield update

    def _track(self, now_ns: int, newest: bool) -> RobotUpdate | None:
        """Track the next frame that is complete; None where there is none yet."""
        while True:
            try:
                robot_frame = self.synchronizer.next_frame(now_ns, newest)
            except UserError as error:
                self.problems.append(str(error))
                continue
            if robot_frame is None:
                return None
            self.problems.extend(robot_frame.problems)
            update = self.robot.step(robot_frame)
            if self.pace is not None:
                self.pace.add_latency(update.stamp_ns)
            return update


def _tf_input(transforms: TransformInput, static: bool) -> Callable[[Any, int], None]:
    def add(message: Any, now_ns: int) -> None:
        for transform in message.transforms:
            transforms.add_transform(transform, static)

    return add


def find_replay_cameras(reader: BagReader, bag: Path, modalities: Sequence[str],
                        given: Mapping[str, str | None]) -> dict[str, CameraTopics]:
    """
    Topics of the cameras, by modality.

    Those given by the user, else `/<modality>/image_raw[/compressed]`, the node's names; a bag
    that has none of these is searched as for an import (`find_cameras`).
    """
    topics, counts, named = reader.topics, reader.counts, {}
    for modality in modalities:
        name = given.get(modality) or f'/{modality}/image_raw'
        found = [topic for topic in (name, f'{name}/compressed')
                 if topics.get(topic) in (IMAGE, COMPRESSED) and counts[topic]]
        if found:
            named[modality] = found[0]
        elif given.get(modality):
            reader.require(name, IMAGE, f'--{modality}-topic')
    cameras = find_cameras(reader, bag, named, {}, tuple(named) or modalities)
    for camera in cameras.values():
        reader.require(camera.info_beside, CAMERA_INFO)
    return {modality: camera._replace(info=camera.info_beside)
            for modality, camera in cameras.items()}


def find_odometry(reader: BagReader, source: str, given: str | None) -> str:
    """The bag's topic of odometry, or of the IMU, where parameter `odometry` wants it."""
    if source == 'imu':
        topic = given or f'/{IMU_TOPIC}'
        reader.require(topic, IMU, '--imu-topic')
        return topic
    topic = given or f'/{ODOMETRY_TOPIC}'
    if source == 'topic':
        reader.require(topic, ODOMETRY, '--odometry-topic')
    elif given:
        raise InputError('odometry is not taken from a topic', where=f'--odometry-topic {given}',
                         expected='parameter odometry: topic', got=f'odometry: {source}',
                         hint='Set it by --params-file.')
    return topic


def read_truth(reader: BagReader, topic: str = TRUTH_TOPIC) -> Trajectory | None:
    """The base's true poses in the map, where a simulated bag has them."""
    if topic not in reader.topics:
        return None
    return rising_trajectory(
        (stamp_ns(message.header.stamp), matrix_from_pose(message.pose))
        for _, _, message in reader.messages([topic]))


def rising_trajectory(poses: Iterable[tuple[int, Array]]) -> Trajectory:
    """A trajectory of what may repeat itself or step back: what is not later is left out."""
    stamps: list[int] = []
    kept: list[Array] = []
    for stamp, T in poses:
        if not stamps or stamp > stamps[-1]:
            stamps.append(stamp)
            kept.append(T)
    return Trajectory(np.array(stamps, np.int64),
                      np.stack(kept) if kept else np.zeros((0, 4, 4)))

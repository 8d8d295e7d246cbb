# SPDX-License-Identifier: Apache-2.0
"""
Replay a bag without ROS: the same synchronizer and the same `step` as the live node.

Without a `pace` every frame is tracked, however long that takes. With one, messages come no faster
than it says, and those that come while a frame is being tracked wait: the newest frame is next,
the others are dropped and counted, as in the live node.

The time of a bag on the wall clock, for a replay at a rate.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError, UserError
from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.io.bags.messages import matrix_from_pose, matrix_from_transform, stamp_ns
from thermal_nerf_loc.io.bags.reader import BagReader
from thermal_nerf_loc.io.trajectory import Trajectory
from thermal_nerf_loc.tracking.frame_synchronizer import FrameSynchronizer
from thermal_nerf_loc.tracking.robot_tracker import RobotTracker, RobotUpdate


@dataclass(slots=True)
class Pace:
    """`rate` seconds of the bag pass in each second of `clock`, from the first question on."""

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

    def note(self, stamp_ns: int) -> None:
        """A pose of this stamp is there now."""
        self.latencies_s.append((self.now_ns(stamp_ns) - stamp_ns) / 1e9 / self.rate)


Array = NDArray[np.float64]

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED = 'sensor_msgs/msg/CompressedImage'
TRUTH_TOPIC = '/ground_truth/pose'
_TF_TOPICS = ('/tf', '/tf_static')


@dataclass(frozen=True, slots=True)
class CameraTopics:
    """Where a camera speaks in a bag."""

    image: str
    camera_info: str
    compressed: bool


@dataclass(slots=True)
class Replay:
    """A bag on its way through a tracker; `problems` fills while it runs."""

    reader: BagReader
    cameras: Mapping[str, CameraTopics]
    synchronizer: FrameSynchronizer
    robot: RobotTracker
    problems: list[str]
    pace: Pace | None = None

    def updates(self, map_frame: str = 'map', progress: Progress = silent,
                ) -> Iterator[RobotUpdate]:
        """Track frames in the order of the bag."""
        roles = {topics.image: (self._add_image, m) for m, topics in self.cameras.items()}
        roles |= {topics.camera_info: (self._add_info, m) for m, topics in self.cameras.items()}
        tf_topics = [t for t in _TF_TOPICS if t in self.reader.topics]
        total_s, first_ns, now_ns = self.reader.duration_ns / 1e9, None, 0
        for topic, now_ns, message in self.reader.messages([*roles, *tf_topics]):
            first_ns = now_ns if first_ns is None else first_ns
            if self.pace is not None:
                yield from self._step_until(now_ns, self.pace)
            if topic in roles:
                add, modality = roles[topic]
                add(modality, message, now_ns)
            else:
                self._add_tf(message, topic == '/tf_static', map_frame)
            if self.pace is None:
                yield from self._step(now_ns)
            progress((now_ns - first_ns) / 1e9, total_s)
        yield from self._step(now_ns + 10**10)  # nothing more will come: no frame waits

    def _step(self, now_ns: int) -> Iterator[RobotUpdate]:
        while (update := self._take(now_ns, newest=self.pace is not None)) is not None:
            yield update

    def _step_until(self, due_ns: int, pace: Pace) -> Iterator[RobotUpdate]:
        """Work on what is here until the next message is due; one that is overdue comes first."""
        while (now_ns := pace.now_ns(due_ns)) < due_ns:
            update = self._take(now_ns, newest=True)
            if update is None:
                pace.wait_until(due_ns)
                return
            yield update

    def _take(self, now_ns: int, newest: bool) -> RobotUpdate | None:
        """Track the next frame that is complete; None where there is none yet."""
        while True:
            try:
                observation = self.synchronizer.take(now_ns, newest)
            except UserError as error:
                self.problems.append(str(error))
                continue
            if observation is None:
                return None
            self.problems.extend(observation.problems)
            update = self.robot.step(observation)
            if self.pace is not None:
                self.pace.note(update.stamp_ns)
            return update

    def _add_image(self, modality: str, message: Any, now_ns: int) -> None:
        self.synchronizer.add_image(modality, message, now_ns)

    def _add_info(self, modality: str, message: Any, now_ns: int) -> None:
        self.synchronizer.add_camera_info(modality, message)

    def _add_tf(self, message: Any, static: bool, map_frame: str) -> None:
        for transform in message.transforms:
            if transform.header.frame_id != map_frame:
                self.synchronizer.tf.set_transform(
                    transform.header.frame_id, transform.child_frame_id,
                    matrix_from_transform(transform.transform),
                    stamp_ns(transform.header.stamp), static)


def find_cameras(reader: BagReader, modalities: Iterable[str],
                 given: Mapping[str, str | None]) -> dict[str, CameraTopics]:
    """Take the image topics given by the user, else `/<modality>/image_raw[/compressed]`."""
    found, topics = {}, reader.topics
    for modality in modalities:
        names = [given.get(modality) or f'/{modality}/image_raw']
        names += [f'{names[0]}/compressed']
        image = next((n for n in names if topics.get(n) in (IMAGE, COMPRESSED)), None)
        if image is None:
            if given.get(modality):
                reader.require(names[0], IMAGE, f'--{modality}-topic')
            continue
        base = image.removesuffix('/compressed').rsplit('/', 1)[0]
        reader.require(f'{base}/camera_info', 'sensor_msgs/msg/CameraInfo')
        found[modality] = CameraTopics(image, f'{base}/camera_info', topics[image] == COMPRESSED)
    if not found:
        images = [name for name, kind in topics.items() if kind in (IMAGE, COMPRESSED)]
        raise InputError('bag has no image topic of the expected name',
                         expected=' or '.join(f'/{m}/image_raw' for m in modalities),
                         got=f'image topics {", ".join(images) or "none"}',
                         hint='Pass --rgb-topic or --thermal-topic.')
    return found


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

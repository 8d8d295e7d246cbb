# SPDX-License-Identifier: Apache-2.0
"""Topics of a bag: those of the RGB and the thermal camera, and those that hold poses."""

from collections.abc import Mapping, Sequence
from pathlib import Path
import re
from typing import NamedTuple

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.io.bags.poses import ODOMETRY, POSE_TYPES
from thermal_nerf_loc.io.bags.reader import BagReader
from thermal_nerf_loc.sensing.frame import RGB, THERMAL

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'

_THERMAL_NAMES = re.compile(r'therm|lwir|flir|boson|lepton|optris|seek|(^|[/_])ir([/_]|$)')
_NO_CAMERA_NAMES = re.compile(r'depth|disparity|infra\d|mask|segment|debug|overlay|label|'
                              r'confidence|theora|palette|preview|match|detect')
_COLOUR_ENCODINGS = re.compile(r'^(rgb|bgr|bayer|yuv|uyvy|yuyv)')
_DEEP_ENCODINGS = ('mono16', '16UC1', '32FC1', '64FC1', '16SC1')
_PREFERRED_NAMES = ('image_raw', 'image', 'image_color', 'image_rect_color', 'image_rect')
_MAX_MESSAGES = 5000  # that are read to see what kind of pixels each topic has
_RARE_HZ = 1.0  # poses that come less often are goals, not a track


class CameraTopics(NamedTuple):
    """Topics of one camera; `info` is empty where its calibration is not published."""

    image: str
    info: str
    compressed: bool = False

    @property
    def is_rectified(self) -> bool:
        """True for image_rect and the like, by image_proc's naming."""
        return '_rect' in _plain(self.image).rsplit('/', 1)[-1]

    @property
    def info_beside(self) -> str:
        """Topic that camera_info has by convention: in the image's namespace."""
        return f'{_plain(self.image).rsplit("/", 1)[0]}/camera_info'


def find_cameras(reader: BagReader, path: Path, given: Mapping[str, str],
                 infos: Mapping[str, str], modalities: Sequence[str],
                 ) -> dict[str, CameraTopics]:
    """Topics by modality: those given, else the only ones of their kind."""
    images = {topic for topic, kind in reader.topics.items()
              if kind in (IMAGE, COMPRESSED) and reader.counts[topic]}
    found = {}
    guesses = None
    for name in modalities:
        topic = given.get(name, '')
        if topic and topic not in images:
            raise missing_topic(reader, path, topic, 'images', f'--{name}-topic')
        if not topic:
            guesses = _guess_cameras(reader, images) if guesses is None else guesses
            topic = _only(reader, path, name, guesses[name])
        if topic:
            info = _info(reader, path, topic, infos.get(name, ''), name)
            found[name] = CameraTopics(topic, info, reader.topics[topic] == COMPRESSED)
    if len({topics.image for topics in found.values()}) < len(found):
        raise InputError('one topic cannot be both cameras', where=path,
                         got=found[RGB].image)
    if not found:
        raise InputError(f'bag has no {" or ".join(modalities)} images that are known as such',
                         where=path, got=reader.listing(),
                         hint='Name them by --rgb-topic and --thermal-topic.')
    return found


def pose_topics(reader: BagReader, path: Path, given: str) -> list[str]:
    """Topics that may hold the poses: the one given, else stamped poses, else odometry."""
    if given:
        kind = reader.topics.get(given, '')
        if kind not in POSE_TYPES or not reader.counts[given]:
            raise missing_topic(reader, path, given, 'poses', '--pose-topic')
        return [given]
    seconds = max(reader.duration_ns / 1e9, 1e-9)
    stamped: list[str] = []
    odometry: list[str] = []
    for topic, kind in sorted(reader.topics.items()):
        often = reader.counts[topic] >= 2 and reader.counts[topic] / seconds >= _RARE_HZ
        if kind in POSE_TYPES and often:
            (odometry if kind == ODOMETRY else stamped).append(topic)
    return stamped or odometry


def missing_topic(reader: BagReader, path: Path, topic: str, what: str,
                  option: str) -> InputError:
    """The error for a topic that was named and is not there, with all that is."""
    return InputError(f'bag has no {what} on {topic}', where=path, got=reader.listing(),
                      hint=f'Pass another {option}.')


def _guess_cameras(reader: BagReader, images: set[str]) -> dict[str, list[str]]:
    """Candidates by modality, one a camera; uncertain ones only where there is no certain one."""
    certain: dict[str, list[str]] = {RGB: [], THERMAL: []}
    possible: dict[str, list[str]] = {RGB: [], THERMAL: []}
    for topic, pixels in _pixels(reader, images).items():
        name = topic.lower()
        if _NO_CAMERA_NAMES.search(name):
            continue
        if _THERMAL_NAMES.search(name):
            (possible if _COLOUR_ENCODINGS.match(pixels) else certain)[THERMAL].append(topic)
        elif _COLOUR_ENCODINGS.match(pixels) or pixels in ('jpeg', 'jpg'):
            certain[RGB].append(topic)
        else:
            possible[THERMAL if pixels in _DEEP_ENCODINGS else RGB].append(topic)
    return {name: _one_topic_per_camera(reader, certain[name] or possible[name])
            for name in certain}


def _pixels(reader: BagReader, images: set[str]) -> dict[str, str]:
    """Encoding (or compressed format) of the first image of each topic."""
    found: dict[str, str] = {}
    for count, (topic, _, message) in enumerate(reader.messages(images)):
        if topic not in found:
            found[topic] = (message.encoding if hasattr(message, 'encoding')
                            else message.format.split(';')[0].strip())
        if len(found) == len(images) or count > _MAX_MESSAGES:
            break
    return found


def _one_topic_per_camera(reader: BagReader, topics: list[str]) -> list[str]:
    """Of raw, rectified and compressed images of one camera the first in that order."""
    def rank(topic: str) -> tuple[int, bool]:
        name = _plain(topic).rsplit('/', 1)[-1]
        order = _PREFERRED_NAMES.index(name) if name in _PREFERRED_NAMES else len(_PREFERRED_NAMES)
        return order, reader.topics[topic] == COMPRESSED

    best: dict[str, str] = {}
    for topic in sorted(topics, key=rank):
        best.setdefault(_plain(topic).rsplit('/', 1)[0], topic)
    return sorted(best.values())


def _only(reader: BagReader, path: Path, name: str, candidates: list[str]) -> str:
    if len(candidates) > 1:
        raise InputError(f'bag has several topics that may be the {name} camera', where=path,
                         expected=f'one of {", ".join(candidates)}', got=reader.listing(),
                         hint=f'Pass --{name}-topic.')
    return candidates[0] if candidates else ''


def _info(reader: BagReader, path: Path, image: str, given: str, name: str) -> str:
    if given:
        if reader.topics.get(given) != CAMERA_INFO or not reader.counts[given]:
            raise missing_topic(reader, path, given, 'camera_info', f'--{name}-info-topic')
        return given
    beside = CameraTopics(image, '').info_beside
    return beside if reader.counts.get(beside) else ''


def _plain(topic: str) -> str:
    """The image topic without its transport."""
    return topic.removesuffix('/compressed').removesuffix('/compressedDepth')

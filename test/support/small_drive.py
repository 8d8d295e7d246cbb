# SPDX-License-Identifier: Apache-2.0
"""A short drive in bags of every kind; images show their own number, poses are known."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer as Writer2
from rosbags.typesys import get_types_from_msg, get_typestore, Stores
import yaml

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera, CameraModel
from thermal_nerf_loc.io.bags.reader import BagReader, BagWriter

START_NS = 1_732_180_000_000_000_000
SECONDS = 3.0
RGB_HZ, THERMAL_HZ, THERMAL_LATE_NS = 10.0, 9.0, 17_000_000
RGB = Camera(64, 48, 60.0, 61.0, 32.4, 23.8, CameraModel.OPENCV,
             (-0.1, 0.02, 0.001, -0.001, 0.003))
THERMAL = Camera(16, 12, 14.0, 14.0, 8.0, 6.0)
T_BASE_RGB = se3.from_parts([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], (0.1, 0.0, 0.3))
T_RGB_THERMAL = se3.from_parts(se3.so3_exp((0.01, -0.02, 0.005)), (0.05, 0.01, 0.0))
T_MAP_ODOM = se3.from_parts(se3.so3_exp((0.0, 0.0, 0.4)), (2.0, 1.0, 0.0))
STEP = 4  # grey levels from one RGB image to the next
KELVIN_100 = 29000  # counts of the first thermal image: its mean rises by one an image


def T_odom_base(elapsed_ns: int) -> np.ndarray:
    """A curve: constant speed and turn rate, which is a geodesic of SE(3)."""
    return se3.exp(np.array([0.5, 0.0, 0.0, 0.0, 0.0, 0.4]) * elapsed_ns * 1e-9)


def T_map_camera(stamp_ns: int, modality: str) -> np.ndarray:
    """True pose of a camera."""
    T = T_MAP_ODOM @ T_odom_base(stamp_ns - START_NS) @ T_BASE_RGB
    return T if modality == 'rgb' else T @ T_RGB_THERMAL


def stamps(modality: str) -> list[int]:
    """Stamps (ns) of the images of a camera."""
    hz, late = (RGB_HZ, 0) if modality == 'rgb' else (THERMAL_HZ, THERMAL_LATE_NS)
    return [START_NS + late + round(i * 1e9 / hz) for i in range(int(SECONDS * hz))]


def rgb_pixels(i: int) -> np.ndarray:
    """Noise, with the number of the image in one corner; every third image is blurred."""
    pixels = np.random.default_rng(i).integers(60, 196, (48, 64, 3), np.uint8)
    if i % 3:
        pixels = cv2.blur(pixels, (2, 2))
    pixels[:4, :4] = i * STEP
    return pixels


def thermal_counts(i: int) -> np.ndarray:
    """Noise, with the number of the image in one corner."""
    counts = np.random.default_rng(1000 + i).integers(28900, 29100, (12, 16)).astype(np.uint16)
    counts[:2, :2] = KELVIN_100 + i
    return counts


def rgb_number(image: np.ndarray) -> int:
    """The number in the corner of an image read back, values in [0, 1]."""
    return round(float(image[1, 1, 0]) * 255.0 / STEP)


def thermal_number(celsius: np.ndarray) -> int:
    """The number in the corner of a thermal image in deg C."""
    return round((float(celsius[0, 0, 0]) + 273.15) * 100.0) - KELVIN_100


def write_drive(path: Path, storage: str = 'mcap', *, poses: str = 'tf', gap: bool = False,
                thermal_encoding: str = '16UC1', topics: tuple[str, str] = ('rgb', 'thermal'),
                change: Callable[[BagWriter], None] | None = None) -> Path:
    """Write a bag; `poses` is tf, odometry, pose or none; with a gap of 1.5 s where asked."""
    with BagWriter(path, storage) as bag:
        bag.transforms(START_NS, [
            ('base_link', 'rgb_optical', T_BASE_RGB),
            ('rgb_optical', 'thermal_optical', T_RGB_THERMAL)], static=True)
        if change is not None:
            change(bag)
        events: list[tuple[int, int, int]] = [
            (START_NS + i * 20_000_000, 0, i) for i in range(int(SECONDS * 50) + 1)]
        events += [(s, 1, i) for i, s in enumerate(stamps('rgb'))]
        events += [(s, 2, i) for i, s in enumerate(stamps('thermal'))]
        for stamp, kind, i in sorted(events):
            if kind == 0:
                if not (gap and 1.5 < (stamp - START_NS) / 1e9 < 3.0):
                    _write_pose(bag, stamp, poses)
            elif kind == 1:
                bag.image(f'/{topics[0]}/image_raw', stamp, 'rgb_optical', rgb_pixels(i), 'rgb8')
                bag.camera_info(f'/{topics[0]}/camera_info', stamp, 'rgb_optical', RGB)
            else:
                counts = thermal_counts(i)
                if thermal_encoding == 'mono8':
                    counts = (counts - 28850).astype(np.uint8)
                bag.image(f'/{topics[1]}/image_raw', stamp, 'thermal_optical', counts,
                          thermal_encoding)
                bag.camera_info(f'/{topics[1]}/camera_info', stamp, 'thermal_optical', THERMAL)
    return path


def _write_pose(bag: BagWriter, stamp: int, poses: str) -> None:
    T = T_odom_base(stamp - START_NS)
    if poses == 'tf':
        bag.transforms(stamp, [('map', 'odom', T_MAP_ODOM), ('odom', 'base_link', T)])
    elif poses == 'odometry':
        bag.odometry('/odom', stamp, 'map', 'base_link', T_MAP_ODOM @ T, np.zeros(6))
    elif poses == 'pose':
        bag.pose('/pose', stamp, 'map', T_MAP_ODOM @ T)


def repacked(bag: Path, out: Path, compression: CompressionMode, storage: str = 'mcap') -> Path:
    """The same messages, compressed by file, message or storage."""
    plugin = StoragePlugin.MCAP if storage == 'mcap' else StoragePlugin.SQLITE3
    writer = Writer2(out, version=9, storage_plugin=plugin)
    writer.set_compression(compression, CompressionFormat.ZSTD)
    with BagReader(bag) as reader, writer:
        _copy(reader, writer, get_typestore(Stores.ROS2_JAZZY))
    return out


def renamed(bag: Path, out: Path, **namespaces: str) -> Path:
    """The same messages, the topics of some namespaces in others: `rgb='front'`."""
    def name(topic: str) -> str:
        _, first, *rest = topic.split('/')
        return '/'.join(['', namespaces.get(first, first), *rest])

    with BagReader(bag) as reader, Writer2(out, version=9,
                                           storage_plugin=StoragePlugin.MCAP) as writer:
        _copy(reader, writer, get_typestore(Stores.ROS2_JAZZY), name=name)
    return out


def _copy(reader: BagReader, writer: Any, store: Any,
          during: Callable[[int], bool] = lambda stamp: True,
          name: Callable[[str], str] = lambda topic: topic) -> None:
    connections = {topic: writer.add_connection(name(topic), kind, typestore=store)
                   for topic, kind in reader.topics.items()}
    for topic, _, stamp, data in reader.raw_messages():
        if during(stamp):
            writer.write(connections[topic], stamp, data)


def split(bag: Path, out: Path, at_ns: int, storage: str = 'mcap') -> Path:
    """The same bag in two files under one metadata.yaml."""
    plugin = StoragePlugin.MCAP if storage == 'mcap' else StoragePlugin.SQLITE3
    suffix = 'mcap' if storage == 'mcap' else 'db3'
    out.mkdir()
    metadata = None
    for number, during in enumerate((lambda s: s < at_ns, lambda s: s >= at_ns)):
        part = out / f'part{number}'
        with BagReader(bag) as reader, Writer2(part, version=9, storage_plugin=plugin) as writer:
            _copy(reader, writer, get_typestore(Stores.ROS2_JAZZY), during)
        (part / f'part{number}.{suffix}').rename(out / f'drive_{number}.{suffix}')
        new = yaml.safe_load((part / 'metadata.yaml').read_text())
        (part / 'metadata.yaml').unlink()
        part.rmdir()
        if metadata is None:
            metadata = new
            continue
        info, more = (m['rosbag2_bagfile_information'] for m in (metadata, new))
        info['message_count'] += more['message_count']
        counts = {t['topic_metadata']['name']: t['message_count']
                  for t in more['topics_with_message_count']}
        for topic in info['topics_with_message_count']:
            topic['message_count'] += counts[topic['topic_metadata']['name']]
        info['duration']['nanoseconds'] = (
            more['starting_time']['nanoseconds_since_epoch'] + more['duration']['nanoseconds']
            - info['starting_time']['nanoseconds_since_epoch'])
    info['relative_file_paths'] = [f'drive_{n}.{suffix}' for n in range(2)]
    (out / 'metadata.yaml').write_text(yaml.safe_dump(metadata))
    return out


def as_ros1(bag: Path, out: Path, compression: Any = None) -> Path:
    """The same messages as a .bag of ROS 1."""
    store = get_typestore(Stores.ROS1_NOETIC)
    store.register(get_types_from_msg('geometry_msgs/TransformStamped[] transforms',
                                      'tf2_msgs/msg/TFMessage'))
    writer = Writer1(out)
    if compression is not None:
        writer.set_compression(compression)
    with BagReader(bag) as reader, writer:
        connections = {topic: writer.add_connection(topic, kind, typestore=store)
                       for topic, kind in reader.topics.items()}
        for topic, stamp, message in reader.messages():
            old = _ros1(message, store)
            writer.write(connections[topic], stamp,
                         store.serialize_ros1(old, reader.topics[topic]))
    return out


def _ros1(value: Any, store: Any) -> Any:
    """A message of ROS 2 as ROS 1 spells it."""
    if isinstance(value, list):
        return [_ros1(item, store) for item in value]
    if not hasattr(value, '__msgtype__'):
        return value
    fields = {name: _ros1(getattr(value, name), store) for name in value.__dataclass_fields__
              if name != '__msgtype__'}
    if value.__msgtype__ == 'std_msgs/msg/Header':
        fields['seq'] = 7
    if value.__msgtype__ == 'sensor_msgs/msg/CameraInfo':
        fields = {name.upper() if len(name) == 1 else name: v for name, v in fields.items()}
    return store.types[value.__msgtype__](**fields)


def cut(file: Path, share: float) -> None:
    """Keep the first part of a file."""
    data = file.read_bytes()
    file.write_bytes(data[:int(len(data) * share)])

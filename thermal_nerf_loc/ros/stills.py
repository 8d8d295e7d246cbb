# SPDX-License-Identifier: Apache-2.0
"""Single images out of a bag, with where their cameras sit on the robot."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.io.bags.messages import (camera_from_info, matrix_from_transform, stamp_ns,
                                               values_from_message)
from thermal_nerf_loc.io.bags.reader import BagReader
from thermal_nerf_loc.sensing.frame import SensorImage
from thermal_nerf_loc.sensing.thermal import Radiometry
from thermal_nerf_loc.tracking.bag_replay import CameraTopics
from thermal_nerf_loc.tracking.tf_buffer import TransformBuffer

Array = NDArray[np.float64]

_NEAR_NS = 60_000_000  # images farther from the wanted moment show another one

Stills = dict[int, dict[str, tuple[SensorImage, Array]]]  # stamp: modality: image, T_base_sensor


def find_stills(reader: BagReader, cameras: Mapping[str, CameraTopics], stamps: Sequence[int],
                base_frame: str, radiometry: Radiometry | None) -> Stills:
    """The images nearest to some moments; one that is too far off, or lost its mount, is none."""
    nearest: dict[tuple[int, str], Any] = {}
    lenses: dict[str, Camera] = {}
    tf = TransformBuffer()
    images = {topics.image: m for m, topics in cameras.items()}
    infos = {topics.camera_info: m for m, topics in cameras.items()}
    transforms = [name for name in ('/tf', '/tf_static') if name in reader.topics]
    for topic, _, message in reader.messages([*images, *infos, *transforms]):
        if topic in images:
            _keep_nearest(nearest, images[topic], message, stamps)
        elif topic in infos:
            if infos[topic] not in lenses:
                lenses[infos[topic]] = camera_from_info(message, f'{infos[topic]} camera_info')
        else:
            for transform in message.transforms:
                tf.set_transform(
                    transform.header.frame_id, transform.child_frame_id,
                    matrix_from_transform(transform.transform),
                    stamp_ns(transform.header.stamp), topic == '/tf_static')
    found: Stills = {stamp: {} for stamp in stamps}
    for stamp in stamps:
        for modality in cameras:
            message = nearest.get((stamp, modality))
            if message is not None and modality in lenses:
                T = tf.lookup_transform(base_frame, message.header.frame_id)
                found[stamp][modality] = _decode(message, modality, lenses[modality],
                                                 radiometry), T
    return found


def _keep_nearest(nearest: dict[tuple[int, str], Any], modality: str, message: Any,
                  stamps: Sequence[int]) -> None:
    taken = stamp_ns(message.header.stamp)
    for stamp in stamps:
        old = nearest.get((stamp, modality))
        off = abs(taken - stamp)
        if off <= _NEAR_NS and (old is None or off < abs(stamp_ns(old.header.stamp) - stamp)):
            nearest[stamp, modality] = message


def _decode(message: Any, modality: str, camera: Camera,
            radiometry: Radiometry | None) -> SensorImage:
    values, radiometric = values_from_message(message, modality, radiometry)
    return SensorImage(camera, np.nan_to_num(values), stamp_ns(message.header.stamp),
                       radiometric=radiometric)

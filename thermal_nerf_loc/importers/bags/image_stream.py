# SPDX-License-Identifier: Apache-2.0
"""The images of one topic of a bag, as they are, without poses."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.io.bags.messages import camera_from_info, image_from_message, stamp_ns
from thermal_nerf_loc.io.bags.reader import BagReader
from thermal_nerf_loc.io.bags.topics import CameraTopics, find_cameras
from thermal_nerf_loc.io.images import rgb_values, single_channel
from thermal_nerf_loc.sensing.contrast import stretched
from thermal_nerf_loc.sensing.frame import RGB, THERMAL


def camera_topics(reader: BagReader, path: Path, given: Mapping[str, str],
                  ) -> dict[str, CameraTopics]:
    """Topics of the cameras that the bag has, by modality."""
    return find_cameras(reader, path, given, {}, (RGB, THERMAL))


def grey_images(reader: BagReader, topics: CameraTopics, modality: str, every_s: float = 0.0,
                ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield stamp (ns) and 8 bits of even contrast (h, w), one image each `every_s` seconds."""
    last: int | None = None
    for _, _, message in reader.messages([topics.image]):
        stamp = stamp_ns(message.header.stamp)
        if last is not None and 0 <= stamp - last < 1e9 * every_s:
            continue
        try:
            yield stamp, grey(image_from_message(message), modality, topics.image)
        except InputError:
            continue  # damaged; import-bag counts such
        last = stamp


def grey(pixels: NDArray[Any], modality: str, where: object) -> NDArray[np.uint8]:
    """Pixels as 8 bits: stretched for heat, brightness of colours."""
    if modality == THERMAL:
        return stretched(single_channel(pixels, where, 'Use the raw topic.'))
    return np.asarray(np.rint(255.0 * rgb_values(pixels).mean(axis=2)), np.uint8)


def lens_of(reader: BagReader, topics: CameraTopics) -> Camera | None:
    """The lens by the first camera_info; None where there is none."""
    if not topics.info:
        return None
    for _, _, message in reader.messages([topics.info]):
        return camera_from_info(message, topics.info, topics.is_rectified)
    return None

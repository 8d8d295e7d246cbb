# SPDX-License-Identifier: Apache-2.0
"""
Example frames of a drive (best, median and worst pose): camera images beside the map's renders.

The images are read from the bag, together with the poses of their cameras on the robot (from tf).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.evaluation.metrics import SUCCESS_DEG, SUCCESS_M
from thermal_nerf_loc.evaluation.study.comparison import Run, UpdateRecord
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.io.bags.messages import (camera_from_info, matrix_from_transform, stamp_ns,
                                               values_from_message)
from thermal_nerf_loc.io.bags.reader import BagReader
from thermal_nerf_loc.io.bags.topics import CameraTopics
from thermal_nerf_loc.io.bags.transform_tree import TransformBuffer
from thermal_nerf_loc.mapping.map.localization_map import LocalizationMap
from thermal_nerf_loc.sensing.frame import RGB, SensorImage
from thermal_nerf_loc.sensing.rendering import render_image
from thermal_nerf_loc.sensing.thermal import Radiometry
from thermal_nerf_loc.visualization.colour_map import (CELSIUS, ColourScale, fitted_scale, GRAY,
                                                       HEAT)

Array = NDArray[np.float64]

_WIDEST_PX = 320
_NEAR_NS = 60_000_000  # images farther in time than this are not shown

# Image and T_base_sensor by modality, for each stamp.
StampedImages = dict[int, dict[str, tuple[SensorImage, Array]]]


@dataclass(frozen=True, slots=True)
class ExampleFrame:
    """One pose of a run, to be shown."""

    title: str  # 'best', 'median' or 'worst'
    stamp_ns: int
    seconds: float  # since the run began
    error_m: float | None
    error_deg: float | None
    record: UpdateRecord | None  # state and confidence, where known


@dataclass(frozen=True, slots=True, eq=False)
class ImagePair:
    """Camera image and render as RGB bytes (h, w, 3)."""

    modality: str
    seen: NDArray[np.uint8]
    rendered: NDArray[np.uint8]
    scale: ColourScale | None = None  # of both; None: RGB


def choose_examples(run: Run) -> list[ExampleFrame]:
    """
    Best, median and worst pose of a run.

    Ranked by the larger of error / 5 cm and error / 5 deg; without a truth by the confidence.
    """
    record_at = {record.stamp_ns: record for record in run.records}
    begin = min(int(run.trajectory.stamps_ns[0]), run.states[0][0] if run.states else 2**62)
    errors: dict[int, tuple[float, float]] = {}
    if run.evaluation is not None:
        errors = {int(stamp): (float(m), float(deg)) for stamp, m, deg in zip(
            run.evaluation.matched.stamps_ns, run.evaluation.absolute.metres,
            run.evaluation.absolute.degrees)}
        score = {stamp: max(m / SUCCESS_M, deg / SUCCESS_DEG)
                 for stamp, (m, deg) in errors.items()}
    else:
        posed = set(run.trajectory.stamps_ns.tolist())
        score = {record.stamp_ns: -record.confidence for record in run.records
                 if record.confidence is not None and record.stamp_ns in posed}
    ranked = sorted(score, key=lambda stamp: (score[stamp], stamp))
    ranks = {'best': 0, 'median': len(ranked) // 2, 'worst': len(ranked) - 1} if ranked else {}
    out = []
    for title, k in ranks.items():
        stamp = ranked[k]
        metres, degrees = errors.get(stamp, (None, None))
        out.append(ExampleFrame(title, stamp, (stamp - begin) * 1e-9, metres, degrees,
                                record_at.get(stamp)))
    return out


def render_pairs(renderer: LocalizationMap, images: Mapping[str, tuple[SensorImage, Array]],
                 widest_px: int = _WIDEST_PX) -> list[ImagePair]:
    """Render the map from the estimated pose of each image: `(image, T_map_sensor)`."""
    return [_pair(renderer, modality, image, T, widest_px)
            for modality, (image, T) in images.items() if modality in renderer.modalities]


def encode_pairs(pairs: Sequence[ImagePair]) -> list[tuple[str, bytes]]:
    """Captions and PNGs, one for each pair: seen, rendered, and the colour bar."""
    return [(_caption(pair), _png(pair)) for pair in pairs]


def _pair(renderer: LocalizationMap, modality: str, image: SensorImage, T_map_sensor: Array,
          widest_px: int) -> ImagePair:
    camera, values = image.camera, image.values
    if camera.width > widest_px:
        camera = camera.resized(widest_px, round(widest_px * camera.height / camera.width))
        small = cv2.resize(values, (camera.width, camera.height), interpolation=cv2.INTER_AREA)
        values = np.asarray(small, np.float32).reshape(camera.height, camera.width, -1)
    rendered = render_image(renderer, modality, camera, T_map_sensor,
                            offset=renderer.flat_field_offset(modality, camera.size)).values
    if modality == RGB:
        return ImagePair(modality, _bytes(values), _bytes(rendered))
    scale = fitted_scale(HEAT, CELSIUS if image.radiometric else GRAY, [values, rendered])
    return ImagePair(modality, scale.paint(values[..., 0]), scale.paint(rendered[..., 0]), scale)


def _caption(pair: ImagePair) -> str:
    name = 'RGB' if pair.modality == RGB else pair.modality.capitalize()
    if pair.scale is None:
        return f'{name}: seen, rendered'
    return (f'{name}: seen, rendered; dark to bright {pair.scale.low:.1f} to '
            f'{pair.scale.high:.1f} {pair.scale.unit}')


def _png(pair: ImagePair) -> bytes:
    height = pair.seen.shape[0]
    gap = np.full((height, 6, 3), 255, np.uint8)
    strip = [pair.seen, gap, pair.rendered]
    if pair.scale is not None:
        ramp = np.linspace(pair.scale.high, pair.scale.low, height)
        strip += [gap, pair.scale.paint(np.repeat(ramp[:, None], 8, axis=1))]
    _, data = cv2.imencode('.png', np.hstack(strip)[..., ::-1])
    return bytes(data)


def _bytes(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.asarray(np.rint(np.clip(values, 0.0, 1.0) * 255.0), dtype=np.uint8)


def read_images_at(reader: BagReader, cameras: Mapping[str, CameraTopics], stamps: Sequence[int],
                   base_frame: str, radiometry: Radiometry | None) -> StampedImages:
    """The images nearest in time to some stamps; images too far off or without tf are left out."""
    nearest: dict[tuple[int, str], Any] = {}
    lenses: dict[str, Camera] = {}
    tf = TransformBuffer()
    images = {topics.image: m for m, topics in cameras.items()}
    infos = {topics.info: m for m, topics in cameras.items()}
    transforms = [name for name in ('/tf', '/tf_static') if name in reader.topics]
    for topic, _, message in reader.messages([*images, *infos, *transforms]):
        if topic in images:
            _keep_nearest(nearest, images[topic], message, stamps)
        elif topic in infos:
            if infos[topic] not in lenses:
                lenses[infos[topic]] = camera_from_info(
                    message, f'{infos[topic]} camera_info',
                    cameras[infos[topic]].is_rectified)
        else:
            for transform in message.transforms:
                tf.set_transform(
                    transform.header.frame_id, transform.child_frame_id,
                    matrix_from_transform(transform.transform),
                    stamp_ns(transform.header.stamp), topic == '/tf_static')
    found: StampedImages = {stamp: {} for stamp in stamps}
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

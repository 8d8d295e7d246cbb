# SPDX-License-Identifier: Apache-2.0
"""Features: SIFT keypoints of colour images, and of thermal ones without their fixed pattern."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.config import setting
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.sensing.frame import RGB, SensorImage

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]

_SMALLEST_PX = 320  # images narrower than this are doubled: SIFT needs some pixels
_LARGEST_PX = 960
_HIGH_PASS_SHARE = 0.06  # of the width: what is smoother in a thermal image is vignetting or drift


@dataclass(frozen=True, slots=True)
class FeatureConfig:
    """How points that images share are found."""

    per_image: int = setting(600, 'SIFT keypoints an image', 50, 100_000)
    ratio: float = setting(0.85, 'most of the distances to the best and the second-best match '
                           '(Lowe)', 0.1, 1.0)
    neighbours: int = setting(16, 'images that each one is matched with', 1, 1000)
    epipolar_px: float = setting(1.0, 'most distance of a match from its epipolar line, in images '
                                 '160 pixels wide', 0.01, 100.0)


@dataclass(frozen=True, slots=True, eq=False)
class ImageFeatures:
    """Keypoints of one image."""

    uv: Array  # (n, 2) pixels
    descriptors: Array32  # (n, 128) of length 1
    camera: Camera


def detect_features(modality: str, count: int, load: Callable[[int], SensorImage],
                    config: FeatureConfig = FeatureConfig()) -> list[ImageFeatures]:
    """Keypoints of images 0 to `count`."""
    pattern = None if modality == RGB else _fixed_pattern(count, load)
    return [_features(load(i), modality, pattern, config.per_image) for i in range(count)]


def _features(image: SensorImage, modality: str, pattern: Array32 | None, count: int,
              ) -> ImageFeatures:
    grey = image.values.mean(axis=-1)
    if modality != RGB:
        grey = _detail(grey)
        grey = grey if pattern is None or pattern.shape != grey.shape else grey - pattern
        grey = cv2.GaussianBlur(grey, (0, 0), 0.8)
    low, high = np.quantile(grey, (0.005, 0.995))
    pixels = np.clip((grey - low) / max(high - low, 1e-9) * 255.0, 0, 255).astype(np.uint8)
    scale = 1.0
    if pixels.shape[1] < _SMALLEST_PX:
        scale = 2.0
    elif pixels.shape[1] > _LARGEST_PX:
        scale = _LARGEST_PX / pixels.shape[1]
    if scale != 1.0:
        pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    mask = None
    if image.valid is not None:
        mask = cv2.resize(image.valid.astype(np.uint8), pixels.shape[::-1],
                          interpolation=cv2.INTER_NEAREST)
    sift = cv2.SIFT.create(nfeatures=count, contrastThreshold=0.01)
    keypoints, descriptors = sift.detectAndCompute(pixels, mask)
    if not keypoints:
        return ImageFeatures(np.empty((0, 2)), np.empty((0, 128), np.float32), image.camera)
    root = np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-9))
    uv = (np.array([k.pt for k in keypoints]) + 0.5) / scale
    return ImageFeatures(uv, root.astype(np.float32), image.camera)


def _detail(values: Array32) -> Array32:
    """A thermal image without vignetting and drift (high pass)."""
    sigma = _HIGH_PASS_SHARE * values.shape[1]
    return np.asarray(values - cv2.GaussianBlur(values, (0, 0), sigma), np.float32)


def _fixed_pattern(count: int, load: Callable[[int], SensorImage]) -> Array32 | None:
    """Median detail of all images: columns and pixels of the detector; None: not known."""
    details = [_detail(load(i).values[..., 0]) for i in range(0, count, max(1, count // 24))]
    if len({d.shape for d in details}) > 1 or len(details) < 5:
        return None
    return np.asarray(np.median(details, axis=0), np.float32)

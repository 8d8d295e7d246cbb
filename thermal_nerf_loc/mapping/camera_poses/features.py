# SPDX-License-Identifier: Apache-2.0
"""Features: SIFT keypoints of colour images, and of thermal ones without their fixed pattern."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

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
_LEAST_BLUR_PX = 0.8  # of thermal images, which are noisy; more of larger ones
_CONTRAST_SHARE = 0.03  # of the width: contrast counts relative to its surroundings of this size
_NOISE_SIGMAS = 8.0  # contrast below this many standard deviations of the noise fades
_SHOWN = -3.0, 3.0  # normalized values, as black and white
_IMMERKAER = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6.0
_MEDIAN_OF_NORMAL = 0.6745  # of absolute values, in standard deviations
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
    detector = None if modality == RGB else _detector_of(count, load)
    return [_features(load(i), detector, config.per_image) for i in range(count)]


class _ThermalDetector(NamedTuple):
    """What the detector of a thermal camera adds to the scene."""

    pattern: Array32 | None  # of columns and pixels, the same in all images; None: not known
    noise: float  # standard deviation of a pixel, another in each image


def normalized_heat(values: Array32, detector: _ThermalDetector) -> Array32:
    """
    A thermal image as detail over local contrast: about -1 to 1, noise far below.

    Weak edges of cool walls count like strong ones of hot pipes, down to the noise: the contrast
    is sqrt(local variance + (8 noise)^2), so that a flat wall stays flat.
    """
    width = values.shape[1]
    detail = _detail(values)
    if detector.pattern is not None and detector.pattern.shape == detail.shape:
        detail = detail - detector.pattern
    smooth = cv2.GaussianBlur(detail, (0, 0), _LEAST_BLUR_PX * max(1.0, width / _SMALLEST_PX))
    around = _CONTRAST_SHARE * width
    smooth = smooth - cv2.GaussianBlur(smooth, (0, 0), around)
    variance = cv2.GaussianBlur(smooth**2, (0, 0), around)
    floor = max(_NOISE_SIGMAS * detector.noise, 1e-9)
    return np.asarray(smooth / np.sqrt(variance + floor**2), np.float32)


def _features(image: SensorImage, detector: _ThermalDetector | None, count: int) -> ImageFeatures:
    if detector is None:
        grey = image.values.mean(axis=-1)
        low, high = np.quantile(grey, (0.005, 0.995))
    else:
        grey, low, high = normalized_heat(image.values[..., 0], detector), *_SHOWN
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
    sift = cv2.SIFT.create(nfeatures=count, contrastThreshold=0.01, enable_precise_upscale=True)
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


def pixel_noise(image: Array32) -> float:
    """
    Standard deviation of the noise of single pixels.

    By a kernel that is blind to planes and edges (Immerkaer, "Fast noise variance estimation",
    1996), and by the median, which corners do not move.
    """
    return float(np.median(np.abs(cv2.filter2D(image, -1, _IMMERKAER))) / _MEDIAN_OF_NORMAL)


def _detector_of(count: int, load: Callable[[int], SensorImage]) -> _ThermalDetector:
    """Median detail of all images, and the noise that is left at single pixels without it."""
    details = [_detail(load(i).values[..., 0]) for i in range(0, count, max(1, count // 24))]
    pattern = None
    if len({d.shape for d in details}) == 1 and len(details) >= 5:
        pattern = np.asarray(np.median(details, axis=0), np.float32)
        details = [detail - pattern for detail in details]
    sigmas = [pixel_noise(detail) for detail in details]
    return _ThermalDetector(pattern, float(np.median(sigmas)) if sigmas else 0.0)

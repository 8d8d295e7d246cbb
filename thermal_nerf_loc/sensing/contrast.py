# SPDX-License-Identifier: Apache-2.0
"""
Thermal images as 8 bits of even contrast, for feature detectors.

SIFT finds too little in raw counts, whose range a few hot things stretch: counts are cut at two
percentiles, then the histogram is equalised in tiles, with a limit (CLAHE; Zuiderveld 1994). What
is the same in all images (`FixedPattern`) is taken off first: it would match at equal pixels, as
if the camera stood still.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Array32 = NDArray[np.float32]

_PERCENTILES = 0.5, 99.5
_CLIP, _TILES = 4.0, 8
_SIGMA_PX = 3.0  # structures finer than this may be fixed noise
_MIN_IMAGES = 8  # fewer say nothing about what is common


class FixedPattern(NamedTuple):
    """Columns, rows, pixels and vignetting (h, w) in counts; and their rms."""

    image: Array32 | None
    rms: float


def learn_pattern(images: Sequence[NDArray[Any]]) -> FixedPattern:
    """
    The pattern that all images share, learned from images of a moving camera.

    Fine parts: the median over the images of what a Gaussian filter removes; coarse: a radial
    polynomial a r^2 + b r^4 fitted to the median image. Each half of the images gives a pattern of
    its own; the mean counts only as far as the two agree, so that a scene is not taken for one.
    """
    if len(images) < _MIN_IMAGES:
        return FixedPattern(None, 0.0)
    middle = len(images) // 2
    halves = [_parts(images[:middle]), _parts(images[middle:])]
    image = np.zeros_like(halves[0][0])
    for first, second in zip(*halves):
        image = image + _agreed(first, second)
    rms = float(np.sqrt(np.mean(image**2)))
    return FixedPattern(image if rms > 0.0 else None, rms)


def stretched(values: NDArray[Any], pattern: Array32 | None = None) -> NDArray[np.uint8]:
    """Values (h, w) as 8 bits of even contrast."""
    clean = np.asarray(values, np.float32) if pattern is None else values - pattern
    low, high = np.nanpercentile(clean, _PERCENTILES)
    share = np.clip((clean - low) / max(high - low, 1e-6), 0.0, 1.0)
    grey = np.rint(255.0 * np.nan_to_num(share)).astype(np.uint8)
    return np.asarray(cv2.createCLAHE(_CLIP, (_TILES, _TILES)).apply(grey), np.uint8)


def _parts(images: Sequence[NDArray[Any]]) -> tuple[Array32, Array32, Array32, Array32]:
    """Columns, rows, single pixels and vignetting, each as an image."""
    values = np.stack([np.nan_to_num(np.asarray(image, np.float32)) for image in images])
    values -= np.median(values, axis=(1, 2), keepdims=True)
    fine = np.median(np.stack([v - cv2.GaussianBlur(v, (0, 0), _SIGMA_PX) for v in values]),
                     axis=0)
    columns = np.broadcast_to(np.median(fine, axis=0), fine.shape)
    rows = np.broadcast_to(np.median(fine - columns, axis=1)[:, None], fine.shape)
    return (np.asarray(columns, np.float32), np.asarray(rows, np.float32),
            np.asarray(fine - columns - rows, np.float32), _radial(np.median(values, axis=0)))


def _radial(image: Array32) -> Array32:
    """Fit c + a r^2 + b r^4, r in half diagonals; without the constant."""
    height, width = image.shape
    y, x = np.indices(image.shape) + 0.5
    r2 = ((x - 0.5 * width)**2 + (y - 0.5 * height)**2) / (0.25 * (width**2 + height**2))
    basis = np.stack([np.ones_like(r2), r2, r2**2], axis=-1).reshape(-1, 3)
    weights = np.linalg.lstsq(basis, image.reshape(-1).astype(np.float64), rcond=None)[0]
    weights[0] = 0.0
    return np.asarray((basis @ weights).reshape(image.shape), np.float32)


def _agreed(first: Array32, second: Array32) -> Array32:
    """The mean of two estimates, weighed by the share of their power that they have in common."""
    power = float(np.mean(first**2) + np.mean(second**2)) / 2.0
    common = float(np.mean(first * second))
    return np.asarray(np.clip(common / max(power, 1e-12), 0.0, 1.0) * (first + second) / 2.0,
                      np.float32)

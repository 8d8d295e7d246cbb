# SPDX-License-Identifier: Apache-2.0
"""
Flat field of a thermal camera: the error that is the same in all of its images.

Lens and housing make the rim of an image too warm or too cold (vignetting), and columns, rows and
pixels of the detector differ. The flat field is one image (height, width) of all this, in the unit
of the camera's values: `image = scene + flat field`.
"""

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Array32 = NDArray[np.float32]

_RADIAL_SIZE = 64, 48


def across(pixels: ArrayLike, size: ArrayLike) -> Array32:
    """Pixels (n, 2) in [-1, 1] of images of `size` (width, height); one for all, or (n, 2)."""
    share = 2.0 * np.asarray(pixels, dtype=np.float64) / np.asarray(size, dtype=np.float64)
    return np.asarray(share - 1.0, dtype=np.float32)


def resized(field: Array32, size: tuple[int, int]) -> Array32:
    """The flat field for images of another size (width, height)."""
    if field.shape == size[::-1]:
        return field
    return np.asarray(cv2.resize(field, size, interpolation=cv2.INTER_LINEAR), np.float32)


def radial(k2: float, k4: float) -> Array32:
    """The flat field k2 r^2 + k4 r^4 of older map files, r in half diagonals."""
    width, height = _RADIAL_SIZE
    y, x = (np.indices((height, width)) + 0.5).astype(np.float64)
    off = (x - 0.5 * width)**2 + (y - 0.5 * height)**2
    r2 = off / (0.25 * (width**2 + height**2))
    return np.asarray(k2 * r2 + k4 * r2**2, np.float32)

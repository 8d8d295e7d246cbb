# SPDX-License-Identifier: Apache-2.0
"""
How much colder (or warmer) a thermal camera shows the rim of its images.

A lens and its housing add `k2 r^2 + k4 r^4` to what the scene says, in the unit of the image; r is
the distance from the centre of the image in half diagonals: 0 in the centre, 1 in the corners.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array32 = NDArray[np.float32]


def radius_squared(pixels: ArrayLike, size: ArrayLike) -> Array32:
    """r^2 of pixels (n, 2) in images of `size` (width, height), one for all or (n, 2)."""
    half = 0.5 * np.asarray(size, dtype=np.float64)
    off = np.asarray(pixels, dtype=np.float64) - half
    return np.asarray((off**2).sum(axis=-1) / (half**2).sum(axis=-1), dtype=np.float32)


def falloff(coefficients: tuple[float, float], r_squared: Array32) -> Array32:
    """What is added at these r^2 (n,)."""
    k2, k4 = coefficients
    return np.asarray(k2 * r_squared + k4 * r_squared**2, dtype=np.float32)

# SPDX-License-Identifier: Apache-2.0
"""
False colours: a palette over a thermal image, which cannot be turned back into temperatures.

In such a picture the colour depends on one number, in a photograph on three: brightness tells most
of the colour of iron, lava or jet, and the colours are more vivid than a photograph's.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

CHROMA = 12.0 / 255.0  # of the range: compressed grey is not quite grey
COLOURED_SHARE = 1e-2  # of the pixels: a logo or cross-hairs may be coloured, more is a palette
_BINS, _PIXELS = 64, 40_000
# Standard deviation of the colour differences R - Y and B - Y, and the share of it that brightness
# explains. Measured: photographs and simulated rooms 0.02 to 0.16 and 0.01 to 0.25; FLIR's and
# DJI's previews and OpenCV's palettes on thermal images 0.11 to 0.57 and 0.52 to 0.98.
_PALETTES = (0.22, 0.5), (0.1, 0.9)


def is_coloured(pixels: NDArray[Any]) -> bool:
    """Whether the channels (h, w, 3) differ by more than compression and overlays explain."""
    # raw counts fill a small part of 16 bits
    top = 255.0 if pixels.dtype == np.uint8 else float(np.ptp(pixels))
    spread = pixels.max(axis=2).astype(np.float32) - pixels.min(axis=2)
    return bool((spread > CHROMA * top).mean() > COLOURED_SHARE)


def is_false_colour(rgb: NDArray[Any]) -> bool:
    """Whether sRGB in [0, 1] (h, w, 3) looks like a palette's colours rather than a photograph."""
    pixels = np.asarray(rgb, np.float32).reshape(-1, 3)
    pixels = pixels[::max(1, len(pixels) // _PIXELS)]
    brightness = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    chroma = pixels[:, [0, 2]] - brightness[:, None]
    total = float(chroma.var(axis=0).sum())
    explained = 1.0 - _within_bins(brightness, chroma) / max(total, 1e-9)
    return any(total > least**2 and explained > share for least, share in _PALETTES)


def _within_bins(brightness: NDArray[np.float32], chroma: NDArray[np.float32]) -> float:
    """Variance of the colour among pixels of one brightness."""
    index = np.minimum((brightness * _BINS).astype(np.int64), _BINS - 1)
    count = np.maximum(np.bincount(index, minlength=_BINS), 1)
    left = 0.0
    for channel in chroma.T:
        mean = np.bincount(index, channel, _BINS) / count
        left += float(np.mean((channel - mean[index])**2))
    return left

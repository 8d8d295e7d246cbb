# SPDX-License-Identifier: Apache-2.0
"""
Frozen images: a camera sends its last image again, bit for bit.

A thermal camera does so while its shutter is closed (flat-field correction), any camera when its
driver hangs. With the pose of the later stamp such an image would be used at a wrong pose, in
training and in localization. Noise makes two new images differ within their first bytes, so that
the comparison is cheap; only a frozen image is read to its end.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_HEAD_BYTES = 4096
Pixels = Any  # an array, or bytes as messages and files have them


def identical(a: Pixels, b: Pixels) -> bool:
    """Whether two images hold the same bytes."""
    first, second = _bytes_of(a), _bytes_of(b)
    return bool(len(first) == len(second)
                and np.array_equal(first[:_HEAD_BYTES], second[:_HEAD_BYTES])
                and np.array_equal(first, second))


@dataclass(slots=True)
class FreezeDetector:
    """Compares each image of one camera with the one before; keeps a reference, no copy."""

    _last: Pixels | None = None

    def is_frozen(self, image: Pixels) -> bool:
        """Whether an image repeats the one before; the image is kept for the next comparison."""
        last, self._last = self._last, image
        return last is not None and identical(last, image)

    def reset(self) -> None:
        """Forget the last image: after a pause, or when time jumps back."""
        self._last = None


def _bytes_of(image: Pixels) -> NDArray[np.uint8]:
    values = image if isinstance(image, np.ndarray) else np.frombuffer(image, np.uint8)
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)

# SPDX-License-Identifier: Apache-2.0
"""An image that repeats the one before is told from one that only looks like it."""

from array import array

import numpy as np
import pytest

from thermal_nerf_loc.sensing.frozen_images import FreezeDetector, identical

IMAGE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)


@pytest.mark.parametrize('kind', [bytes, bytearray, lambda data: array('B', data),
                                  lambda data: np.frombuffer(data, np.uint8)])
def test_messages_and_files_are_compared_by_their_bytes(kind):
    """As rosbags, rclpy and files give them; the last byte alone may differ."""
    data = IMAGE.tobytes()
    assert identical(kind(data), kind(data))
    assert not identical(kind(data), kind(data[:-1] + bytes([data[-1] ^ 1])))
    assert not identical(kind(data), kind(data[:-1]))
    assert identical(kind(b''), kind(b''))


def test_arrays_are_compared_where_unknown_pixels_are_nan():
    values = IMAGE.astype(np.float32)
    values[3, 4] = np.nan
    assert identical(values, values.copy())
    assert identical(values[:, ::-1], values[:, ::-1].copy())
    assert not identical(values, values[:, ::-1])


def test_a_detector_compares_with_the_image_before():
    """Not with any earlier one; and with none after a reset."""
    detector, other = FreezeDetector(), IMAGE[::-1].copy()
    seen = [detector.is_frozen(image.tobytes()) for image in (IMAGE, IMAGE, other, IMAGE, IMAGE)]
    assert seen == [False, True, False, False, True]
    detector.reset()
    assert not detector.is_frozen(IMAGE.tobytes())

# SPDX-License-Identifier: Apache-2.0
"""Decoded images: the same bit by bit, decoded once, never more than allowed."""

import cv2
import numpy as np
import pytest

from thermal_nerf_loc.io.datasets import image_cache
from thermal_nerf_loc.io.datasets.image_cache import ImageCache
from thermal_nerf_loc.io.images import read_counts, read_rgb


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(6):
        cv2.imwrite(str(tmp_path / f'{k}.png'), rng.integers(0, 256, (30, 40, 3), np.uint8))
    cv2.imwrite(str(tmp_path / 't.png'), rng.integers(0, 65536, (30, 40)).astype(np.uint16))
    cv2.imwrite(str(tmp_path / 'alpha.png'), rng.integers(0, 256, (30, 40, 4), np.uint8))
    return tmp_path


def test_images_come_back_bit_by_bit_and_are_decoded_once(images, monkeypatch):
    cache = ImageCache(images / 'cache', 2**20)
    expected = read_rgb(images / '0.png'), read_counts(images / 't.png')
    for round_ in range(2):
        if round_:
            monkeypatch.setattr(image_cache, 'read_rgb', None)
            monkeypatch.setattr(image_cache, 'read_counts', None)
        np.testing.assert_array_equal(cache.rgb(images / '0.png').values, expected[0].values)
        np.testing.assert_array_equal(cache.counts(images / 't.png').counts, expected[1].counts)


def test_the_folder_stays_within_its_size_and_drops_the_oldest(images):
    cache = ImageCache(images / 'cache', 4 * 3800)
    for k in range(6):
        cache.rgb(images / f'{k}.png')
        assert cache.bytes <= cache.limit_bytes
    assert cache._kept(images / '0.png') is None and cache._kept(images / '5.png') is not None
    cache.clear()
    assert cache.bytes == 0


def test_a_changed_or_masked_image_is_read_anew(images):
    cache = ImageCache(images / 'cache', 2**20)
    cache.rgb(images / '0.png')
    cv2.imwrite(str(images / '0.png'), np.zeros((20, 20, 3), np.uint8))
    assert cache.rgb(images / '0.png').values.shape == (20, 20, 3)
    assert cache.rgb(images / 'alpha.png').valid is not None
    assert cache.rgb(images / 'alpha.png').valid is not None


def test_a_damaged_file_is_replaced(images):
    cache = ImageCache(images / 'cache', 2**20)
    cache.counts(images / 't.png')
    file, = cache.folder.iterdir()
    file.write_bytes(b'half')
    np.testing.assert_array_equal(cache.counts(images / 't.png').counts,
                                  read_counts(images / 't.png').counts)

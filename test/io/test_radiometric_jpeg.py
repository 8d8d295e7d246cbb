# SPDX-License-Identifier: Apache-2.0
"""Counts come out of radiometric JPEGs; previews, cut files and absurd sizes are refused."""

from pathlib import Path
import struct
import zlib

import cv2
import numpy as np
import pytest
from radiometric_files import (
    AIR, dji_jpeg, flir_jpeg, HUMIDITY, OFFSET, PLANCK, preview, R2, SCENE)
import tifffile

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.io import images, radiometric_jpeg
from thermal_nerf_loc.io.image_size import size_of

SIZE = 160, 120


@pytest.fixture
def counts() -> np.ndarray:
    return np.random.default_rng(0).integers(18_000, 20_000, SIZE[::-1], dtype=np.uint16)


def test_dji_counts_are_those_of_the_segments(tmp_path: Path, counts: np.ndarray):
    (tmp_path / 'a.JPG').write_bytes(dji_jpeg(counts))
    np.testing.assert_array_equal(images.read_counts(tmp_path / 'a.JPG').counts, counts)
    assert radiometric_jpeg.camera_of(dji_jpeg(counts)) == ('M2EA', 0.0)
    assert images.read_rgb(tmp_path / 'a.JPG').values.shape == (120, 160, 3)  # the preview


def raw_to_celsius(raw: np.ndarray, scene: tuple[float, ...] = SCENE) -> np.ndarray:
    """Temperatures by the steps of the R package Thermimage, with one path of air."""
    emissivity, distance, reflected, air, window, through = scene
    (R1, B, F), (a1, a2, b1, b2, x) = PLANCK, AIR
    t = air - 273.15
    water = HUMIDITY * np.exp(1.5587 + 0.06939 * t - 0.00027816 * t**2 + 0.00000068455 * t**3)
    tau = (x * np.exp(-np.sqrt(distance) * (a1 + b1 * np.sqrt(water)))
           + (1 - x) * np.exp(-np.sqrt(distance) * (a2 + b2 * np.sqrt(water))))
    def raw_of(kelvin: float) -> float:
        return R1 / (R2 * (np.exp(B / kelvin) - F)) - OFFSET
    own = (raw / through / emissivity / tau
           - (1 - through) / through / emissivity / tau * raw_of(window)
           - (1 - emissivity) / emissivity * raw_of(reflected)
           - (1 - tau) / emissivity / tau * raw_of(air))
    return B / np.log(R1 / (R2 * (own + OFFSET)) + F) - 273.15


@pytest.mark.parametrize('kind', ['raw', 'png', 'png-right'])
@pytest.mark.parametrize('scene', [SCENE, (0.7, 1.0, 293.15, 293.15, 310.15, 0.8)])
def test_flir_counts_become_celsius(tmp_path: Path, kind: str, scene: tuple[float, ...]):
    """Grey body, air and window; in one segment or in many; a PNG in either byte order."""
    raw = np.add.outer(np.arange(60) * 7, np.arange(80) * 5) + 16_200
    (tmp_path / 'a.jpg').write_bytes(flir_jpeg(raw, kind, scene, part=3000))
    found = images.read_counts(tmp_path / 'a.jpg').counts
    np.testing.assert_allclose(found, raw_to_celsius(raw, scene), atol=2e-3)
    assert 0.0 < found.min() < found.max() < 60.0
    camera = radiometric_jpeg.camera_of((tmp_path / 'a.jpg').read_bytes())
    assert camera == ('FLIR AX8', pytest.approx(47.9))


def test_impossible_constants_are_named(tmp_path: Path):
    (tmp_path / 'a.jpg').write_bytes(flir_jpeg(np.full((60, 80), 16_500), scene=(0.0, *SCENE[1:])))
    with pytest.raises(InputError, match=r'a\.jpg: calibration .* emissivity is out of range'):
        images.read_counts(tmp_path / 'a.jpg')


def test_a_preview_alone_is_refused_with_what_to_do(tmp_path: Path):
    (tmp_path / 'a.jpg').write_bytes(preview())
    with pytest.raises(InputError, match=r'in false colours.*radiometric JPEG as the camera'):
        images.read_counts(tmp_path / 'a.jpg')


def test_sizes_are_read_without_pixels(tmp_path: Path):
    image = np.zeros((30, 50), np.uint8)
    for suffix in ('.png', '.jpg', '.bmp', '.webp'):
        assert size_of(bytes(cv2.imencode(suffix, image)[1])) == (50, 30), suffix
    tifffile.imwrite(tmp_path / 'a.tif', image)
    np.save(tmp_path / 'a.npy', image[None])
    assert images.read_size(tmp_path / 'a.tif') == images.read_size(tmp_path / 'a.npy') == (50, 30)


def test_absurd_sizes_are_refused_before_decoding(tmp_path: Path):
    """20000 x 20000 pixels in some bytes; the pixels are not even there."""
    header = struct.pack('>IIBBBBB', 20_000, 20_000, 16, 0, 0, 0, 0)
    chunk = b'IHDR' + header
    (tmp_path / 'a.png').write_bytes(
        b'\x89PNG\r\n\x1a\n' + struct.pack('>I', 13) + chunk
        + struct.pack('>I', zlib.crc32(chunk)))
    tifffile.imwrite(tmp_path / 'a.tif', np.zeros((20_000, 20_000), np.uint8), compression='zlib')
    for name in ('a.png', 'a.tif'):
        for read in (images.read_image, images.read_counts, images.read_size):
            with pytest.raises(InputError, match='at most 134 million pixels; got 20000x20000'):
                read(tmp_path / name)

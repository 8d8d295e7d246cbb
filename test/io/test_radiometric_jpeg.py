# SPDX-License-Identifier: Apache-2.0
"""Counts come out of radiometric JPEGs; previews, cut files and absurd sizes are refused."""

from pathlib import Path
import struct
import sys
from types import SimpleNamespace
import zlib

import cv2
import numpy as np
import pytest
import tifffile

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.io import images, radiometric_jpeg
from thermal_nerf_loc.io.image_size import size_of

SIZE = 160, 120
XMP = b'http://ns.adobe.com/xap/1.0/\x00<x tiff:Make="DJI" tiff:Model="M2EA"/>'


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xff, marker]) + (len(content) + 2).to_bytes(2, 'big') + content


def preview(size: tuple[int, int] = SIZE) -> bytes:
    rng = np.random.default_rng(3)
    colours = rng.integers(0, 255, (*size[::-1], 3)).astype(np.uint8)
    return bytes(cv2.imencode('.jpg', colours)[1])


def dji_jpeg(counts: np.ndarray) -> bytes:
    data, jpeg = counts.astype('<u2').tobytes(), preview()
    parts = [data[start:start + 65_532] for start in range(0, len(data), 65_532)]
    return jpeg[:2] + segment(0xe1, XMP) + b''.join(
        segment(0xe3, part) for part in parts) + jpeg[2:]


def flir_jpeg(counts: np.ndarray) -> bytes:
    """Records as ExifTool documents them: raw data (1) and camera (0x20), in one segment APP1."""
    height, width = counts.shape
    raw = struct.pack('<3H', 2, width, height).ljust(32, b'\0') + counts.astype('<u2').tobytes()
    camera = bytearray(900)
    for at, values in ((32, (1.0, 1.0, 293.15, 293.15, 293.15, 1.0)), (60, (0.5,)),
                       (88, (16_000.0, 1430.0, 1.0)), (112, (0.006569, 0.01262, -0.002276,
                                                             -0.00667, 1.9)), (780, (0.0125,))):
        struct.pack_into(f'<{len(values)}f', camera, at, *values)
    struct.pack_into('<i', camera, 776, -7000)
    start = 64 + 4 * 32  # two entries are unused, as in cameras' files
    entries = (struct.pack('>HHIIII', 1, 1, 100, 1, start, len(raw)).ljust(32, b'\0')
               + struct.pack('>HHIIII', 0x20, 1, 100, 2, start + len(raw), 900).ljust(96, b'\0'))
    head = (b'FFF\0'.ljust(20, b'\0') + struct.pack('>III', 100, 64, 4)).ljust(64, b'\0')
    records, jpeg = head + entries + raw + bytes(camera), preview()
    return jpeg[:2] + segment(0xe1, b'FLIR\0\x01\0\0' + records) + jpeg[2:]


@pytest.fixture
def counts() -> np.ndarray:
    return np.random.default_rng(0).integers(18_000, 20_000, SIZE[::-1], dtype=np.uint16)


def test_dji_counts_are_those_of_the_segments(tmp_path: Path, counts: np.ndarray):
    (tmp_path / 'a.JPG').write_bytes(dji_jpeg(counts))
    np.testing.assert_array_equal(images.read_counts(tmp_path / 'a.JPG').counts, counts)
    assert radiometric_jpeg.camera_model(dji_jpeg(counts)) == 'M2EA'
    assert images.read_rgb(tmp_path / 'a.JPG').values.shape == (120, 160, 3)  # the preview


def test_flir_counts_become_celsius(tmp_path: Path):
    """At emissivity 1 and (nearly) no air, Planck's law with the constants of the file."""
    pytest.importorskip('flyr', reason='needs flyr: pip install .[flir]')
    counts = np.full((60, 80), 13_500, np.uint16)
    (tmp_path / 'a.jpg').write_bytes(flir_jpeg(counts))
    found = images.read_counts(tmp_path / 'a.jpg').counts
    expected = 1430.0 / np.log(16_000.0 / (0.0125 * (13_500 - 7000)) + 1.0) - 273.15
    assert found.shape == (60, 80)
    np.testing.assert_allclose(found, expected, atol=0.5)


def test_flir_without_its_package_says_how_to_get_it(tmp_path: Path, monkeypatch):
    (tmp_path / 'a.jpg').write_bytes(flir_jpeg(np.zeros((60, 80), np.uint16)))
    monkeypatch.setitem(sys.modules, 'flyr', None)
    with pytest.raises(InputError, match=r'needs the package flyr.*pip install'):
        images.read_counts(tmp_path / 'a.jpg')


@pytest.mark.parametrize('error', [KeyError(1), struct.error('x'), IndexError(), TypeError()])
def test_broken_flir_records_are_one_error(tmp_path: Path, monkeypatch, error: Exception):
    def fail(stream: object) -> None:
        raise error
    (tmp_path / 'a.jpg').write_bytes(flir_jpeg(np.zeros((60, 80), np.uint16)))
    monkeypatch.setitem(sys.modules, 'flyr', SimpleNamespace(unpack=fail))
    with pytest.raises(InputError, match=r'a\.jpg: thermal record .* is not whole'):
        images.read_counts(tmp_path / 'a.jpg')


@pytest.mark.parametrize('cut', range(20))
def test_a_cut_dji_file_is_one_error(tmp_path: Path, counts: np.ndarray, cut: int):
    data = dji_jpeg(counts)
    end = 200 + (39_000 - 200) * cut // 20  # within the raw counts
    (tmp_path / 'a.jpg').write_bytes(data[:end])
    with pytest.raises(InputError):
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

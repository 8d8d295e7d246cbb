# SPDX-License-Identifier: Apache-2.0
"""Images come back as they were written, whoever wrote them."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.io import images

RNG = np.random.default_rng(1)
RADIOMETRIC_TIFF = (Path(__file__).resolve().parents[3] / 'shared' / 'data' / 'arco'
                    / 'radiometric_tiff' / '020.tiff')


def pixels(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
@pytest.mark.parametrize('channels', [(), (3,), (4,)])
def test_png_round_trip_is_exact(tmp_path: Path, dtype: type, channels: tuple[int, ...]):
    image = pixels(5, 7, *channels, dtype=dtype)
    images.write_png(tmp_path / 'a.png', image)
    read = images.read_image(tmp_path / 'a.png')
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, image)


def test_rgb_order_agrees_with_tifffile_and_opencv(tmp_path: Path):
    red = np.zeros((4, 6, 3), np.uint8)
    red[..., 0] = 200
    tifffile.imwrite(tmp_path / 'a.tiff', red)
    cv2.imwrite(str(tmp_path / 'a.png'), red[..., ::-1])
    for name in ('a.tiff', 'a.png'):
        values = images.read_rgb(tmp_path / name).values
        np.testing.assert_allclose(values[0, 0], [200 / 255, 0, 0], atol=1e-7)


def test_alpha_is_the_mask(tmp_path: Path):
    image = np.full((2, 2, 4), 255, np.uint8)
    image[0, 0, 3], image[1, 1, 3] = 0, 200
    images.write_png(tmp_path / 'a.png', image)
    values, valid = images.read_rgb(tmp_path / 'a.png')
    assert values.shape == (2, 2, 3)
    np.testing.assert_array_equal(valid, [[False, True], [True, True]])
    images.write_png(tmp_path / 'b.png', np.full((2, 2, 4), 255, np.uint8))
    assert images.read_rgb(tmp_path / 'b.png').valid is None


def test_grey_becomes_three_channels_and_16_bits_scale(tmp_path: Path):
    images.write_png(tmp_path / 'a.png', np.array([[0, 65535, 13107]], np.uint16))
    values = images.read_rgb(tmp_path / 'a.png').values
    np.testing.assert_allclose(values[0, :, 1], [0.0, 1.0, 0.2], atol=1e-7)
    assert values.shape == (1, 3, 3)


def test_exif_orientation_is_ignored(tmp_path: Path):
    image = np.full((8, 16, 3), 90, np.uint8)
    data = bytes(cv2.imencode('.jpg', image)[1])
    tiff = (b'II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00'
            b'\x06\x00\x00\x00\x00\x00\x00\x00')  # one tag: orientation 6, a quarter turn
    exif = b'Exif\x00\x00' + tiff
    segment = b'\xff\xe1' + (len(exif) + 2).to_bytes(2, 'big') + exif
    (tmp_path / 'a.jpg').write_bytes(data[:2] + segment + data[2:])
    assert cv2.imread(str(tmp_path / 'a.jpg')).shape == (16, 8, 3), 'the test file has no effect'
    assert images.read_rgb(tmp_path / 'a.jpg').values.shape == (8, 16, 3)


def test_jpeg_stays_close(tmp_path: Path):
    image = np.dstack([np.tile(np.linspace(0, 250, 32), (24, 1))] * 3).astype(np.uint8)
    images.write_jpeg(tmp_path / 'a.jpg', image)
    error = images.read_rgb(tmp_path / 'a.jpg').values - image / 255.0
    assert np.abs(error).max() < 0.02


@pytest.mark.parametrize('options', [{}, {'byteorder': '>'}, {'compression': 'zlib'}])
@pytest.mark.parametrize('dtype', [np.uint16, np.float32])
def test_thermal_tiffs(tmp_path: Path, options: dict, dtype: type):
    counts = pixels(5, 7, dtype=np.uint16).astype(dtype)
    tifffile.imwrite(tmp_path / 'a.tiff', counts, **options)
    read = images.read_counts(tmp_path / 'a.tiff')
    assert read.counts.dtype == dtype
    assert not read.is_8bit
    np.testing.assert_array_equal(read.counts, counts)


def test_lzw_tiff(tmp_path: Path):
    counts = pixels(16, 16, dtype=np.uint16)
    assert cv2.imwrite(str(tmp_path / 'a.tiff'), counts,
                       [cv2.IMWRITE_TIFF_COMPRESSION, 5])  # LZW
    np.testing.assert_array_equal(images.read_counts(tmp_path / 'a.tiff').counts, counts)


@pytest.mark.skipif(not RADIOMETRIC_TIFF.exists(), reason='real recordings are not beside us')
def test_radiometric_tiff_that_opencv_refuses(capfd: pytest.CaptureFixture):
    assert cv2.imread(str(RADIOMETRIC_TIFF), cv2.IMREAD_UNCHANGED) is None
    capfd.readouterr()
    counts = images.read_counts(RADIOMETRIC_TIFF).counts
    assert counts.shape == (512, 640)
    assert counts.dtype == np.uint16
    celsius = counts / 40.0 - 100.0
    assert 5.0 < celsius.min() < celsius.max() < 40.0
    assert capfd.readouterr().err == ''


def test_equal_channels_are_one_false_colours_are_refused(tmp_path: Path):
    grey = pixels(3, 4)
    images.write_png(tmp_path / 'a.png', np.dstack([grey] * 3))
    read = images.read_counts(tmp_path / 'a.png')
    assert read.is_8bit
    np.testing.assert_array_equal(read.counts, grey)
    images.write_png(tmp_path / 'b.png', pixels(3, 4, 3))
    with pytest.raises(InputError, match=r'b\.png: thermal image is in false colours'):
        images.read_counts(tmp_path / 'b.png')


def test_depth_units_and_unknown_values(tmp_path: Path):
    images.write_png(tmp_path / 'a.png', np.array([[0, 1500]], np.uint16))
    np.testing.assert_allclose(images.read_depth(tmp_path / 'a.png'), [[0.0, 1.5]])
    np.save(tmp_path / 'a.npy', np.array([[np.nan, 2.0, -1.0, np.inf]], np.float32))
    np.testing.assert_allclose(images.read_depth(tmp_path / 'a.npy', 1.0), [[0, 2, 0, 0]])


def test_mask(tmp_path: Path):
    images.write_png(tmp_path / 'a.png', np.array([[0, 1, 255]], np.uint8))
    np.testing.assert_array_equal(images.read_mask(tmp_path / 'a.png'), [[False, True, True]])


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.tiff'])
@pytest.mark.parametrize('share', [0.02, 0.3, 0.9, 0.999])
def test_every_cut_is_found_and_stderr_stays_clean(tmp_path: Path, suffix: str, share: float,
                                                   capfd: pytest.CaptureFixture):
    path = tmp_path / f'a{suffix}'
    image = pixels(40, 60)
    if suffix == '.tiff':
        tifffile.imwrite(path, image)
    else:
        cv2.imwrite(str(path), image)
    images.read_image(path)
    data = path.read_bytes()
    path.write_bytes(data[:int(len(data) * share)])
    capfd.readouterr()
    with pytest.raises(InputError) as caught:
        images.read_image(path)
    assert caught.value.where == path
    assert capfd.readouterr().err == ''


def test_flipped_bit_in_png_is_found(tmp_path: Path):
    images.write_png(tmp_path / 'a.png', pixels(20, 20))
    data = bytearray((tmp_path / 'a.png').read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / 'a.png').write_bytes(data)
    with pytest.raises(InputError, match='PNG is damaged'):
        images.read_image(tmp_path / 'a.png')


def test_encode_refuses_what_would_lose_bits():
    with pytest.raises(InputError, match=r'\.jpg cannot hold these values; expected uint8; got'):
        images.encode(np.zeros((2, 2), np.uint16), '.jpg')
    with pytest.raises(InputError, match=r'\.png cannot hold'):
        images.encode(np.zeros((2, 2), np.float32), '.png')

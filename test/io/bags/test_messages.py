# SPDX-License-Identifier: Apache-2.0
"""ROS image and camera messages, read and written without ROS."""

import array
import struct
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry.camera import Camera, CameraModel
from thermal_nerf_loc.io.bags.messages import (
    camera_from_info, decode_compressed, decode_image, encode_compressed, encode_image,
    info_from_camera, matrix_from_pose, stamp_ns)

RNG = np.random.default_rng(5)
WIDE = {'OPENCV': (0.1, -0.05, 0.001, -0.002), 'OPENCV_FISHEYE': (0.03, -0.01, 0.002, -0.001)}


def packed(pixels: np.ndarray, padding: int, big: bool) -> tuple[int, bytes]:
    """Rows of one image as a driver with padded rows sends them: an independent writer."""
    rows = [row.astype(row.dtype.newbyteorder('>' if big else '<')).tobytes() + b'\xee' * padding
            for row in pixels]
    return len(rows[0]), b''.join(rows)


@pytest.mark.parametrize('padding', [0, 1, 6])
@pytest.mark.parametrize('big', [False, True])
@pytest.mark.parametrize(('encoding', 'dtype', 'channels'), [
    ('rgb8', 'u1', 3), ('bgr8', 'u1', 3), ('rgba8', 'u1', 4), ('bgra8', 'u1', 4),
    ('mono8', 'u1', 0), ('8UC1', 'u1', 0), ('mono16', 'u2', 0), ('16UC1', 'u2', 0),
    ('16SC1', 'i2', 0), ('rgb16', 'u2', 3), ('bgr16', 'u2', 3), ('32FC1', 'f4', 0),
    ('64FC1', 'f8', 0)])
def test_decoding_is_aware_of_steps_and_byte_order(encoding: str, dtype: str, channels: int,
                                                   big: bool, padding: int):
    shape = (5, 7, channels) if channels else (5, 7)
    pixels = RNG.integers(0, 30000 if dtype[1] != '1' else 255, shape).astype(dtype)
    step, data = packed(pixels, padding, big)
    read = decode_image(encoding, 5, 7, step, big, data)
    expected = pixels[..., [2, 1, 0, 3][:channels]] if encoding[:3] == 'bgr' else pixels
    np.testing.assert_array_equal(read, expected)
    assert read.dtype == np.dtype(dtype)
    assert read.dtype.isnative


@pytest.mark.parametrize('kind', [bytes, bytearray, memoryview, lambda b: array.array('B', b),
                                  lambda b: np.frombuffer(b, np.uint8)])
def test_any_buffer_will_do(kind: type):
    data = bytes(range(12))
    np.testing.assert_array_equal(decode_image('mono8', 3, 4, 4, False, kind(data)).ravel(),
                                  np.arange(12))


def test_last_row_may_lack_its_padding():
    read = decode_image('mono8', 2, 3, 8, False, bytes(range(11)))
    np.testing.assert_array_equal(read, [[0, 1, 2], [8, 9, 10]])


@pytest.mark.parametrize('order', ['rggb', 'bggr', 'gbrg', 'grbg'])
@pytest.mark.parametrize(('bits', 'dtype'), [(8, np.uint8), (16, np.uint16)])
def test_bayer_patterns(order: str, bits: int, dtype: type):
    color = {'r': 200, 'g': 100, 'b': 50}
    tile = np.array([color[letter] for letter in order], dtype).reshape(2, 2)
    mosaic = np.tile(tile, (4, 5))
    step, data = packed(mosaic, 4, False)
    read = decode_image(f'bayer_{order}{bits}', 8, 10, step, False, data)
    np.testing.assert_array_equal(read[2:-2, 2:-2].reshape(-1, 3).mean(axis=0), [200, 100, 50])
    assert read.dtype == dtype


def test_yuv422_grey():
    uyvy = np.tile(np.array([128, 180], np.uint8), (4, 6)).reshape(4, 12)
    read = decode_image('yuv422', 4, 6, 12, False, uyvy.tobytes())
    assert read.shape == (4, 6, 3)
    assert np.ptp(read) <= 1, 'no chroma, hence grey'


@pytest.mark.parametrize(('arguments', 'said'), [
    (('rgb8', 2, 2, 6, False, bytes(11)), 'got step 6 and 11 bytes'),
    (('rgb8', 2, 2, 5, False, bytes(12)), 'expected step >= 6'),
    (('rgb8', 0, 2, 6, False, b''), 'does not fit its own size'),
    (('rgb7', 2, 2, 6, False, bytes(12)), "got 'rgb7'")])
def test_broken_images_are_refused(arguments: tuple, said: str):
    with pytest.raises(InputError) as caught:
        decode_image(*arguments)
    assert said in str(caught.value)


@pytest.mark.parametrize(('encoding', 'dtype', 'channels'), [
    ('rgb8', 'u1', (3,)), ('bgr8', 'u1', (3,)), ('16UC1', 'u2', ()), ('32FC1', 'f4', ())])
def test_encode_then_decode(encoding: str, dtype: str, channels: tuple[int, ...]):
    pixels = RNG.integers(0, 255, (4, 6, *channels)).astype(dtype)
    step, data = encode_image(pixels, encoding)
    np.testing.assert_array_equal(decode_image(encoding, 4, 6, step, False, data), pixels)


def test_encoding_never_casts():
    with pytest.raises(InputError, match='array cannot be sent as mono8'):
        encode_image(np.zeros((2, 2), np.uint16), 'mono8')


def test_compressed_16_bits_and_colour():
    counts = RNG.integers(0, 65535, (6, 8)).astype(np.uint16)
    data = np.frombuffer(encode_compressed(counts, 'png'), np.uint8)
    np.testing.assert_array_equal(decode_compressed('16UC1; png compressed ', data), counts)
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 220
    read = decode_compressed('rgb8; jpeg compressed bgr8', encode_compressed(red, 'jpeg'))
    assert np.abs(read.astype(int) - red).max() < 6


def test_compressed_depth_by_its_definition():
    a, b = 50.0, -0.25  # compressed_depth_image_transport: count = a / z + b
    depth = np.array([[0.5, 1.0, 4.0, 0.0]], np.float32)
    counts = np.where(depth > 0, a / np.maximum(depth, 1e-6) + b, 0).round().astype(np.uint16)
    png = bytes(cv2.imencode('.png', counts)[1])
    data = struct.pack('<iff', 0, a, b) + png
    read = decode_compressed('32FC1; compressedDepth png', data)
    np.testing.assert_allclose(read[0, :3], depth[0, :3], rtol=0.03)
    assert np.isnan(read[0, 3])
    raw = decode_compressed('16UC1; compressedDepth', data)
    np.testing.assert_array_equal(raw, counts)


def info(camera: Camera, **changes: object) -> SimpleNamespace:
    fields = {'width': camera.width, 'height': camera.height, 'binning_x': 0, 'binning_y': 0,
              'roi': SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0),
              **info_from_camera(camera)._asdict(), **changes}
    return SimpleNamespace(**fields)


@pytest.mark.parametrize('lens', [
    {}, {'model': CameraModel.OPENCV, 'distortion': WIDE['OPENCV']},
    {'model': CameraModel.OPENCV, 'distortion': (*WIDE['OPENCV'], 0.01)},
    {'model': CameraModel.OPENCV, 'distortion': (*WIDE['OPENCV'], 0.01, 0.1, -0.1, 0.02)},
    {'model': CameraModel.OPENCV_FISHEYE, 'distortion': WIDE['OPENCV_FISHEYE']}])
def test_camera_info_round_trip_and_what_opencv_makes_of_it(lens: dict):
    camera = Camera(64, 48, 40.0, 41.0, 31.0, 25.0, **lens)
    sent = info(camera)
    back = camera_from_info(sent)
    points = np.array([0, 0, 2]) + RNG.uniform(-0.5, 0.5, (20, 3))
    np.testing.assert_allclose(back.project(points)[0], camera.project(points)[0], atol=1e-12)
    K = np.reshape(sent.k, (3, 3))  # as ROS and OpenCV see it: pixel centres at whole numbers
    fisheye = sent.distortion_model == 'equidistant'
    project = cv2.fisheye.projectPoints if fisheye else cv2.projectPoints
    uv = (project(points[:, None], np.zeros(3), np.zeros(3), K, sent.d)[0] if fisheye
          else project(points, np.zeros(3), np.zeros(3), K, sent.d)[0]).reshape(-1, 2)
    np.testing.assert_allclose(uv + 0.5, camera.project(points)[0], atol=1e-9)


def test_region_and_binning_move_the_rays_with_the_pixels():
    full = Camera(64, 48, 40.0, 41.0, 31.0, 25.0)
    region = SimpleNamespace(x_offset=10, y_offset=8, width=40, height=32)
    part = camera_from_info(info(full, roi=region, binning_x=2, binning_y=2))
    assert part.size == (20, 16)
    # the corner shared by four full pixels is the centre of their bin
    np.testing.assert_allclose(part.unproject([0.5, 0.5]), full.unproject([11.0, 9.0]), atol=1e-12)


def test_rectified_topics_use_the_projection_matrix():
    camera = Camera(64, 48, 40.0, 41.0, 31.0, 25.0, CameraModel.OPENCV, WIDE['OPENCV'])
    p = np.array([[30.0, 0, 30.5, 0], [0, 30.0, 20.5, 0], [0, 0, 1, 0]]).ravel()
    rectified = camera_from_info(info(camera, p=p), rectified=True)
    assert rectified == Camera(64, 48, 30.0, 30.0, 31.0, 21.0)


@pytest.mark.parametrize(('changes', 'said'), [
    ({'k': np.zeros(9)}, '/camera: camera_info is not calibrated'),
    ({'distortion_model': 'swirl', 'd': [0.1]}, 'unknown distortion model; expected one of plumb'),
    ({'d': [0.1, 0.1]}, '/camera: OPENCV camera has a wrong number of coefficients'),
    ({'width': 0}, '/camera: camera has no pixels')])
def test_bad_camera_info_is_refused(changes: dict, said: str):
    with pytest.raises(InputError) as caught:
        camera_from_info(info(Camera.from_fov(8, 6, 60), **changes), '/camera')
    assert said in str(caught.value)


def test_stamps_are_exact_and_poses_checked():
    assert stamp_ns(SimpleNamespace(sec=1_732_180_000, nanosec=7)) == 1_732_180_000_000_000_007
    zero = SimpleNamespace(x=0.0, y=0.0, z=0.0, w=0.0)
    with pytest.raises(InputError, match='odom: message holds no pose'):
        matrix_from_pose(SimpleNamespace(position=zero, orientation=zero), 'odom')

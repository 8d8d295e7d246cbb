# SPDX-License-Identifier: Apache-2.0
"""
ROS messages to arrays and cameras, and back, without ROS.

The functions take any object with the fields of the message, from a bag or from rclpy. The first
pixel centre of a camera_info lies at (0, 0), here at (0.5, 0.5): half a pixel is added on reading
and subtracted on writing.
"""

import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera, CameraModel
from thermal_nerf_loc.io.bags.message_limits import check_pixels
from thermal_nerf_loc.io.images import decode_file, encode, opencv, rgb_values
from thermal_nerf_loc.sensing.frame import THERMAL
from thermal_nerf_loc.sensing.thermal import decode_thermal, Radiometry

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]

# cv_bridge's names: (numpy type, channels, conversion to RGB or one channel: OpenCV's or 'swap')
_ENCODINGS: dict[str, tuple[str, int, str]] = {
    'rgb8': ('u1', 3, ''), 'bgr8': ('u1', 3, 'swap'),
    'rgba8': ('u1', 4, ''), 'bgra8': ('u1', 4, 'swap'),
    'rgb16': ('u2', 3, ''), 'bgr16': ('u2', 3, 'swap'),
    'mono8': ('u1', 1, ''), 'mono16': ('u2', 1, ''), '8UC1': ('u1', 1, ''),
    '16UC1': ('u2', 1, ''), '16SC1': ('i2', 1, ''), '32FC1': ('f4', 1, ''),
    '64FC1': ('f8', 1, ''),
    'yuv422': ('u1', 2, 'COLOR_YUV2RGB_UYVY'), 'uyvy': ('u1', 2, 'COLOR_YUV2RGB_UYVY'),
    'yuv422_yuy2': ('u1', 2, 'COLOR_YUV2RGB_YUY2'), 'yuyv': ('u1', 2, 'COLOR_YUV2RGB_YUY2'),
    **{f'bayer_{order}{bits}': (f'u{bits // 8}', 1, f'COLOR_Bayer{order.upper()}2RGB')
       for order in ('rggb', 'bggr', 'gbrg', 'grbg') for bits in (8, 16)}}

_LENSES = {'plumb_bob': CameraModel.OPENCV, 'rational_polynomial': CameraModel.OPENCV,
           'equidistant': CameraModel.OPENCV_FISHEYE, 'fisheye': CameraModel.OPENCV_FISHEYE}
_LARGEST_QUATERNION = 1e3  # of its numbers: they should be of norm 1
_MOST_COEFFICIENTS = 14  # OpenCV's rational model with thin prism and tilt
_COMPRESSED_DEPTH_HEADER = 12  # bytes: a format enum, then two floats


class CameraInfoFields(NamedTuple):
    """The fields of `sensor_msgs/CameraInfo` that describe a lens."""

    distortion_model: str
    d: Array
    k: Array  # (9,)
    r: Array  # (9,)
    p: Array  # (12,)


def decode_image(encoding: str, height: int, width: int, step: int, is_bigendian: bool,
                 data: Any) -> NDArray[Any]:
    """
    Pixels of a `sensor_msgs/Image`: (h, w) or, in RGB(A) order, (h, w, 3 | 4).

    `step` may pad rows. The result is in native byte order, and may be a view into `data`.
    """
    kind, channels, conversion = _encoding(encoding)
    dtype = np.dtype(kind).newbyteorder('>' if is_bigendian else '<')
    row = width * channels * dtype.itemsize
    buffer = np.frombuffer(data, np.uint8)
    if height < 1 or width < 1 or step < row or buffer.size < (height - 1) * step + row:
        raise InputError(f'{encoding} image message does not fit its own size',
                         expected=f'step >= {row} and {(height - 1) * max(step, row) + row} bytes '
                                  f'for {width}x{height} pixels',
                         got=f'step {step} and {buffer.size} bytes')
    pixels: NDArray[Any] = np.ndarray(
        (height, width, channels), dtype, buffer,
        strides=(step, channels * dtype.itemsize, dtype.itemsize))
    pixels = pixels.astype(dtype.newbyteorder('='), copy=False)
    if conversion == 'swap':
        pixels = pixels[..., [2, 1, 0, 3][:channels]]
    elif conversion:
        cv2 = opencv()
        plane = pixels if channels > 1 else pixels[..., 0]
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(plane), getattr(cv2, conversion)))
    return pixels[..., 0] if channels == 1 else np.ascontiguousarray(pixels)


def encode_image(array: NDArray[Any], encoding: str) -> tuple[int, bytes]:
    """`(step, data)` of an array in RGB(A) order or of one channel, little-endian."""
    kind, channels, conversion = _encoding(encoding)
    dtype = np.dtype(kind)
    shape = array.shape if array.ndim == 3 else (*array.shape, 1)
    if conversion not in ('', 'swap') or shape[2:] != (channels,) or array.dtype != dtype:
        raise InputError(f'array cannot be sent as {encoding}',
                         expected=f'(h, w, {channels}) {dtype}',
                         got=f'{array.shape} {array.dtype}')
    if conversion == 'swap':
        array = array[..., [2, 1, 0, 3][:channels]]
    return shape[1] * channels * dtype.itemsize, array.astype(dtype.newbyteorder('<')).tobytes()


def decode_compressed(image_format: str, data: Any, where: object = None) -> NDArray[Any]:
    """Pixels of a `sensor_msgs/CompressedImage`, 16 bits and compressedDepth included."""
    raw = bytes(data)
    if 'compresseddepth' not in image_format.lower():
        return decode_file(raw, where)
    if 'rvl' in image_format.lower():
        raise InputError('compressedDepth image is packed by RVL', where=where, expected='png')
    image = decode_file(raw[_COMPRESSED_DEPTH_HEADER:], where)
    if not image_format.startswith('32FC1'):
        return image
    _, a, b = struct.unpack_from('<iff', raw)  # inverse depth, quantised: z = a / (count - b)
    with np.errstate(divide='ignore'):
        return np.where(image > 0, a / (image.astype(np.float32) - b), np.nan).astype(np.float32)


def encode_compressed(array: NDArray[Any], image_format: str) -> bytes:
    """JPEG (8 bits) or PNG (8 or 16 bits) of an array in RGB order or of one channel."""
    if image_format not in ('jpeg', 'png'):
        raise InputError('unknown compression', expected='jpeg or png', got=repr(image_format))
    return encode(array, '.jpg' if image_format == 'jpeg' else '.png')


def camera_from_info(info: Any, where: object = None, rectified: bool = False) -> Camera:
    """
    Camera of a `sensor_msgs/CameraInfo`, binning and region of interest applied.

    `rectified` takes the projection matrix P without distortion, for `image_rect` topics.
    """
    k = np.asarray(info.p, float).reshape(3, 4) if rectified else np.reshape(info.k, (3, 3))
    if k[0, 0] == 0.0 or k[1, 1] == 0.0:
        raise InputError('camera_info is not calibrated', where=where,
                         expected='focal lengths > 0', got=f'fx {k[0, 0]}, fy {k[1, 1]}',
                         hint='Calibrate the camera, or load its calibration into the driver.')
    model, distortion = ((CameraModel.PINHOLE, ()) if rectified
                         else _lens(info.distortion_model, info.d, where))
    roi, bin_x, bin_y = info.roi, info.binning_x or 1, info.binning_y or 1
    width, height = roi.width or info.width, roi.height or info.height
    check_pixels(width, height, where)
    try:
        return Camera(width // bin_x, height // bin_y, float(k[0, 0]) / bin_x,
                      float(k[1, 1]) / bin_y, (float(k[0, 2]) + 0.5 - roi.x_offset) / bin_x,
                      (float(k[1, 2]) + 0.5 - roi.y_offset) / bin_y, model, distortion)
    except InputError as error:
        raise InputError(error.what, where=where or 'camera_info', expected=error.expected,
                         got=error.got) from None


def info_from_camera(camera: Camera) -> CameraInfoFields:
    """Describe a camera as `sensor_msgs/CameraInfo` does."""
    d = np.array(camera.distortion, dtype=np.float64)
    if camera.model is CameraModel.OPENCV_FISHEYE:
        name = 'equidistant'
    else:
        name = 'rational_polynomial' if d.size == 8 else 'plumb_bob'
        d = np.concatenate([d, np.zeros(max(0, 5 - d.size))])
    k = camera.matrix
    k[:2, 2] -= 0.5
    return CameraInfoFields(name, d, k.ravel(), np.eye(3).ravel(),
                            np.concatenate([k, np.zeros((3, 1))], axis=1).ravel())


def stamp_ns(stamp: Any) -> int:
    """`builtin_interfaces/Time` as integer nanoseconds."""
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)


def matrix_from_pose(pose: Any, where: object = None) -> Array:
    """`geometry_msgs/Pose` as a matrix."""
    return _pose_matrix(pose.position, pose.orientation, where)


def matrix_from_transform(transform: Any, where: object = None) -> Array:
    """`geometry_msgs/Transform` as a matrix."""
    return _pose_matrix(transform.translation, transform.rotation, where)


def _pose_matrix(t: Any, q: Any, where: object) -> Array:
    values = np.array([t.x, t.y, t.z, q.x, q.y, q.z, q.w], dtype=np.float64)
    if (not np.isfinite(values).all() or np.abs(values[3:]).max() > _LARGEST_QUATERNION
            or not np.linalg.norm(values[3:]) > 0.5):
        raise InputError('message holds no pose', where=where,
                         expected='finite values and a unit quaternion', got=values.tolist())
    return se3.from_quaternion(values[:3], values[3:])


def _encoding(encoding: str) -> tuple[str, int, str]:
    if encoding not in _ENCODINGS:
        raise InputError('unknown image encoding', expected='one of ' + ', '.join(_ENCODINGS),
                         got=repr(encoding))
    return _ENCODINGS[encoding]


def _lens(name: str, d: Any, where: object) -> tuple[CameraModel, tuple[float, ...]]:
    if len(d) > _MOST_COEFFICIENTS:
        raise InputError('camera_info has too many distortion coefficients', where=where,
                         expected=f'at most {_MOST_COEFFICIENTS}', got=len(d))
    coefficients = tuple(float(value) for value in d)
    if not any(coefficients) and name not in ('equidistant', 'fisheye'):
        return CameraModel.PINHOLE, ()
    if name not in _LENSES:
        raise InputError('camera_info has an unknown distortion model', where=where,
                         expected='one of ' + ', '.join(_LENSES), got=repr(name))
    if name == 'rational_polynomial' and len(coefficients) > 8 and not any(coefficients[8:]):
        coefficients = coefficients[:8]  # the rest is thin prism and tilt, all zero
    return _LENSES[name], coefficients


def image_from_message(message: Any) -> NDArray[Any]:
    """Pixels of a sensor_msgs/Image or CompressedImage, in RGB order or of one channel."""
    where = f'image in {message.header.frame_id}'
    if hasattr(message, 'encoding'):
        return decode_image(message.encoding, message.height, message.width, message.step,
                            bool(message.is_bigendian), message.data)
    return decode_compressed(message.format, message.data, where)


def values_from_message(message: Any, modality: str, radiometry: Radiometry | None,
                        ) -> tuple[Array32, bool]:
    """
    Decode an image to (values (h, w, channels), radiometric) as a `SensorImage` has them.

    RGB lies in [0, 1]. Thermal is in deg C where a radiometry is known; float pixels are deg C.
    """
    pixels = image_from_message(message)
    if modality == THERMAL:
        plane = pixels if pixels.ndim == 2 else pixels[..., 0]
        if np.issubdtype(plane.dtype, np.floating):
            return plane.astype(np.float32)[..., None], True
        values, radiometric = decode_thermal(plane, radiometry,
                                             where=f'image in {message.header.frame_id}')
        return values[..., None], radiometric
    return rgb_values(pixels), True

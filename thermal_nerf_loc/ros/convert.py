# SPDX-License-Identifier: Apache-2.0
"""
ROS messages to the package's types and back.

Reading works on anything with the fields of a message: rclpy's classes on a live robot, rosbags'
on a machine without ROS. Writing imports the message classes when called.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.io.bags.messages import (
    camera_from_info, decode_compressed, decode_image, encode_image, info_from_camera,
    matrix_from_pose, matrix_from_transform, stamp_ns)
from thermal_nerf_loc.sensing.frame import THERMAL
from thermal_nerf_loc.sensing.thermal import decode_thermal, Radiometry

__all__ = ['camera_from_info', 'camera_to_info', 'image_from_message', 'image_to_message',
           'matrix_from_pose', 'matrix_from_transform', 'matrix_to_pose', 'matrix_to_transform',
           'stamp_from_ns', 'stamp_ns', 'values_from_message']

Array32 = NDArray[np.float32]


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
    colour = np.stack([pixels] * 3, axis=-1) if pixels.ndim == 2 else pixels[..., :3]
    full = 1.0 if np.issubdtype(colour.dtype, np.floating) else np.iinfo(colour.dtype).max
    return np.divide(colour, np.float32(full), dtype=np.float32, casting='unsafe'), True


def stamp_from_ns(ns: int) -> Any:
    """Nanoseconds to builtin_interfaces/Time."""
    from builtin_interfaces.msg import Time
    sec, nanosec = divmod(ns, 10**9)
    return Time(sec=sec, nanosec=nanosec)


def image_to_message(array: NDArray[Any], encoding: str, frame_id: str, ns: int) -> Any:
    """Pixels to sensor_msgs/Image; the data goes in as bytes, which rclpy takes 100 x faster."""
    from sensor_msgs.msg import Image
    step, data = encode_image(array, encoding)
    message = Image(height=array.shape[0], width=array.shape[1], encoding=encoding, step=step)
    message.data = data
    message.header.frame_id, message.header.stamp = frame_id, stamp_from_ns(ns)
    return message


def camera_to_info(camera: Camera, frame_id: str, ns: int) -> Any:
    """Lens to sensor_msgs/CameraInfo."""
    from sensor_msgs.msg import CameraInfo
    fields = info_from_camera(camera)
    message = CameraInfo(width=camera.width, height=camera.height,
                         distortion_model=fields.distortion_model, d=fields.d.tolist(),
                         k=fields.k, r=fields.r, p=fields.p)
    message.header.frame_id, message.header.stamp = frame_id, stamp_from_ns(ns)
    return message


def matrix_to_pose(T: ArrayLike) -> Any:
    """4x4 to geometry_msgs/Pose."""
    from geometry_msgs.msg import Point, Pose, Quaternion
    t, q = _parts(T)
    return Pose(position=Point(x=t[0], y=t[1], z=t[2]),
                orientation=Quaternion(x=q[0], y=q[1], z=q[2], w=q[3]))


def matrix_to_transform(T_parent_child: ArrayLike, parent: str, child: str, ns: int) -> Any:
    """4x4 to geometry_msgs/TransformStamped."""
    from geometry_msgs.msg import Quaternion, TransformStamped, Vector3
    t, q = _parts(T_parent_child)
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id, message.header.stamp = parent, stamp_from_ns(ns)
    message.transform.translation = Vector3(x=t[0], y=t[1], z=t[2])
    message.transform.rotation = Quaternion(x=q[0], y=q[1], z=q[2], w=q[3])
    return message


def _parts(T: ArrayLike) -> tuple[list[float], list[float]]:
    T = np.asarray(T, dtype=np.float64)
    return T[:3, 3].tolist(), se3.quaternion_from_matrix(T[:3, :3]).tolist()

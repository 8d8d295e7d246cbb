# SPDX-License-Identifier: Apache-2.0
"""
Convert the package's types to messages of rclpy.

The opposite direction, for messages of rclpy and of bags alike, is in `io.bags.messages`.
"""

from collections.abc import Mapping
from typing import Any

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Point, Pose, Quaternion, TransformStamped, Vector3
import numpy as np
from numpy.typing import ArrayLike, NDArray
from sensor_msgs.msg import CameraInfo, Image

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.io.bags.messages import encode_image, info_from_camera
from thermal_nerf_loc.tracking.tracker_config import DEGRADED, LOST, TRACKING

_LEVELS = {TRACKING: DiagnosticStatus.OK, DEGRADED: DiagnosticStatus.WARN,
           LOST: DiagnosticStatus.ERROR}  # every other state: WARN


def stamp_from_ns(ns: int) -> Any:
    """Nanoseconds to builtin_interfaces/Time."""
    sec, nanosec = divmod(ns, 10**9)
    return Time(sec=sec, nanosec=nanosec)


def image_to_message(array: NDArray[Any], encoding: str, frame_id: str, ns: int) -> Any:
    """Pixels to sensor_msgs/Image; the data goes in as bytes, which rclpy takes 100 x faster."""
    step, data = encode_image(array, encoding)
    message = Image(height=array.shape[0], width=array.shape[1], encoding=encoding, step=step)
    message.data = data
    message.header.frame_id, message.header.stamp = frame_id, stamp_from_ns(ns)
    return message


def camera_to_info(camera: Camera, frame_id: str, ns: int) -> Any:
    """Lens to sensor_msgs/CameraInfo."""
    fields = info_from_camera(camera)
    message = CameraInfo(width=camera.width, height=camera.height,
                         distortion_model=fields.distortion_model, d=fields.d.tolist(),
                         k=fields.k, r=fields.r, p=fields.p)
    message.header.frame_id, message.header.stamp = frame_id, stamp_from_ns(ns)
    return message


def matrix_to_pose(T: ArrayLike) -> Any:
    """4x4 to geometry_msgs/Pose."""
    t, q = _parts(T)
    return Pose(position=Point(x=t[0], y=t[1], z=t[2]),
                orientation=Quaternion(x=q[0], y=q[1], z=q[2], w=q[3]))


def matrix_to_transform(T_parent_child: ArrayLike, parent: str, child: str, ns: int) -> Any:
    """4x4 to geometry_msgs/TransformStamped."""
    t, q = _parts(T_parent_child)
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id, message.header.stamp = parent, stamp_from_ns(ns)
    message.transform.translation = Vector3(x=t[0], y=t[1], z=t[2])
    message.transform.rotation = Quaternion(x=q[0], y=q[1], z=q[2], w=q[3])
    return message


def diagnostics_message(name: str, figures: Mapping[str, str], stamp: Any) -> Any:
    """diagnostic_msgs/DiagnosticArray with one status; `figures` has a state and its reason."""
    status = DiagnosticStatus(
        level=_LEVELS.get(figures['state'], DiagnosticStatus.WARN), name=name,
        message=': '.join(filter(None, (figures['state'], figures['reason']))),
        values=[KeyValue(key=key, value=value) for key, value in figures.items()])
    message = DiagnosticArray(status=[status])
    message.header.stamp = stamp
    return message


def _parts(T: ArrayLike) -> tuple[list[float], list[float]]:
    T = np.asarray(T, dtype=np.float64)
    return T[:3, 3].tolist(), se3.quaternion_from_matrix(T[:3, :3]).tolist()

# SPDX-License-Identifier: Apache-2.0
"""Write a rosbag2 (mcap or sqlite3) without ROS, by the `rosbags` package and Jazzy's messages."""

from collections.abc import Iterable
from contextlib import ExitStack
import functools
from pathlib import Path
import sqlite3
from types import TracebackType
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thermal_nerf_loc.common.errors import InputError, RunError
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.geometry.se3 import quaternion_from_matrix
from thermal_nerf_loc.io.atomic_files import directory_beside, writing
from thermal_nerf_loc.io.bags.messages import encode_compressed, encode_image, info_from_camera

STORAGES = ('mcap', 'sqlite3')
_FORMAT_VERSION: Final = 9  # of bags, as ROS 2 Jazzy writes them


class BagWriter:
    """Writes a bag, which appears at `path` when the `with` block ends well."""

    def __init__(self, path: Path, storage: str = 'mcap') -> None:
        """Choose the storage; nothing is written yet."""
        if storage not in STORAGES:
            raise InputError('unknown bag storage', where=path, expected=' or '.join(STORAGES),
                             got=repr(storage))
        self._path, self._storage = Path(path), storage
        self._connections: dict[str, tuple[str, Any]] = {}
        self._stack = ExitStack()
        self._messages = _Messages()

    def __enter__(self) -> 'BagWriter':
        """Open a bag beside the final one."""
        from rosbags.rosbag2 import StoragePlugin, Writer
        plugin = StoragePlugin.MCAP if self._storage == 'mcap' else StoragePlugin.SQLITE3
        with ExitStack() as stack:
            folder = stack.enter_context(directory_beside(self._path))
            with writing(self._path):
                folder.rmdir()  # rosbags makes it
                self._writer = stack.enter_context(
                    Writer(folder, version=_FORMAT_VERSION, storage_plugin=plugin))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """Close and rename, or leave nothing after an error."""
        with writing(self._path):
            self._stack.__exit__(kind, error, trace)

    def write(self, topic: str, kind: str, stamp_ns: int, message: Any) -> None:
        """Write any message of the Jazzy set, recorded at `stamp_ns`."""
        data = bytes(jazzy().serialize_cdr(message, kind))
        connection = self._connection(topic, kind)
        with writing(self._path):
            try:
                self._writer.write(connection, stamp_ns, data)
            except sqlite3.Error as error:
                raise RunError('cannot write the bag', where=self._path, got=error) from error

    def image(self, topic: str, stamp_ns: int, frame_id: str, array: NDArray[Any],
              encoding: str) -> None:
        """Write pixels in RGB order or of one channel as `sensor_msgs/Image`."""
        step, data = encode_image(array, encoding)
        self.write(topic, 'sensor_msgs/msg/Image', stamp_ns, self._messages(
            'sensor_msgs/msg/Image', header=self._messages.header(stamp_ns, frame_id),
            height=array.shape[0], width=array.shape[1], encoding=encoding, is_bigendian=0,
            step=step, data=np.frombuffer(data, np.uint8)))

    def compressed_image(self, topic: str, stamp_ns: int, frame_id: str, array: NDArray[Any],
                         format: str = 'jpeg') -> None:  # noqa: A002 - ROS' name
        """Write pixels as `sensor_msgs/CompressedImage`: 'jpeg', or 'png' for 8 or 16 bits."""
        data = encode_compressed(array, format)
        self.write(topic, 'sensor_msgs/msg/CompressedImage', stamp_ns, self._messages(
            'sensor_msgs/msg/CompressedImage', header=self._messages.header(stamp_ns, frame_id),
            format=_compressed_format(array, format), data=np.frombuffer(data, np.uint8)))

    def camera_info(self, topic: str, stamp_ns: int, frame_id: str, camera: Camera) -> None:
        """Write a lens as `sensor_msgs/CameraInfo`."""
        region = self._messages('sensor_msgs/msg/RegionOfInterest', x_offset=0, y_offset=0,
                                height=0, width=0, do_rectify=False)
        self.write(topic, 'sensor_msgs/msg/CameraInfo', stamp_ns, self._messages(
            'sensor_msgs/msg/CameraInfo', header=self._messages.header(stamp_ns, frame_id),
            height=camera.height, width=camera.width, binning_x=0, binning_y=0, roi=region,
            **info_from_camera(camera)._asdict()))

    def transforms(self, stamp_ns: int, transforms: Iterable[tuple[str, str, ArrayLike]],
                   static: bool = False) -> None:
        """Write `(parent, child, T_parent_child)` to /tf or /tf_static."""
        stamped = [self._messages(
            'geometry_msgs/msg/TransformStamped',
            header=self._messages.header(stamp_ns, parent), child_frame_id=child,
            transform=self._messages.transform(T)) for parent, child, T in transforms]
        self.write('/tf_static' if static else '/tf', 'tf2_msgs/msg/TFMessage', stamp_ns,
                   self._messages('tf2_msgs/msg/TFMessage', transforms=stamped))

    def odometry(self, topic: str, stamp_ns: int, parent: str, child: str, T: ArrayLike,
                 twist: ArrayLike, pose_covariance: ArrayLike | None = None,
                 twist_covariance: ArrayLike | None = None) -> None:
        """Write pose of `child` in `parent` and its twist (v, w) in `child`; 6x6 covariances."""
        m = self._messages
        speed = m('geometry_msgs/msg/Twist', linear=m.vector(np.asarray(twist)[:3]),
                  angular=m.vector(np.asarray(twist)[3:]))
        self.write(topic, 'nav_msgs/msg/Odometry', stamp_ns, m(
            'nav_msgs/msg/Odometry', header=m.header(stamp_ns, parent), child_frame_id=child,
            pose=m('geometry_msgs/msg/PoseWithCovariance', pose=m.pose(T),
                   covariance=_covariance(pose_covariance)),
            twist=m('geometry_msgs/msg/TwistWithCovariance', twist=speed,
                    covariance=_covariance(twist_covariance))))

    def imu(self, topic: str, stamp_ns: int, frame_id: str, gyro: ArrayLike, accel: ArrayLike,
            ) -> None:
        """Write `sensor_msgs/Imu` (rad/s, m/s^2) without an orientation."""
        m, unknown = self._messages, np.zeros(9)
        self.write(topic, 'sensor_msgs/msg/Imu', stamp_ns, m(
            'sensor_msgs/msg/Imu', header=m.header(stamp_ns, frame_id),
            orientation=m.quaternion(np.eye(3)),
            orientation_covariance=np.array([-1.0] + 8 * [0.0]),  # REP-145: there is none
            angular_velocity=m.vector(gyro), angular_velocity_covariance=unknown,
            linear_acceleration=m.vector(accel), linear_acceleration_covariance=unknown))

    def pose(self, topic: str, stamp_ns: int, frame_id: str, T: ArrayLike) -> None:
        """Write `geometry_msgs/PoseStamped`."""
        m = self._messages
        self.write(topic, 'geometry_msgs/msg/PoseStamped', stamp_ns, m(
            'geometry_msgs/msg/PoseStamped', header=m.header(stamp_ns, frame_id),
            pose=m.pose(T)))

    def _connection(self, topic: str, kind: str) -> Any:
        if topic not in self._connections:
            self._connections[topic] = kind, self._writer.add_connection(
                topic, kind, typestore=jazzy(),
                offered_qos_profiles=[_qos(latched=topic == '/tf_static')])
        known, connection = self._connections[topic]
        if known != kind:
            raise InputError('topic has another type already', where=topic, expected=known,
                             got=kind)
        return connection


class _Messages:
    """Makes messages of ROS 2 Jazzy."""

    def __call__(self, kind: str, **fields: Any) -> Any:
        return jazzy().types[kind](**fields)

    def header(self, stamp_ns: int, frame_id: str) -> Any:
        sec, nanosec = divmod(stamp_ns, 10**9)
        return self('std_msgs/msg/Header', frame_id=frame_id,
                    stamp=self('builtin_interfaces/msg/Time', sec=sec, nanosec=nanosec))

    def vector(self, xyz: ArrayLike, kind: str = 'Vector3') -> Any:
        x, y, z = (float(value) for value in np.asarray(xyz))
        return self(f'geometry_msgs/msg/{kind}', x=x, y=y, z=z)

    def quaternion(self, R: ArrayLike) -> Any:
        x, y, z, w = (float(value) for value in quaternion_from_matrix(R))
        return self('geometry_msgs/msg/Quaternion', x=x, y=y, z=z, w=w)

    def pose(self, T: ArrayLike) -> Any:
        T = np.asarray(T)
        return self('geometry_msgs/msg/Pose', position=self.vector(T[:3, 3], 'Point'),
                    orientation=self.quaternion(T[:3, :3]))

    def transform(self, T: ArrayLike) -> Any:
        T = np.asarray(T)
        return self('geometry_msgs/msg/Transform', translation=self.vector(T[:3, 3]),
                    rotation=self.quaternion(T[:3, :3]))


@functools.cache
def jazzy() -> Any:
    """Every message type of ROS 2 Jazzy."""
    from rosbags.typesys import get_typestore, Stores
    return get_typestore(Stores.ROS2_JAZZY)


def _qos(latched: bool) -> Any:
    """Quality of service for `ros2 bag play`: reliable, and latched for /tf_static."""
    from rosbags.interfaces import (
        Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime)
    never = QosTime(0, 0)
    return Qos(QosHistory.KEEP_LAST, 10, QosReliability.RELIABLE,
               QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE, never, never,
               QosLiveliness.AUTOMATIC, never, False)


def _covariance(matrix: ArrayLike | None) -> NDArray[np.float64]:
    return (np.zeros(36) if matrix is None
            else np.asarray(matrix, dtype=np.float64).reshape(36).copy())


def _compressed_format(array: NDArray[Any], image_format: str) -> str:
    """As image_transport writes it: `encoding; codec compressed target`."""
    if array.ndim == 3:
        return f'rgb8; {image_format} compressed bgr8'
    encoding = 'mono8' if array.dtype == np.uint8 else '16UC1'
    return f'{encoding}; {image_format} compressed {encoding if encoding == "mono8" else ""}'

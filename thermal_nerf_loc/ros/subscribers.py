# SPDX-License-Identifier: Apache-2.0
"""What the node hears: images, camera_info, tf, odometry and initial poses."""

from collections.abc import Callable
from functools import partial
import time
from typing import Any, Protocol

from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
import numpy as np
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage

from thermal_nerf_loc.common.errors import InputError, UserError
from thermal_nerf_loc.io.bags import messages
from thermal_nerf_loc.io.bags.transform_tree import TfBuffer, TransformUnavailable
from thermal_nerf_loc.tracking.frame_synchronizer import FrameSynchronizer, JUMP_BACK_NS
from thermal_nerf_loc.tracking.node_config import NodeConfig

Array = NDArray[np.float64]


class Listener(Protocol):
    """Who is told what arrives; all calls come from the executor's thread."""

    def on_news(self) -> None:
        """Something arrived that a frame may have waited for."""

    def on_odometry(self, stamp_ns: int) -> None:
        """`odom -> base` arrived on tf."""

    def on_start(self, T_map_base: Array, T_odom_base: Array | None,
                 covariance: Array | None) -> None:
        """Somebody says where the robot is."""

    def on_jump(self) -> None:
        """Time jumped back."""

    def on_problem(self, error: Exception) -> None:
        """A message was refused."""


class Subscribers:
    """Subscriptions of one activation; the map's own transforms are never listened to."""

    def __init__(self, node: LifecycleNode, config: NodeConfig, synchronizer: FrameSynchronizer,
                 tf: TfBuffer, listener: Listener) -> None:
        """Subscribe."""
        self._node, self._config, self._synchronizer, self._tf = node, config, synchronizer, tf
        self._listener = listener
        self._odometry_ns: int | None = None
        self._general: list[Any] = []
        self._cameras: list[Any] = []
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        listen = partial(self._listen, self._general)
        listen(TFMessage, '/tf_static', partial(self._on_tf, static=True), latched)
        listen(TFMessage, '/tf', self._on_tf, 100)
        listen(PoseWithCovarianceStamped, 'initialpose', self._on_initial_pose, 5)
        if config.odometry == 'topic':
            listen(Odometry, 'odom', self._on_odometry, 50)
        self.listen_to_cameras()

    def listen_to_cameras(self) -> None:
        """Subscribe to the cameras that the synchronizer wants, and to no others."""
        self._drop(self._cameras)
        sensor = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE
                            if self._config.reliable_images else ReliabilityPolicy.BEST_EFFORT)
        for modality in self._synchronizer.modalities:
            self._listen(self._cameras, CameraInfo, f'{modality}/camera_info',
                         partial(self._on_camera_info, modality), sensor)
            raw = getattr(self._config, f'{modality}_transport') == 'raw'
            topic = f'{modality}/image_raw' + ('' if raw else '/compressed')
            self._listen(self._cameras, Image if raw else CompressedImage, topic,
                         partial(self._on_image, modality), sensor)

    def stop(self) -> None:
        """Unsubscribe."""
        self._drop(self._cameras)
        self._drop(self._general)

    def odometry_at(self, stamp_ns: int) -> Array | None:
        """Odometry of that moment, else the newest, else none."""
        frames = self._config.synchronizer
        for moment in (stamp_ns or None, None):
            try:
                return self._tf.lookup_transform(frames.odom_frame, frames.base_frame, moment)
            except TransformUnavailable:
                continue
        return None

    def _listen(self, kept: list[Any], kind: Any, topic: str, callback: Callable[[Any], None],
                qos: Any) -> None:
        def guarded(message: Any) -> None:
            try:
                callback(message)
            except UserError as error:
                self._listener.on_problem(error)

        kept.append(self._node.create_subscription(kind, topic, guarded, qos))

    def _drop(self, kept: list[Any]) -> None:
        for subscription in kept:
            self._node.destroy_subscription(subscription)
        kept.clear()

    def _on_image(self, modality: str, message: Any) -> None:
        if modality in self._synchronizer.modalities:  # one may be under way while cameras change
            self._synchronizer.add_image(modality, message, time.monotonic_ns())
            self._listener.on_news()

    def _on_camera_info(self, modality: str, message: Any) -> None:
        if modality in self._synchronizer.modalities:
            self._synchronizer.add_camera_info(modality, message)

    def _on_tf(self, message: Any, static: bool = False) -> None:
        for transform in message.transforms:
            try:
                self._take_transform(transform, static)
            except UserError as error:  # the others of the message are none the worse
                self._listener.on_problem(error)
        self._listener.on_news()

    def _take_transform(self, transform: Any, static: bool) -> None:
        frames = self._config.synchronizer
        parent, child = transform.header.frame_id, transform.child_frame_id
        if parent == self._config.map_frame:
            return  # our own answer (or a rival's): never an input
        if self._config.odometry != 'tf' and child == frames.base_frame:
            return
        stamp_ns = messages.stamp_ns(transform.header.stamp)
        T = messages.matrix_from_transform(transform.transform)
        if parent == frames.odom_frame and not static:
            self._notice_jump(stamp_ns)
        self._tf.set_transform(parent, child, T, stamp_ns, static)
        if parent == frames.odom_frame:
            self._listener.on_odometry(stamp_ns)

    def _on_odometry(self, message: Any) -> None:
        frames, stamp_ns = self._config.synchronizer, messages.stamp_ns(message.header.stamp)
        self._notice_jump(stamp_ns)
        self._tf.set_transform(frames.odom_frame, frames.base_frame,
                               messages.matrix_from_pose(message.pose.pose), stamp_ns)
        self._listener.on_news()

    def _notice_jump(self, stamp_ns: int) -> None:
        """Odometry is first to know that a bag starts over: nothing old may be announced."""
        last_ns, self._odometry_ns = self._odometry_ns, stamp_ns
        if last_ns is not None and stamp_ns < last_ns - JUMP_BACK_NS:
            self._synchronizer.start_over()
            self._listener.on_jump()

    def _on_initial_pose(self, message: Any) -> None:
        if message.header.frame_id.lstrip('/') != self._config.map_frame:
            raise InputError('initial pose is in another frame', where='initialpose',
                             expected=self._config.map_frame, got=message.header.frame_id)
        T_map_base = messages.matrix_from_pose(message.pose.pose)
        covariance = np.reshape(message.pose.covariance, (6, 6))
        stamp_ns = messages.stamp_ns(message.header.stamp)
        self._listener.on_start(T_map_base, self.odometry_at(stamp_ns),
                                covariance if covariance.any() else None)

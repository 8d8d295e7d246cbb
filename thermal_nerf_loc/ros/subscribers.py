# SPDX-License-Identifier: Apache-2.0
"""Subscriptions of an active node: images, camera_info, tf and odometry."""

from collections.abc import Callable
from functools import partial
import time
from typing import Any, Protocol

from nav_msgs.msg import Odometry
import numpy as np
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, Imu
from tf2_msgs.msg import TFMessage

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.io.bags import messages
from thermal_nerf_loc.io.bags.message_limits import MAX_TRANSFORMS
from thermal_nerf_loc.io.bags.topics import CameraTopics
from thermal_nerf_loc.io.bags.transform_tree import TransformUnavailable
from thermal_nerf_loc.ros.publishers import TF, TF_STATIC
from thermal_nerf_loc.tracking.frame_synchronizer import FrameSynchronizer
from thermal_nerf_loc.tracking.motion.inertial_motion import (
    IMU_TOPIC, ImuInput, InertialMotion)
from thermal_nerf_loc.tracking.motion.odometry import ODOMETRY_TOPIC, TransformInput
from thermal_nerf_loc.tracking.node_config import NodeConfig

Array = NDArray[np.float64]


_SILENT_S = 5.0  # without a message since the subscription: said in the log
_OPTIONAL = (TF,)  # nobody need publish on these


class SubscriberCallbacks(Protocol):
    """What is called when messages arrive, in the executor's thread."""

    def on_data(self) -> None:
        """Something arrived that a frame may have waited for."""

    def on_odometry(self, stamp_ns: int) -> None:
        """`odom -> base` arrived on tf."""

    def on_time_jump(self) -> None:
        """Time jumped back."""

    def on_problem(self, error: Exception) -> None:
        """A message was refused."""


class Subscribers:
    """Subscriptions of one activation; what arrives goes to the synchronizer."""

    def __init__(self, node: LifecycleNode, config: NodeConfig, synchronizer: FrameSynchronizer,
                 callbacks: SubscriberCallbacks, inertial: InertialMotion | None = None) -> None:
        """Subscribe; `inertial` takes what an IMU measures."""
        self._node, self._config, self._synchronizer = node, config, synchronizer
        self._callbacks = callbacks
        self._transforms = TransformInput(config.odometry, config.map_frame, synchronizer,
                                          callbacks.on_time_jump)
        self._subscriptions: list[Any] = []
        self._camera_subscriptions: list[Any] = []
        self._silent: dict[str, float] = {}  # topics that nothing came on, and since when
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        subscribe = partial(self._subscribe, self._subscriptions)
        subscribe(TFMessage, TF_STATIC, partial(self._on_tf, static=True), latched)
        subscribe(TFMessage, TF, self._on_tf, 100)
        if config.odometry == 'topic':
            subscribe(Odometry, ODOMETRY_TOPIC, self._on_odometry, 50)
        if inertial is not None:
            subscribe(Imu, IMU_TOPIC, ImuInput(inertial, synchronizer).add, QoSProfile(
                depth=400, reliability=ReliabilityPolicy.BEST_EFFORT))
        self.subscribe_to_cameras()

    def subscribe_to_cameras(self) -> None:
        """Subscribe to the cameras that the synchronizer uses, and to no others."""
        self._unsubscribe(self._camera_subscriptions)
        others = (TF_STATIC, ODOMETRY_TOPIC, IMU_TOPIC)
        self._silent = {topic: s for topic, s in self._silent.items() if topic in others}
        sensor = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE
                            if self._config.reliable_images else ReliabilityPolicy.BEST_EFFORT)
        subscribe = partial(self._subscribe, self._camera_subscriptions)
        for modality in self._synchronizer.modalities:
            raw = getattr(self._config, f'{modality}_transport') == 'raw'
            images = self._image_topic(modality, raw)
            # Images remapped to image_rect have the lens of the rectified image.
            rectified = CameraTopics(self._node.resolve_topic_name(images), '').is_rectified
            subscribe(CameraInfo, f'{modality}/camera_info',
                      partial(self._on_camera_info, modality, rectified), sensor)
            subscribe(Image if raw else CompressedImage, images,
                      partial(self._on_image, modality), sensor)

    def _image_topic(self, modality: str, raw: bool) -> str:
        """Compressed images lie below the raw topic, also a remapped one (image_transport)."""
        topic = f'{modality}/image_raw'
        if raw:
            return topic
        below = f'{topic}/compressed'
        resolve = self._node.resolve_topic_name
        if resolve(below) != resolve(below, only_expand=True):  # remapped by its own name
            return below
        return f'{resolve(topic)}/compressed'

    def root_of_base(self, stamp_ns: int) -> tuple[str, Array | None]:
        """The frame to publish in the map, and the base in it."""
        return self._transforms.root_of_base(stamp_ns)

    def silent_topics(self) -> list[str]:
        """Full names of topics that nothing came on for some seconds; each is named once."""
        now_s = time.monotonic()
        silent = [topic for topic, since_s in list(self._silent.items())
                  if now_s - since_s > _SILENT_S]
        for topic in silent:
            self._silent.pop(topic, None)
        return [self._node.resolve_topic_name(topic) for topic in silent]

    def stop(self) -> None:
        """Unsubscribe from everything."""
        self._unsubscribe(self._camera_subscriptions)
        self._unsubscribe(self._subscriptions)

    def _subscribe(self, subscriptions: list[Any], kind: Any, topic: str,
                   callback: Callable[[Any], None], qos: Any) -> None:
        def guarded(message: Any) -> None:
            self._silent.pop(topic, None)
            try:
                callback(message)
            except Exception as error:  # no message may end the node
                self._callbacks.on_problem(error)

        if topic not in _OPTIONAL:
            self._silent[topic] = time.monotonic()
        subscriptions.append(self._node.create_subscription(kind, topic, guarded, qos))

    def _unsubscribe(self, subscriptions: list[Any]) -> None:
        for subscription in subscriptions:
            self._node.destroy_subscription(subscription)
        subscriptions.clear()

    def _on_image(self, modality: str, message: Any) -> None:
        if modality in self._synchronizer.modalities:  # one may be under way as cameras change
            self._synchronizer.add_image(modality, message, time.monotonic_ns())
            self._callbacks.on_data()

    def _on_camera_info(self, modality: str, rectified: bool, message: Any) -> None:
        if modality in self._synchronizer.modalities:
            self._synchronizer.add_camera_info(modality, message, rectified)

    def _on_tf(self, message: Any, static: bool = False) -> None:
        if len(message.transforms) > MAX_TRANSFORMS:
            raise InputError('too many transforms in one message', where='tf',
                             expected=f'at most {MAX_TRANSFORMS}', got=len(message.transforms))
        for transform in message.transforms:
            try:
                if self._transforms.add_transform(transform, static):
                    self._callbacks.on_odometry(messages.stamp_ns(transform.header.stamp))
            except Exception as error:  # the message's other transforms are taken all the same
                self._callbacks.on_problem(error)
        self._callbacks.on_data()

    def _on_odometry(self, message: Any) -> None:
        self._transforms.add_odometry(message)
        self._callbacks.on_data()

    def odometry_at(self, stamp_ns: int) -> Array | None:
        """Odometry at a stamp (0 or below: the newest), else the newest, else none."""
        frames = self._synchronizer.config
        for requested_ns in (stamp_ns if stamp_ns > 0 else None, None):
            try:
                return self._synchronizer.tf.lookup_transform(frames.odom_frame,
                                                              frames.base_frame, requested_ns)
            except TransformUnavailable:
                continue
        return None

# SPDX-License-Identifier: Apache-2.0
"""
Record what a localizer publishes, received as the rest of the robot receives it.

The trajectory is what tf answers live: at each odometry message `map -> odom` as known then, and
only while its stamp is not behind (tf would refuse to extrapolate).
"""

from collections.abc import Mapping
from dataclasses import dataclass
import threading
from types import TracebackType
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry
import numpy as np
from numpy.typing import NDArray
import rclpy
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from tf2_msgs.msg import TFMessage

from thermal_nerf_loc.io.bags.messages import matrix_from_pose, matrix_from_transform, stamp_ns
from thermal_nerf_loc.io.trajectory import Trajectory
from thermal_nerf_loc.ros.publishers import TF
from thermal_nerf_loc.tracking.bag_replay import rising_trajectory

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """What was received; stamps in ns, poses of the base in the map."""

    tf: Trajectory  # at the odometry messages that tf had an answer for
    odometry_count: int  # odometry messages since the first answer
    updates: Trajectory  # the localizer's own updates, at the stamps of their images
    latencies_s: Array  # from an image's stamp to the arrival of its update here
    diagnostics: Mapping[str, str]


class Recorder:
    """Records from `__enter__` to `result`; runs beside the caller in a thread."""

    def __init__(self, domain_id: int, node_name: str = '/localizer', map_frame: str = 'map',
                 odom_frame: str = 'odom', base_frame: str = 'base_link',
                 tf_topic: str = TF) -> None:
        """Name the localizer's DDS domain, node, frames and tf topic."""
        self._domain_id, self._node_name, self._tf_topic = domain_id, node_name, tf_topic
        self._frames = map_frame, odom_frame, base_frame
        self._lock = threading.Lock()
        self._tf: list[tuple[int, Array]] = []
        self._updates: list[tuple[int, Array, float]] = []
        self._odometry_count = 0
        self._map_odom: tuple[int, Array] | None = None
        self._first_ns: int | None = None  # of /clock
        self._now_ns: int | None = None
        self._diagnostics: dict[str, str] = {}

    def __enter__(self) -> 'Recorder':
        """Join the domain and subscribe."""
        self._context = Context()
        rclpy.init(context=self._context, domain_id=self._domain_id)
        self._node = rclpy.create_node('recorder', context=self._context)
        lossy = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
        for kind, topic, callback, qos in (
                (TFMessage, self._tf_topic, self._on_tf, 200),
                (Clock, '/clock', self._on_clock, lossy),
                (Odometry, f'{self._node_name}/odometry', self._on_update, 50),
                (DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)):
            self._node.create_subscription(kind, topic, callback, qos)
        self._thread = threading.Thread(target=self._spin, name='recorder', daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """Leave the domain."""
        rclpy.try_shutdown(context=self._context)
        self._thread.join(5.0)

    @property
    def diagnostics(self) -> Mapping[str, str]:
        """The newest status of the localizer; empty before the first."""
        with self._lock:
            return dict(self._diagnostics)

    @property
    def played_s(self) -> float:
        """Seconds on /clock since its first message."""
        with self._lock:
            if self._first_ns is None or self._now_ns is None:
                return 0.0
            return (self._now_ns - self._first_ns) / 1e9

    def result(self) -> Recording:
        """Everything received so far."""
        with self._lock:
            return Recording(rising_trajectory(self._tf), self._odometry_count,
                             rising_trajectory([(t, T) for t, T, _ in self._updates]),
                             np.array([latency for _, _, latency in self._updates]),
                             dict(self._diagnostics))

    def _spin(self) -> None:
        executor = SingleThreadedExecutor(context=self._context)
        executor.add_node(self._node)
        try:
            executor.spin()
        except ExternalShutdownException:
            pass  # the way out
        finally:
            self._node.destroy_node()

    def _on_tf(self, message: Any) -> None:
        map_frame, odom_frame, base_frame = self._frames
        for transform in message.transforms:
            edge = transform.header.frame_id, transform.child_frame_id
            stamp, T = stamp_ns(transform.header.stamp), transform.transform
            with self._lock:
                if edge == (map_frame, odom_frame):
                    self._map_odom = stamp, matrix_from_transform(T)
                elif edge == (map_frame, base_frame):
                    self._tf.append((stamp, matrix_from_transform(T)))
                elif edge == (odom_frame, base_frame):
                    self._on_odometry(stamp, matrix_from_transform(T))

    def _on_odometry(self, stamp: int, T_odom_base: Array) -> None:
        if self._map_odom is None:
            return
        self._odometry_count += 1
        known_until, T_map_odom = self._map_odom
        if stamp <= known_until:
            self._tf.append((stamp, T_map_odom @ T_odom_base))

    def _on_clock(self, message: Any) -> None:
        with self._lock:
            self._now_ns = stamp_ns(message.clock)
            self._first_ns = self._now_ns if self._first_ns is None else self._first_ns

    def _on_update(self, message: Any) -> None:
        stamp = stamp_ns(message.header.stamp)
        with self._lock:
            now_ns = stamp if self._now_ns is None else self._now_ns
            self._updates.append((stamp, matrix_from_pose(message.pose.pose),
                                  (now_ns - stamp) / 1e9))

    def _on_diagnostics(self, message: Any) -> None:
        for status in message.status:
            if status.name == self._node_name:
                with self._lock:
                    self._diagnostics = {pair.key: pair.value for pair in status.values}

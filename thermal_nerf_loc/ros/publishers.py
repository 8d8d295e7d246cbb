# SPDX-License-Identifier: Apache-2.0
"""Publishers of the node: tf, pose, odometry and path in the map."""

from collections import deque
import math
import threading
import time
from typing import Any

from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped
from nav_msgs.msg import Odometry, Path
import numpy as np
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile
from tf2_msgs.msg import TFMessage

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.bags.transform_tree import frame_name
from thermal_nerf_loc.ros.message_conversion import (matrix_to_pose, matrix_to_transform,
                                                     stamp_from_ns)
from thermal_nerf_loc.tracking.node_config import NodeConfig
from thermal_nerf_loc.tracking.robot_tracker import RobotUpdate

Array = NDArray[np.float64]

_PATH_STEP_M = 0.02  # a path's poses lie at least so far apart
_PATH_PERIOD_S = 0.5

# Absolute, as tf2_ros has them: in a namespace Nav2 remaps `/tf:=tf` and `/tf_static:=tf_static`.
TF, TF_STATIC = '/tf', '/tf_static'
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Publishers:
    """Publishes updates, and repeats the transform `map -> odom` at the odometry's rate."""

    def __init__(self, node: LifecycleNode, config: NodeConfig) -> None:
        """Create the publishers; they publish while the node is active."""
        self.config = config
        self._node = node
        self._lock = threading.Lock()  # updates come from one thread, odometry from another
        self._T_map_odom: Array | None = None
        self._update_ns = 0
        self._path_poses: deque[Any] = deque(maxlen=config.path_poses)
        self._path_published_s = -1.0
        self._pose = node.create_lifecycle_publisher(PoseWithCovarianceStamped, '~/pose', LATCHED)
        self._path = node.create_lifecycle_publisher(Path, '~/path', LATCHED)
        self._amcl_pose = (node.create_lifecycle_publisher(
            PoseWithCovarianceStamped, 'amcl_pose', LATCHED) if config.amcl_names else None)
        self._odometry = node.create_lifecycle_publisher(Odometry, '~/odometry', 10)
        self._tf = node.create_lifecycle_publisher(TFMessage, TF, 100)

    def publish_update(self, update: RobotUpdate, root: str, T_root_base: Array | None,
                       ) -> None:
        """
        Publish an update; without a pose the transform is not repeated any more.

        `root` is the frame that gets the map for its parent: see `TransformInput.root_of_base`.
        """
        is_odom = root == frame_name(self.config.synchronizer.odom_frame)
        T_map_root = (None if update.T_map_base is None or T_root_base is None
                      else update.T_map_base @ se3.inverse(T_root_base))
        with self._lock:
            self._T_map_odom = None
            if is_odom:
                self._T_map_odom = T_map_root
            self._update_ns = update.stamp_ns
        if update.T_map_base is not None:
            self._publish_pose(update, update.T_map_base)
        if T_map_root is None:
            return
        if is_odom:
            self.repeat_map_to_odom(update.stamp_ns)
            return
        self._publish_transform(T_map_root, root, update.stamp_ns)

    def repeat_map_to_odom(self, stamp_ns: int) -> None:
        """
        Publish the last `map -> odom` with the stamp of odometry that has arrived.

        Odometry alone is not trusted for longer than the tracker trusts it.
        """
        with self._lock:
            trusted_ns = round(self.config.tracker.lost_after_s * 1e9)
            if stamp_ns - self._update_ns > trusted_ns:
                self._T_map_odom = None
            T_map_odom = self._T_map_odom
        if T_map_odom is not None:
            ahead_ns = round(self.config.transform_tolerance_s * 1e9)
            self._publish_transform(T_map_odom, self.config.synchronizer.odom_frame,
                                    stamp_ns + ahead_ns)

    def retract(self) -> None:
        """Do not repeat the transform until the next update."""
        with self._lock:
            self._T_map_odom = None

    def clear_path(self) -> None:
        """Begin a new path: time started over, or the map is another one."""
        self._path_poses.clear()

    def destroy(self) -> None:
        """Destroy the publishers."""
        publishers = self._pose, self._amcl_pose, self._path, self._odometry, self._tf
        for publisher in filter(None, publishers):
            self._node.destroy_lifecycle_publisher(publisher)

    def _publish_transform(self, T_map_child: Array, child: str, stamp_ns: int) -> None:
        if self.config.publish_tf:
            self._tf.publish(TFMessage(transforms=[matrix_to_transform(
                T_map_child, self.config.map_frame, child, stamp_ns)]))

    def _publish_pose(self, update: RobotUpdate, T_map_base: Array) -> None:
        covariance = np.zeros(36) if update.covariance is None else update.covariance.ravel()
        pose = PoseWithCovarianceStamped()
        odometry = Odometry(child_frame_id=self.config.synchronizer.base_frame)
        message: Any
        for message in (pose, odometry):
            message.header.frame_id = self.config.map_frame
            message.header.stamp = stamp_from_ns(update.stamp_ns)
            message.pose.pose = matrix_to_pose(T_map_base)
            message.pose.covariance = covariance
        self._pose.publish(pose)
        if self._amcl_pose is not None:
            self._amcl_pose.publish(pose)
        self._odometry.publish(odometry)
        self._extend_path(pose)

    def _extend_path(self, pose: Any) -> None:
        """Add the pose where the robot has moved; publish the path at times, if subscribed to."""
        position = pose.pose.pose.position
        last = self._path_poses[-1].pose.position if self._path_poses else None
        if last is None or math.dist((position.x, position.y, position.z),
                                     (last.x, last.y, last.z)) > _PATH_STEP_M:
            self._path_poses.append(PoseStamped(header=pose.header, pose=pose.pose.pose))
        now_s = time.monotonic()
        if now_s - self._path_published_s > _PATH_PERIOD_S and self._path.get_subscription_count():
            self._path_published_s = now_s
            self._path.publish(Path(header=pose.header, poses=list(self._path_poses)))

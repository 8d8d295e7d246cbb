# SPDX-License-Identifier: Apache-2.0
"""What is there to be looked at: the map's surface, and how well the pose fits."""

from collections.abc import Callable
import time
from typing import Any

from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import Image, PointCloud2

from thermal_nerf_loc.evaluation.surface import Surface
from thermal_nerf_loc.ros.announcer import LATCHED
from thermal_nerf_loc.ros.convert import image_to_message
from thermal_nerf_loc.ros.map_points import cloud_message, MapPoints
from thermal_nerf_loc.ros.overlay import draw_overlay
from thermal_nerf_loc.tracking.frame_synchronizer import Observation
from thermal_nerf_loc.tracking.node_config import NodeConfig
from thermal_nerf_loc.tracking.robot_tracker import RobotUpdate
from thermal_nerf_loc.tracking.session import LoadedMap


class Pictures:
    """Publishes `~/map_points` once for each map, and `~/debug/overlay` while somebody looks."""

    def __init__(self, node: LifecycleNode, on_problem: Callable[[Exception], None]) -> None:
        """Create the publishers; they speak while the node is active."""
        self._node, self._on_problem = node, on_problem
        self._cloud = node.create_lifecycle_publisher(PointCloud2, '~/map_points', LATCHED)
        self._overlay = node.create_lifecycle_publisher(Image, '~/debug/overlay', 1)
        self._points: MapPoints | None = None
        self._drawn_s = -1e9

    def show_map(self, loaded: LoadedMap, config: NodeConfig) -> None:
        """Gather the map's surface in the background and publish it."""
        self.stop()
        if not config.map_points:
            return

        def publish(surface: Surface) -> None:
            stamp_ns = self._node.get_clock().now().nanoseconds
            self._cloud.publish(cloud_message(surface, config.map_frame, stamp_ns))
            self._node.get_logger().info(f'map has {len(surface)} surface points')

        self._points = MapPoints(loaded.renderer, config.map_points_spacing_m, publish,
                                 self._on_problem)
        self._points.start()

    def show_fit(self, loaded: LoadedMap, config: NodeConfig, update: RobotUpdate,
                 observation: Observation) -> None:
        """Draw a frame over what the map shows at its pose, if anyone looks and it is time."""
        now_s = time.monotonic()
        if (update.T_world_cam is None or now_s - self._drawn_s < config.overlay_period_s
                or not self._overlay.get_subscription_count()):
            return
        self._drawn_s = now_s
        title = ': '.join(filter(None, (update.state, update.reason)))
        picture = draw_overlay(loaded.renderer, config.localizer, observation.frame,
                               update.T_world_cam, title)
        self._overlay.publish(image_to_message(picture, 'rgb8', 'overlay', update.stamp_ns))

    def stop(self) -> None:
        """Gather no longer."""
        if self._points is not None:
            self._points.stop()
            self._points = None

    def destroy(self) -> None:
        """Take the publishers back."""
        self.stop()
        publisher: Any
        for publisher in (self._cloud, self._overlay):
            self._node.destroy_lifecycle_publisher(publisher)

# SPDX-License-Identifier: Apache-2.0
"""
Pictures of the map and of the pose: the map's surface as a point cloud, and an overlay image.

The surface is computed in a thread of its own and published once; the overlay shows a frame over
what the map renders at its pose.
"""

import array
from collections.abc import Callable
import threading
import time
from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import Image, PointCloud2, PointField

from thermal_nerf_loc.common.threads import JOIN_S
from thermal_nerf_loc.mapping.map.localization_map import LocalizationMap
from thermal_nerf_loc.ros.message_conversion import image_to_message, stamp_from_ns
from thermal_nerf_loc.ros.occupancy_map import OccupancyMap
from thermal_nerf_loc.ros.publishers import LATCHED
from thermal_nerf_loc.tracking.frame_synchronizer import RobotFrame
from thermal_nerf_loc.tracking.node_config import NodeConfig
from thermal_nerf_loc.tracking.robot_tracker import RobotUpdate
from thermal_nerf_loc.tracking.session import LoadedMap
from thermal_nerf_loc.visualization.pose_overlay import draw_overlay
from thermal_nerf_loc.visualization.surface import SurfaceBuilder, SurfacePoints

_PAUSE_S = 0.03  # between two renderings, so that tracking comes first


class MapVisualization:
    """Publishes `~/map_points` once a map, and `~/debug/overlay` while it is subscribed to."""

    def __init__(self, node: LifecycleNode, on_problem: Callable[[Exception], None]) -> None:
        """Create the publishers; they publish while the node is active."""
        self._node, self._on_problem = node, on_problem
        self._cloud = node.create_lifecycle_publisher(PointCloud2, '~/map_points', LATCHED)
        self._overlay = node.create_lifecycle_publisher(Image, '~/debug/overlay', 1)
        self._surface: SurfaceThread | None = None
        self._grid = OccupancyMap(node, on_problem)
        self._drawn_s = -1e9

    def show_map(self, loaded: LoadedMap, config: NodeConfig) -> None:
        """Compute the map's surface in the background and publish it."""
        self.stop()
        self._grid.show_map(loaded, config)
        if not config.map_points:
            return

        def publish(surface: SurfacePoints) -> None:
            stamp_ns = self._node.get_clock().now().nanoseconds
            self._cloud.publish(cloud_message(surface, config.map_frame, stamp_ns))
            self._node.get_logger().info(f'map has {len(surface)} surface points')

        self._surface = SurfaceThread(loaded.renderer, config.map_points_spacing_m, publish,
                                      self._on_problem)
        self._surface.start()

    def show_overlay(self, loaded: LoadedMap, config: NodeConfig, update: RobotUpdate,
                     robot_frame: RobotFrame) -> None:
        """Draw a frame over the map's rendering at its pose, if subscribed to and due."""
        now_s = time.monotonic()
        if (update.T_world_cam is None or now_s - self._drawn_s < config.overlay_period_s
                or not self._overlay.get_subscription_count()):
            return
        self._drawn_s = now_s
        title = ': '.join(filter(None, (update.state, update.reason)))
        picture = draw_overlay(loaded.renderer, config.localizer, robot_frame.frame,
                               update.T_world_cam, title)
        self._overlay.publish(image_to_message(picture, 'rgb8', 'overlay', update.stamp_ns))

    def stop(self) -> None:
        """Stop computing the surface and the grid."""
        self._grid.stop()
        if self._surface is not None:
            self._surface.stop()
            self._surface = None

    def destroy(self) -> None:
        """Destroy the publishers."""
        self.stop()
        self._grid.destroy()
        publisher: Any
        for publisher in (self._cloud, self._overlay):
            self._node.destroy_lifecycle_publisher(publisher)


class SurfaceThread:
    """Computes a map's surface in small steps, then calls `done` with it, once."""

    def __init__(self, renderer: LocalizationMap, spacing_m: float,
                 done: Callable[[SurfacePoints], None],
                 on_problem: Callable[[Exception], None]) -> None:
        """Both callbacks run in the thread."""
        self._builder = SurfaceBuilder(renderer, spacing_m)
        self._done, self._on_problem = done, on_problem
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name='map points', daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, and wait for the thread; `done` is not called afterwards."""
        self._stopped.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(JOIN_S)

    def _run(self) -> None:
        try:
            for _ in self._builder.steps():
                if self._stopped.wait(_PAUSE_S):
                    return
            self._done(self._builder.surface())
        except Exception as error:  # a picture of the map must not end the localizer
            if not self._stopped.is_set():
                self._on_problem(error)


def cloud_message(surface: SurfacePoints, frame_id: str, stamp_ns: int) -> Any:
    """sensor_msgs/PointCloud2 with x, y, z and, where the map has them, rgb and temperature."""
    columns = [('x', surface.points_m[:, 0]), ('y', surface.points_m[:, 1]),
               ('z', surface.points_m[:, 2])]
    if surface.colours is not None:
        columns.append(('rgb', _packed(surface)))
    if surface.celsius is not None:
        columns.append(('temperature', surface.celsius))
    data = np.stack([column for _, column in columns], axis=-1).astype('<f4')
    message = PointCloud2(height=1, width=len(surface), point_step=4 * len(columns),
                          row_step=4 * len(columns) * len(surface), is_dense=True)
    message.fields = [PointField(name=name, offset=4 * k, datatype=PointField.FLOAT32, count=1)
                      for k, (name, _) in enumerate(columns)]
    message.data = array.array('B', data.tobytes())
    message.header.frame_id, message.header.stamp = frame_id, stamp_from_ns(stamp_ns)
    return message


def _packed(surface: SurfacePoints) -> Any:
    """0x00RRGGBB, its bits read as a float: the way point clouds carry colour."""
    assert surface.colours is not None
    r, g, b = np.rint(np.clip(surface.colours, 0.0, 1.0) * 255.0).astype(np.uint32).T
    return (r << 16 | g << 8 | b).astype('<u4').view('<f4')

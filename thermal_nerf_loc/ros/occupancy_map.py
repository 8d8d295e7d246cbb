# SPDX-License-Identifier: Apache-2.0
"""The map's occupancy grid on the topic `map`, computed in a thread of its own, published once."""

import array
from collections.abc import Callable
import threading
from typing import Any

from nav_msgs.msg import OccupancyGrid as GridMessage
import numpy as np
from rclpy.lifecycle import LifecycleNode

from thermal_nerf_loc.common.threads import JOIN_S
from thermal_nerf_loc.ros.message_conversion import stamp_from_ns
from thermal_nerf_loc.ros.publishers import LATCHED
from thermal_nerf_loc.tracking.node_config import NodeConfig
from thermal_nerf_loc.tracking.session import LoadedMap
from thermal_nerf_loc.visualization.occupancy_grid import GridBuilder, GridConfig, OccupancyGrid

_CHUNK_RAYS, _PAUSE_S = 1200, 0.03  # so that tracking comes first


class OccupancyMap:
    """Publishes `map` once a map, where `occupancy_grid` asks for it; latched, as map_server's."""

    def __init__(self, node: LifecycleNode, on_problem: Callable[[Exception], None]) -> None:
        """Nothing is published, and no publisher made, until a grid is asked for."""
        self._node, self._on_problem = node, on_problem
        self._publisher: Any = None
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    def show_map(self, loaded: LoadedMap, config: NodeConfig) -> None:
        """Compute the grid in the background and publish it."""
        self.stop()
        if not config.occupancy_grid:
            return
        builder = GridBuilder(loaded.renderer, GridConfig(
            config.grid_resolution_m, config.grid_low_m, config.grid_high_m))
        if self._publisher is None:
            self._publisher = self._node.create_lifecycle_publisher(GridMessage, 'map', LATCHED)
            self._publisher.on_activate(None)  # the node is active already
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name='occupancy grid', daemon=True,
                                        args=(builder, config.map_frame, self._stopped))
        self._thread.start()

    def stop(self) -> None:
        """Stop, and wait for the thread; nothing is published afterwards."""
        self._stopped.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(JOIN_S)
        self._thread = None

    def destroy(self) -> None:
        """Destroy the publisher."""
        self.stop()
        if self._publisher is not None:
            self._node.destroy_lifecycle_publisher(self._publisher)
            self._publisher = None

    def _run(self, builder: GridBuilder, frame: str, stopped: threading.Event) -> None:
        try:
            for _ in builder.steps(_CHUNK_RAYS):
                if stopped.wait(_PAUSE_S):
                    return
            grid = builder.grid()
            if stopped.is_set():
                return
            self._publisher.publish(grid_message(
                grid, frame, self._node.get_clock().now().nanoseconds))
            rows, columns = grid.values.shape
            for text in (f'{columns} x {rows} cells are on the topic map', *grid.notes()):
                self._node.get_logger().info(f'occupancy grid: {text}')
        except Exception as error:  # a grid must not end the localizer
            if not stopped.is_set():
                self._on_problem(error)


def grid_message(grid: OccupancyGrid, frame_id: str, stamp_ns: int) -> Any:
    """nav_msgs/OccupancyGrid; its plane is z = 0, as map_server's is."""
    message = GridMessage()
    message.header.frame_id, message.header.stamp = frame_id, stamp_from_ns(stamp_ns)
    info = message.info
    info.map_load_time = stamp_from_ns(stamp_ns)
    info.resolution = grid.resolution_m
    info.height, info.width = grid.values.shape
    info.origin.position.x, info.origin.position.y = grid.origin_m
    info.origin.orientation.w = 1.0
    message.data = array.array('b', np.ascontiguousarray(grid.values).tobytes())
    return message

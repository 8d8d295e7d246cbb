# SPDX-License-Identifier: Apache-2.0
"""The grid on the topic `map`: latched, as a late subscriber gets it. A real process."""

import pytest

pytest.importorskip('rclpy')
pytest.importorskip('tf2_msgs')
pytestmark = pytest.mark.ros

from nav_msgs.msg import OccupancyGrid as GridMessage  # noqa: E402, I100, I202
import numpy as np  # noqa: E402

from thermal_nerf_loc.ros.occupancy_map import grid_message  # noqa: E402
from thermal_nerf_loc.ros.publishers import LATCHED  # noqa: E402
from thermal_nerf_loc.visualization.occupancy_grid import OccupancyGrid  # noqa: E402

pytest_plugins = ('ros_fixtures',)


def test_message_is_as_map_server_makes_it():
    values = np.array([[0, 100, -1], [-1, 0, 0]], np.int8)
    message = grid_message(OccupancyGrid(values, (-1.0, 2.0), 0.1, None), 'map', 5_000_000_007)
    assert (message.info.width, message.info.height) == (3, 2)
    assert list(message.data) == [0, 100, -1, -1, 0, 0]
    assert message.info.resolution == pytest.approx(0.1)
    origin = message.info.origin
    assert (origin.position.x, origin.position.y, origin.orientation.w) == (-1.0, 2.0, 1.0)
    assert (message.header.frame_id, message.header.stamp.nanosec) == ('map', 7)


@pytest.fixture(scope='module')
def node_parameters():
    return 'occupancy_grid:=true', 'grid_resolution_m:=0.2', 'map_points:=false'


@pytest.mark.slow
def test_a_late_subscriber_gets_the_map(robot, node):
    assert robot.until(lambda: node.output.has('occupancy grid: '), 90.0, node), (
        str(node.output))
    received = []
    robot.node.create_subscription(GridMessage, 'map', received.append, LATCHED)
    assert robot.until(lambda: received, 20.0, node)
    (grid,) = received
    cells = np.array(grid.data).reshape(grid.info.height, grid.info.width)
    assert set(np.unique(cells)) == {-1, 0, 100}
    column, row = np.floor((np.array([3.0, 2.0]) - (
        grid.info.origin.position.x, grid.info.origin.position.y)) / 0.2).astype(int)
    assert cells[row, column] == 0  # seen free, between the cameras and a wall

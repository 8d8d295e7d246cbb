# SPDX-License-Identifier: Apache-2.0
"""The occupancy grid of an exact world: walls, a box and a table where they are, and no more."""

from dataclasses import replace

import numpy as np
import pytest

from thermal_nerf_loc.cli import main
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.simulation.layouts import make_world
from thermal_nerf_loc.simulation.world import box, Layout, Material, room, World
from thermal_nerf_loc.visualization.occupancy_grid import (
    FREE, GridBuilder, GridConfig, occupancy_grid, OCCUPIED, UNKNOWN)

GREY = Material((0.5, 0.5, 0.5), celsius=20.0, texture_celsius=0.0, rise_celsius=0.0)
WARM = replace(GREY, celsius=60.0)
CONFIG = GridConfig(resolution_m=0.1, low_m=0.1, high_m=1.5)


def world(tilt=None, lift=0.0):
    """A room of 4 x 3 m with a warm box, a shelf under the ceiling, and cameras all round."""
    solids = (room((0.0, 0.0, 0.0), (4.0, 3.0, 2.5), GREY),
              box((2.0, 1.0, 0.0), (2.6, 1.6, 0.8), WARM),
              box((0.2, 2.0, 1.8), (1.2, 2.9, 2.0), GREY))
    loop = tuple((x, y, 1.1) for x, y in ((0.6, 0.6), (3.4, 0.6), (3.4, 2.4), (0.8, 2.3)))
    return SeenFrom(World(Layout('box', solids, (), (), 0.5, loop)), tilt, lift)


class SeenFrom:
    """A world in another frame, with level cameras that look to all sides."""

    def __init__(self, inner, tilt, lift):
        R = np.eye(3) if tilt is None else se3.so3_exp(np.array(tilt))
        self.inner, self.T = inner, se3.from_parts(R, np.array([0.0, 0.0, lift]))
        self.keyframes, self.modalities = None, inner.modalities

    @property
    def viewpoints(self):
        poses = []
        for position in self.inner.layout.waypoints:
            for angle in np.arange(0.0, 2.0 * np.pi, np.pi / 4.0):
                ahead = np.array([np.cos(angle), np.sin(angle), -0.2])
                ahead /= np.linalg.norm(ahead)
                right = np.array([np.sin(angle), -np.cos(angle), 0.0])
                poses.append(self.T @ se3.from_parts(
                    np.stack([right, np.cross(ahead, right), ahead], axis=1), np.array(position)))
        return np.array(poses)

    def render_rays(self, modality, origins, directions):
        back = se3.inverse(self.T)
        return self.inner.render_rays(modality, se3.transform(back, origins),
                                      directions @ back[:3, :3].T)


def at(grid, x, y):
    """The cell at a point."""
    column, row = np.floor((np.array([x, y]) - grid.origin_m) / grid.resolution_m).astype(int)
    return grid.values[row, column], grid.celsius[row, column]


def test_cells_are_what_stands_there():
    grid = occupancy_grid(world(), CONFIG)
    assert grid.floor is not None
    assert abs(grid.floor.offset) < 0.002
    for x, y in ((1.0, 1.0), (3.0, 2.0), (0.7, 2.5), (1.7, 1.3)):  # also under the shelf
        assert at(grid, x, y)[0] == FREE, (x, y)
    for x, y in ((0.0, 1.5), (4.0, 1.5), (2.0, 0.0), (2.0, 3.0), (2.03, 1.3), (2.3, 1.57)):
        assert at(grid, x, y)[0] == OCCUPIED, (x, y)
    assert grid.values[0, 0] == UNKNOWN  # outside of the room
    assert at(grid, 2.03, 1.3)[1] == pytest.approx(60.0, abs=1.0)
    assert at(grid, 1.0, 1.0)[1] == pytest.approx(20.0, abs=0.1)


def test_walls_lie_in_the_middle_of_cells():
    grid = occupancy_grid(world(), CONFIG)
    phase = np.array(grid.origin_m) / grid.resolution_m % 1.0
    assert np.abs(phase - 0.5).max() < 0.1
    inside = [at(grid, x, 1.5)[0] for x in np.arange(0.1, 1.9, 0.1)]
    assert set(inside) == {FREE}


def test_heights_count_from_a_floor_that_is_tilted_and_elsewhere():
    grid = occupancy_grid(world((0.04, -0.03, 0.0), -1.0), CONFIG)
    assert np.rad2deg(grid.floor.tilt_rad) == pytest.approx(np.rad2deg(0.05), abs=0.1)
    assert at(grid, 1.0, 1.0)[0] == FREE
    assert at(grid, 2.06, 1.3)[0] == OCCUPIED
    assert 'tilted by 2.9 deg' in grid.notes()[0]


def test_heights_decide_what_an_obstacle_is():
    above = occupancy_grid(world(), replace(CONFIG, low_m=1.0, high_m=1.5))
    assert at(above, 2.03, 1.3)[0] == FREE  # the box ends below
    shelf = occupancy_grid(world(), replace(CONFIG, high_m=2.2))
    assert at(shelf, 0.7, 2.05)[0] == OCCUPIED


def test_small_steps_give_the_same_grid():
    whole, parts = GridBuilder(world(), CONFIG), GridBuilder(world(), CONFIG)
    assert list(whole.steps())[-1] == 1.0
    shares = list(parts.steps(1200))
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert (whole.grid().values == parts.grid().values).all()


def test_what_makes_no_sense_is_refused():
    with pytest.raises(InputError, match='wrong order'):
        GridConfig(low_m=1.0, high_m=0.5)
    with pytest.raises(InputError, match='too fine'):
        occupancy_grid(world(), GridConfig(resolution_m=0.005, low_m=0.1, high_m=50.0))
    assert len(make_world('room').viewpoints)  # a world says where its cameras stand


@pytest.mark.parametrize('words, told', [
    (['out.ply', '--grid'], 'no name for the YAML file'),
    (['out.yaml'], 'no name for a PLY file'),
    (['out.ply', '--resolution', '0.1'], '--resolution'),
    (['out.yaml', '--grid', '--spacing', '0.1'], '--spacing'),
    (['out.yaml', '--grid', '--heights', '2', '1'], 'wrong order'),
    (['out.yaml', '--grid', '--resolution', '0'], 'resolution_m'),
    (['none/out.yaml', '--grid'], 'does not exist'),
])
def test_bad_options_are_refused_before_the_map_is_read(words, told, capsys):
    assert main(['export', 'no-such.map', *words]) == 2
    assert told in capsys.readouterr().err

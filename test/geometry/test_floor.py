# SPDX-License-Identifier: Apache-2.0
"""The floor among surface points: found to a millimetre in clutter, refused where none is seen."""

import numpy as np
import pytest

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.floor import find_floor, Floor


def room(rng, floor=300, walls=3000):
    """Points of a floor of 4 x 4 m, walls, furniture and a few outliers, and cameras in it."""
    sides = rng.random((walls, 3)) * (4.0, 4.0, 2.5)
    sides[np.arange(walls), rng.integers(0, 2, walls)] = 4.0 * rng.integers(0, 2, walls)
    table = np.c_[rng.random((400, 2)), np.full(400, 0.7)]
    stray = rng.random((30, 3)) * 4.0 - (0.0, 0.0, 1.0)
    ground = np.c_[4.0 * rng.random((floor, 2)), np.zeros(floor)]
    points = np.concatenate([sides, table, stray, ground])
    eyes = np.c_[1.0 + 2.0 * rng.random((20, 2)), np.full(20, 1.2)]
    return points + 0.004 * rng.standard_normal(points.shape), eyes


@pytest.mark.parametrize('seed', range(5))
def test_floor_is_found_below_walls_and_furniture(seed):
    rng = np.random.default_rng(seed)
    points, eyes = room(rng)
    T = se3.from_parts(se3.so3_exp(np.array([0.1, -0.08, 0.6])), np.array([3.0, 1.0, -1.3]))
    found = find_floor(se3.transform(T, points), se3.transform(T, eyes))
    assert found is not None
    ground = se3.transform(T, np.array([[0.0, 0.0, 0.0], [4.0, 0.0, 0.0], [0.0, 4.0, 0.0]]))
    assert np.abs(found.heights(ground)).max() < 0.006
    level = found.levelling()
    assert np.abs(se3.transform(level, ground)[:, 2]).max() < 0.006
    assert np.rad2deg(found.tilt_rad) == pytest.approx(np.rad2deg(np.hypot(0.1, 0.08)), abs=0.6)


def test_levelling_changes_heights_only_as_much_as_it_must():
    floor = Floor(np.array([0.0, 0.0, 1.0]), 1.3)
    assert np.allclose(floor.levelling(), se3.from_parts(np.eye(3), np.array([0.0, 0.0, 1.3])))
    assert floor.tilt_rad == 0.0


def test_no_floor_is_invented():
    rng = np.random.default_rng(3)
    points, eyes = room(rng, floor=0)
    assert find_floor(points[points[:, 2] > 1.0], eyes) is None  # walls alone
    assert find_floor(points[:5], eyes) is None
    assert find_floor(points, np.zeros((0, 3))) is None


def test_points_that_are_not_finite_are_left_out():
    rng = np.random.default_rng(4)
    points, eyes = room(rng)
    points[::50] = np.nan
    found = find_floor(points, eyes)
    assert found is not None
    assert abs(found.offset) < 0.006

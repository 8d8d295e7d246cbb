# SPDX-License-Identifier: Apache-2.0
"""Poses that are close in position and in orientation count as one."""

import numpy as np
import pytest

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.pose_separation import PoseSeparation, SAME_ANSWER

SEPARATION = PoseSeparation(0.3, 0.2)


@pytest.fixture
def poses():
    T = np.repeat(np.eye(4)[None], 4, axis=0)
    T[1, 0, 3], T[2, 0, 3] = 0.1, 1.0
    T[3] = se3.exp([0.1, 0.0, 0.0, 0.0, 0.0, 0.5])
    return T


def test_close_poses_count_once(poses):
    scores = np.array([1.0, 2.0, 0.5, 0.1])
    assert SEPARATION.best(poses, scores) == [1, 2, 3]
    assert SEPARATION.best(poses, scores, 2) == [1, 2]
    assert SEPARATION.best(poses[:0], scores[:0]) == []


def test_the_first_of_close_poses_is_kept(poses):
    assert SEPARATION.distinct(list(poses)) == [0, 2, 3]
    assert SEPARATION.distinct([]) == []


def test_orientations_alone_decide_where_the_position_does_not_count(poses):
    assert PoseSeparation(np.inf, 0.2).distinct(list(poses)) == [0, 3]


@pytest.mark.parametrize('xi, apart', [
    ([0.09, 0, 0, 0, 0, 0], False), ([0, 0.11, 0, 0, 0, 0], True),
    ([0, 0, 0, 0, np.deg2rad(4.9), 0], False), ([0, 0, 0, np.deg2rad(5.1), 0, 0], True),
    ([0.09, 0, 0, 0, 0, np.deg2rad(4.9)], False)])
def test_answers_differ_by_10_cm_or_5_deg(xi, apart):
    T = se3.exp([1.0, -2.0, 0.5, 0.3, 2.0, -0.4])
    other = se3.plus(T, xi)
    assert SAME_ANSWER.apart(T, other) == SAME_ANSWER.apart(other, T) == apart
    assert len(SAME_ANSWER.distinct([T, other])) == 1 + apart

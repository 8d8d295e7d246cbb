# SPDX-License-Identifier: Apache-2.0
"""What becomes of a rendered pose and one that landmarks hold, and which of them is told."""

import numpy as np
import pytest

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.pose_gaussian import diagonal
from thermal_nerf_loc.localization.confidence.verdict import (
    PoseVerdict, VERDICT_LOST, VERDICT_OK)
from thermal_nerf_loc.localization.global_search.landmark_pose import LandmarkPose
from thermal_nerf_loc.localization.pose_estimate import (
    BOTH, LANDMARKS, PoseEstimate, RENDERING, with_landmarks)


def rendered(verdict=VERDICT_OK, confidence=0.9, sigma_m=0.004):
    return PoseEstimate(np.eye(4), diagonal(sigma_m, 0.1), PoseVerdict(confidence, verdict, ''),
                        {})


def matched(shift_m, inliers=80, of=100, spread=0.5, sigma_m=0.002):
    T = se3.exp(np.array([shift_m, 0.0, 0.0, 0.0, 0.0, 0.0]))
    return LandmarkPose(T, diagonal(sigma_m, 0.05), of, inliers, 0.5, inliers, spread)


def never(T):
    raise AssertionError('not needed')


def test_poses_that_agree_are_fused_by_their_covariances():
    """Nearer to the more exact one, and more exact than both."""
    found = with_landmarks(rendered(), matched(0.005), never)
    assert found.carried_by == BOTH and found.accepted
    assert found.T_world_cam[0, 3] == pytest.approx(0.005 * 16.0 / 20.0, rel=1e-3)
    assert found.covariance[0, 0] == pytest.approx(1.0 / (1.0 / 0.002**2 + 1.0 / 0.004**2))


@pytest.mark.parametrize('there, carried', [(0.88, LANDMARKS), (0.5, RENDERING)])
def test_where_they_contradict_each_other_the_images_decide(there, carried):
    """The pose by landmarks is taken if rendering fits there about as well."""
    found = with_landmarks(rendered(), matched(0.3), lambda T: rendered(confidence=there))
    assert found.carried_by == carried
    assert found.T_world_cam[0, 3] == pytest.approx(0.3 if carried == LANDMARKS else 0.0)


@pytest.mark.parametrize('inliers, of, spread, certain', [
    (80, 100, 0.5, True), (40, 60, 0.5, False), (80, 200, 0.5, False), (80, 100, 0.1, False)])
def test_where_rendering_finds_nothing_only_certain_landmarks_carry_a_pose(inliers, of, spread,
                                                                         certain):
    """Many, most of the matches, all over the image."""
    found = with_landmarks(rendered(VERDICT_LOST, 0.1), matched(0.3, inliers, of, spread), never)
    assert found.accepted == certain
    assert found.carried_by == (LANDMARKS if certain else RENDERING)

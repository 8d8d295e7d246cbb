# SPDX-License-Identifier: Apache-2.0
"""Poses from landmarks: exact on exact keypoints, robust against wrong matches, honest."""

import numpy as np
import pytest

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.localization.global_search import landmark_matching, landmark_pose
from thermal_nerf_loc.localization.global_search.landmark_matching import ImageLandmarks
from thermal_nerf_loc.localization.global_search.landmark_pose import LandmarkLocalizer
from thermal_nerf_loc.mapping.camera_poses.features import ImageFeatures
from thermal_nerf_loc.mapping.map.landmarks import as_bytes, plain_landmarks
from thermal_nerf_loc.sensing.frame import SensorImage

CAMERA = Camera.from_fov(320, 240, 70.0)
T_TRUE = se3.exp([0.3, -0.2, 0.1, 0.2, -0.4, 0.1])
T_CAM_THERMAL = se3.exp([0.05, 0.01, 0.0, 0.02, 0.01, -0.03])


def unit(rng, n):
    """Descriptors of length 1, as SIFT's never negative."""
    values = np.abs(rng.normal(size=(n, 128))) ** 2
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def world(monkeypatch, names=('rgb',), noise_px=0.0, wrong=0.0, points=150, seed=0):
    """Landmarks before T_TRUE, and images whose keypoints show them."""
    rng = np.random.default_rng(seed)
    images, landmarks, seen = {}, {}, {}
    for name in names:
        T_cam_sensor = T_CAM_THERMAL if name == 'thermal' else np.eye(4)
        uv = rng.uniform((5, 5), (315, 235), (points, 2))
        rays = CAMERA.unproject(uv)
        X = se3.transform(T_TRUE @ T_cam_sensor,
                          rays / rays[:, 2:] * rng.uniform(1.5, 5.0, (points, 1)))
        look = unit(rng, points)
        shown = rng.permutation(points)
        at = uv[shown] + noise_px * rng.normal(size=(points, 2))
        strange = rng.random(points) < wrong
        at[strange] = rng.uniform((5, 5), (315, 235), (int(strange.sum()), 2))
        landmarks[name] = plain_landmarks(X.astype(np.float32), as_bytes(look))
        images[name] = SensorImage(CAMERA, np.zeros((240, 320, 1), np.float32), 0, T_cam_sensor)
        seen[name] = ImageFeatures(at, look[shown], CAMERA)
    monkeypatch.setattr(landmark_matching, 'detect_features', lambda name, *_: [seen[name]])
    return LandmarkLocalizer(landmarks), images


@pytest.mark.parametrize('names', [('rgb',), ('thermal',), ('rgb', 'thermal')])
def test_exact_keypoints_give_the_exact_pose(monkeypatch, names):
    """By one camera or by both, wherever it sits on the rig."""
    localizer, images = world(monkeypatch, names)
    found = localizer.locate(images)
    metres, degrees = se3.distance(found.T_world_cam, T_TRUE)
    assert metres < 1e-4 and degrees < 1e-3
    assert found.inliers == found.matched == 150 * len(names)
    assert found.residual_px < 0.01


def test_wrong_matches_are_left_out(monkeypatch):
    """A third of the keypoints lie elsewhere."""
    localizer, images = world(monkeypatch, noise_px=0.3, wrong=0.33)
    found = localizer.locate(images)
    metres, degrees = se3.distance(found.T_world_cam, T_TRUE)
    assert metres < 0.01 and degrees < 0.15
    assert 80 < found.inliers < 115 and found.matched == 150


def test_the_covariance_is_on_the_safe_side(monkeypatch):
    """Over many draws of the noise: the factor for shared errors makes chi-square a quarter."""
    squares = []
    for seed in range(40):
        localizer, images = world(monkeypatch, noise_px=0.5, seed=seed)
        found = localizer.locate(images)
        xi = se3.minus(T_TRUE, found.T_world_cam)
        squares.append(xi @ np.linalg.solve(found.covariance, xi))
    assert 0.5 < np.median(squares) < 3.0


def test_too_few_matches_are_no_pose(monkeypatch):
    """No landmark, no keypoint, chance."""
    localizer, images = world(monkeypatch, wrong=1.0)
    assert localizer.locate(images) is None
    localizer, images = world(monkeypatch, points=landmark_pose.FEWEST_INLIERS - 1)
    assert localizer.locate(images) is None
    assert localizer.locate({}) is None
    nothing = ImageFeatures(np.empty((0, 2)), np.empty((0, 128), np.float32), CAMERA)
    monkeypatch.setattr(landmark_matching, 'detect_features', lambda *_: [nothing])
    assert localizer.locate(images) is None


def test_the_jacobian_is_that_of_differences(monkeypatch):
    """Of a camera that sits elsewhere on the rig."""
    localizer, images = world(monkeypatch, ('thermal',))
    camera = ImageLandmarks('thermal', images['thermal'], localizer._tables['thermal'])
    found = [camera.everywhere()]
    T, step = se3.plus(T_TRUE, 0.01 * np.ones(6)), 1e-6
    J = landmark_pose._linearized([camera], found, T).J
    for k, direction in enumerate(step * np.eye(6)):
        ahead, behind = (landmark_pose._linearized(
            [camera], found, se3.plus(T, sign * direction)).r for sign in (1, -1))
        np.testing.assert_allclose((ahead - behind) / (2 * step), J[:, :, k], atol=1e-3)

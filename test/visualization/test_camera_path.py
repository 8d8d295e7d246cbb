# SPDX-License-Identifier: Apache-2.0
"""Paths of a camera: through keyframes, on a circle, along a trajectory."""

import numpy as np
from viewed_world import UP, ViewedWorld

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.trajectory import Trajectory
from thermal_nerf_loc.visualization.camera_path import (
    cameras_facing, orbit_path, sample_trajectory, spline_path, T_BASE_CAM, up_direction)


def wild_poses(count, seed=0):
    rng = np.random.default_rng(seed)
    return se3.exp(rng.normal(size=(count, 6)) * (2.0, 2.0, 2.0, 0.8, 0.8, 0.8))


def test_the_way_goes_through_every_keyframe_evenly_and_without_corners():
    keyframes = wild_poses(7)
    way = spline_path(keyframes, 4000)
    np.testing.assert_allclose(way[[0, -1]], keyframes[[0, -1]], atol=1e-9)
    for T in keyframes:
        off = np.linalg.norm(way[:, :3, 3] - T[:3, 3], axis=1)
        metres, degrees = se3.distance(T, way[np.argmin(off)])
        assert metres < 0.01 and degrees < 0.5
    R = way[:, :3, :3]
    np.testing.assert_allclose(np.swapaxes(R, 1, 2) @ R, np.tile(np.eye(3), (4000, 1, 1)),
                               atol=1e-9)
    size = np.linalg.norm(np.ptp(keyframes[:, :3, 3], axis=0))
    steps = np.linalg.norm(np.diff(way[:, :3, 3], axis=0), axis=1)
    turns = np.linalg.norm(se3.so3_log(np.swapaxes(R[:-1], 1, 2) @ R[1:]), axis=1)
    pace = np.hypot(steps, size / np.pi * turns)
    assert pace.max() < 1.1 * pace.min()
    ahead = np.diff(way[:, :3, 3], axis=0)[steps > 0.2 * steps.mean()]
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    assert np.einsum('ij,ij->i', ahead[:-1], ahead[1:]).min() > 0.99
    spin = se3.so3_log(np.swapaxes(R[:-1], 1, 2) @ R[1:])
    assert np.linalg.norm(np.diff(spin, axis=0), axis=1).max() < 0.1 * turns.max()


def test_few_or_equal_keyframes_are_a_way_too():
    one = wild_poses(1)
    np.testing.assert_allclose(spline_path(np.repeat(one, 3, axis=0), 4),
                               np.repeat(one, 4, axis=0))
    two = wild_poses(2)
    middle = spline_path(two, 5)[2]
    np.testing.assert_allclose(middle[:3, 3], two[:, :3, 3].mean(axis=0), atol=1e-3)
    twice = spline_path(np.concatenate([two, two[1:]]), 9)
    np.testing.assert_allclose(twice, spline_path(two, 9))


def test_the_circle_looks_at_what_all_cameras_look_at():
    target = np.array([2.0, -1.0, 0.5])
    angle = np.linspace(0.2, 4.0, 9)[:, None]
    eyes = target + np.concatenate([3 * np.cos(angle), 3 * np.sin(angle), 0 * angle + 1], axis=1)
    circle = orbit_path(cameras_facing(eyes, target - eyes, UP), 16)
    to_target = target - circle[:, :3, 3]
    np.testing.assert_allclose(np.linalg.norm(to_target[:, :2], axis=1), 3.0, atol=0.02)
    to_target /= np.linalg.norm(to_target, axis=1, keepdims=True)
    assert np.einsum('ij,ij->i', to_target, circle[:, :3, 2]).min() > 0.999
    assert (circle[:, :3, 1] @ UP < -0.8).all()  # image down is the world's down
    assert se3.distance(circle[0], circle[8])[1] > 90.0


def test_in_a_room_the_circle_lies_among_the_cameras():
    keyframes = ViewedWorld().keyframes.poses
    circle = orbit_path(keyframes, 12)
    off = np.linalg.norm((circle - keyframes.mean(axis=0))[:, :2, 3], axis=1)
    np.testing.assert_allclose(off, 0.8 * 0.3, rtol=0.05)
    np.testing.assert_allclose(circle[:, :3, 1], np.tile(-UP, (12, 1)), atol=1e-9)
    here = orbit_path(np.tile(keyframes[:1], (3, 1, 1)), 4)  # never moved: it turns on the spot
    np.testing.assert_allclose(here[:, :3, 3], np.tile(keyframes[0, :3, 3], (4, 1)), atol=0.5)
    assert np.isfinite(here).all()


def test_up_is_what_cameras_hold_up():
    tilted = cameras_facing(np.zeros((4, 3)), np.array([[1.0, 0, -.3], [0, 1, -.3], [-1, 0, -.3],
                                                    [0, -1, -.3]]), np.array([0.02, 0.05, 1.0]))
    np.testing.assert_array_equal(up_direction(tilted), UP)
    slanted = np.array([1.0, 1.0, 1.0]) / np.sqrt(3.0)
    around = cameras_facing(np.zeros((2, 3)), np.array([[1.0, -1, 0], [-1.0, 1, 0]]), slanted)
    np.testing.assert_allclose(up_direction(around), slanted)


def test_a_trajectory_is_gone_along_in_its_own_time():
    poses = se3.from_parts(np.eye(3), np.array([[0.0, 0, 0], [1.0, 0, 0], [2.0, 0, 0]]))
    way = sample_trajectory(Trajectory(np.array([0, 10**9, 4 * 10**9]), poses), 5)
    np.testing.assert_allclose(way[:, 0, 3], [0.0, 1.0, 4 / 3, 5 / 3, 2.0])
    ahead, left = (T_BASE_CAM[:3, :3].T @ axis for axis in ((1.0, 0, 0), (0, 1.0, 0)))
    np.testing.assert_array_equal(ahead, [0, 0, 1])  # the base's x is the camera's z
    np.testing.assert_array_equal(left, [-1, 0, 0])

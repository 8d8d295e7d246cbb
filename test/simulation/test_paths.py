# SPDX-License-Identifier: Apache-2.0
"""Paths are smooth, free of collisions and cover the scene; odometry drifts like odometry."""

import itertools

import numpy as np
import pytest

from thermal_nerf_loc.common.errors import InputError, RunError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.sensing.frame import RGB
from thermal_nerf_loc.simulation.layouts import make_world, WORLD_NAMES
from thermal_nerf_loc.simulation.paths import (
    CLEARANCE_M, IDEAL_ODOMETRY, KINDS, make_motion, PLANAR_HEIGHT_M, simulate_odometry, survey)
from thermal_nerf_loc.simulation.record import make_rig, SimulationConfig
from thermal_nerf_loc.simulation.world import box, Layout, Material, room, World


@pytest.fixture(scope='module', params=list(itertools.product(WORLD_NAMES, KINDS)),
                ids='-'.join)
def drive(request):
    name, kind = request.param
    world = make_world(name)
    return world, kind, make_motion(world, kind, 1)


def test_paths_keep_their_distance(drive):
    world, kind, _ = drive
    for seed, held_out in itertools.product((0, 5), (False, True)):
        motion = make_motion(world, kind, seed, held_out=held_out)
        points = motion.poses(np.linspace(0.0, 3.0 * motion.lap_s, 1000))[:, :3, 3]
        assert world.clearance_m(points).min() > 0.95 * CLEARANCE_M


def test_a_survey_stands_everywhere_and_looks_everywhere(drive):
    """Places are free, no half of the world has more than its share, nor any direction."""
    world, kind, _ = drive
    stations = survey(world, 64, 128.0, kind)
    poses = stations.poses(np.arange(64) * 2.0 + 1.0)
    np.testing.assert_array_equal(poses, stations.T_world_base)
    places, ahead = poses[:, :3, 3], poses[:, :3, 0]
    assert world.clearance_m(places).min() >= CLEARANCE_M
    middle = np.median(places[:, :2], axis=0)
    quarters = np.bincount((places[:, :2] > middle) @ (1, 2), minlength=4)
    looks = np.bincount((ahead[:, :2] > 0.0) @ (1, 2), minlength=4)
    assert quarters.min() >= 8 and looks.min() >= 10
    again = survey(world, 64, 128.0, kind).T_world_base
    np.testing.assert_array_equal(again, poses)
    assert not np.array_equal(survey(world, 64, 128.0, kind, 1).T_world_base, poses)


def test_a_survey_wants_room():
    walls = [Material((0.5, 0.5, 0.5))] * 6
    closet = World(Layout('closet', (room((0, 0, 0), (0.65, 0.65, 0.65), *walls),), (), (), 0.5,
                          ((0.3, 0.3, 0.3),)))
    with pytest.raises(RunError, match='too little free space'):
        survey(closet, 1000, 10.0)


def test_paths_are_twice_differentiable(drive):
    """Halving the step halves the jump of the acceleration, also where a lap ends."""
    _, _, motion = drive
    start = 0.98 * motion.lap_s
    jumps = []
    for step in (0.02, 0.01):
        times = np.arange(start, 1.02 * motion.lap_s, step)
        poses = motion.poses(times)
        speed = se3.minus(poses[1:], poses[:-1]) / step
        acceleration = np.diff(speed, axis=0) / step
        assert np.abs(acceleration).max() < 3.0
        jumps.append(np.abs(np.diff(acceleration, axis=0)).max())
    assert jumps[1] < 0.65 * jumps[0]


def test_twists_are_the_derivative_of_poses(drive):
    _, _, motion = drive
    times = np.linspace(0.3, motion.lap_s, 50)
    ahead = se3.plus(motion.poses(times), 0.001 * motion.twists(times))
    xi = se3.minus(ahead, motion.poses(times + 0.001))
    assert np.abs(xi).max() < 3e-6


def test_a_ground_robot_stays_on_the_ground():
    motion = make_motion(make_world('room'), 'planar', 2)
    poses = motion.poses(np.linspace(0.0, 60.0, 300))
    np.testing.assert_allclose(poses[:, 2, 3], PLANAR_HEIGHT_M, atol=1e-12)
    np.testing.assert_allclose(poses[:, :3, 2], [[0.0, 0.0, 1.0]] * 300, atol=1e-12)


def test_a_drone_uses_all_six_degrees_of_freedom():
    motion = make_motion(make_world('room'), 'drone', 2)
    poses = motion.poses(np.linspace(0.0, 60.0, 300))
    assert np.ptp(poses[:, 2, 3]) > 0.3
    assert np.ptp(poses[:, 2, 0]) > 0.3  # pitch
    assert np.ptp(poses[:, 2, 1]) > 0.1  # roll


def test_held_out_views_are_elsewhere_but_see_what_training_saw():
    world, camera = make_world('room'), Camera.from_fov(32, 24, 70.0)
    T_base_rgb = make_rig(SimulationConfig()).T_base_sensor[RGB]
    train, test = (make_motion(world, 'drone', 0, held_out=h) for h in (False, True))
    times = (np.arange(80) + 0.5) / 80 * 3.0 * train.lap_s
    cameras = train.poses(times) @ T_base_rgb
    others = test.poses(times[::5]) @ T_base_rgb
    gaps = np.linalg.norm(others[:, None, :3, 3] - cameras[None, :, :3, 3], axis=-1).min(axis=1)
    assert gaps.mean() > 0.05
    seen, total = 0, 0
    for T in others:
        rays = camera.rays() @ T[:3, :3].T
        distance = world.cast(np.broadcast_to(T[:3, 3], rays.shape), rays).distance_m
        points = T[:3, 3] + distance[:, None] * rays
        views = np.zeros(len(points), dtype=int)
        for C in cameras:
            _, inside = camera.project(se3.transform(se3.inverse(C), points))
            way = points - C[:3, 3]
            far = np.linalg.norm(way, axis=1)
            first = world.cast(np.broadcast_to(C[:3, 3], way.shape), way / far[:, None])
            views += inside & (first.distance_m > far - 1e-3)
        seen += (views >= 2).sum()
        total += len(points)
    assert seen / total > 0.95


def test_seeds_make_other_drives():
    world = make_world('room')
    a, b, again = (make_motion(world, 'drone', seed).poses([5.0]) for seed in (0, 1, 0))
    np.testing.assert_array_equal(a, again)
    assert se3.distance(a[0], b[0])[0] > 0.02


def test_impossible_motions():
    with pytest.raises(InputError, match='unknown trajectory'):
        make_motion(make_world('room'), 'train')
    walls = room((0.0, 0.0, 0.0), (4.0, 4.0, 2.0), Material((0.5, 0.5, 0.5)))
    block = box((1.0, 1.0, 0.0), (3.0, 3.0, 2.0), Material((0.5, 0.5, 0.5)))
    loop = ((1.2, 2.0, 1.0), (2.0, 2.8, 1.0), (2.8, 2.0, 1.0))
    with pytest.raises(RunError, match='no free path'):
        make_motion(World(Layout('blocked', (walls, block), (), (), 1.0, loop)))


@pytest.mark.parametrize('kind', KINDS)
def test_clean_odometry_is_the_true_motion(kind):
    motion = make_motion(make_world('room'), kind, 0)
    times = np.arange(0.0, 10.0, 0.02)
    odometry = simulate_odometry(motion, times, 0, kind, IDEAL_ODOMETRY)
    truth = motion.poses(times)
    np.testing.assert_array_equal(odometry.T_odom_base[0], np.eye(4))
    np.testing.assert_allclose(odometry.T_odom_base, se3.inverse(truth[0]) @ truth, atol=1e-9)
    np.testing.assert_allclose(odometry.twists[:-1], motion.twists(times[:-1] + 0.01), atol=2e-3)


@pytest.mark.parametrize('kind', KINDS)
def test_odometry_agrees_locally_and_drifts(kind):
    motion = make_motion(make_world('room'), kind, 0)
    times = np.arange(0.0, 60.0, 0.02)
    truth = motion.poses(times)
    drifts = []
    for seed in range(6):
        T = simulate_odometry(motion, times, seed, kind).T_odom_base
        np.testing.assert_array_equal(T[0], np.eye(4))
        second = se3.minus(se3.inverse(T[:-50]) @ T[50:], se3.inverse(truth[:-50]) @ truth[50:])
        assert np.linalg.norm(second[:, :3], axis=1).mean() < 0.02
        assert np.rad2deg(np.linalg.norm(second[:, 3:], axis=1)).mean() < 2.0
        drifts.append(se3.distance(T[-1], se3.inverse(truth[0]) @ truth[-1])[0])
        if kind == 'planar':
            np.testing.assert_allclose(T[:, 2], [[0.0, 0.0, 1.0, 0.0]] * len(T), atol=1e-9)
    assert 0.05 < np.mean(drifts) < 1.5
    assert np.ptp(drifts) > 0.01

# SPDX-License-Identifier: Apache-2.0
"""Monte-Carlo localization and parallel inversion: near the truth, and moved by odometry."""

from dataclasses import replace

from localization_room import make_poses, PaintedRoom, take_frame
import numpy as np
import pytest

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.localization.alternatives.particles import (
    ParticleConfig, ParticleSearch, resampled)
from thermal_nerf_loc.mapping.map.panoramas import find_panoramas, PanoramaConfig

POSES = make_poses(3, seed=11)
SMALL = ParticleConfig(initial_particles=800, particles=100, inversion_poses=12, rounds=4, rays=30)


@pytest.fixture(scope='module')
def room():
    made = PaintedRoom(waves=20)
    made.viewpoints = make_poses(10, seed=5)
    made.panoramas = find_panoramas(made, made.viewpoints, PanoramaConfig(spacing=0.36, rays=300))
    return made


def nearest(candidates, T):
    return min(se3.distance(candidate.T_world_cam, T)[0] for candidate in candidates)


@pytest.mark.parametrize('method, rounds', [('filter', 4), ('inversion', 2)])
def test_some_candidate_is_near(room, method, rounds):
    config = replace(SMALL, method=method, rounds=rounds)
    found = ParticleSearch(room, config).candidates(take_frame(room, POSES[0]), 8)
    assert 1 <= len(found) <= 8
    assert nearest(found, POSES[0]) < 0.4
    assert [c.score for c in found] == sorted((c.score for c in found), reverse=True)


def test_particles_move_with_odometry(room):
    """The odometry's frame is another one; only its motion counts."""
    frames = [take_frame(room, T, seed=k) for k, T in enumerate(POSES[:2])]
    T_odom_world = se3.exp([3.0, -1.0, 0.5, 0.1, 0.2, 2.0])
    found = ParticleSearch(room, SMALL).follow(frames, [T_odom_world @ T for T in POSES[:2]], 8)
    assert nearest(found, POSES[1]) < 0.4


def test_a_pose_of_odometry_for_every_frame(room):
    with pytest.raises(InputError, match='every frame'):
        ParticleSearch(room, SMALL).follow([take_frame(room, POSES[0])], [], 1)


def test_resampling_follows_the_weights():
    share = np.array([0.5, 0.25, 0.25, 0.0])
    drawn = resampled(np.log(share + 1e-12), 400, np.random.default_rng(0))
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 400, share, atol=0.005)

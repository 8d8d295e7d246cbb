# SPDX-License-Identifier: Apache-2.0
"""Tiles: cut where few views reach across, small enough, every view in one, floors apart."""

from pathlib import Path

import numpy as np
import pytest

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera, R_BASE_CAM
from thermal_nerf_loc.io.datasets.scene import ImageRecord, Scene, SceneFrame
from thermal_nerf_loc.mapping.tiles.division import divide, DivisionConfig, floors_of

CAMERA = Camera.from_fov(40, 30, 70.0)


def scene_of(positions, yaws, held_out=()):
    record = ImageRecord(Path('x'), CAMERA, np.eye(4))
    frames = []
    for k, (position, yaw) in enumerate(zip(positions, yaws)):
        R = se3.so3_exp(np.array([0.0, 0.0, yaw])) @ R_BASE_CAM
        frames.append(SceneFrame(f'{k:04d}', se3.from_parts(R, position), {'rgb': record}))
    return Scene(Path('plant'), tuple(frames),
                 tuple(k for k in range(len(frames)) if k not in held_out), tuple(held_out))


def two_rooms(count=80):
    """Two groups of cameras 6 m apart that look around, and a few between them."""
    rng = np.random.default_rng(0)
    groups = [rng.uniform((x, 0.0, 1.0), (x + 3.0, 3.0, 1.5), (count, 3)) for x in (0.0, 9.0)]
    between = np.column_stack([np.linspace(3.0, 9.0, 8), np.full(8, 1.5), np.full(8, 1.2)])
    positions = np.concatenate([*groups, between])
    return scene_of(positions, rng.uniform(-np.pi, np.pi, len(positions)), held_out=(3, 100))


def test_the_cut_falls_between_the_rooms():
    scene = two_rooms()
    plans = divide(scene, DivisionConfig(views=100, tile_m=9.0, overlap_m=1.5))
    assert len(plans) == 2
    owned = [index for plan in plans for index in plan.own]
    assert sorted(owned) == list(scene.train)
    for plan in plans:
        x = np.array([scene.frames[i].T_world_cam[0, 3] for i in plan.own])
        assert x.max() < 9.0 or x.min() > 3.0  # no tile holds views of both rooms
        assert set(plan.own) <= set(plan.views)
        assert len(plan.test) == 1
        assert plan.bounds[0, 0] == x.min() and plan.bounds[1, 0] == x.max()


def test_views_of_the_overlap_stand_within_it():
    scene = two_rooms()
    plans = divide(scene, DivisionConfig(views=60, overlap_m=1.0))
    assert len(plans) > 2 and max(len(plan.own) for plan in plans) <= 60
    for plan in plans:
        own = np.stack([scene.frames[i].T_world_cam[:3, 3] for i in plan.own])
        for index in scene.train:
            far = np.linalg.norm(own - scene.frames[index].T_world_cam[:3, 3], axis=1).min()
            assert (index in plan.views) == (far <= 1.0)


def test_a_small_scene_is_one_tile():
    plan, = divide(two_rooms(), DivisionConfig(views=1000, tile_m=50.0))
    assert len(plan.own) == 166 and plan.views == plan.own


def test_floors_lie_where_cameras_stay():
    rng = np.random.default_rng(1)
    stairs = np.linspace(1.2, 7.6, 60)
    heights = np.concatenate([rng.normal(z, 0.15, 300) for z in (1.2, 4.4, 7.6)] + [stairs])
    floor, count = floors_of(heights, 2.0)
    assert count == 3
    np.testing.assert_array_equal(floor[:900], np.repeat((0, 1, 2), 300))
    assert floors_of(rng.normal(1.2, 0.2, 50), 2.0)[1] == 1


def test_nothing_cannot_be_divided():
    scene = two_rooms()
    with pytest.raises(InputError, match='no training frames'):
        divide(Scene(scene.root, scene.frames, (), scene.train))

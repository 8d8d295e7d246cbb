# SPDX-License-Identifier: Apache-2.0
"""Landmarks of a small room, and what the map file keeps of them."""

from dataclasses import replace

import numpy as np
import pytest

from thermal_nerf_loc.common.progress import silent
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
from thermal_nerf_loc.localization.global_search.landmark_pose import LandmarkLocalizer
from thermal_nerf_loc.mapping.camera_poses.landmark_points import _chosen, find_landmarks
from thermal_nerf_loc.mapping.map.landmarks import (
    as_bytes, from_tensors, LandmarkConfig, Landmarks, tensors_of)
from thermal_nerf_loc.simulation.record import simulate_dataset, SimulationConfig


@pytest.fixture(scope='module')
def scene(tmp_path_factory):
    """A lap through a room."""
    out = tmp_path_factory.mktemp('landmarks') / 'room'
    simulate_dataset(out, SimulationConfig(frames=30, size=(160, 120), thermal_size=(80, 60),
                                           laps=1.0, held_out_share=0.15))
    return load_scene(out)


def test_landmarks_lie_on_surfaces_and_locate_held_out_images(scene):
    """Held-out images are found to centimetres, from nothing; none is taken for another."""
    found = find_landmarks(scene, 'rgb', LandmarkConfig(), silent)
    assert len(found) > 100
    localizer = LandmarkLocalizer({'rgb': found})
    errors_m = []
    for index in scene.test:
        frame = scene.load(index)
        pose = localizer.locate({'rgb': frame.images['rgb']})
        if pose is not None:
            errors_m.append(se3.distance(pose.T_world_cam, frame.T_world_cam)[0])
    assert len(errors_m) >= 2 and np.median(errors_m) < 0.03 and max(errors_m) < 0.2


def test_none_where_they_are_not_asked_for_or_few(scene):
    assert find_landmarks(scene, 'rgb', LandmarkConfig(most=0), silent) is None
    assert find_landmarks(replace(scene, train=scene.train[:1]), 'rgb', LandmarkConfig(),
                          silent) is None


def test_the_most_often_seen_of_every_place_are_kept():
    """Two far corners share what may be kept, the best of each first."""
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(0, 0.01, (90, 3)), rng.normal(5, 0.01, (10, 3))])
    seen = np.concatenate([np.full(90, 9), np.arange(1, 11)])
    kept = _chosen(points, seen, 20)
    assert len(kept) == 20
    assert set(range(93, 100)) <= set(kept.tolist())  # seen 4 times and more
    assert 90 not in _chosen(points, seen, 1000)  # seen once


def test_what_the_map_file_keeps():
    """Points and unit descriptors come back; parts that do not fit are refused."""
    rng = np.random.default_rng(1)
    look = np.abs(rng.normal(size=(30, 128)))
    look /= np.linalg.norm(look, axis=1, keepdims=True)
    landmarks = {'rgb': Landmarks(rng.normal(size=(30, 3)).astype(np.float32), as_bytes(look))}
    back = from_tensors(tensors_of(landmarks))['rgb']
    np.testing.assert_array_equal(back.points, landmarks['rgb'].points)
    assert (back.unit_descriptors() * look).sum(axis=1).min() > 0.999
    with pytest.raises(ValueError, match='descriptor each'):
        Landmarks(back.points[:3], back.descriptors)
    with pytest.raises(ValueError, match='descriptor each'):
        Landmarks(np.full_like(back.points, np.nan), back.descriptors)

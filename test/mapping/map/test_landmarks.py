# SPDX-License-Identifier: Apache-2.0
"""Landmarks of a small room, and what the map file keeps of them."""

from dataclasses import replace

import numpy as np
import pytest

from thermal_nerf_loc.common.progress import silent
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
from thermal_nerf_loc.localization.global_search.landmark_pose import LandmarkLocalizer
from thermal_nerf_loc.mapping.camera_poses.landmark_points import (
    _chosen, _Points, find_landmarks)
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


def test_every_image_keeps_some_and_long_tracks_come_first():
    """Ten points in five images and ten in two others share what may be kept."""
    point = np.concatenate([np.tile(np.arange(10), 5), np.tile(np.arange(10, 20), 2), [20]])
    image = np.concatenate([np.repeat(np.arange(7), 10), [6]])
    zeros = np.zeros((21, 3))
    found = _Points(zeros, np.zeros((21, 3, 3)), zeros, np.linspace(0.001, 0.01, 21), image,
                    point, point)
    kept = _chosen(found, 8)
    assert kept.tolist() == [0, 1, 2, 3, 10, 11, 12, 13]  # the exact ones of each
    assert 20 not in _chosen(found, 1000)  # seen once
    assert len(_chosen(found._replace(sigma=np.full(21, np.inf)), 8)) == 0


def some_landmarks(points=30, seed=1):
    """Landmarks with one descriptor to three each, and these as unit vectors."""
    rng = np.random.default_rng(seed)
    owners = np.repeat(np.arange(points), rng.integers(1, 4, points)).astype(np.int32)
    look = np.abs(rng.normal(size=(len(owners), 128)))
    look /= np.linalg.norm(look, axis=1, keepdims=True)
    return look, Landmarks(
        rng.normal(size=(points, 3)).astype(np.float32),
        np.tile(1e-4 * np.eye(3, dtype=np.float32), (points, 1, 1)),
        np.tile(np.float32([0.0, 0.0, 1.0]), (points, 1)), as_bytes(look), owners)


def test_what_the_map_file_keeps():
    """All parts come back, and descriptors are unit vectors."""
    look, landmarks = some_landmarks()
    tensors = tensors_of({'rgb': landmarks})
    back = from_tensors(tensors)['rgb']
    for name, part in tensors.items():
        np.testing.assert_array_equal(getattr(back, name.removeprefix('rgb.')), part)
    assert (back.unit_descriptors() * look).sum(axis=1).min() > 0.999
    assert back.nbytes == sum(part.nbytes for part in tensors.values())


def test_older_files_keep_points_and_one_descriptor_of_each():
    """What they do not tell is not known."""
    _, landmarks = some_landmarks()
    old = {'rgb.points': landmarks.points, 'rgb.descriptors': landmarks.descriptors[:30]}
    back = from_tensors(old)['rgb']
    assert len(back) == 30 and not back.covariances.any() and not back.directions.any()
    np.testing.assert_array_equal(back.owners, np.arange(30))


@pytest.mark.parametrize('part', ['points', 'covariances', 'owners', 'descriptors'])
def test_parts_that_do_not_fit_are_refused(part):
    """A damaged file is never used."""
    tensors = tensors_of({'rgb': some_landmarks()[1]})
    with pytest.raises(ValueError, match='landmarks are points with'):
        from_tensors({**tensors, f'rgb.{part}': tensors[f'rgb.{part}'][:-1]})
    with pytest.raises(ValueError, match='landmarks are points with'):
        from_tensors({**tensors, 'rgb.points': np.full_like(tensors['rgb.points'], np.nan)})


def test_large_sets_use_fewer_keypoints_an_image():
    """The cost stays bounded."""
    config = LandmarkConfig()
    assert config.per_image(20) == config.keypoints
    assert 400 * config.per_image(400) <= config.of_all_images

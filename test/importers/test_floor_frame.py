# SPDX-License-Identifier: Apache-2.0
"""The frame of structure from motion is put on the floor, said in a line, or left."""

from pathlib import Path

import numpy as np

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.similarity import Similarity
from thermal_nerf_loc.importers.images.importer import ImageImportConfig
from thermal_nerf_loc.importers.images.metric_scale import Metric, on_the_floor


def reconstruction(with_floor=True):
    """Points and cameras in a tilted frame of half the size."""
    rng = np.random.default_rng(0)
    walls = rng.random((2000, 3)) * (4.0, 4.0, 2.0) + (0.0, 0.0, 0.3)
    walls[np.arange(2000), rng.integers(0, 2, 2000)] = 4.0 * rng.integers(0, 2, 2000)
    floor = np.c_[4.0 * rng.random((400, 2)), np.zeros(400)]
    points = np.concatenate([walls, floor]) if with_floor else walls
    eyes = np.c_[1.0 + 2.0 * rng.random((12, 2)), np.full(12, 1.1)]
    T = se3.from_parts(se3.so3_exp(np.array([0.05, 0.1, 0.0])), np.array([0.0, 0.0, -2.0]))
    poses = {f'{i:02d}': se3.from_parts(np.eye(3), 0.5 * se3.transform(T, eye[None])[0])
             for i, eye in enumerate(eyes)}
    return poses, 0.5 * se3.transform(T, points), eyes


def test_cameras_are_as_high_as_they_were_and_a_line_says_so():
    poses, points, eyes = reconstruction()
    metric = on_the_floor(Metric(Similarity(2.0, np.eye(4)), True, 'tags', {}), poses, points)
    moved = metric.similarity.apply(np.stack(list(poses.values())))
    assert np.abs(moved[:, 2, 3] - eyes[:, 2]).max() < 0.02
    assert metric.similarity.scale == 2.0
    assert 'z = 0 is on the floor' in metric.notes[-1]
    assert '--keep-frame' in metric.notes[-1]
    assert metric.figures['floor_share'] > 0.1


def test_without_a_floor_the_frame_stays():
    poses, points, _ = reconstruction(with_floor=False)
    before = Metric(Similarity(2.0, np.eye(4)), True, 'tags', {})
    metric = on_the_floor(before, poses, points)
    assert metric.similarity is before.similarity
    assert 'no floor is seen' in metric.notes[-1]


def test_only_a_frame_of_its_own_is_moved():
    assert ImageImportConfig().has_own_frame
    assert not ImageImportConfig(keep_frame=True).has_own_frame
    assert not ImageImportConfig(poses=Path('poses.tum')).has_own_frame
    assert not ImageImportConfig(positions=Path('known.txt')).has_own_frame

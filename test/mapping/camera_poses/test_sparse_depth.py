# SPDX-License-Identifier: Apache-2.0
"""Depth of points that images share, held against the depth of the simulated world."""

from dataclasses import replace

import numpy as np
import pytest

from thermal_nerf_loc.common.errors import RunError
from thermal_nerf_loc.common.progress import silent
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
from thermal_nerf_loc.mapping.camera_poses.sparse_depth import (
    depth_map, SparseDepth, triangulated_depth)
from thermal_nerf_loc.mapping.stereo.scene_depth import find_depth
from thermal_nerf_loc.mapping.training.config import TrainConfig
from thermal_nerf_loc.mapping.training.pixel_sources import load_sources
from thermal_nerf_loc.simulation.perturbations import PerturbationConfig, perturbed_scene
from thermal_nerf_loc.simulation.record import simulate_dataset, SimulationConfig


@pytest.fixture(scope='module')
def scene(tmp_path_factory):
    """Views close enough to share points; depth is measured exactly."""
    out = tmp_path_factory.mktemp('matched') / 'room'
    simulate_dataset(out, SimulationConfig(frames=14, size=(112, 84), laps=0.4, supersampling=1))
    return load_scene(out)


def errors_of(scene, found):
    """Relative errors of all points, at the nearest pixel."""
    off = []
    for i, sparse in found.items():
        true = scene.load(i).images['rgb'].depth_m
        x, y = np.floor(sparse.pixels).astype(int).T
        off.append(sparse.depth_m / true[y, x] - 1.0)
    return np.abs(np.concatenate(off))


@pytest.mark.parametrize('refined', [False, True])
def test_points_lie_where_the_world_is(scene, refined):
    """With true poses; and with poses that are off, once they are adjusted."""
    bad = perturbed_scene(scene,
                          PerturbationConfig(pose_deg=1.0, pose_m=0.02)) if refined else scene
    found = triangulated_depth(bad, 'rgb', refined, silent)
    assert set(found) == set(scene.train)
    off = errors_of(scene, found)
    assert len(off) > 10 * len(scene.train)
    assert np.median(off) < (0.06 if refined else 0.02)


def test_training_gets_them(scene):
    """As depth with confidence, of one modality; what was measured stays out."""
    config = TrainConfig()
    bare = replace(scene, frames=tuple(replace(frame, records={
        name: replace(record, depth_path=None) for name, record in frame.records.items()})
        for frame in scene.frames))
    sources, _ = load_sources(bare, config, find_depth(bare, ('rgb', 'thermal'), 'points'))
    batch = sources['rgb'].at(np.arange(len(sources['rgb'])))
    known = batch.confidence > 0.0
    assert 0.005 < float(known.float().mean()) < 0.5
    assert float(batch.confidence.max()) == 1.0
    assert not sources['thermal'].at(np.arange(500)).confidence.any()
    true = load_sources(scene, TrainConfig(depth_weight=0.3))[0]['rgb'].at(
        np.arange(len(sources['rgb']))).depth_m
    off = (batch.depth_m / true - 1.0).abs()[known]
    assert float(off.median()) < 0.03


def test_a_point_tells_of_the_pixels_around_it():
    camera = Camera.from_fov(200, 100, 60.0)
    depth, trust = depth_map(SparseDepth(np.array([[50.5, 40.5], [51.5, 40.5], [0.2, 99.9]]),
                                         np.array([2.0, 3.0, 4.0])), camera)
    assert depth[40, 50] == 2.0 and depth[40, 51] == 3.0 and trust[40, 50] == 1.0
    assert depth[99, 0] == 4.0 and 0.0 < trust[41, 50] < 1.0
    assert (depth > 0.0).sum() == (trust > 0.0).sum() < 20


def test_images_that_share_nothing_are_refused(scene):
    """One pair at either end of the drive; wrong poses, which points do not agree with."""
    with pytest.raises(RunError, match='too few points to tell depth'):
        triangulated_depth(replace(scene, train=scene.train[::7]), 'rgb', False, silent)
    bad = perturbed_scene(scene, PerturbationConfig(pose_deg=20.0, pose_m=0.5))
    with pytest.raises(RunError, match='--refine poses'):
        find_depth(bad, ('rgb', 'thermal'), 'points')

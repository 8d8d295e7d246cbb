# SPDX-License-Identifier: Apache-2.0
"""Poses regressed from rendered thumbnails: better than a guess, and only from sure views."""

from dataclasses import replace

from localization_room import make_poses, PaintedRoom, SIZE_M, take_frame
import numpy as np
import pytest
import torch

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.evaluation.metrics import pose_errors
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.localization.alternatives import pose_regression
from thermal_nerf_loc.localization.alternatives.pose_regression import (
    PoseRegression, RegressionConfig)
from thermal_nerf_loc.localization.alternatives.rendered_views import (
    crop, draw_poses, normalised, render_views, thumbnail_cameras, thumbnails, ViewsConfig)
from thermal_nerf_loc.mapping.map.panoramas import find_panoramas, PanoramaConfig
from thermal_nerf_loc.sensing.frame import THERMAL

VIEWS = ViewsConfig(count=500, width_px=12, path_share=0.0)
CONFIG = RegressionConfig(network='mlp', width=64, steps=250, batch=64, rate=3e-3, views=VIEWS)


@pytest.fixture(scope='module')
def room():
    made = PaintedRoom(waves=20)
    path = make_poses(10, seed=5)
    made.viewpoints = path
    made.panoramas = find_panoramas(made, path, PanoramaConfig(spacing=0.36, rays=300))
    return made


@pytest.fixture(scope='module')
def views(room):
    frame = take_frame(room, make_poses(1)[0], modalities=(THERMAL,))
    around_the_path = replace(VIEWS, path_share=1.0)
    return render_views(room, thumbnail_cameras(frame, (THERMAL,), VIEWS.width_px),
                        around_the_path, 0)


@pytest.mark.parametrize('network', ['pca_mlp', 'mlp', 'cnn'])
def test_a_network_learns_where_views_were_taken(views, network):
    """Position and rotation, on views set aside; a constant answer is the measure."""
    torch.set_num_threads(1)
    train = pose_regression.train(views, replace(CONFIG, network=network))
    errors = pose_errors(train.predict(crop(views)), views.poses)
    constant = np.linalg.norm(views.poses[:, :3, 3] - views.poses[:, :3, 3].mean(axis=0), axis=1)
    assert np.median(errors.metres) < 0.6 * np.median(constant)
    assert np.median(errors.degrees) < 25.0
    assert train.parameters > 1000


def test_a_turned_view_is_what_the_turned_camera_sees(room, views):
    """Held against real images from the turned poses; the thermal camera sits beside."""
    few = views.chosen(np.arange(6))
    turns = se3.so3_exp(np.deg2rad(6.0) * np.random.default_rng(1).uniform(-1.0, 1.0, (6, 3)))
    found = crop(few, torch.arange(6), turns)[THERMAL]
    frames = [take_frame(room, se3.from_parts(T[:3, :3] @ R, T[:3, 3]), noise=0.0,
                         modalities=(THERMAL,)) for T, R in zip(few.poses, turns)]
    truth, still = thumbnails(frames, few.cameras)[THERMAL], crop(few)[THERMAL]
    assert found.shape == truth.shape

    def off(a, b):
        return float((a - b).square().mean().sqrt())

    assert off(found, truth) < 0.35 * off(still, truth)
    assert off(found, truth) < 0.2 * float(truth.std())
    assert abs(float(normalised(found, THERMAL).mean())) < 1e-4


def test_positions_are_free_and_all_headings_come(room):
    poses = draw_poses(room, 500, VIEWS, np.random.default_rng(0))
    positions, ahead = poses[:, :3, 3], poses[:, :2, 2]
    assert (positions > 0.0).all() and (positions < SIZE_M).all()
    assert np.abs(ahead.mean(axis=0)).max() < 0.15


def test_some_views_lie_around_the_training_path(room):
    config = replace(VIEWS, path_share=1.0, path_m=0.05)
    poses = draw_poses(room, 200, config, np.random.default_rng(0))
    apart = np.linalg.norm(poses[:, None, :3, 3] - room.viewpoints[:, :3, 3], axis=-1)
    assert len(poses) == 200 and apart.min(axis=1).max() < 0.3


def test_views_that_the_map_doubts_stay_out(room):
    class Foggy(PaintedRoom):
        def render_rays(self, modality, origins, directions):
            seen = super().render_rays(modality, origins, directions)
            fog = origins[:, 0] > 0.5 * SIZE_M[0]
            return replace(seen, opacity=np.where(fog, 0.1, 1.0).astype(np.float32))

    foggy = Foggy()
    foggy.viewpoints, foggy.panoramas = room.viewpoints, room.panoramas
    frame = take_frame(foggy, make_poses(1)[0], modalities=(THERMAL,))
    few = replace(VIEWS, count=60)
    kept = render_views(foggy, thumbnail_cameras(frame, (THERMAL,), 12), few, 0)
    assert len(kept) == 60
    assert (kept.poses[:, 0, 3] < 0.55 * SIZE_M[0]).all()
    with pytest.raises(InputError, match='hardly anything'):
        render_views(foggy, thumbnail_cameras(frame, (THERMAL,), 12),
                     replace(few, clearance_m=3.0), 0)


def test_rotations_survive_six_numbers():
    poses = se3.exp(np.random.default_rng(0).normal(size=(50, 6)))
    R = poses[:, :3, :3]
    np.testing.assert_allclose(
        pose_regression.rotations(2.0 * pose_regression.columns(R)), R, atol=1e-9)


def test_candidates_scatter_around_the_prediction(room):
    frame = take_frame(room, make_poses(1)[0], modalities=(THERMAL,))
    source = PoseRegression(room, replace(CONFIG, steps=3, views=replace(VIEWS, count=80)))
    first = source.candidates(frame, 5)
    again = source.candidates(frame, 5)
    assert [c.score for c in first] == sorted((c.score for c in first), reverse=True)
    assert all((a.T_world_cam == b.T_world_cam).all() for a, b in zip(first, again))
    assert len(first) == 5 and se3.distance(first[0].T_world_cam, first[1].T_world_cam)[0] > 0.0

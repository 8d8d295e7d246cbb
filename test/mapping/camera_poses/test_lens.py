# SPDX-License-Identifier: Apache-2.0
"""Corrections of lenses, held against the camera model; the data set that carries them on."""

from dataclasses import replace
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry.camera import Camera, CameraModel
from thermal_nerf_loc.geometry.lie_torch import adjusted_rays
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
from thermal_nerf_loc.io.datasets.refined_dataset import write_refined
from thermal_nerf_loc.mapping.camera_poses.camera_optimizer import CameraOptimizer
from thermal_nerf_loc.mapping.camera_poses.lens import adjusted_camera, image_points, Lenses
from thermal_nerf_loc.mapping.training.config import RefineConfig
from thermal_nerf_loc.simulation.record import simulate_dataset, SimulationConfig

CORRECTION = np.array([0.05, 0.01, -0.02, -0.03, 0.01, 0.002, -0.001])
CAMERAS = [
    Camera(160, 120, 110.0, 112.0, 81.0, 58.0),
    Camera(160, 120, 110.0, 112.0, 81.0, 58.0, CameraModel.OPENCV, (-0.1, 0.02, 1e-3, 2e-3)),
    Camera(160, 120, 110.0, 112.0, 81.0, 58.0, CameraModel.OPENCV,
           (-0.1, 0.02, 1e-3, 2e-3, 0.01, 0.02, 0.01, 0.0)),
    Camera(160, 120, 60.0, 60.0, 81.0, 58.0, CameraModel.OPENCV_FISHEYE, (0.02, -0.01, 0.0, 0.0))]


@pytest.mark.parametrize('camera', CAMERAS)
def test_a_corrected_lens_is_the_corrected_camera(camera: Camera) -> None:
    """Points to pixels and pixels to rays, by formula and by the camera that is written."""
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform(-0.5, 0.5, (50, 2)), np.ones((50, 1))], axis=1)
    adjusted = adjusted_camera(camera, CORRECTION)
    uv, _ = adjusted.project(points)
    lenses, lens = Lenses.of([camera] * 50), np.tile(CORRECTION, (50, 1))
    q = lenses.project(points, lens).q
    np.testing.assert_allclose(q, image_points(camera, uv), atol=1e-9)
    rays, J = lenses.unproject(q, lens)
    np.testing.assert_allclose(rays, adjusted.unproject(uv), atol=1e-8)
    step, h = np.array([0.3, 1.0, -1.0, 0.5, 0.4, -0.2, 0.1]), 1e-6
    sides = [lenses.unproject(q, lens + sign * h * step)[0] for sign in (1.0, -1.0)]
    np.testing.assert_allclose(J @ step, (sides[0] - sides[1]) / (2 * h), atol=1e-6)
    assert adjusted_camera(camera, np.zeros(7)) == camera


def test_what_has_no_ray_gets_one_that_stays() -> None:
    """Beyond the fold of a strong distortion: the ray of no distortion, and no slope."""
    camera = Camera(160, 120, 60.0, 60.0, 80.0, 60.0, CameraModel.OPENCV, (-0.6, 0.0, 0.0, 0.0))
    rays, J = Lenses.of([camera]).unproject(np.array([[1.3, 1.0]]), np.zeros((1, 7)))
    assert np.isfinite(rays).all() and not J.any()


@pytest.mark.parametrize('own', [False, True])
def test_a_refined_lens_is_written(tmp_path: Path, own: bool) -> None:
    """At the top or in each frame, whatever keys described it before."""
    simulate_dataset(tmp_path, SimulationConfig(frames=4, size=(32, 24), supersampling=1))
    file = tmp_path / 'transforms.json'
    content = json.loads(file.read_text())
    content['distortion_params'] = [0.01, 0.0, 0.0, 0.0, 0.0, 0.0]
    if own:
        for k, entry in enumerate(content['frames']):
            entry['fl_x'] = content['fl_x'] + k
    content['camera_model'] = 'OPENCV'
    file.write_text(json.dumps(content))
    scene = load_scene(tmp_path)
    frames = tuple(replace(frame, records={
        name: replace(record, camera=adjusted_camera(record.camera, CORRECTION))
        for name, record in frame.records.items()}) for frame in scene.frames)
    write_refined(tmp_path, replace(scene, frames=frames), tmp_path / 'refined.json')
    again = load_scene(tmp_path / 'refined.json')
    for frame, read in zip(frames, again.frames):
        assert {name: record.camera for name, record in read.records.items()} == {
            name: record.camera for name, record in frame.records.items()}


def test_lenses_of_one_camera_alone_can_be_refined(tmp_path: Path) -> None:
    """Colour alone, heat alone, or the one that is asked for; held-out images get the lens too."""
    simulate_dataset(tmp_path, SimulationConfig(frames=4, size=(32, 24), supersampling=1))
    scene = load_scene(tmp_path)
    for modalities, lenses, refined in (
            (('rgb',), 'both', ('rgb',)), (('thermal',), 'both', ('thermal',)),
            (('rgb', 'thermal'), 'both', ('rgb', 'thermal')),
            (('rgb', 'thermal'), 'thermal', ('thermal',))):
        config = RefineConfig(('intrinsics',), 'gradient', lenses=lenses)
        optimizer = CameraOptimizer(config, scene, modalities, 1.0)
        assert optimizer.refined_lenses == refined
        with torch.no_grad():
            for name in refined:
                optimizer.lens_of(name)[:] = torch.from_numpy(CORRECTION)
        facts = optimizer.facts(scene)
        for given, frame in zip(scene.frames, optimizer.applied(scene).frames):
            for name, record in frame.records.items():
                assert (record.camera != given.records[name].camera) == (name in refined)
        assert facts['thermal_focal_factor'] == pytest.approx(
            np.exp(0.05) if 'thermal' in refined else 1.0)
        assert {name for name in ('rgb', 'thermal') if f'{name}_distortion' in facts} == set(
            refined)
    with pytest.raises(InputError, match='no such lens'):
        CameraOptimizer(RefineConfig(('intrinsics',), lenses='thermal'), scene, ('rgb',), 1.0)


def test_rays_of_an_adjusted_lens_have_its_slopes() -> None:
    """Values of the lens as it is now, derivatives in its parameters."""
    lens = torch.from_numpy(CORRECTION.copy()).requires_grad_()
    lenses, q = Lenses.of(CAMERAS[1:2] * 9), np.random.default_rng(0).normal(0.0, 0.3, (9, 2))

    def rays(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return lenses.unproject(q, np.tile(values, (9, 1)))

    weight = torch.from_numpy(np.random.default_rng(1).normal(size=(9, 3)))
    (adjusted_rays(*rays(CORRECTION), lens) * weight).sum().backward()
    for k, axis in enumerate(np.eye(7)):
        up, down = (rays(CORRECTION + sign * 1e-6 * axis)[0] for sign in (1.0, -1.0))
        slope = ((up - down) / 2e-6 * weight.numpy()).sum()
        assert float(lens.grad[k]) == pytest.approx(slope, abs=1e-5)

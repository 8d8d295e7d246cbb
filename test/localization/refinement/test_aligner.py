# SPDX-License-Identifier: Apache-2.0
"""Aligner: kernels against numpy and finite differences, poses recovered, nuisances ignored."""

from dataclasses import replace

import gauss_newton_reference
from hypothesis import given, settings, strategies as st
import kernels_reference
from localization_room import (make_poses, PaintedRoom, perturbed, RGB_CAMERA, T_CAM_THERMAL,
                               take_frame, take_image, THERMAL_CAMERA)
import numpy as np
import pytest

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera, CameraModel
from thermal_nerf_loc.localization.confidence.fit_statistics import summarize
from thermal_nerf_loc.localization.refinement import alignment_kernels, gauss_newton
from thermal_nerf_loc.localization.refinement.aligner import (
    align, align_many, AlignConfig, GainOffset, ModalityView, pack_views, PosePrior)
from thermal_nerf_loc.localization.refinement.image_pyramid import make_level, observe
from thermal_nerf_loc.localization.refinement.pixel_sampling import sample_pixels
from thermal_nerf_loc.localization.refinement.rendered_points import render_grid, render_points
from thermal_nerf_loc.sensing.frame import RGB, THERMAL

CAMERAS = {
    'pinhole': Camera.from_fov(40, 30, 70.0),
    'opencv': Camera(40, 30, 28.0, 29.0, 19.0, 15.5, CameraModel.OPENCV,
                     (-0.2, 0.05, 0.003, -0.002, 0.01, 0.02, 0.01, -0.005)),
    'fisheye': Camera(40, 30, 20.0, 21.0, 20.0, 15.0, CameraModel.OPENCV_FISHEYE,
                      (0.05, -0.02, 0.01, -0.003))}
FREE = GainOffset(None, 0.3, None, 1e3)


def make_case(camera, seed=0):
    rng = np.random.default_rng(seed)
    points = rng.uniform((-3, -3, -1), (3, 3, 4), (400, 3))
    points[0] = (0.0, 0.0, 2.0)  # on the axis
    u, v = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    value = np.stack([0.02 * u + 0.01 * v, 0.5 + 0.03 * v - 0.01 * u], axis=-1)
    slope = np.broadcast_to([[0.02, 0.01], [-0.01, 0.03]], (*u.shape, 2, 2))
    image = np.concatenate([value[..., None], slope], axis=-1).astype(np.float32)
    return points, image, se3.exp(0.1 * rng.normal(size=6)), se3.exp(0.1 * rng.normal(size=6))


def sample_image(camera, points, image, T_cam_point, T_sensor_cam):
    return alignment_kernels.sample_image(
        points, T_cam_point[:3, :3], T_cam_point[:3, 3], T_sensor_cam[:3, :3],
        T_sensor_cam[:3, 3], alignment_kernels.lens(camera), image)


@pytest.mark.parametrize('name', CAMERAS)
def test_compiled_sampling_equals_numpy(name):
    camera = CAMERAS[name]
    points, image, T, S = make_case(camera)
    image[10, 12] = np.nan  # a masked pixel
    expected = kernels_reference.sample_image(points, T[:3, :3], T[:3, 3], S[:3, :3], S[:3, 3],
                                              camera, image)
    got = sample_image(camera, points, image, T, S)
    assert 20 < expected[3].sum() < 400
    assert (got[3] == expected[3]).all()
    for mine, theirs in zip(got[:3], expected[:3]):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-9)


def test_compiled_accumulation_equals_numpy():
    rng = np.random.default_rng(3)
    values, rendered = rng.normal(size=(2, 300, 3))
    case = (values, rng.normal(size=(300, 3, 6)), rng.random(300) < 0.8, rendered,
            rng.random(300), rng.uniform(0.1, 1, (300, 3)), rng.normal(size=(3, 2)),
            rng.uniform(0, 2, (3, 2, 2)), rng.random(3), 2.5)
    for mine, theirs in zip(alignment_kernels.accumulate(*case),
                            kernels_reference.accumulate(*case),
                            strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-9)


def test_compiled_residual_scale_equals_numpy():
    rng = np.random.default_rng(4)
    values, rendered = rng.normal(size=(2, 301, 2))
    for share in (0.7, 0.0):
        case = (values, rng.random((301, 2)), rng.random(301) < share, rendered,
                rng.random(301) * (rng.random(301) < 0.9), rng.normal(size=(2, 2)),
                np.array([0.1, 5.0]), 0.4)
        for mine, theirs in zip(alignment_kernels.residual_scale(*case),
                                kernels_reference.residual_scale(*case), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-12)


@pytest.mark.parametrize('name', CAMERAS)
def test_jacobian_is_the_derivative_over_the_right_tangent(name):
    camera = CAMERAS[name]
    points, image, T, S = make_case(camera)  # linear images: gradients are exact
    _, J, _, seen = sample_image(camera, points, image, T, S)
    step = 1e-6
    for axis in range(6):
        xi = np.zeros(6)
        xi[axis] = step
        up, _, _, seen_up = sample_image(camera, points, image, se3.exp(-xi) @ T, S)
        down, _, _, seen_down = sample_image(camera, points, image, se3.exp(xi) @ T, S)
        both = seen & seen_up & seen_down
        assert both.sum() > 20
        np.testing.assert_allclose(((up - down) / (2 * step))[both], J[both, :, axis],
                                   rtol=1e-3, atol=1e-4)


def test_correlations_are_numpys():
    camera = CAMERAS['pinhole']
    points, image, T, _ = make_case(camera)
    rendered = np.random.default_rng(1).normal(size=(400, 2))
    rho, visible = alignment_kernels.similarity(points, np.ascontiguousarray(T[None, :3]),
                                      alignment_kernels.lens(camera), image, rendered,
                                                np.ones(400))
    uv, seen = camera.project(se3.transform(T, points))
    i, j = np.floor(uv[seen]).astype(int).T
    assert visible[0] == seen.sum()
    for channel in range(2):
        expected = np.corrcoef(image[j, i, channel, 0], rendered[seen, channel])[0, 1]
        assert rho[0, channel] == pytest.approx(expected, abs=1e-6)


def make_views(world, frame, T_render, sigma_px=0.8, count=600, prior=FREE):
    images, _ = observe(frame, (RGB, THERMAL))
    rng = np.random.default_rng(0)
    return [ModalityView(make_level(image, sigma_px),
                 render_points(world, name, T_render, image.T_cam_sensor, image.camera,
                               sample_pixels('random', image, count, rng, balanced=True)),
                 image.T_cam_sensor, prior, 0.01 if name == RGB else 0.05)
            for name, image in images.items()]


@pytest.mark.parametrize('modalities', [(RGB, THERMAL), (RGB,), (THERMAL,)])
def test_small_error_is_undone(modalities):
    world, T = PaintedRoom(), make_poses(1)[0]
    frame = take_frame(world, T, modalities=modalities)
    start = perturbed(T, 1.0, 0.02, seed=5)
    found = align(make_views(world, frame, start), start, start, AlignConfig())
    metres, degrees = se3.distance(found.T_world_cam, T)
    assert metres < 0.01
    assert degrees < 0.3
    assert not found.failed


@pytest.mark.parametrize('prior', [None, 'near'])
@pytest.mark.parametrize('trusted', [FREE, GainOffset(1.0, 0.1, 0.0, 0.1)])
def test_compiled_descent_equals_numpy(prior, trusted):
    world, T = PaintedRoom(), make_poses(1, seed=3)[0]
    start = perturbed(T, 3.0, 0.05, seed=6)
    views = make_views(world, take_frame(world, T), start, count=300, prior=trusted)
    if prior:
        prior = PosePrior(perturbed(T, 1.0, 0.02, seed=7), np.diag([400.0] * 3 + [900.0] * 3))
    config = AlignConfig(iterations=8)
    found = align(views, start, start, config, prior)
    T_expected, taken, nuisances = gauss_newton_reference.minimize(
        views, start, start, config, pack_views(views, config, prior)[1].px_per_unit, prior)
    assert found.iterations == taken > 2
    np.testing.assert_allclose(found.T_world_cam, T_expected, atol=1e-7)
    for view, expected in zip(found.views, nuisances, strict=True):
        np.testing.assert_allclose(view.nuisance, expected, rtol=1e-6, atol=1e-7)
    many = align_many(views, start, np.stack([start, T]), config, prior)
    np.testing.assert_allclose(many[0], found.T_world_cam, atol=1e-12)


@settings(deadline=None)
@given(st.lists(st.floats(-2.0, 2.0), min_size=6, max_size=6))
def test_compiled_exponential_equals_se3(xi):
    np.testing.assert_allclose(gauss_newton.exp(np.array(xi)), se3.exp(xi), atol=1e-9)


def test_compiled_solver_equals_numpy():
    rng = np.random.default_rng(8)
    B, b = rng.normal(size=(6, 6)), rng.normal(size=6)
    A = B @ B.T + 0.01 * np.eye(6)
    np.testing.assert_allclose(gauss_newton.solve(A, b), np.linalg.solve(A, b), rtol=1e-9)


@given(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0, 3.5]) | st.floats(-9, 9), min_size=1,
                max_size=40), st.floats(0.0, 0.999))
def test_selection_equals_sorting(values, share):
    k = int(share * len(values))
    assert alignment_kernels.smallest(np.array(values), k) == sorted(values)[k]


def test_gain_and_offset_do_not_move_the_pose():
    world, T = PaintedRoom(), make_poses(1, seed=2)[0]
    frame = take_frame(world, T, noise=0.0)
    changed = replace(frame, images={
        RGB: replace(frame.images[RGB], values=0.5 * frame.images[RGB].values + 0.1),
        THERMAL: replace(frame.images[THERMAL], values=1.1 * frame.images[THERMAL].values - 5)})
    start = perturbed(T, 1.0, 0.02, seed=6)
    plain, other = (align(make_views(world, f, start), start, start, AlignConfig())
                    for f in (frame, changed))
    (rgb_gain, _), (thermal_gain, thermal_offset) = (s.nuisance.mean(axis=0) for s in other.views)
    metres, degrees = se3.distance(plain.T_world_cam, other.T_world_cam)
    assert metres < 0.002
    assert degrees < 0.05
    assert rgb_gain == pytest.approx(0.5, rel=0.03)
    assert thermal_gain == pytest.approx(1.1, rel=0.03)
    assert thermal_offset == pytest.approx(-5.0, abs=0.7)


def test_trusted_offset_is_not_estimated():
    world, T = PaintedRoom(), make_poses(1)[0]
    frame = take_frame(world, T, modalities=(THERMAL,))
    image = frame.images[THERMAL]
    drifted = replace(frame, images={THERMAL: replace(image, values=image.values + 2.0)})
    trusting = make_views(world, drifted, T, prior=GainOffset(1.0, 1e-4, 0.0, 1e-3))
    found = align(trusting, T, T, AlignConfig(iterations=0))
    assert abs(found.views[0].nuisance[0, 1]) < 0.01
    free = align(make_views(world, drifted, T), T, T, AlignConfig(iterations=0))
    assert free.views[0].nuisance[0, 1] == pytest.approx(2.0, abs=1.0)


def information_of(world, frame, T, name):
    views = make_views(world, frame, T)
    names = list(frame.images)
    fits, _ = summarize(align(views, T, T, AlignConfig(iterations=0)), AlignConfig())
    fit = fits[names.index(name)]
    return fit.information - fit.noise_information


def test_dark_rgb_fades_out():
    world, T = PaintedRoom(), make_poses(1)[0]
    frame = take_frame(world, T)
    rgb = frame.images[RGB]
    noise = np.random.default_rng(0).normal(0.0, 0.01, rgb.values.shape)
    dark = replace(frame, images={**frame.images, RGB: replace(
        rgb, values=(0.003 * rgb.values + 0.03 + noise).astype(np.float32))})
    lit_share, dark_share = (
        np.trace(information_of(world, f, T, RGB)) / np.trace(information_of(world, f, T, THERMAL))
        for f in (frame, dark))
    assert dark_share < 0.01 * lit_share
    start = perturbed(T, 1.0, 0.02, seed=7)
    both = align(make_views(world, dark, start), start, start, AlignConfig())
    assert se3.distance(both.T_world_cam, T)[0] < 0.015


def test_flat_thermal_fades_out():
    world, T = PaintedRoom(), make_poses(1)[0]
    frame = take_frame(world, T)
    thermal = frame.images[THERMAL]
    noise = np.random.default_rng(0).normal(21.0, 0.05, thermal.values.shape).astype(np.float32)
    flat = replace(frame, images={**frame.images, THERMAL: replace(thermal, values=noise)})
    full = np.trace(information_of(world, frame, T, THERMAL))
    assert np.trace(information_of(world, flat, T, THERMAL)) < 0.05 * full


def test_map_doubt_lowers_the_weight():
    class Foggy(PaintedRoom):
        def render_rays(self, modality, origins, directions):
            seen = super().render_rays(modality, origins, directions)
            n = len(seen.opacity)
            return replace(seen, spread_m=np.where(np.arange(n) % 2, 0.5, 0.0).astype(np.float32),
                           opacity=np.where(np.arange(n) % 4, 1.0, 0.1).astype(np.float32))
    uv = RGB_CAMERA.pixel_centers()[:400]
    points = render_points(Foggy(), RGB, make_poses(1)[0], np.eye(4), RGB_CAMERA, uv)
    assert (points.weight[::4] == 0.0).all()  # fog
    assert (points.weight[2::4] == 1.0).all()
    assert (points.weight[1::2] < 0.3).all()


def test_points_out_of_view_are_dropped():
    world, T = PaintedRoom(), make_poses(1)[0]
    frame = take_frame(world, T, modalities=(RGB,))
    away = se3.plus(T, [0, 0, 0, 0, np.pi, 0])
    found = align(make_views(world, frame, T), T, away, AlignConfig())
    assert found.failed


def test_masked_pixels_do_not_count():
    world, T = PaintedRoom(), make_poses(1)[0]
    frame = take_frame(world, T, modalities=(RGB,))
    image = frame.images[RGB]
    valid = np.ones(image.values.shape[:2], dtype=bool)
    valid[:, :60] = False
    values = image.values.copy()
    values[:, :60] = 0.9  # a robot's own arm, say
    masked = replace(frame, images={RGB: replace(image, values=values, valid=valid)})
    start = perturbed(T, 1.0, 0.02, seed=8)
    found = align(make_views(world, masked, start), start, start, AlignConfig())
    assert se3.distance(found.T_world_cam, T)[0] < 0.015


def test_grid_points_match_the_blurred_image():
    world, T = PaintedRoom(), make_poses(1)[0]
    frame = take_frame(world, T, noise=0.0, modalities=(RGB,))
    image = observe(frame, (RGB,))[0][RGB]
    views = [ModalityView(make_level(image, 6.0),
                  render_grid(world, RGB, T, np.eye(4), image.camera, 1200).blurred(sigma),
                  np.eye(4), GainOffset(1.0, 1e-4, 0.0, 1e-4), 1e-4) for sigma in (6.0, 0.1)]
    blurred, sharp = (align([view], T, T, AlignConfig(iterations=0, edge_px=0.0)).views[0]
                      for view in views)
    assert (blurred.scale < 0.5 * sharp.scale).all()


def test_thermal_camera_is_used_with_its_own_lens_and_pose():
    world, T = PaintedRoom(), make_poses(1)[0]
    image = take_image(world, THERMAL, T, THERMAL_CAMERA, T_CAM_THERMAL)
    points = render_points(world, THERMAL, T, T_CAM_THERMAL, THERMAL_CAMERA,
                           np.array([[20.5, 30.5], [60.5, 10.5]]))
    np.testing.assert_allclose(points.values[:, 0], image.values[[30, 10], [20, 60], 0], atol=1e-4)
    uv, _ = THERMAL_CAMERA.project(se3.transform(se3.inverse(T_CAM_THERMAL), points.points_cam))
    np.testing.assert_allclose(uv, [[20.5, 30.5], [60.5, 10.5]], atol=1e-3)

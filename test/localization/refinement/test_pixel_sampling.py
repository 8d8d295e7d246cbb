# SPDX-License-Identifier: Apache-2.0
"""Ray samplers, noise estimates, stripes and layers of observed images."""

import cv2
from localization_room import make_poses, PaintedRoom, take_frame
import numpy as np
import pytest

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.localization.refinement.image_pyramid import (
    make_level, noise_sigma, observe, ObservedImage, without_stripes)
from thermal_nerf_loc.localization.refinement.pixel_sampling import (
    preferred_pixels, sample_pixels, SAMPLERS)
from thermal_nerf_loc.sensing.frame import RGB, THERMAL


def make_image(values, valid=None):
    values = np.asarray(values, dtype=np.float32)
    camera = Camera.from_fov(values.shape[1], values.shape[0], 60.0)
    return ObservedImage(camera, values, valid, np.eye(4), noise_sigma(values), True)


def square(noise=0.0, seed=0):
    values = np.random.default_rng(seed).normal(0.0, noise, (60, 80, 1))
    values[20:40, 30:50] += 1.0
    return values


@pytest.mark.parametrize('sampler', SAMPLERS)
def test_samples_are_distinct_pixel_centres_and_seeded(sampler):
    frame = take_frame(PaintedRoom(), make_poses(1)[0])
    image = observe(frame, (RGB,))[0][RGB]
    draw = [sample_pixels(sampler, image, 500, np.random.default_rng(seed), balanced=True)
            for seed in (0, 0, 1)]
    assert draw[0].shape == (500, 2)
    assert len(np.unique(draw[0], axis=0)) == 500
    assert (draw[0] % 1.0 == 0.5).all()
    assert (draw[0] == draw[1]).all()
    assert (draw[0] != draw[2]).any()


def test_interest_points_are_corners():
    found = np.argwhere(preferred_pixels('interest_points', make_image(square())))
    corners = np.array([(20, 30), (20, 49), (39, 30), (39, 49)])
    apart = np.abs(found[:, None] - corners).max(axis=2)
    assert len(found) >= 4
    assert (apart.min(axis=0) <= 3).all()
    assert (apart.min(axis=1) <= 3).all()


def test_regions_are_points_grown_by_5x5_rounds():
    image = make_image(square())
    points = preferred_pixels('interest_points', image).astype(np.uint8)
    for rounds in (1, 3):
        grown = cv2.dilate(points, np.ones((4 * rounds + 1,) * 2, np.uint8)) > 0
        assert (preferred_pixels('interest_regions', image, rounds) == grown).all()


def test_few_points_are_filled_up_at_random():
    pixels = sample_pixels('interest_points', make_image(square()), 300, np.random.default_rng(0))
    assert len(np.unique(pixels, axis=0)) == 300


def test_noise_makes_hardly_any_corner():
    noise = make_image(0.05 * np.random.default_rng(0).normal(size=(60, 80, 1)))
    assert preferred_pixels('interest_points', noise).mean() < 0.005


def test_column_noise_is_no_texture():
    rng = np.random.default_rng(0)
    columns = np.repeat(rng.normal(0.0, 0.04, (1, 80, 1)), 60, axis=0)
    striped = (21.0 + columns + rng.normal(0, 0.04, (60, 80, 1))).astype(np.float32)
    cleaned = without_stripes(striped)
    left, before = cleaned.mean(axis=0).std(), striped.mean(axis=0).std()
    assert left < 0.6 * before
    assert preferred_pixels('interest_points', make_image(cleaned)).mean() < 0.005


def test_stripe_removal_keeps_an_upright_pipe():
    values = np.full((60, 80, 1), 21.0, np.float32)
    values += np.random.default_rng(0).normal(0, 0.03, values.shape).astype(np.float32)
    values[:, 40:42] += 10.0
    cleaned = without_stripes(values)
    assert cleaned[:, 40:42].mean() - cleaned[:, 20:30].mean() > 9.5


def test_masked_and_border_pixels_are_not_drawn():
    valid = np.ones((60, 80), dtype=bool)
    valid[:30] = False
    pixels = sample_pixels('random', make_image(square(), valid), 4000, np.random.default_rng(0))
    assert len(pixels) == 29 * 78
    assert pixels[:, 1].min() > 30.0


def test_balanced_draw_reaches_every_corner():
    image = make_image(square())
    pixels = sample_pixels('random', image, 64, np.random.default_rng(0), balanced=True)
    assert len({(int(u // 10), int(v // 10)) for u, v in pixels}) == 48  # all cells of the image
    plain = sample_pixels('edges', image, 100, np.random.default_rng(0))
    inside = (np.abs(plain - (40.0, 30.0)).max(axis=1) < 15.0).mean()
    assert inside > 0.95


def test_unknown_sampler_is_named():
    with pytest.raises(InputError, match='sampler'):
        sample_pixels('sift', make_image(square()), 10, np.random.default_rng(0))


def test_noise_is_measured_beneath_structure():
    values = square(0.05) + np.linspace(0, 5, 80)[None, :, None]
    assert noise_sigma(values.astype(np.float32))[0] == pytest.approx(0.05, rel=0.1)


@pytest.mark.parametrize('sigma_px', [0.5, 1.5, 4.0])
def test_layer_holds_the_gradient_of_a_plane(sigma_px):
    u, v = np.meshgrid(np.arange(80) + 0.5, np.arange(60) + 0.5)
    level = make_level(make_image((0.3 * u - 0.2 * v)[..., None]), sigma_px)
    scale = 80 / level.camera.width
    inner = level.samples[6:-6, 6:-6, 0]
    np.testing.assert_allclose(inner[..., 1], 0.3 * scale, rtol=1e-3)
    np.testing.assert_allclose(inner[..., 2], -0.2 * scale, rtol=1e-3)
    assert scale >= (2 if sigma_px > 2 else 1)


def test_layer_of_noise_carries_nothing_but_structure_does():
    noise = 0.05 * np.random.default_rng(1).normal(size=(60, 80, 1))
    assert make_level(make_image(noise), 1.0).signal[0] < 0.35
    assert make_level(make_image(square(0.05)), 1.0).signal[0] > 0.8


def test_noisy_thermal_keeps_its_layer_finite_around_a_mask():
    frame = take_frame(PaintedRoom(), make_poses(1)[0])
    image = observe(frame, (THERMAL,))[0][THERMAL]
    valid = np.ones(image.values.shape[:2], dtype=bool)
    valid[10:20, 10:20] = False
    level = make_level(ObservedImage(image.camera, image.values, valid, np.eye(4), image.noise,
                                   True), 0.5)
    assert np.isnan(level.samples[10:20, 10:20]).all()
    assert np.isfinite(level.samples[30:, 30:]).all()

# SPDX-License-Identifier: Apache-2.0
"""Observed images at working size, and their gradients, compiled against plain numpy."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.localization.refinement.image_pyramid import (
    ImageConfig, make_level, observe, shrunk_gradients)
from thermal_nerf_loc.sensing.frame import Frame, RGB, SensorImage, THERMAL

NOISE = 0.02


def plain_gradients(image, gradient_noise, shrinkage):
    """The same in numpy and OpenCV."""
    gradient = np.stack([cv2.Scharr(image, cv2.CV_32F, 1 - axis, axis, scale=1 / 32).reshape(
        image.shape) for axis in (0, 1)], axis=-1)
    energy = (gradient.astype(np.float64)**2).sum(axis=-1)
    x = (energy / np.maximum(2.0 * gradient_noise**2, 1e-12)).mean(axis=-1)
    share = np.maximum(1.0 - shrinkage / np.maximum(x, 1e-6), 0.0)
    return (np.concatenate([image[..., None], gradient * share[..., None, None]], axis=-1),
            energy.mean(axis=(0, 1)))


@pytest.mark.parametrize('channels', [1, 3])
def test_compiled_gradients_are_those_of_opencv(channels):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(9, 14, channels)).astype(np.float32)
    noise = np.linspace(0.1, 0.3, channels)
    samples, energy = shrunk_gradients(image, noise, 1.5)
    expected, expected_energy = plain_gradients(image, noise, 1.5)
    np.testing.assert_allclose(samples, expected, atol=1e-5)
    np.testing.assert_allclose(energy, expected_energy, rtol=1e-5)
    assert (samples[..., 1:] == 0.0).any() and (samples[..., 1:] != 0.0).any()


def seen(width, height, valid=None, name=RGB):
    """A picture of waves, with noise."""
    camera = Camera.from_fov(width, height, 60.0)
    u, v = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    waves = 0.5 + 0.2 * np.sin(20.0 * u) + 0.2 * np.cos(15.0 * v)
    noise = np.random.default_rng(1).normal(0.0, NOISE, (height, width, 3))
    values = (waves[..., None] + noise).astype(np.float32)[..., :3 if name == RGB else 1]
    if valid is not None:
        values = np.where(valid[..., None], values, np.float32(np.nan))
    images, why = observe(Frame(0, {name: SensorImage(camera, values, 0)}), (name,))
    assert not why
    return images[name], waves


@pytest.mark.parametrize('setting, value, brightness, reason', [
    ('black', 0.6, 0.5, 'rgb image is black'), ('saturated', 0.4, 0.5, 'rgb image is saturated')])
def test_when_an_image_is_empty_is_a_setting(setting, value, brightness, reason):
    """A camera with another exposure: waves of +- 0.01 around a brightness."""
    camera = Camera.from_fov(64, 48, 60.0)
    waves = np.sin(np.arange(64))[None, :, None] * np.ones((48, 1, 3))
    image = SensorImage(camera, (brightness + 0.01 * waves).astype(np.float32), 0)
    assert set(observe(Frame(0, {RGB: image}), (RGB,))[0]) == {RGB}
    config = replace(ImageConfig(), **{setting: value})
    assert observe(Frame(0, {RGB: image}), (RGB,), config) == ({}, {RGB: reason})


@pytest.mark.parametrize('size, expected', [((640, 480), (320, 240)), ((1281, 720), (320, 180)),
                                            ((639, 480), (639, 480)), ((320, 256), (320, 256))])
def test_large_images_are_halved_first(size, expected):
    image, waves = seen(*size)
    assert image.camera.size == expected
    assert image.values.shape == (*expected[::-1], 3)
    assert image.camera.fx / image.camera.width == pytest.approx(
        Camera.from_fov(*size, 60.0).fx / size[0])
    factor = size[0] // expected[0]
    np.testing.assert_allclose(image.noise, NOISE / factor, rtol=0.15)
    small = cv2.resize(waves, expected, interpolation=cv2.INTER_AREA)
    assert np.abs(image.values - small[..., None]).mean() < 1.2 * NOISE / factor


def test_a_layer_is_the_same_whether_halved_before_or_after():
    large, _ = seen(640, 480)
    small, _ = seen(638, 480)  # too narrow to be halved: its layer is
    early, late = make_level(large, 1.6), make_level(small, 3.2)
    assert early.samples.shape[:2] == (240, 320) and late.samples.shape[:2] == (240, 319)
    steep = [np.abs(level.samples[20:-20, 20:-20, 1, 1:]).mean() for level in (early, late)]
    assert steep[0] == pytest.approx(steep[1], rel=0.05)
    np.testing.assert_allclose(early.gradient_noise, late.gradient_noise, rtol=0.3)


def test_masked_pixels_count_for_nothing_when_halved():
    valid = np.ones((480, 640), dtype=np.bool_)
    valid[:, :101] = False  # of the pair 100, 101 one pixel counts
    valid[200:230, 300:340] = False
    image, waves = seen(640, 480, valid, THERMAL)
    assert image.valid.shape == (240, 320)
    assert not image.valid[:, :50].any() and image.valid[:90, 51:].all()
    assert not image.valid[100:115, 150:170].any()
    small = cv2.resize(waves, (320, 240), interpolation=cv2.INTER_AREA)
    assert np.abs(image.values[..., 0] - small)[image.valid].max() < 6.0 * NOISE

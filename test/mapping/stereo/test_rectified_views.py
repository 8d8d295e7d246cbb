# SPDX-License-Identifier: Apache-2.0
"""Views for stereo: their lenses, their pixels, and the way back to the image."""

import numpy as np
import pytest

from thermal_nerf_loc.geometry.camera import Camera, CameraModel
from thermal_nerf_loc.mapping.stereo.rectified_views import (
    ImagePixels, load_views, rectified_camera)
from thermal_nerf_loc.sensing.frame import SensorImage

PINHOLE = Camera(64, 48, 50.0, 51.0, 30.0, 25.0)
BARREL = Camera.from_fov(640, 480, 90.0, model=CameraModel.OPENCV,
                         distortion=(-0.25, 0.06, 0.001, -0.001))
FISHEYE = Camera(320, 320, 100.0, 100.0, 160.0, 160.0, CameraModel.OPENCV_FISHEYE,
                 (0.0, 0.0, 0.0, 0.0))


def views_of(images, camera, name='rgb', valid=None, width=320):
    """Views of images (h, w), at one place."""
    def load(i):
        return SensorImage(camera, images[i][..., None].astype(np.float32), i,
                           valid=None if valid is None else valid[i])
    return load_views(name, [camera] * len(images), [np.eye(4)] * len(images), load, width)


def test_a_small_pinhole_camera_stays():
    assert rectified_camera(PINHOLE, 320) == PINHOLE


@pytest.mark.parametrize('camera, least', [(BARREL, 0.98), (FISHEYE, 0.3),
                                           (Camera.from_fov(640, 512, 57.0), 0.99)])
def test_the_view_sees_what_the_lens_does(camera, least):
    """Of its pixels most; a fisheye of 180 degrees up to 55 degrees of the axis."""
    view = rectified_camera(camera, 160)
    assert 100 <= view.width <= 250 and view.height <= 400
    rays = camera.rays()
    _, inside = view.project(rays)
    assert inside.mean() > least
    widest = np.rad2deg(np.arctan2(np.abs(rays[:, :2]).max(axis=1), rays[:, 2]))
    assert inside[widest < 54.0].all() or camera is not FISHEYE
    assert not inside[widest > 56.5].any()


@pytest.mark.parametrize('camera', [PINHOLE, BARREL, FISHEYE])
def test_depth_comes_back_to_its_pixels(camera):
    """A slanted plane, in the view and at the pixels of the image: the rays agree."""
    def plane(one):
        rays = one.rays()
        z = rays[:, 2] / (rays @ (0.1, 0.2, 0.9))
        return z.reshape(one.height, one.width)

    view = rectified_camera(camera, 160)
    depth, sure = ImagePixels(camera, view).depth(plane(view).astype(np.float32),
                                                  np.ones((view.height, view.width), np.float32))
    known = sure > 0.0
    assert known.mean() > (0.3 if camera is FISHEYE else 0.95)
    off = np.abs(depth[known] / plane(camera)[known] - 1.0)
    assert np.median(off) < 1e-5
    assert off.max() < 5e-3  # outside the centres of the outermost pixels


def test_images_are_normalised_and_their_noise_is_known():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :64]
    images = [20.0 + 2.0 * np.sin(0.1 * x + k) * np.cos(0.1 * y)
              + 0.1 * rng.normal(size=(48, 64)) for k in range(3)]
    views = views_of(images, PINHOLE)
    assert abs(views.images.mean()) < 0.1 and views.images.std() == pytest.approx(1.0, abs=0.1)
    assert views.noise * np.std(images) == pytest.approx(0.1, rel=0.2)
    assert views.valid.all()
    small = views.reduced(32)
    assert small.cameras[0] == PINHOLE.resized(32, 24)
    np.testing.assert_allclose(small.image(1),
                               views.image(1).reshape(24, 2, 32, 2).mean(axis=(1, 3)), atol=1e-5)


def test_what_is_masked_or_not_finite_is_not_valid():
    image = np.random.default_rng(0).normal(size=(48, 64))
    image[10:12, 10:12] = np.nan
    mask = np.ones((48, 64), bool)
    mask[30:, :] = False
    views = views_of([image], PINHOLE, 'thermal', [mask])
    assert np.isfinite(views.images).all()
    valid = views.part(views.valid, 0)
    assert not valid[10:12, 10:12].any() and not valid[30:].any() and valid[:9].all()
    nothing = views_of([image, image], PINHOLE, valid=[np.zeros_like(mask)] * 2)
    assert not nothing.valid.any() and np.isfinite(nothing.images).all() and nothing.noise > 0.0


def test_the_fixed_pattern_goes_and_the_scene_stays():
    rng = np.random.default_rng(1)
    columns = 0.8 * rng.normal(size=64)[None]
    scene = [2.0 * rng.normal(size=(48, 64)) for _ in range(20)]
    views = views_of([image + columns for image in scene], PINHOLE, 'thermal')
    spread = np.std([image + columns for image in scene])
    left = np.mean([views.image(i) * spread - scene[i] for i in range(20)], axis=0)
    assert np.std(left.mean(axis=0)) < 0.35 * np.std(columns)

# SPDX-License-Identifier: Apache-2.0
"""Which views are compared, and on which planes."""

from types import SimpleNamespace

import numpy as np
import pytest

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.mapping.stereo.neighbours import guessed_depths, neighbourhood

CAMERA = Camera.from_fov(160, 120, 60.0)


def views_at(*places, turned=None):
    """Views along +z at these places."""
    poses = np.tile(np.eye(4), (len(places), 1, 1))
    poses[:, :3, 3] = places
    for k, angle in (turned or {}).items():
        poses[k, :3, :3] = se3.so3_exp([0.0, angle, 0.0])
    return SimpleNamespace(cameras=(CAMERA,) * len(places), poses=poses)


def wall(z=2.0):
    """Points of a wall before the views."""
    x, y = np.meshgrid(np.linspace(-1, 1, 20), np.linspace(-0.7, 0.7, 20))
    return np.stack([x.ravel(), y.ravel(), np.full(x.size, z)], axis=-1)


def test_no_parallax_no_neighbours():
    """Cameras that only turn; and one that stands alone."""
    turned = views_at(*[[0.0, 0.0, 0.0]] * 5, turned={k: 0.05 * k for k in range(5)})
    assert neighbourhood(turned, 0, wall(), (1.0, 4.0), 6, 96).views == ()
    assert neighbourhood(views_at([0, 0, 0]), 0, wall(), (1.0, 4.0), 6, 96).views == ()
    near, far = guessed_depths(turned.poses)
    assert 0.0 < near < far


def test_views_that_look_elsewhere_or_from_too_close_are_left_out():
    views = views_at([0, 0, 0], [0.2, 0, 0], [-0.25, 0, 0], [0.2, 0.1, 0], [0.001, 0, 0],
                     turned={3: 1.5})
    assert set(neighbourhood(views, 0, wall(), (1.0, 4.0), 6, 96).views) == {1, 2}


def test_neighbours_cover_the_view_together():
    """Four overlap on one half at the best angle; one alone sees the other half."""
    views = views_at([0, 0, 0], [0.25, 0, 0], [0.25, 0.02, 0], [0.25, -0.02, 0], [0.24, 0, 0],
                     [0.15, 0, 0], turned={**dict.fromkeys(range(1, 5), -0.45), 5: 0.45})
    chosen = neighbourhood(views, 0, wall(), (1.0, 4.0), 3, 96).views
    assert 5 in chosen[:2] and len(chosen) == 3


@pytest.mark.parametrize('most', [40, 512])
def test_planes_are_half_a_pixel_of_parallax_apart(most):
    views = views_at([0, 0, 0], [0.3, 0, 0])
    planes = neighbourhood(views, 0, wall(), (1.0, 4.0), 6, most).planes
    inverse = planes.inverse_depths()
    assert inverse[0] == 1.0 and inverse[-1] == 0.25
    step_px = 0.3 * CAMERA.fx * (inverse[0] - inverse[1])
    assert len(inverse) <= most
    assert step_px == pytest.approx(0.5, rel=0.05) or len(inverse) == most

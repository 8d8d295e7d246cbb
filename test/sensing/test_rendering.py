# SPDX-License-Identifier: Apache-2.0
"""Images of a painted wall, against where each pixel's ray meets it by hand."""

import numpy as np
import pytest

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.sensing.rendering import RayRendering, render_image

WALL_M = 3.0
CAMERA = Camera(8, 6, 10.0, 10.0, 4.0, 3.0)


class Wall:
    """The plane z = 3; its colour is where it was hit (x, y and 1)."""

    modalities = ('rgb', 'thermal')

    def render_rays(self, modality, origins, directions):
        """See `Renderer`."""
        assert origins.dtype == directions.dtype == np.float32
        distance = (WALL_M - origins[:, 2]) / directions[:, 2]
        hit = origins + distance[:, None] * directions
        values = np.stack([hit[:, 0], hit[:, 1], np.ones(len(hit))], axis=1)
        return RayRendering(values[:, :3 if modality == 'rgb' else 1].astype(np.float32), distance,
                            np.zeros_like(distance), np.ones_like(distance))


def hit_by(u, v, T):
    """Where the ray through pixel position (u, v) meets the wall: x, y, and depth along z."""
    ray = T[:3, :3] @ np.array([(u - 4.0) / 10.0, (v - 3.0) / 10.0, 1.0])
    depth = (WALL_M - T[2, 3]) / ray[2]  # the ray's own z is 1
    return T[0, 3] + depth * ray[0], T[1, 3] + depth * ray[1], depth


def test_pixels_show_what_their_rays_meet():
    T = se3.exp([0.3, -0.2, 0.5, 0.05, -0.1, 0.2])
    image = render_image(Wall(), 'rgb', CAMERA, T)
    assert image.values.shape == (6, 8, 3)
    for row, column in ((0, 0), (5, 7), (2, 6)):
        x, y, depth = hit_by(column + 0.5, row + 0.5, T)
        assert image.values[row, column] == pytest.approx([x, y, 1.0], abs=1e-5)
        assert image.depth_m[row, column] == pytest.approx(depth, abs=1e-5)
    np.testing.assert_allclose(image.per_pixel(image.rays.opacity), np.ones((6, 8)))
    assert render_image(Wall(), 'thermal', CAMERA, T).values.shape == (6, 8, 1)


def test_rows_of_a_rolling_shutter_are_seen_one_after_the_other():
    """A sensor that slides 0.6 m to the right: row r stands at (r + 0.5) / 6 - 0.5 of it."""
    sweep = np.array([0.6, 0.0, 0.0, 0.0, 0.0, 0.0])
    image = render_image(Wall(), 'rgb', CAMERA, np.eye(4), sweep=sweep)
    for row in range(6):
        T = np.eye(4)
        T[0, 3] = 0.6 * ((row + 0.5) / 6.0 - 0.5)
        x, y, _ = hit_by(3.5, row + 0.5, T)
        assert image.values[row, 3, :2] == pytest.approx([x, y], abs=1e-5)


def test_a_flat_field_is_added_to_the_values_alone():
    columns = np.tile(np.arange(8, dtype=np.float32), (6, 1))  # one degree a column
    bare, full = (render_image(Wall(), 'thermal', CAMERA, np.eye(4), offset=offset)
                  for offset in (None, columns[..., None]))
    np.testing.assert_allclose((full.values - bare.values)[..., 0], columns, atol=1e-5)
    np.testing.assert_array_equal(full.depth_m, bare.depth_m)

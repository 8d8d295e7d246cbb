# SPDX-License-Identifier: Apache-2.0
"""Normals of planes and of a bent wall, against geometry."""

import numpy as np
import pytest

from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.visualization.normals import normals_of, paint_normals

CAMERA = Camera.from_fov(96, 72, 70.0)


def plane_depth(normal: np.ndarray, distance_m: float, camera: Camera = CAMERA) -> np.ndarray:
    """Depth along z of the plane normal . p = -distance_m, in front of the camera."""
    rays = camera.rays().reshape(camera.height, camera.width, 3)
    return -distance_m / (rays @ normal) * rays[..., 2]


@pytest.mark.parametrize('normal', [(0.0, 0.0, -1.0), (0.3, -0.2, -0.9), (0.0, -0.8, -0.6)])
def test_a_plane_has_its_normal_everywhere(normal: tuple[float, ...]) -> None:
    """Also off the axis, where its depth is not linear in pixels."""
    expected = np.array(normal) / np.linalg.norm(normal)
    depth = plane_depth(expected, 2.0)
    found = normals_of(depth, CAMERA)[4:-4, 4:-4]
    inside = (depth > 0.0)[4:-4, 4:-4] & (depth < 50.0)[4:-4, 4:-4]
    assert inside.mean() > 0.4
    assert (found @ expected)[inside].min() > np.cos(np.deg2rad(1.0))


def test_a_lens_is_taken_out() -> None:
    """A wall through a strong lens is as flat as through none."""
    lens = Camera.from_fov(96, 72, 70.0, model='OPENCV', distortion=(-0.2, 0.05, 0.0, 0.0))
    found = normals_of(plane_depth(np.array([0.0, 0.0, -1.0]), 3.0, lens), lens)
    assert found[4:-4, 4:-4, 2].max() < -0.999


def test_colours_are_the_usual_ones() -> None:
    """Light blue faces the camera, green looks up, red to the right; grey is unknown."""
    normals = np.array([[[0, 0, -1.0], [0, -1.0, 0], [1.0, 0, 0], [np.nan] * 3]])
    assert paint_normals(normals)[0].tolist() == [[128, 128, 255], [128, 255, 128],
                                                  [255, 128, 128], [184, 184, 184]]


def test_a_bent_wall_is_seen_at_once() -> None:
    """A bulge of 3 % of the depth hardly changes the depth picture, but the normals' colours."""
    flat = plane_depth(np.array([0.0, 0.0, -1.0]), 6.0)
    column = np.arange(96) / 96
    bent = flat * (1.0 + 0.03 * np.sin(4 * np.pi * column))
    colours = [paint_normals(normals_of(depth, CAMERA))[8:-8, 8:-8].astype(float)
               for depth in (flat, bent)]
    assert colours[0].std(axis=(0, 1)).max() < 1.0
    assert colours[1][..., 0].std() > 15.0

# SPDX-License-Identifier: Apache-2.0
"""Points and normals of the surface of a map."""

import numpy as np
import pytest
from viewed_world import ViewedWorld

from thermal_nerf_loc.common.errors import InputError, RunError
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.sensing.rendering import RayRendering
from thermal_nerf_loc.visualization import surface_export
from thermal_nerf_loc.visualization.surface_export import estimate_normals


def test_fog_gives_no_points():
    fog = ViewedWorld()

    def render_rays(modality, origins, directions):
        one = np.ones(len(origins), np.float32)
        return RayRendering(one[:, None], 2.0 * one, 0.5 * one, one)
    fog.render_rays = render_rays
    with pytest.raises(RunError, match='every ray ends in fog'):
        surface_export.surface_points(fog, 0.1, camera=Camera.from_fov(8, 6, 70.0))
    fog.keyframes = None
    with pytest.raises(InputError, match='no keyframes'):
        surface_export.surface_mesh(fog, None, 0.1)


def test_a_single_stray_ray_and_what_is_far_away_stay_out():
    wall = ViewedWorld(modalities=('thermal',), cameras=1)

    def render_rays(modality, origins, directions):
        distance = 2.0 / np.maximum(directions @ wall.keyframes.poses[0, :3, 2], 1e-3)
        distance[5] = 0.7
        distance[6] = 80.0
        distance = distance.astype(np.float32)
        return RayRendering(np.full((len(distance), 1), 20.0, np.float32), distance,
                            np.zeros_like(distance), np.ones_like(distance))
    wall.render_rays = render_rays
    found = surface_export.surface_points(wall, 0.3, camera=Camera.from_fov(40, 30, 70.0))
    depth = (found.points_m - wall.keyframes.poses[0, :3, 3]) @ wall.keyframes.poses[0, :3, 2]
    np.testing.assert_allclose(depth, 2.0, atol=1e-4)


def test_normals_of_few_points():
    one = np.array([[0.0, 0.0, 2.0]], np.float32)
    np.testing.assert_allclose(estimate_normals(one, np.zeros_like(one)), [[0.0, 0.0, -1.0]])
    assert estimate_normals(one[:0], one[:0]).shape == (0, 3)

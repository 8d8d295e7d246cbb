# SPDX-License-Identifier: Apache-2.0
"""Triangles from a grid of distances."""

import numpy as np
import pytest

from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.visualization.mesh import DistanceField, surface_nets


def test_surface_nets_find_a_sphere():
    x, y, z = np.mgrid[-1.5:1.5:31j, -1.5:1.5:31j, -1.5:1.5:31j]
    vertices, faces = surface_nets((np.sqrt(x**2 + y**2 + z**2) - 1.0).astype(np.float32))
    p = -1.5 + 0.1 * vertices
    np.testing.assert_allclose(np.linalg.norm(p, axis=1), 1.0, atol=0.01)
    edges = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all(), 'closed'
    assert len(p) - len(edges) // 2 + len(faces) == 2, 'Euler'
    a, b, c = (p[faces[:, k]] for k in range(3))
    assert (np.einsum('ij,ij->i', np.cross(b - a, c - a), a) > 0.0).all(), 'faces outward'
    volume = np.einsum('ij,ij->i', a, np.cross(b, c)).sum() / 6.0
    assert volume == pytest.approx(4.0 / 3.0 * np.pi, rel=0.02)


def test_what_one_view_saw_alone_gives_no_triangle():
    camera, T = Camera.from_fov(32, 24, 70.0), np.eye(4)
    distance = (2.0 / camera.rays()[:, 2]).reshape(24, 32).astype(np.float32)
    grid = DistanceField(np.array([-1.0, -1.0, 1.0]), np.array([1.0, 1.0, 3.0]), 0.1)
    good = np.ones((24, 32), bool)
    grid.add(camera, T, distance, good)
    assert not len(grid.mesh().faces)
    grid.add(camera, T, distance, good)
    mesh = grid.mesh()
    np.testing.assert_allclose(mesh.vertices_m[:, 2], 2.0, atol=0.03)
    a, b, c = (mesh.vertices_m[mesh.faces[:, k]] for k in range(3))
    assert (np.cross(b - a, c - a)[:, 2] < 0.0).all(), 'towards the camera'

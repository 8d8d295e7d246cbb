# SPDX-License-Identifier: Apache-2.0
"""The map's surface for other programs: points with normals, or a mesh, and their colours."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from thermal_nerf_loc.common.errors import InputError, RunError
from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.mapping.map.localization_map import LocalizationMap
from thermal_nerf_loc.visualization.colour_map import ColourScale, fitted_scale, HEAT, Picture
from thermal_nerf_loc.visualization.mesh import fuse, Mesh
from thermal_nerf_loc.visualization.panels import thermal_unit
from thermal_nerf_loc.visualization.surface import SurfaceBuilder, SurfacePoints, viewpoints

Array32 = NDArray[np.float32]

SURFACE_CAMERA = Camera.from_fov(96, 72, 70.0)
_LEAST_RAYS = 2
_CELLS = 200.0  # spacings along the longest side of the map's box
_UNBOUNDED_M = 2.0  # taken for the size of a map without a box
_NEAREST = 4  # points that a vertex takes its colour from
_NEIGHBOURS = 12  # points that a normal is estimated from


@dataclass(frozen=True, slots=True, eq=False)
class PointColours:
    """Colours for a viewer, and what they mean."""

    colours: Picture  # (n, 3)
    scale: ColourScale | None  # of colours that stand for temperatures


def default_spacing_m(renderer: LocalizationMap) -> float:
    """A two-hundredth of the map's box."""
    bounds = renderer.bounds
    longest = _UNBOUNDED_M if bounds is None else float((bounds[1] - bounds[0]).max())
    return longest / _CELLS


def surface_points(renderer: LocalizationMap, spacing_m: float, progress: Progress = silent,
                   camera: Camera = SURFACE_CAMERA) -> SurfacePoints:
    """Points of the map's surface; rays that do not end on one surface are left out."""
    builder = SurfaceBuilder(renderer, spacing_m, camera, _LEAST_RAYS)
    for share in builder.steps():
        progress(share, 1.0)
    surface = builder.surface()
    if not len(surface):
        raise RunError('map shows no surface: every ray ends in fog or far away',
                       hint='Was it trained long enough? See eval-map.')
    return surface


def surface_mesh(renderer: LocalizationMap, points: SurfacePoints, voxel_m: float,
                 progress: Progress = silent,
                 camera: Camera = SURFACE_CAMERA) -> tuple[Mesh, SurfacePoints]:
    """A mesh, and its vertices with the colours of the nearest points."""
    if viewpoints(renderer) is None:
        raise InputError('map has no keyframes to render from, so it gives points, but no mesh')
    mesh = fuse(renderer, points, voxel_m, camera, progress)
    if not len(mesh.faces):
        raise RunError('map shows no surface that triangles could be laid on',
                       hint='Try a larger --spacing.')
    near_m, near = cKDTree(points.points_m).query(mesh.vertices_m,
                                                  k=min(_NEAREST, len(points)))
    near, near_m = (a.reshape(len(mesh.vertices_m), -1) for a in (near, near_m))
    weight = 1.0 / (near_m + 0.1 * voxel_m)
    weight /= weight.sum(axis=1, keepdims=True)

    def interpolated(values: Array32 | None) -> Array32 | None:
        if values is None:
            return None
        return np.asarray(np.einsum('nk,nk...->n...', weight, values[near]), np.float32)

    return mesh, SurfacePoints(mesh.vertices_m, interpolated(points.colours),
                               interpolated(points.celsius))


def colour_points(renderer: LocalizationMap, surface: SurfacePoints,
                  by_heat: bool) -> PointColours:
    """Colour each point as the map shows it, or by its temperature."""
    if not by_heat and surface.colours is not None:
        return PointColours(np.rint(np.clip(surface.colours, 0.0, 1.0) * 255.0).astype(np.uint8),
                            None)
    if surface.celsius is None:
        raise InputError('map has no temperature', expected='colour',
                         hint='It was trained without thermal images.')
    scale = fitted_scale(HEAT, thermal_unit(renderer), [surface.celsius])
    return PointColours(scale.paint(surface.celsius), scale)


def estimate_normals(points_m: Array32, seen_from_m: Array32) -> Array32:
    """
    Unit normals (n, 3), each towards the camera that saw the point.

    The direction in which a point's neighbours spread least; with fewer than three points, the
    direction to the camera.
    """
    towards = seen_from_m - points_m
    towards /= np.maximum(np.linalg.norm(towards, axis=1, keepdims=True), 1e-9)
    if len(points_m) < 3:
        return towards.astype(np.float32)
    count = min(_NEIGHBOURS, len(points_m))
    _, near = cKDTree(points_m).query(points_m, k=count)
    around = points_m[near].astype(np.float64)
    around -= around.mean(axis=1, keepdims=True)
    _, axes = np.linalg.eigh(np.einsum('nki,nkj->nij', around, around))
    normals = axes[:, :, 0]
    normals *= np.where(np.einsum('ij,ij->i', normals, towards) < 0.0, -1.0, 1.0)[:, None]
    return normals.astype(np.float32)

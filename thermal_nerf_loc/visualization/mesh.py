# SPDX-License-Identifier: Apache-2.0
"""
The map's surface as triangles: rendered distances fused into a grid, then surface nets; PLY files.

Each voxel holds the mean over views of min(rendered distance - own distance, truncation) along the
ray (Curless and Levoy 1996): positive in free space, negative behind a surface. A cell in which
the sign changes gets a vertex, at the mean of the crossings on its edges, and the four cells that
share a crossed edge are joined by two triangles (Gibson's surface nets, without the smoothing).

A binary PLY file holds for each point, in this order: float x y z, float nx ny nz (where known),
uchar red green blue, float temperature (deg C, where known).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera, CameraModel
from thermal_nerf_loc.io.atomic_files import write_atomically
from thermal_nerf_loc.mapping.map.localization_map import LocalizationMap
from thermal_nerf_loc.sensing.rendering import render_image
from thermal_nerf_loc.visualization.surface import is_surface, SurfacePoints, viewpoints

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]

_TRUNCATION = 4.0  # voxels
_LEAST_VIEWS = 2.0
_PLY_TYPES = {'<f4': 'float', 'u1': 'uchar'}


@dataclass(frozen=True, slots=True, eq=False)
class Mesh:
    """Triangles, counter-clockwise as seen from where the cameras were."""

    vertices_m: Array32  # (n, 3)
    faces: NDArray[np.int32]  # (m, 3)


class DistanceField:
    """A grid of truncated signed distances, filled view by view."""

    def __init__(self, low: Array, high: Array, voxel_m: float) -> None:
        """Lay voxel centres over a box."""
        self.voxel_m, self.low = voxel_m, np.asarray(low, dtype=np.float64)
        shape = np.ceil((np.asarray(high) - self.low) / voxel_m).astype(int) + 1
        self.shape = (int(shape[0]), int(shape[1]), int(shape[2]))
        self.values = np.zeros(self.shape, np.float32)
        self.views = np.zeros(self.shape, np.float32)

    def add(self, camera: Camera, T_world_cam: Array, distance_m: Array32,
            good: NDArray[np.bool_]) -> None:
        """Fuse one view of a pinhole camera; distances along the rays (height, width)."""
        assert camera.model is CameraModel.PINHOLE
        cut = np.float32(_TRUNCATION * self.voxel_m)
        T = se3.inverse(T_world_cam)
        x, y, z = (self.low[k] + self.voxel_m * np.arange(self.shape[k]) for k in range(3))
        side = (T[:3, 1, None, None] * y[:, None] + T[:3, 2, None, None] * z
                + T[:3, 3, None, None]).reshape(3, -1).astype(np.float32)
        for i, ahead in enumerate(x[:, None] * T[:3, 0]):  # a slab at a time, for the memory
            p = side + ahead[:, None].astype(np.float32)
            depth = np.maximum(p[2], np.float32(1e-6))
            u = np.float32(camera.fx) * p[0] / depth + np.float32(camera.cx)
            v = np.float32(camera.fy) * p[1] / depth + np.float32(camera.cy)
            at = np.flatnonzero((p[2] > 1e-3) & (u >= 0.0) & (v >= 0.0) & (u < camera.width)
                                & (v < camera.height))
            row, column = v[at].astype(np.intp), u[at].astype(np.intp)
            gap = distance_m[row, column] - np.linalg.norm(p[:, at], axis=0)
            kept = good[row, column] & (gap > -cut)
            at, gap = at[kept], np.minimum(gap[kept], cut)
            self.values[i].reshape(-1)[at] += gap
            self.views[i].reshape(-1)[at] += 1.0

    def mesh(self) -> Mesh:
        """Triangles where the mean changes sign among voxels that enough views saw."""
        known = self.views >= _LEAST_VIEWS
        mean = np.where(known, self.values / np.maximum(self.views, 1.0), np.nan)
        vertices, faces = surface_nets(mean)
        return Mesh((self.low + self.voxel_m * vertices).astype(np.float32), faces)


def surface_nets(values: Array32) -> tuple[Array, NDArray[np.int32]]:
    """
    Zero surface of a grid: vertices in grid units (n, 3) and triangles (m, 3).

    Cells with a corner that is NaN stay out. Triangles face the positive side.
    """
    n = np.array(values.shape) - 1
    corner = [np.array([c >> 2 & 1, c >> 1 & 1, c & 1]) for c in range(8)]
    part = [values[tuple(slice(o, o + m) for o, m in zip(c, n))] for c in corner]
    finite = np.isfinite(np.stack(part)).all(axis=0)
    negative = np.stack([p < 0.0 for p in part])
    mixed = finite & negative.any(axis=0) & ~negative.all(axis=0)
    cells = np.argwhere(mixed)
    index = np.full(mixed.shape, -1, np.int64)
    index[mixed] = np.arange(len(cells))
    f = np.stack([p[mixed] for p in part], axis=1).astype(np.float64)  # (cells, 8)
    total, crossings = np.zeros((len(cells), 3)), np.zeros(len(cells))
    for a in range(8):
        for axis in range(3):
            b = a | 4 >> axis
            if b == a:
                continue
            crossed = (f[:, a] < 0.0) != (f[:, b] < 0.0)
            step = f[crossed, a] / (f[crossed, a] - f[crossed, b])
            total[crossed] += corner[a] + step[:, None] * (corner[b] - corner[a])
            crossings[crossed] += 1.0
    return cells + total / np.maximum(crossings, 1.0)[:, None], _faces(values, index)


def _faces(values: Array32, index: NDArray[np.int64]) -> NDArray[np.int32]:
    """Two triangles for each crossed edge whose four cells all have a vertex."""
    out = []
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3  # right-handed with `axis`
        ends = np.moveaxis(values, (axis, u, v), (0, 1, 2))
        cells = np.moveaxis(index, (axis, u, v), (0, 1, 2))
        start, end = ends[:-1, 1:-1, 1:-1], ends[1:, 1:-1, 1:-1]
        at = np.argwhere(np.isfinite(start) & np.isfinite(end) & ((start < 0.0) != (end < 0.0)))
        i, j, k = at.T
        quad = np.stack([cells[i, j, k], cells[i, j + 1, k], cells[i, j + 1, k + 1],
                         cells[i, j, k + 1]], axis=1)
        rising = start[i, j, k] < 0.0  # the free side is ahead: seen from there, u to v
        quad = np.where(rising[:, None], quad, quad[:, ::-1])
        quad = quad[(quad >= 0).all(axis=1)]
        out += [quad[:, [0, 1, 2]], quad[:, [0, 2, 3]]]
    return np.concatenate(out).astype(np.int32)


def fuse(renderer: LocalizationMap, points: SurfacePoints, voxel_m: float, camera: Camera,
         progress: Progress = silent) -> Mesh:
    """Render distances from the map's keyframes and fuse them in the box that holds its points."""
    poses = viewpoints(renderer)
    assert poses is not None and len(points)
    low, high = np.quantile(points.points_m, (0.002, 0.998), axis=0)
    margin = 2.0 * _TRUNCATION * voxel_m
    grid = DistanceField(low - margin, high + margin, voxel_m)
    modality = renderer.modalities[-1]
    for done, T in enumerate(poses, start=1):
        image = render_image(renderer, modality, camera, T)
        grid.add(camera, T, image.per_pixel(image.rays.distance_m),
                 image.per_pixel(is_surface(image.rays)))
        progress(done, len(poses), f'{done} of {len(poses)} views')
    return grid.mesh()


def write_ply(path: Path, points_m: Array32, colours: NDArray[np.uint8],
              normals: Array32 | None = None, celsius: Array32 | None = None,
              faces: NDArray[np.int32] | None = None, comments: Sequence[str] = ()) -> None:
    """Write points (n, 3) with colours (n, 3) of 8 bits, and triangles (m, 3) where given."""
    columns: list[tuple[str, str, NDArray[Any]]]
    columns = [(name, '<f4', points_m[:, k]) for k, name in enumerate('xyz')]
    if normals is not None:
        columns += [(f'n{name}', '<f4', normals[:, k]) for k, name in enumerate('xyz')]
    columns += [(name, 'u1', colours[:, k]) for k, name in enumerate(('red', 'green', 'blue'))]
    if celsius is not None:
        columns.append(('temperature', '<f4', celsius))
    rows = np.empty(len(points_m), [(name, kind) for name, kind, _ in columns])
    for name, _, values in columns:
        rows[name] = values
    lines = ['ply', 'format binary_little_endian 1.0',
             *(f'comment {" ".join(comment.split())}' for comment in comments),
             f'element vertex {len(rows)}',
             *(f'property {_PLY_TYPES[kind]} {name}' for name, kind, _ in columns)]
    data = rows.tobytes()
    if faces is not None:
        lines += [f'element face {len(faces)}', 'property list uchar int vertex_indices']
        triangles = np.empty(len(faces), [('count', 'u1'), ('corners', '<i4', 3)])
        triangles['count'], triangles['corners'] = 3, faces
        data += triangles.tobytes()
    header = '\n'.join([*lines, 'end_header', ''])
    write_atomically(path, header.encode('ascii', 'replace') + data)

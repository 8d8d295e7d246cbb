# SPDX-License-Identifier: Apache-2.0
"""
A grid over many solids: rays test only those in the cells that they pass.

A plant has hundreds of solids; a ray meets the first after some metres. Cells are walked as by
Amanatides and Woo (A fast voxel traversal algorithm for ray tracing, Eurographics 1987).
"""

from dataclasses import dataclass
import math
from typing import Any

from numba import njit
import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.simulation import ray_casting
from thermal_nerf_loc.simulation.ray_casting import BOX, CYLINDER, ROOM, SPHERE

Array = NDArray[np.float64]
_JIT: dict[str, Any] = {'cache': True, 'nogil': True, 'error_model': 'numpy'}


@dataclass(frozen=True, slots=True, eq=False)
class SolidGrid:
    """Which solids lie in each cell; the first solid, the room around all, lies in none."""

    low: Array  # (3,) corner
    cell: Array  # (3,) size, metres
    counts: NDArray[np.int64]  # (3,) cells along each axis
    starts: NDArray[np.int64]  # (cells + 1,) of the members of each cell
    members: NDArray[np.int64]  # numbers of solids

    @classmethod
    def over(cls, kinds: NDArray[np.int64], shapes: Array, cell: tuple[float, float, float],
             ) -> 'SolidGrid':
        """Sort solids into cells of the room by the boxes around them."""
        low, high = shapes[0, :3], shapes[0, 3:]
        size = np.array(cell)
        counts = np.maximum(np.ceil((high - low) / size - 1e-9), 1).astype(np.int64)
        lists: list[list[int]] = [[] for _ in range(int(counts.prod()))]
        for k in range(1, len(kinds)):
            a, b = _box_around(int(kinds[k]), shapes[k])
            first = np.clip(((a - low) / size - 1e-6).astype(np.int64), 0, counts - 1)
            last = np.clip(((b - low) / size + 1e-6).astype(np.int64), 0, counts - 1)
            for x in range(first[0], last[0] + 1):
                for y in range(first[1], last[1] + 1):
                    for z in range(first[2], last[2] + 1):
                        lists[int((x * counts[1] + y) * counts[2] + z)].append(k)
        starts = np.concatenate([[0], np.cumsum([len(one) for one in lists])])
        return cls(low.copy(), size, counts, starts.astype(np.int64),
                   np.array([k for one in lists for k in one], dtype=np.int64))

    def cast(self, origins: Array, directions: Array, kinds: NDArray[np.int64], shapes: Array,
             distance: Array, face: NDArray[np.int64], normal: Array) -> None:
        """As `ray_casting.cast`, for rays that start in the room."""
        _cast(origins, directions, kinds, shapes, self.low, self.cell, self.counts, self.starts,
              self.members, distance, face, normal)


def _box_around(kind: int, shape: Array) -> tuple[Array, Array]:
    """Corners of the axis-aligned box around a solid."""
    if kind == SPHERE:
        return shape[:3] - shape[3], shape[:3] + shape[3]
    if kind != CYLINDER:
        return shape[:3], shape[3:]
    w = int(shape[5])
    a, b = np.empty(3), np.empty(3)
    a[w], b[w] = shape[3], shape[4]
    for i, axis in enumerate(((w + 1) % 3, (w + 2) % 3)):
        a[axis], b[axis] = shape[i] - shape[2], shape[i] + shape[2]
    return a, b


@njit(**_JIT)
def _nearest(o, d, inverse, kinds, shapes, k):  # type: ignore[no-untyped-def]
    """Distance, axis and sign of the normal of one solid."""
    if kinds[k] == ROOM or kinds[k] == BOX:
        return ray_casting._box(o, d, inverse, shapes, k, kinds[k] == ROOM)
    if kinds[k] == SPHERE:
        return ray_casting._sphere(o, d, shapes, k), 0, 1.0
    return ray_casting._cylinder(o, d, shapes, k)


@njit(**_JIT)
def _cast(origins, directions, kinds, shapes, low, cell, counts,  # type: ignore[no-untyped-def]
          starts, members, distance, face, normal):
    for i in range(origins.shape[0]):
        o = (origins[i, 0], origins[i, 1], origins[i, 2])
        d = (directions[i, 0], directions[i, 1], directions[i, 2])
        inverse = (1.0 / d[0], 1.0 / d[1], 1.0 / d[2])
        best, axis, side = _nearest(o, d, inverse, kinds, shapes, 0)
        best_face = 2 * axis + (1 if side > 0.0 else 0) if best < np.inf else -1
        at, step = np.empty(3, np.int64), np.empty(3, np.int64)
        leave, stride = np.empty(3), np.empty(3)  # distance of the next border; between two
        for c in range(3):
            x = (o[c] - low[c]) / cell[c]
            at[c] = min(max(int(math.floor(x)), 0), counts[c] - 1)
            step[c] = 1 if d[c] > 0.0 else -1
            stride[c] = cell[c] * abs(inverse[c])
            border = at[c] + (1 if d[c] > 0.0 else 0)
            leave[c] = (low[c] + border * cell[c] - o[c]) * inverse[c] if d[c] != 0.0 else np.inf
        while True:
            n = (at[0] * counts[1] + at[1]) * counts[2] + at[2]
            for m in range(starts[n], starts[n + 1]):
                k = members[m]
                t, a, s = _nearest(o, d, inverse, kinds, shapes, k)
                if t < best:
                    best, axis, side = t, a, s
                    best_face = 6 * k + (2 * a + (1 if s > 0.0 else 0))
            c = 0
            if leave[1] < leave[c]:
                c = 1
            if leave[2] < leave[c]:
                c = 2
            if leave[c] >= best or leave[c] == np.inf:
                break
            at[c] += step[c]
            if at[c] < 0 or at[c] >= counts[c]:
                break
            leave[c] += stride[c]
        distance[i], face[i] = best, best_face
        normal[i, 0] = normal[i, 1] = normal[i, 2] = 0.0
        if best_face < 0:
            continue
        k = best_face // 6
        g = shapes[k]
        if kinds[k] == SPHERE:
            for c in range(3):
                normal[i, c] = (o[c] + best * d[c] - g[c]) / g[3]
        elif kinds[k] == CYLINDER and side == 0.0:
            u, v = (axis + 1) % 3, (axis + 2) % 3
            normal[i, u] = (o[u] + best * d[u] - g[0]) / g[2]
            normal[i, v] = (o[v] + best * d[v] - g[1]) / g[2]
        else:
            normal[i, axis] = side

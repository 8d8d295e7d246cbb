# SPDX-License-Identifier: Apache-2.0
"""
The multiresolution hash grid on the CPU (Mueller et al., "Instant Neural Graphics Primitives").

A point in [0, 1]^3 reads the eight corners of its cell on every level, trilinearly. Coarse levels
are stored densely, fine ones hashed: see `grid_levels.py`. Loops run level by level, so
that one level's table (2 MB) stays in the processor's cache. The number of features is compiled
in: with loops of known length the compiler keeps a corner in one vector register (2.5 times
faster).
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numba as nb
import numpy as np

_OPTIONS = {'cache': True, 'fastmath': True, 'nogil': True}
_BLOCK = 2048  # points handled by a thread before it goes to the next level
_PRIME_Y, _PRIME_Z = np.uint32(2654435761), np.uint32(805459861)


@nb.njit(inline='always')
def corner_index(x, y, z, resolution, rows, dense):  # type: ignore[no-untyped-def]
    """Row of a grid point within its level's table."""
    if dense:
        index = x + resolution * (y + resolution * z)
        return nb.int64(index - (rows & -nb.int64(index >= rows)))  # modulo, without a branch
    mixed = nb.uint32(x) ^ (nb.uint32(y) * _PRIME_Y) ^ (nb.uint32(z) * _PRIME_Z)
    return nb.int64(mixed & nb.uint32(rows - 1))


@nb.njit(inline='always')
def locate(value, scale):  # type: ignore[no-untyped-def]
    """Cell number and position within the cell along one axis."""
    position = min(max(value, nb.float32(0.0)), nb.float32(1.0)) * scale + nb.float32(0.5)
    cell = nb.int32(position)
    return cell, position - nb.float32(cell)


@nb.njit(inline='always')
def level_at(level, offsets, scales, resolutions, dense):  # type: ignore[no-untyped-def]
    """Scale, resolution, first row, number of rows of a level, and whether it is dense."""
    base = offsets[level]
    return (scales[level], nb.int32(resolutions[level]), base, offsets[level + 1] - base,
            dense[level])


@nb.njit(inline='always')
def find_cell(points, i, scale):  # type: ignore[no-untyped-def]
    """Cell of point i on one level: its numbers, and the position within it."""
    ix, dx = locate(points[i, 0], scale)
    iy, dy = locate(points[i, 1], scale)
    iz, dz = locate(points[i, 2], scale)
    return ix, iy, iz, dx, dy, dz


@nb.njit(inline='always')
def corner_weight(corner, dx, dy, dz):  # type: ignore[no-untyped-def]
    """Trilinear weight of one of a cell's eight corners; bit 0 is x, bit 1 y, bit 2 z."""
    one = nb.float32(1.0)
    return ((dx if corner & 1 else one - dx) * (dy if corner & 2 else one - dy)
            * (dz if corner & 4 else one - dz))


@nb.njit(inline='always')
def corner_row(corner, ix, iy, iz, base, rows, resolution, dense):  # type: ignore[no-untyped-def]
    """Row of one of a cell's eight corners within the whole table; `base` is its level's first."""
    return base + corner_index(ix + (corner & 1), iy + ((corner >> 1) & 1),
                               iz + ((corner >> 2) & 1), resolution, rows, dense)


class Kernels(NamedTuple):
    """The three passes over the grid, compiled for one number of features."""

    encode: Callable[..., None]
    table_gradient: Callable[..., None]
    point_gradient: Callable[..., None]


@lru_cache
def compiled(width: int) -> Kernels:
    """Kernels for `width` features a level; compiled on first use, then read from disk."""
    return Kernels(_encode(width), _table_gradient(width), _point_gradient(width))


def _encode(width: int) -> Any:
    @nb.njit(parallel=True, **_OPTIONS)
    def encode(points, table, offsets, scales, resolutions, dense, levels, out):  # type: ignore[no-untyped-def]
        """Write the features of `points` (n, 3) into `out` (n, levels * features)."""
        n = points.shape[0]
        for block in nb.prange((n + _BLOCK - 1) // _BLOCK):
            first, last = block * _BLOCK, min((block + 1) * _BLOCK, n)
            for level in range(resolutions.shape[0]):
                scale, resolution, base, rows, is_dense = level_at(
                    level, offsets, scales, resolutions, dense)
                column = level * width
                for i in range(first, last):
                    for f in range(width):
                        out[i, column + f] = nb.float32(0.0)
                    if level >= levels:
                        continue
                    ix, iy, iz, dx, dy, dz = find_cell(points, i, scale)
                    for corner in range(8):
                        weight = corner_weight(corner, dx, dy, dz)
                        row = corner_row(corner, ix, iy, iz, base, rows, resolution, is_dense)
                        for f in range(width):
                            out[i, column + f] += weight * table[row, f]

    return encode


def _table_gradient(width: int) -> Any:
    @nb.njit(parallel=True, **_OPTIONS)
    def table_gradient(points, gradient, offsets, scales, resolutions, dense, levels, out):  # type: ignore[no-untyped-def]
        """Add d(loss)/d(table) to `out`; a level belongs to one thread, so none collide."""
        half = (levels + 1) // 2
        for k in nb.prange(levels):
            # even levels first, then odd ones: two threads get coarse and fine levels alike
            level = 2 * k if k < half else 2 * (k - half) + 1
            scale, resolution, base, rows, is_dense = level_at(
                level, offsets, scales, resolutions, dense)
            column = level * width
            for i in range(points.shape[0]):
                ix, iy, iz, dx, dy, dz = find_cell(points, i, scale)
                for corner in range(8):
                    weight = corner_weight(corner, dx, dy, dz)
                    row = corner_row(corner, ix, iy, iz, base, rows, resolution, is_dense)
                    for f in range(width):
                        out[row, f] += weight * gradient[i, column + f]

    return table_gradient


def _point_gradient(width: int) -> Any:
    @nb.njit(parallel=True, **_OPTIONS)
    def point_gradient(points, table, gradient, offsets, scales, resolutions, dense, levels, out):  # type: ignore[no-untyped-def]
        """Write d(loss)/d(points) (n, 3), the derivative of trilinear interpolation."""
        one = nb.float32(1.0)
        for i in nb.prange(points.shape[0]):
            gx, gy, gz = nb.float32(0.0), nb.float32(0.0), nb.float32(0.0)
            for level in range(levels):
                scale, resolution, base, rows, is_dense = level_at(
                    level, offsets, scales, resolutions, dense)
                column = level * width
                ix, iy, iz, dx, dy, dz = find_cell(points, i, scale)
                for corner in range(8):
                    cx, cy, cz = corner & 1, (corner >> 1) & 1, (corner >> 2) & 1
                    wx, wy, wz = (dx if cx else one - dx), (dy if cy else one - dy), (
                        dz if cz else one - dz)
                    row = corner_row(corner, ix, iy, iz, base, rows, resolution, is_dense)
                    dot = nb.float32(0.0)
                    for f in range(width):
                        dot += gradient[i, column + f] * table[row, f]
                    dot *= scale
                    gx += dot * (one if cx else -one) * wy * wz
                    gy += dot * (one if cy else -one) * wx * wz
                    gz += dot * (one if cz else -one) * wx * wy
            out[i, 0], out[i, 1], out[i, 2] = gx, gy, gz

    return point_gradient

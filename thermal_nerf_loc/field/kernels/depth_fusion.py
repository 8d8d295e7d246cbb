# SPDX-License-Identifier: Apache-2.0
"""
Depth of many rays, fused into the cells of a grid: where rays passed, where they met a surface.

Each ray adds its confidence to the cells that it crossed well before its surface (free), to the
cell at its surface, and half as much to the next one behind, so that walls have no holes for rays
that take steps as long as a cell (occupancy by counting, as in Moravec and Elfes, 1985).
"""

import numba as nb
import numpy as np

from thermal_nerf_loc.field.kernels.ray_sampling import distance_at, unit_cell

_OPTIONS = {'cache': True, 'fastmath': True, 'nogil': True}


@nb.njit(**_OPTIONS)
def count(origins, directions, distances, confidence, cells, center, inverse_half, near, middle,  # type: ignore[no-untyped-def]
          far, bins, tolerance, free, surface):
    """
    Add rays (n, 3) whose surfaces are at these distances (n,) to `free` and `surface` (cells^3).

    A ray takes the steps of `ray_sampling.propose`. Cells nearer to its surface than a step, or
    than `tolerance` times the distance, are not free. One after the other: the sums are the same
    whatever the number of threads.
    """
    middles, widths = np.empty(bins, np.float32), np.empty(bins, np.float32)
    start = near
    for b in range(bins):
        end = distance_at(nb.float32(b + 1) / nb.float32(bins), near, middle, far)
        middles[b], widths[b] = nb.float32(0.5) * (start + end), end - start
        start = end
    for i in range(origins.shape[0]):
        sure, distance = confidence[i], distances[i]
        x, y, z = origins[i, 0], origins[i, 1], origins[i, 2]
        dx, dy, dz = directions[i, 0], directions[i, 1], directions[i, 2]
        last, b = -1, 0
        limit = distance * (nb.float32(1.0) - tolerance)
        while b < bins and middles[b] + nb.float32(1.5) * widths[b] < limit:
            t = middles[b]
            cell = unit_cell(x + t * dx, y + t * dy, z + t * dz, center, inverse_half, cells)
            if cell != last:
                free[cell] += sure
                last = cell
            b += 1
        first = unit_cell(x + distance * dx, y + distance * dy, z + distance * dz, center,
                          inverse_half, cells)
        surface[first] += sure
        t = distance + widths[min(b, bins - 1)]
        behind = unit_cell(x + t * dx, y + t * dy, z + t * dz, center, inverse_half, cells)
        if behind != first:
            surface[behind] += nb.float32(0.5) * sure

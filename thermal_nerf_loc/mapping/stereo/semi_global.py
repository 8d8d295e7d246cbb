# SPDX-License-Identifier: Apache-2.0
"""
Semi-global aggregation of a cost volume, and the plane of least cost (Hirschmueller, PAMI 2008).

Along a path r through the image, with the costs C(p, k) of plane k at pixel p,

    L(p, k) = C(p, k) + min(L(p-r, k), L(p-r, k +- 1) + P1, min_i L(p-r, i) + P2) - min_i L(p-r, i)

P1 lets surfaces slant, P2 lets them end; P2 shrinks where the image has an edge, as surfaces end
there. Sums over eight paths decide; a parabola through the least sum and its neighbours gives
fractions of a plane.
"""

import numba as nb
import numpy as np

from thermal_nerf_loc.mapping.stereo.plane_sweep import COST_STEPS

_OPTIONS = {'cache': True, 'fastmath': True, 'nogil': True}
_EXCLUDED = 2  # planes around the best one that are no alternatives to it
_DIRECTIONS = 4  # of each of two passes


@nb.njit(inline='always')
def _follow(before, least, cost, small, large, out):  # type: ignore[no-untyped-def]
    """One step of a path: L at a pixel from L at the pixel before; returns the new minimum."""
    planes = len(cost)
    jump = least + large
    down, up, middle = before[:planes], before[2:planes + 2], before[1:planes + 1]
    now = out[1:planes + 1]
    for k in range(planes):
        now[k] = cost[k] - least + min(min(middle[k], jump), min(down[k], up[k]) + small)
    lowest = now[0]
    for k in range(planes):
        lowest = min(lowest, now[k])
    return lowest


@nb.njit(**_OPTIONS)
def aggregate(cost, image, small, large, edge, summed, forward):  # type: ignore[no-untyped-def]
    """
    Add the paths of one pass to `summed` (h, w, planes): from the left, and from the row above.

    Without `forward` the pass runs from the lower right corner.
    """
    height, width, planes = cost.shape
    infinite = np.float32(1e6)
    # L of this row and of the one before, with a border of pixels and of planes
    rows = np.full((2, _DIRECTIONS, width + 2, planes + 2), infinite, np.float32)
    least = np.zeros((2, _DIRECTIONS, width + 2), np.float32)
    unit = np.empty(planes, np.float32)
    scale = np.float32(1.0) / COST_STEPS
    step = 1 if forward else -1
    for yy in range(height):
        y = yy if forward else height - 1 - yy
        now, before = yy % 2, 1 - yy % 2
        for xx in range(width):
            x = xx if forward else width - 1 - xx
            values = cost[y, x]
            for k in range(planes):
                unit[k] = np.float32(values[k]) * scale
            total = summed[y, x]
            for direction in range(_DIRECTIONS):
                # pixel before: the same row, then left, above and right of it in the row before
                if direction == 0:
                    row, shift = now, -1
                else:
                    row, shift = before, direction - 2
                outside = xx + shift < 0 or xx + shift >= width or (direction > 0 and yy == 0)
                out = rows[now, direction, xx + 1]
                if outside:
                    lowest = unit[0]
                    for k in range(planes):
                        out[k + 1] = unit[k]
                        lowest = min(lowest, unit[k])
                else:
                    py = y if direction == 0 else y - step
                    difference = abs(image[y, x] - image[py, x + step * shift])
                    ends = small + (large - small) * edge / (edge + difference)
                    lowest = _follow(rows[row, direction, xx + 1 + shift],
                                     least[row, direction, xx + 1 + shift], unit, small, ends, out)
                least[now, direction, xx + 1] = lowest
                inner = out[1:planes + 1]
                for k in range(planes):
                    total[k] += inner[k]


@nb.njit(**_OPTIONS)
def select(summed, cost, plane, least_cost, margin):  # type: ignore[no-untyped-def]
    """
    Best plane of each pixel with its fraction, its own cost, and the margin of its sum.

    The margin is that to the best plane elsewhere, as a share of the latter: 0 is ambiguous.
    """
    height, width, planes = cost.shape
    for y in range(height):
        for x in range(width):
            sums = summed[y, x]
            best = 0
            for k in range(planes):
                if sums[k] < sums[best]:
                    best = k
            other = np.float32(1e9)
            for k in range(max(best - _EXCLUDED, 0)):
                other = min(other, sums[k])
            for k in range(min(best + _EXCLUDED + 1, planes), planes):
                other = min(other, sums[k])
            fraction = np.float32(0.0)
            if 0 < best < planes - 1:
                left, right = sums[best - 1] - sums[best], sums[best + 1] - sums[best]
                fraction = np.float32(0.5) * (left - right) / max(left + right, np.float32(1e-9))
            plane[y, x] = np.float32(best) + fraction
            least_cost[y, x] = np.float32(cost[y, x, best]) / COST_STEPS
            margin[y, x] = np.float32(1.0) - sums[best] / max(other, np.float32(1e-6))

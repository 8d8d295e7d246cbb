# SPDX-License-Identifier: Apache-2.0
"""
Multi-view check: a depth counts where other views' depths agree with it, and improves by theirs.

The point of a pixel is projected into another view, which has a depth of its own there. Equal up
to a tolerance: it agrees. Farther: that view sees through the point, a conflict. Nearer: it is
occluded there, which says nothing. Agreeing points, projected back, are averaged in inverse depth.
"""

import numba as nb
import numpy as np

_OPTIONS = {'cache': True, 'fastmath': True, 'nogil': True}


@nb.njit(**_OPTIONS)
def compare(depth, camera, others, starts, sizes, cameras, T_other_view, tolerance,  # type: ignore[no-untyped-def]
            fused, agreeing, conflicting, spread):
    """
    Compare the depths (h, w) of a view with those of others, which lie flat in `others`.

    `camera` and `cameras` (n, 4) hold fx, fy, cx, cy. `fused`: mean depth of all that agree;
    `agreeing`, `conflicting`: how many do; `spread`: RMS of their relative differences.
    """
    height, width = depth.shape
    fx, fy, cx, cy = camera
    for y in range(height):
        for x in range(width):
            z = depth[y, x]
            fused[y, x], agreeing[y, x], conflicting[y, x], spread[y, x] = z, 0, 0, 0.0
            if not z > 0.0:
                continue
            px, py = (x + 0.5 - cx) / fx * z, (y + 0.5 - cy) / fy * z
            total, squares, count = 1.0 / z, 0.0, 1
            for n in range(len(starts)):
                T, (gx, gy, hx, hy) = T_other_view[n], cameras[n]
                qz = T[2, 0] * px + T[2, 1] * py + T[2, 2] * z + T[2, 3]
                if qz <= 1e-6:
                    continue
                qx = T[0, 0] * px + T[0, 1] * py + T[0, 2] * z + T[0, 3]
                qy = T[1, 0] * px + T[1, 1] * py + T[1, 2] * z + T[1, 3]
                i, j = int(np.floor(qx / qz * gx + hx)), int(np.floor(qy / qz * gy + hy))
                if i < 0 or j < 0 or i >= sizes[n, 1] or j >= sizes[n, 0]:
                    continue
                other = others[starts[n] + j * sizes[n, 1] + i]
                if not other > 0.0:
                    continue
                difference = other / qz - 1.0
                if difference > tolerance:
                    conflicting[y, x] += 1
                elif difference > -tolerance:
                    # the other view's point, back in this one
                    bx = (i + 0.5 - hx) / gx * other - T[0, 3]
                    by = (j + 0.5 - hy) / gy * other - T[1, 3]
                    bz = other - T[2, 3]
                    back = T[0, 2] * bx + T[1, 2] * by + T[2, 2] * bz
                    total += 1.0 / max(back, 1e-6)
                    squares += difference * difference
                    count += 1
            agreeing[y, x] = count - 1
            fused[y, x] = count / total
            spread[y, x] = np.sqrt(squares / max(count - 1, 1))


@nb.njit(**_OPTIONS)
def interpolate(depth, confidence, at, same_surface, out, sure):  # type: ignore[no-untyped-def]
    """
    Depth and confidence at pixels `at` (h, w, 2) of a view, where the depths around lie together.

    Corners that a pixel, up to rounding, does not lie between do not count.
    """
    height, width = depth.shape
    for y in range(at.shape[0]):
        for x in range(at.shape[1]):
            u, v = at[y, x, 0], at[y, x, 1]
            if u < -0.5 or v < -0.5:
                continue
            u, v = min(max(u, 0.0), width - 1.0), min(max(v, 0.0), height - 1.0)
            i, j = min(int(u), width - 2), min(int(v), height - 2)
            fu, fv = u - i, v - j
            lowest, highest, inverse, total, least = 1e30, 0.0, 0.0, 0.0, 1.0
            for corner in range(4):
                dx, dy = corner % 2, corner // 2
                weight = (fu if dx else 1.0 - fu) * (fv if dy else 1.0 - fv)
                if weight < 1e-3:
                    continue
                z = depth[j + dy, i + dx]
                lowest, highest = min(lowest, z), max(highest, z)
                inverse += weight / max(z, 1e-9)
                total += weight
                least = min(least, confidence[j + dy, i + dx])
            if lowest > 0.0 and highest < same_surface * lowest:
                out[y, x], sure[y, x] = total / inverse, least

# SPDX-License-Identifier: Apache-2.0
"""Loops over pixels that numpy cannot do at once; compiled."""

import numba as nb
import numpy as np

_OPTIONS = {'cache': True, 'nogil': True}


@nb.njit(**_OPTIONS)
def rasterize(uv, inverse, trust, most_ratio, out_inverse, out_trust):
    """
    Draw a surface, given as a mesh of pixels, into another image; the nearest of it wins.

    uv (h, w, 2): where each pixel lies in the other image, of any fraction of a pixel; inverse
    (h, w): 1 / z there, 0 where unknown. In the plane of a triangle 1 / z is linear in the image.
    Neighbours whose 1 / z differ by more than `most_ratio` belong to different surfaces.
    """
    h, w = inverse.shape
    for i in range(h - 1):
        for j in range(w - 1):
            _triangle(uv, inverse, trust, i, j, i, j + 1, i + 1, j, most_ratio, out_inverse,
                      out_trust)
            _triangle(uv, inverse, trust, i + 1, j + 1, i + 1, j, i, j + 1, most_ratio,
                      out_inverse, out_trust)


@nb.njit(**_OPTIONS)
def _triangle(uv, inverse, trust, i0, j0, i1, j1, i2, j2, most_ratio, out_inverse, out_trust):
    a, b, c = inverse[i0, j0], inverse[i1, j1], inverse[i2, j2]
    low, high = min(a, b, c), max(a, b, c)
    if low <= 0.0 or high > most_ratio * low:
        return
    x0, y0 = uv[i0, j0, 0], uv[i0, j0, 1]
    x1, y1 = uv[i1, j1, 0] - x0, uv[i1, j1, 1] - y0
    x2, y2 = uv[i2, j2, 0] - x0, uv[i2, j2, 1] - y0
    area = x1 * y2 - x2 * y1
    if abs(area) < 1e-9:
        return
    rows, columns = out_inverse.shape
    # Pixel centres lie at +0.5.
    top = max(int(np.ceil(y0 + min(0.0, y1, y2) - 0.5)), 0)
    bottom = min(int(np.floor(y0 + max(0.0, y1, y2) - 0.5)), rows - 1)
    left = max(int(np.ceil(x0 + min(0.0, x1, x2) - 0.5)), 0)
    right = min(int(np.floor(x0 + max(0.0, x1, x2) - 0.5)), columns - 1)
    for r in range(top, bottom + 1):
        for s in range(left, right + 1):
            x, y = s + 0.5 - x0, r + 0.5 - y0
            p = (x * y2 - x2 * y) / area
            q = (x1 * y - x * y1) / area
            if p < -1e-9 or q < -1e-9 or p + q > 1.0 + 1e-9:
                continue
            here = a + p * (b - a) + q * (c - a)
            if here > out_inverse[r, s]:
                out_inverse[r, s] = here
                out_trust[r, s] = (trust[i0, j0] * (1.0 - p - q) + trust[i1, j1] * p
                                   + trust[i2, j2] * q)

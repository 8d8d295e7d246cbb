# SPDX-License-Identifier: Apache-2.0
"""The kernels of stereo in plain numpy: slow, and short enough to be seen to be right."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.mapping.stereo.plane_sweep import LARGE, SMALL

Array = NDArray[np.float64]

_PATHS = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))  # rows, columns


def sweep(view: Array, neighbours: Sequence[Array], A: Array, b: Array, inverse_depths: Array,
          noise: float) -> Array:
    """Cost (h, w, planes), as `plane_sweep.sweep`, in units of 1."""
    kept = (len(neighbours) + 1) // 2
    cost = np.empty((*view.shape, len(inverse_depths)))
    for k, q in enumerate(inverse_depths):
        scores = []
        for image, A_n, b_n in zip(neighbours, A, b, strict=True):
            warped, seen = warp(image, A_n, b_n, q, view.shape)
            score = 0.5 * (zncc(view, warped, SMALL, noise) + zncc(view, warped, LARGE, noise))
            scores.append(np.where(seen, score, -1.0))
        best = -np.sort(-np.stack(scores), axis=0)[:kept]
        cost[..., k] = np.clip(1.0 - best.mean(axis=0), 0.0, 1.0)
    return cost


def warp(image: Array, A: Array, b: Array, q: float, shape: tuple[int, ...],
         ) -> tuple[Array, NDArray[np.bool_]]:
    """A neighbour, resampled on the plane at inverse depth q, and which pixels it shows."""
    y, x = np.mgrid[:shape[0], :shape[1]] + 0.5
    p = np.stack([x, y, np.ones_like(x)], axis=-1) @ A.T + q * b
    z = np.maximum(p[..., 2], 1e-6)
    u, v = p[..., 0] / z - 0.5, p[..., 1] / z - 0.5  # whole numbers at pixel centres
    last_y, last_x = np.array(image.shape) - 1.001
    seen = ((p[..., 2] >= 1e-6) & (u >= -0.5) & (u <= last_x + 0.5) & (v >= -0.5)
            & (v <= last_y + 0.5))
    u, v = np.clip(u, 0.0, last_x), np.clip(v, 0.0, last_y)
    i, j = u.astype(int), v.astype(int)
    top, bottom = ((1.0 - u + i) * image[row, i] + (u - i) * image[row, i + 1]
                   for row in (j, j + 1))
    return (1.0 - v + j) * top + (v - j) * bottom, seen


def zncc(a: Array, b: Array, radius: int, noise: float) -> Array:
    """Zero-mean normalised cross-correlation of windows; `noise` is added to both variances."""
    def mean(values: Array) -> Array:
        size = (2 * radius + 1, 2 * radius + 1)
        return np.asarray(cv2.blur(values, size, borderType=cv2.BORDER_REPLICATE), np.float64)

    variance_a, variance_b = (np.maximum(mean(c * c) - mean(c)**2, 0.0) + noise for c in (a, b))
    return np.asarray((mean(a * b) - mean(a) * mean(b)) / np.sqrt(variance_a * variance_b))


def aggregate(cost: Array, image: Array, small: float, large: float, edge: float) -> Array:
    """Costs (h, w, planes) summed over eight paths, as `semi_global.aggregate` in two passes."""
    height, width, _ = cost.shape
    summed = np.zeros_like(cost)
    for dy, dx in _PATHS:
        L = np.empty_like(cost)
        for y in range(height)[::-1 if dy < 0 else 1]:
            for x in range(width)[::-1 if dx < 0 else 1]:
                py, px = y - dy, x - dx
                L[y, x] = cost[y, x]
                if 0 <= py < height and 0 <= px < width:
                    before = L[py, px]
                    jump = small + (large - small) * edge / (edge + abs(image[y, x]
                                                                        - image[py, px]))
                    beside = np.minimum(np.append(before[1:], np.inf), np.insert(before, 0, np.inf
                                                                                 )[:-1])
                    L[y, x] += np.minimum(np.minimum(before, before.min() + jump),
                                          beside + small) - before.min()
        summed += L
    return summed

# SPDX-License-Identifier: Apache-2.0
"""
Rendering without gradients on the CPU: the steps before and after the networks.

The networks run in torch, whose matrix products use the processor's bfloat16 units; these kernels
read the hash grid straight into the networks' input and composite what comes back. Equations:
`field/volume_rendering.py`, with which a test compares them.
"""

from functools import lru_cache
from typing import Any

import numba as nb
import numpy as np

from thermal_nerf_loc.field.kernels.hash_grid import corner_row, corner_weight, find_cell, level_at
from thermal_nerf_loc.field.kernels.ray_sampling import contract

_OPTIONS = {'cache': True, 'fastmath': True, 'nogil': True}
_BLOCK_RAYS = 64


@lru_cache
def encoder(width: int, bfloat16: bool) -> Any:
    """Kernel for `width` features a level, writing float32 or the bits of bfloat16."""
    @nb.njit(parallel=True, **_OPTIONS)
    def encode(origins, directions, distances, center, inverse_half, table, offsets,  # type: ignore[no-untyped-def]
               scales, resolutions, dense, out):
        """Features of every sample (rays * samples, levels * width)."""
        rays, samples = distances.shape
        for block in nb.prange((rays + _BLOCK_RAYS - 1) // _BLOCK_RAYS):
            first, last = block * _BLOCK_RAYS, min((block + 1) * _BLOCK_RAYS, rays)
            unit = np.empty((_BLOCK_RAYS * samples, 3), np.float32)
            for i in range(first, last):
                for k in range(samples):
                    t, row = distances[i, k], (i - first) * samples + k
                    unit[row, 0], unit[row, 1], unit[row, 2] = contract(
                        origins[i, 0] + t * directions[i, 0],
                        origins[i, 1] + t * directions[i, 1],
                        origins[i, 2] + t * directions[i, 2], center, inverse_half)
            sums = np.empty(width, np.float32)
            bits = sums.view(np.uint32)
            for level in range(resolutions.shape[0]):
                scale, resolution, base, rows, whole = level_at(
                    level, offsets, scales, resolutions, dense)
                column = level * width
                for sample in range((last - first) * samples):
                    ix, iy, iz, dx, dy, dz = find_cell(unit, sample, scale)
                    for f in range(width):
                        sums[f] = nb.float32(0.0)
                    for corner in range(8):
                        weight = corner_weight(corner, dx, dy, dz)
                        row = corner_row(corner, ix, iy, iz, base, rows, resolution, whole)
                        for f in range(width):
                            sums[f] += weight * table[row, f]
                    for f in range(width):
                        if bfloat16:  # round half up: the upper half of a float32
                            out[first * samples + sample, column + f] = nb.uint16(
                                (bits[f] + nb.uint32(0x8000)) >> nb.uint32(16))
                        else:
                            out[first * samples + sample, column + f] = sums[f]

    return encode


@nb.njit(parallel=True, **_OPTIONS)
def weigh(log_density, widths, bias, scale, negligible, weights, counts, distances, mean, spread):  # type: ignore[no-untyped-def]
    """Weights (rays, samples), zero where below `negligible`; mean distance and its spread."""
    rays, samples = widths.shape
    for i in nb.prange(rays):
        left, mass = nb.float32(1.0), nb.float32(0.0)
        first, second = nb.float32(0.0), nb.float32(0.0)
        count = 0
        for k in range(samples):
            exponent = min(max(log_density[i * samples + k] + bias, nb.float32(-15.0)),
                           nb.float32(11.0))
            alpha = nb.float32(1.0) - np.exp(-np.exp(exponent) * scale * widths[i, k])
            if k == samples - 1:
                alpha = nb.float32(1.0)  # the far end is opaque
            weight = left * alpha
            left -= weight
            if weight > negligible:
                t = distances[i, k]
                count += 1
                mass += weight
                first += weight * t
                second += weight * t * t
            else:
                weight = nb.float32(0.0)
            weights[i, k] = weight
        counts[i] = count
        for k in range(samples):
            weights[i, k] /= mass
        mean[i] = first / mass
        spread[i] = np.sqrt(max(second / mass - mean[i] * mean[i], nb.float32(0.0)))


@nb.njit(parallel=True, **_OPTIONS)
def accumulate(weights, starts, kept_values, out):  # type: ignore[no-untyped-def]
    """Weighted sums of the values of the samples with weight, ray by ray."""
    for i in nb.prange(weights.shape[0]):
        for c in range(out.shape[1]):
            out[i, c] = nb.float32(0.0)
        row = starts[i]
        for k in range(weights.shape[1]):
            if weights[i, k] > nb.float32(0.0):
                for c in range(out.shape[1]):
                    out[i, c] += weights[i, k] * kept_values[row, c]
                row += 1

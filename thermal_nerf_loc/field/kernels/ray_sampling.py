# SPDX-License-Identifier: Apache-2.0
"""Ray samples on the CPU: inverse transform sampling by the weights of a density grid."""

import numba as nb
import numpy as np

_OPTIONS = {'cache': True, 'fastmath': True, 'nogil': True}
_THIN = np.float32(1e-3)  # optical depth whose exponential is linear to half a part in a thousand
_HIDDEN = np.float32(1e-4)  # transmittance behind which intervals get no weight


@nb.njit(inline='always')
def distance_at(s, near, middle, far):  # type: ignore[no-untyped-def]
    """Ray parameter s in [0, 1] to metres: linear up to `middle`, then linear in disparity."""
    if s < nb.float32(0.5):
        return near + nb.float32(2.0) * s * (middle - near)
    u = nb.float32(2.0) * s - nb.float32(1.0)
    return nb.float32(1.0) / ((nb.float32(1.0) - u) / middle + u / far)


@nb.njit(inline='always')
def contract(x, y, z, center, inverse_half):  # type: ignore[no-untyped-def]
    """World point to [0, 1]^3, as `field/contraction.py`."""
    x = (x - center[0]) * inverse_half[0]
    y = (y - center[1]) * inverse_half[1]
    z = (z - center[2]) * inverse_half[2]
    m = max(abs(x), max(abs(y), abs(z)))
    scale, half = nb.float32(0.25), nb.float32(0.5)
    if m > nb.float32(1.0):
        scale *= (nb.float32(2.0) - nb.float32(1.0) / m) / m
    return x * scale + half, y * scale + half, z * scale + half


@nb.njit(parallel=True, **_OPTIONS)
def contract_all(points, center, inverse_half, out):  # type: ignore[no-untyped-def]
    """World points (n, 3) to [0, 1]^3."""
    for i in nb.prange(points.shape[0]):
        out[i, 0], out[i, 1], out[i, 2] = contract(points[i, 0], points[i, 1], points[i, 2],
                                                   center, inverse_half)


@nb.njit(inline='always')
def unit_cell(x, y, z, center, inverse_half, cells):  # type: ignore[no-untyped-def]
    """Grid cell of a world point."""
    x, y, z = contract(x, y, z, center, inverse_half)
    last = cells - 1
    ix = min(nb.int32(x * cells), last)
    iy = min(nb.int32(y * cells), last)
    iz = min(nb.int32(z * cells), last)
    return (ix * cells + iy) * cells + iz


@nb.njit(parallel=True, **_OPTIONS)
def propose(origins, directions, grid, cells, center, inverse_half, near, middle, far,  # type: ignore[no-untyped-def]
            bins, exploring, jitter, distances, widths):
    """
    Sorted sample distances (rays, samples) and the interval lengths that they represent.

    The grid's densities give a weight for each of `bins` intervals; weights are blurred over the
    neighbouring intervals, mixed with a uniform share, `exploring` of each ray, and inverted at
    stratified positions. The last sample represents all the rest of the ray.
    """
    samples = distances.shape[1]
    for i in nb.prange(origins.shape[0]):
        weight = np.empty(bins, np.float32)
        edge = np.empty(bins + 1, np.float32)
        transmittance = nb.float32(1.0)
        edge[0] = near[i]
        for b in range(bins):
            edge[b + 1] = distance_at(nb.float32(b + 1) / nb.float32(bins), near[i], middle, far)
        uniform = exploring[i]
        visible = bins if uniform < nb.float32(1.0) else 0  # intervals before all is hidden
        for b in range(visible):
            t = nb.float32(0.5) * (edge[b] + edge[b + 1])
            cell = unit_cell(origins[i, 0] + t * directions[i, 0],
                             origins[i, 1] + t * directions[i, 1],
                             origins[i, 2] + t * directions[i, 2], center, inverse_half, cells)
            depth = grid[cell] * (edge[b + 1] - edge[b])
            alpha = depth if depth < _THIN else nb.float32(1.0) - np.exp(-depth)
            weight[b] = transmittance * alpha
            transmittance *= nb.float32(1.0) - alpha
            if transmittance < _HIDDEN:
                visible = b + 1
                break
        for b in range(visible, bins):
            weight[b] = nb.float32(0.0)
        weight[bins - 1] += transmittance
        total = nb.float32(0.0)
        blurred = np.empty(bins, np.float32)
        floor = uniform / (nb.float32(1.0) - uniform + nb.float32(1e-6)) / bins
        for b in range(bins):
            left = weight[max(b - 1, 0)]
            right = weight[min(b + 1, bins - 1)]
            blurred[b] = nb.float32(0.25) * (left + right) + nb.float32(0.5) * weight[b] + floor
            total += blurred[b]
        b = 0
        before, current = nb.float32(0.0), blurred[0] / total
        for k in range(samples):
            u = (nb.float32(k) + jitter[i, k]) / nb.float32(samples)
            while before + current < u and b < bins - 1:
                before += current
                b += 1
                current = blurred[b] / total
            share = min(max((u - before) / max(current, nb.float32(1e-9)), nb.float32(0.0)),
                        nb.float32(1.0))
            distances[i, k] = edge[b] + share * (edge[b + 1] - edge[b])
        for k in range(samples):
            if k == 0:
                start = nb.float32(1.5) * distances[i, 0] - nb.float32(0.5) * distances[i, 1]
                start = max(start, near[i])
            else:
                start = nb.float32(0.5) * (distances[i, k - 1] + distances[i, k])
            if k < samples - 1:
                widths[i, k] = nb.float32(0.5) * (distances[i, k] + distances[i, k + 1]) - start
            else:
                widths[i, k] = nb.float32(2.0) * (distances[i, k] - start)


@nb.njit(**_OPTIONS)
def splat(points, densities, grid, held, cells, center, inverse_half, decay):  # type: ignore[no-untyped-def]
    """Blend densities at world points into all but `held` cells: up at once, down slowly."""
    holds = held.shape[0] > 0
    for i in range(points.shape[0]):
        cell = unit_cell(points[i, 0], points[i, 1], points[i, 2], center, inverse_half, cells)
        if holds and held[cell]:
            continue
        old, new = grid[cell], densities[i]
        grid[cell] = new if new > old else old + decay * (new - old)

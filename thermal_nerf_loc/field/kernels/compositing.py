# SPDX-License-Identifier: Apache-2.0
"""
Compositing along rays on the CPU, with its gradients.

Equations and torch reference: `field/volume_rendering.py`.

The weights of a ray sum to one (its end is opaque), so that the light left after sample k is
sum_{j>k} w_j, and one pass from the far end gives every gradient:

    dL/d(depth_k) = left_k G_k - sum_{j>k} w_j G_j,    G_k = dL/dw_k + dL/d(value) . v_k
"""

import numba as nb
import numpy as np

_OPTIONS = {'cache': True, 'fastmath': True, 'nogil': True}


@nb.njit(parallel=True, **_OPTIONS)
def composite(sigma, widths, values, weights, out):  # type: ignore[no-untyped-def]
    """Weights (rays, samples) and composited values (rays, channels)."""
    rays, samples = sigma.shape
    for i in nb.prange(rays):
        left = nb.float32(1.0)
        for c in range(out.shape[1]):
            out[i, c] = nb.float32(0.0)
        for k in range(samples):
            weight = left
            if k < samples - 1:
                weight *= -np.expm1(-sigma[i, k] * widths[i, k])
            left -= weight
            weights[i, k] = weight
            for c in range(out.shape[1]):
                out[i, c] += weight * values[i, k, c]


@nb.njit(parallel=True, **_OPTIONS)
def composite_gradient(widths, values, weights, share, grad_out, grad_weights, grad_sigma,  # type: ignore[no-untyped-def]
                       grad_values):
    """Gradients of densities and values, each sample's times its `share`."""
    rays, samples = widths.shape
    for i in nb.prange(rays):
        left, behind = nb.float32(0.0), nb.float32(0.0)
        for k in range(samples - 1, -1, -1):
            weight, own = weights[i, k], grad_weights[i, k]
            for c in range(grad_out.shape[1]):
                own += grad_out[i, c] * values[i, k, c]
                grad_values[i, k, c] = weight * grad_out[i, c] * share[i, k]
            grad_sigma[i, k] = (left * own - behind) * widths[i, k] * share[i, k]
            left += weight
            behind += weight * own


@nb.njit(parallel=True, **_OPTIONS)
def distortion(weights, distances, widths, scale, losses, gradient):  # type: ignore[no-untyped-def]
    """Each ray's distortion (rays,) and its gradient in the weights (rays, samples)."""
    rays, samples = weights.shape
    third, two = nb.float32(1.0 / 3.0), nb.float32(2.0)
    for i in nb.prange(rays):
        mass, moment, loss = nb.float32(0.0), nb.float32(0.0), nb.float32(0.0)
        for k in range(samples):
            t, w = distances[i, k], weights[i, k]
            s = t / (t + scale)
            ds = widths[i, k] * scale / ((t + scale) * (t + scale))
            before = s * mass - moment
            loss += w * (two * before + third * w * ds)
            gradient[i, k] = two * (before + third * w * ds)
            mass += w
            moment += w * s
        losses[i] = loss
        after, moment_after = nb.float32(0.0), nb.float32(0.0)
        for k in range(samples - 1, -1, -1):
            t, w = distances[i, k], weights[i, k]
            s = t / (t + scale)
            gradient[i, k] += two * (moment_after - s * after)
            after += w
            moment_after += w * s

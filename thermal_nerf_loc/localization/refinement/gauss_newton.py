# SPDX-License-Identifier: Apache-2.0
"""
The aligner's damped Gauss-Newton, compiled as one function that releases Python's global lock.

Several alignments can therefore run in parallel threads. Any number of views is packed into one
set of arrays (`PackedViews`). Tests compare it with plain numpy (`gauss_newton_reference`).
"""

import math
from typing import NamedTuple

from numba import njit
import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.localization.refinement.alignment_kernels import (
    accumulate, residual_scale, sample_image, smallest)

Array = NDArray[np.float64]

MAX_CHANNELS = 3
MIN_POINTS = 8  # fewer do not determine gain and offset
_MAX_DAMPING = 1e4
_SMALL_ANGLE_RAD = 1e-4


class PackedViews(NamedTuple):
    """Views (v), their points (n) and images concatenated; at most three channels each."""

    points_cam: Array  # (n, 3) in the camera of the pose they were rendered at
    values: Array  # (n, 3) rendered
    weight: Array  # (n,)
    first: NDArray[np.int64]  # (v + 1,) first point of each view
    samples: NDArray[np.float32]  # of all images, flat
    first_sample: NDArray[np.int64]  # (v + 1,)
    shapes: NDArray[np.int64]  # (v, 3) height, width, channels
    lenses: Array  # (v, 14) see `kernels.lens`
    T_sensor_cam: Array  # (v, 4, 4)
    priors: Array  # (v, 4) gain, its relative sigma, offset, its sigma; NaN: from the images
    floors: Array  # (v, 3) residual scales are never smaller
    signals: Array  # (v, 3) weight of each channel


class Limits(NamedTuple):
    """When the iteration ends, and what counts as an outlier; see `AlignConfig`."""

    iterations: int
    damping: float
    cutoff: float
    edge_px: float
    step_px: float
    px_per_unit: Array  # (6,) how far a step moves the image


@njit(cache=True, nogil=True)
def minimize(T_render, T_start, packed, limits, T_prior, information):  # type: ignore[no-untyped-def]
    """
    Minimize the robust cost over the pose, from `T_start`: the pose (4, 4) and the steps taken.

    Also gains and offsets (v, 3, 2), their priors (v, 3, 2, 2) and residual scales (v, 3) there.
    """
    views = len(packed.shapes)
    T, damping, steps = T_start.copy(), limits.damping, 0
    sampled = [_sample_view(packed, v, T, T_render) for v in range(views)]
    nuisance, scale = np.zeros((views, 3, 2)), np.ones((views, 3))
    nuisance_priors = np.zeros((views, 3, 2, 2))
    variances = [np.ones_like(one[0]) for one in sampled]
    for v in range(views):
        _initial_nuisance(packed, v, sampled[v], nuisance, nuisance_priors)
        variances[v] = _update_scale(packed, v, sampled[v], nuisance, scale, limits.edge_px)
    H, g, nuisance_steps, cost = _normal_equations(packed, sampled, variances, nuisance,
                                                   nuisance_priors, limits.cutoff)
    prior_g, prior_cost = _pose_prior_terms(T_prior, information, T)
    for iteration in range(limits.iterations):
        steps = iteration + 1
        A = H + information
        for i in range(6):
            A[i, i] += damping * A[i, i] + 1e-12
        step = solve(A, g + prior_g)
        T_next = T @ exp(step)
        trial = [_sample_view(packed, v, T_next, T_render) for v in range(views)]
        trial_nuisance, trial_variances = _nuisance_after_step(
            packed, sampled, trial, variances, nuisance, scale, nuisance_steps, step,
            limits.edge_px)
        trial_cost = _normal_equations(packed, trial, trial_variances, trial_nuisance,
                                       nuisance_priors, limits.cutoff)[3]
        g_next, prior_cost_next = _pose_prior_terms(T_prior, information, T_next)
        if trial_cost + prior_cost_next <= cost + prior_cost:
            T, damping = T_next, max(damping / 4.0, 1e-6)
            sampled, nuisance, prior_g, prior_cost = trial, trial_nuisance, g_next, prior_cost_next
            for v in range(views):
                variances[v] = _update_scale(packed, v, sampled[v], nuisance, scale,
                                             limits.edge_px)
            H, g, nuisance_steps, cost = _normal_equations(packed, sampled, variances, nuisance,
                                                           nuisance_priors, limits.cutoff)
        else:
            damping *= 10.0
        if (limits.px_per_unit @ np.abs(step)) < limits.step_px or damping > _MAX_DAMPING:
            break
    return T, steps, nuisance, nuisance_priors, scale


@njit(cache=True)
def solve(A, b):  # type: ignore[no-untyped-def]
    """Solution of A x = b for a positive definite A, by A = L D L^T."""
    n = len(b)
    L, D, x = np.eye(n), np.empty(n), b.copy()
    for i in range(n):
        for j in range(i):
            L[i, j] = A[i, j]
            for k in range(j):
                L[i, j] -= L[i, k] * L[j, k] * D[k]
            L[i, j] /= D[j]
        D[i] = A[i, i]
        for k in range(i):
            D[i] -= L[i, k] * L[i, k] * D[k]
            x[i] -= L[i, k] * x[k]
    for i in range(n - 1, -1, -1):
        x[i] /= D[i]
        for k in range(i + 1, n):
            x[i] -= L[k, i] * x[k]
    return x


@njit(cache=True)
def exp(xi):  # type: ignore[no-untyped-def]
    """Pose of a tangent vector, as `se3.exp`."""
    square = xi[3]**2 + xi[4]**2 + xi[5]**2
    angle = math.sqrt(square)
    if angle < _SMALL_ANGLE_RAD:
        a, b, c = 1 - square / 6, 0.5 - square / 24, 1 / 6 - square / 120
    else:
        a, b = math.sin(angle) / angle, 2.0 * math.sin(0.5 * angle)**2 / square
        c = (angle - math.sin(angle)) / (square * angle)
    T = np.eye(4)
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        T[k, j], T[j, k] = a * xi[3 + i], -a * xi[3 + i]
    for i in range(3):
        for j in range(3):  # W^2 = w w^T - |w|^2
            WW = xi[3 + i] * xi[3 + j] - (square if i == j else 0.0)
            T[i, 3] += (c * WW + (1.0 if i == j else 0.0)) * xi[j]
            T[i, j] += b * WW
        j, k = (i + 1) % 3, (i + 2) % 3
        T[i, 3] += b * (xi[3 + j] * xi[k] - xi[3 + k] * xi[j])
    return T


@njit(cache=True)
def _sample_view(packed, v, T, T_render):  # type: ignore[no-untyped-def]
    """Sample one view's image at its points, seen from the pose T; see `sample_image`."""
    T_cam_point = np.eye(4)  # sliced below, so that `sample_image` compiles for one layout only
    for i in range(3):
        for j in range(4):
            T_cam_point[i, j] = 0.0
            for k in range(3):
                shift = T[k, 3] if j == 3 else 0.0
                T_cam_point[i, j] += T[k, i] * (T_render[k, j] - shift)
    height, width, channels = packed.shapes[v]
    samples = packed.samples[packed.first_sample[v]:packed.first_sample[v + 1]].reshape(
        (height, width, channels, 3))
    S = packed.T_sensor_cam[v]
    return sample_image(packed.points_cam[packed.first[v]:packed.first[v + 1]],
                        T_cam_point[:3, :3], T_cam_point[:3, 3], S[:3, :3], S[:3, 3],
                        packed.lenses[v], samples)


@njit(cache=True)
def _rendered(packed, v):  # type: ignore[no-untyped-def]
    """Rendered values and weights of one view's points."""
    rows = slice(packed.first[v], packed.first[v + 1])
    return (np.ascontiguousarray(packed.values[rows, :packed.shapes[v, 2]]),
            packed.weight[rows])


@njit(cache=True)
def _initial_nuisance(packed, v, sampled, nuisance, nuisance_priors):  # type: ignore[no-untyped-def]
    """
    Set the first gains and offsets, and their priors (`nuisance_prior` of `accumulate`).

    Where no prior gives the gain, it makes the two contrasts equal: unlike a regression, that is
    not biased by misalignment.
    """
    observed, seen = sampled[0], sampled[3]
    rendered, weight = _rendered(packed, v)
    chosen = seen & (weight > 0.0)
    gain_prior, gain_sigma, offset_prior, offset_sigma = packed.priors[v]
    enough = chosen.sum() >= MIN_POINTS
    for m in range(packed.shapes[v, 2]):
        gain, offset = 1.0, 0.0
        if enough:
            a, b = observed[chosen, m], rendered[chosen, m]
            gain, offset = gain_prior, offset_prior
            if math.isnan(gain):
                gain = max(_quantile(a, 0.9) - _quantile(a, 0.1), 1e-6) / max(
                    _quantile(b, 0.9) - _quantile(b, 0.1), 1e-6)
            if math.isnan(offset):
                offset = _quantile(a - gain * b, 0.5)
        nuisance[v, m, 0], nuisance[v, m, 1] = gain, offset
        nuisance_priors[v, m, :, 1] = nuisance[v, m]
        nuisance_priors[v, m, 0, 0] = max(gain_sigma * abs(gain), 1e-6)**-2.0
        nuisance_priors[v, m, 1, 0] = offset_sigma**-2.0


@njit(cache=True)
def _quantile(values, share):  # type: ignore[no-untyped-def]
    """Quantile, not interpolated."""
    return smallest(values.copy(), int(share * len(values)))


@njit(cache=True)
def _update_scale(packed, v, sampled, nuisance, scale, edge_px):  # type: ignore[no-untyped-def]
    """Update the residual scales of one view; return its points' variances (n, channels)."""
    rendered, weight = _rendered(packed, v)
    channels = packed.shapes[v, 2]
    measured, variance = residual_scale(sampled[0], sampled[2], sampled[3], rendered, weight,
                                        nuisance[v, :channels], packed.floors[v, :channels],
                                        edge_px)
    scale[v, :channels] = measured
    return variance


@njit(cache=True)
def _normal_equations(packed, sampled, variances, nuisance, nuisance_priors, cutoff):  # type: ignore[no-untyped-def]
    """Normal equations, steps of gains and offsets (`accumulate`), and cost, over all views."""
    H, g, cost = np.zeros((6, 6)), np.zeros(6), 0.0
    nuisance_steps = []
    for v in range(len(sampled)):
        rendered, weight = _rendered(packed, v)
        channels = packed.shapes[v, 2]
        view_H, view_g, nuisance_step, robust, priors, in_view = accumulate(
            sampled[v][0], sampled[v][1], sampled[v][3], rendered, weight, variances[v],
            nuisance[v, :channels], nuisance_priors[v, :channels],
            packed.signals[v, :channels], cutoff)
        H += view_H
        g += view_g
        nuisance_steps.append(nuisance_step)
        total_weight = weight.sum()
        if in_view > 1e-3 * total_weight:  # points out of view count as fitting like those in view
            cost += robust * cutoff**2 * total_weight / in_view + priors
        elif total_weight > 0.0:
            cost = np.inf
    return H, g, nuisance_steps, cost


@njit(cache=True)
def _nuisance_after_step(packed, sampled, trial, variances, nuisance, scale, nuisance_steps,  # type: ignore[no-untyped-def]
                         step, edge_px):
    """Gains and offsets that go with a step of the pose, and the points' variances there."""
    next_nuisance, next_variances = nuisance.copy(), []
    for v in range(len(sampled)):
        seen_before, gradient_energy = sampled[v][3], trial[v][2]
        variance = variances[v].copy()
        for m in range(packed.shapes[v, 2]):
            for i in range(2):
                next_nuisance[v, m, i] += (nuisance_steps[v][m, i, 0]
                                           - nuisance_steps[v][m, i, 1:] @ step)
            for k in range(len(seen_before)):
                if not seen_before[k]:
                    variance[k, m] = scale[v, m]**2 + edge_px**2 * gradient_energy[k, m]
        next_variances.append(variance)
    return next_nuisance, next_variances


@njit(cache=True)
def _pose_prior_terms(T_prior, information, T):  # type: ignore[no-untyped-def]
    """Right side and cost of the pose's Gaussian prior, to first order (it is weak)."""
    Rt = np.ascontiguousarray(T_prior[:3, :3].T)
    R = Rt @ np.ascontiguousarray(T[:3, :3])
    xi = np.empty(6)
    xi[:3] = Rt @ (T[:3, 3] - T_prior[:3, 3])
    xi[3], xi[4], xi[5] = R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]
    xi[3:] *= 0.5
    force = information @ xi
    return -force, xi @ force

# SPDX-License-Identifier: Apache-2.0
"""How well images fit an aligned pose, and how much information they hold about it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.localization.refinement.aligner import (
    AlignConfig, Alignment, LinearizedView, normal_equations)
from thermal_nerf_loc.localization.refinement.gauss_newton import MIN_POINTS
from thermal_nerf_loc.localization.refinement.image_pyramid import noise_in_gradients

Array = NDArray[np.float64]

_CELLS = 8  # across the longer side, for local correlation
_NOISE_RATIO = 1.1  # a normal matrix of pure noise scatters around 1 by some percent


@dataclass(frozen=True, slots=True, eq=False)
class FitStatistics:
    """How well one modality fits at the final pose; one entry for each channel."""

    gain: Array
    offset: Array
    scale: Array  # robust standard deviation of the residuals
    noise: Array  # that of the sensor, after the blur of the pyramid level
    correlation: Array  # of observed and rendered values, -1 to 1
    detail: Array  # (channels, 3): local variances, observed and rendered, and covariance
    inlier_share: Array  # of the points in view, within the robust cutoff
    in_view: float  # share of the points' weight
    information: Array  # (6, 6) normal matrix of this modality
    noise_information: Array  # (6, 6) the part of it that noise alone would make


def summarize(aligned: Alignment, config: AlignConfig) -> tuple[tuple[FitStatistics, ...], Array]:
    """Statistics of each view, and the information of all about the pose (6, 6)."""
    fits = tuple(_fit(linearized, config) for linearized in aligned.views)
    return fits, information_of(fits)


def information_of(fits: Sequence[FitStatistics]) -> Array:
    """Information (6, 6) of all fits about the pose."""
    return information_without_noise(np.sum([fit.information for fit in fits], axis=0),
                                     np.sum([fit.noise_information for fit in fits], axis=0))


def information_without_noise(H: Array, H_noise: Array) -> Array:
    """
    Information about the pose without what the noise in the gradients adds.

    In each generalised eigendirection `H v = m H_noise v` the share 1 of m is noise; directions
    with hardly more than that (along a wall without a mark) are not known at all.
    """
    size = max(float(np.trace(H)), 1e-30) / 6.0
    noise_size = max(float(np.trace(H_noise)), 1e-30) / 6.0
    L = np.linalg.cholesky(H_noise + (1e-9 * size + 1e-9 * noise_size) * np.eye(6))
    inverse = np.linalg.inv(L)
    shares, vectors = np.linalg.eigh(inverse @ H @ inverse.T)
    basis = L @ vectors
    return np.asarray((basis * np.maximum(shares - _NOISE_RATIO, 0.0)) @ basis.T)


def _fit(linearized: LinearizedView, config: AlignConfig) -> FitStatistics:
    points, level = linearized.view.points, linearized.view.level
    chosen = linearized.seen & (points.weight > 0.0)
    p_cam = se3.transform(linearized.T_cam_point, points.points_cam)
    T_sensor_cam = se3.inverse(linearized.view.T_cam_sensor)
    uv, J_lens, _ = level.camera.project_with_jacobian(se3.transform(T_sensor_cam, p_cam))
    gain, offset = linearized.nuisance.T
    r2 = (linearized.values - gain * points.values - offset)**2
    H = normal_equations(linearized, config, np.full(len(gain), linearized.view.trust))[0]
    H_noise = linearized.view.trust * _noise_information(linearized, config, r2, p_cam,
                                                         J_lens @ T_sensor_cam[:3, :3])
    if chosen.sum() < MIN_POINTS:
        zero = np.zeros(len(gain))
        return FitStatistics(gain, offset, linearized.scale, level.noise, zero,
                             np.zeros((len(zero), 3)), zero, 0.0, H, H_noise)
    in_view = float(points.weight[linearized.seen].sum() / points.weight.sum())
    observed, rendered = linearized.values[chosen], points.values[chosen]
    cell = _cells(uv[chosen], level.camera.size)
    inliers = r2[chosen] < config.cutoff**2 * linearized.variance[chosen]
    return FitStatistics(gain, offset, linearized.scale, level.noise,
                         _correlation(_covariances(observed, rendered, 0 * cell)),
                         _covariances(observed, rendered, cell), inliers.mean(axis=0), in_view,
                         H, H_noise)


def _noise_information(linearized: LinearizedView, config: AlignConfig, r2: Array, p_cam: Array,
                       slope: Array) -> Array:
    """
    The part of a normal matrix that noise alone would make.

    Noise of variance s^2 in both components of a gradient adds w s^2 (Ju Ju^T + Jv Jv^T);
    `slope` is d(uv)/d(p_cam), (n, 2, 3).
    """
    w = ((linearized.view.points.weight * linearized.seen)[:, None]
         / ((1.0 + r2 / (config.cutoff**2 * linearized.variance))**2 * linearized.variance))
    share = (w * noise_in_gradients(linearized.gradient_energy,
                                    linearized.view.level.gradient_noise)).sum(axis=-1)
    J = np.concatenate([-slope, -np.cross(p_cam[:, None], slope)], axis=-1)
    rows = np.where(linearized.seen[:, None, None], J, 0.0) * np.sqrt(share)[:, None, None]
    rows = rows.reshape(-1, 6)
    return np.asarray(rows.T @ rows)


def _cells(uv: Array, size: tuple[int, int]) -> NDArray[np.intp]:
    """Number of the image cell that each pixel lies in."""
    column, row = (uv * (_CELLS / max(size))).astype(np.intp).T
    return np.asarray(row * _CELLS + column)


def _covariances(a: Array, b: Array, cell: NDArray[np.intp]) -> Array:
    """Variances of a and b and their covariance (channels, 3), around the mean of each cell."""
    counts = np.bincount(cell)
    free = max(len(cell) - np.count_nonzero(counts), 1)  # degrees of freedom
    centred = []
    for x in (a, b):
        sums = [np.bincount(cell, weights=column) for column in x.T]
        centred.append(x - (np.stack(sums, axis=-1) / np.maximum(counts, 1)[:, None])[cell])
    pairs = (centred[0]**2, centred[1]**2, centred[0] * centred[1])
    return np.stack([pair.sum(axis=0) / free for pair in pairs], axis=-1)


def _correlation(covariances: Array) -> Array:
    var_a, var_b, covariance = covariances.T
    return np.asarray(covariance / np.sqrt(np.maximum(var_a * var_b, 1e-24)))

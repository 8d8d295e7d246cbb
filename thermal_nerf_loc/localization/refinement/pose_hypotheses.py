# SPDX-License-Identifier: Apache-2.0
"""
Pose hypotheses around a rough guess, and their likelihood from points that are rendered once.

The points rendered at the guess are projected into strongly blurred images from poses turned
around it: no hypothesis needs a rendering of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.localization.refinement import alignment_kernels
from thermal_nerf_loc.localization.refinement.aligner import ModalityView, PosePrior

Array = NDArray[np.float64]

_MAX_CORRELATION = 0.995  # noise keeps even the true pose below, however much it is blurred


@dataclass(frozen=True, slots=True, eq=False)
class PoseHypothesis:
    """A coarse pose, and how it is to be refined."""

    T_world_cam: Array
    sigmas_px: tuple[float, ...]  # blur of each round of the refinement
    prior: PosePrior
    rival_share: float  # score of the next best hypothesis, as a share of this one's
    searched: bool = False  # the best of many poses that were tried, not the guess itself


def rotation_lattice(T_world_cam: Array, reach_rad: float, step_rad: float) -> Array:
    """Poses (n, 4, 4) turned by every rotation vector of a lattice in a ball."""
    turns = np.arange(-np.ceil(reach_rad / step_rad), np.ceil(reach_rad / step_rad) + 1)
    w = np.stack(np.meshgrid(turns, turns, turns, indexing='ij'), axis=-1).reshape(-1, 3)
    w = w[np.linalg.norm(w, axis=1) * step_rad <= reach_rad + 0.5 * step_rad] * step_rad
    return se3.plus(T_world_cam, np.concatenate([np.zeros_like(w), w], axis=1))


def correlation_likelihood(correlation: NDArray[Any], max_correlation: float) -> NDArray[Any]:
    """
    Log-likelihood of one point, `-1/2 log(1 - rho^2)`: gain, offset and noise are profiled out.

    Correlations are clipped to [0, `max_correlation`]: negative ones count as none, and no match
    may outweigh all others.
    """
    return np.asarray(-0.5 * np.log1p(-np.clip(correlation, 0.0, max_correlation)**2))


def score_poses(views: Sequence[ModalityView], T_render: Array, poses: Array) -> Array:
    """Log-likelihood of each pose (n, 4, 4), up to a constant, summed over the views."""
    total = np.zeros(len(poses))
    for view in views:
        T = se3.inverse(view.T_cam_sensor) @ se3.inverse(poses) @ T_render
        rho, visible = alignment_kernels.similarity(
            view.points.points_cam, np.ascontiguousarray(T[:, :3]),
            alignment_kernels.lens(view.level.camera), view.level.samples, view.points.values,
            view.points.weight)
        likelihood = correlation_likelihood(rho, _MAX_CORRELATION) @ view.level.signal
        total += visible * (likelihood / len(view.level.signal))
    return total

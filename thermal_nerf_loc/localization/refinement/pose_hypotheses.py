# SPDX-License-Identifier: Apache-2.0
"""
A rough guess made a good one: many hypotheses scored on points rendered once.

The points lifted at the guess are looked up, strongly blurred, from turned poses around it: only
2D look-ups. Each hypothesis scores by its likelihood with gain, offset and noise profiled out,
`-n/2 log(1 - correlation^2)`, summed over modalities; the best, some distance apart, are kept.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.localization.refinement import kernels
from thermal_nerf_loc.localization.refinement.aligner import ModalityView

Array = NDArray[np.float64]

_MAX_CORRELATION = 0.995  # blurred noise keeps even the true pose below


def turned_poses(T_world_cam: Array, reach_rad: float, step_rad: float) -> Array:
    """Poses (n, 4, 4) turned by every rotation vector of a lattice in a ball."""
    turns = np.arange(-np.ceil(reach_rad / step_rad), np.ceil(reach_rad / step_rad) + 1)
    w = np.stack(np.meshgrid(turns, turns, turns, indexing='ij'), axis=-1).reshape(-1, 3)
    w = w[np.linalg.norm(w, axis=1) * step_rad <= reach_rad + 0.5 * step_rad] * step_rad
    return se3.plus(T_world_cam, np.concatenate([np.zeros_like(w), w], axis=1))


def scores(views: Sequence[ModalityView], T_render: Array, poses: Array) -> Array:
    """Log-likelihood of each pose, up to a constant."""
    total = np.zeros(len(poses))
    for view in views:
        T = se3.inverse(view.T_cam_sensor) @ se3.inverse(poses) @ T_render
        rho, visible = kernels.similarity(
            view.points.points_cam, np.ascontiguousarray(T[:, :3]),
            kernels.lens(view.layer.camera), view.layer.samples, view.points.values,
            view.points.weight)
        rho = np.clip(rho, 0.0, _MAX_CORRELATION)
        gain = -0.5 * np.log1p(-rho**2) @ view.layer.signal / len(view.layer.signal)
        total += visible * gain
    return total


def best_apart(poses: Array, score: Array, count: int, apart_rad: float) -> list[int]:
    """Indices of the best hypotheses, no two of them close together."""
    kept: list[int] = []
    free = np.ones(len(poses), dtype=np.bool_)
    for k in np.argsort(-score, kind='stable'):
        if free[k]:
            kept.append(int(k))
            traces = np.einsum('nij,ij->n', poses[:, :3, :3], poses[k, :3, :3])
            free &= np.arccos(np.clip(0.5 * (traces - 1.0), -1.0, 1.0)) > apart_rad
        if len(kept) == count:
            break
    return kept

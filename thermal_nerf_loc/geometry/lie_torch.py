# SPDX-License-Identifier: Apache-2.0
"""Parameters of rigid motions that autograd can follow, and what no image can tell of them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor
from torch.nn import functional

from thermal_nerf_loc.geometry import se3

Array = NDArray[np.float64]

LONGEST_GAP_S = 1.0  # between frames, for their poses to give a velocity


def hats(xi: Tensor) -> Tensor:
    """Tangents (n, 6), translation first, as 4x4 matrices."""
    v, (x, y, z) = xi[:, :3], xi[:, 3:].unbind(-1)
    zero = torch.zeros_like(x)
    rows = torch.stack([zero, -z, y, v[:, 0], z, zero, -x, v[:, 1], -y, x, zero, v[:, 2],
                        zero, zero, zero, zero], dim=-1)
    return rows.view(-1, 4, 4)


def motion(p: Tensor, form: str, scale_m: float) -> Tensor:
    """Parameters (n, 6 or 9) as rigid motions (n, 4, 4); zero is none."""
    v, w = p[:, :3] * scale_m, p[:, 3:]
    if form == 'se3':
        return torch.matrix_exp(hats(torch.cat([v, w], dim=1)))
    if form == '6d':  # two columns, made orthonormal (Zhou et al., 2019)
        a = functional.normalize(w[:, :3] + w.new_tensor([1.0, 0.0, 0.0]), dim=1)
        b = w[:, 3:] + w.new_tensor([0.0, 1.0, 0.0])
        b = functional.normalize(b - (a * b).sum(dim=1, keepdim=True) * a, dim=1)
        R = torch.stack([a, b, torch.cross(a, b, dim=1)], dim=-1)
    else:
        R = torch.matrix_exp(hats(torch.cat([torch.zeros_like(v), w], dim=1)))[:, :3, :3]
    last = w.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(p), 1, 4)
    return torch.cat([torch.cat([R, v[:, :, None]], dim=2), last], dim=1)


def about(moved: Tensor, T: Tensor, form: str, center: Tensor) -> Tensor:
    """Poses turned in the world: about their own place, or as a whole (`se3`) about a centre."""
    R = moved[:, :3, :3] @ T[:, :3, :3]
    t = T[:, :3, 3] + moved[:, :3, 3]
    if form == 'se3':
        arm = T[:, :3, 3] - center
        t = center + moved[:, :3, 3] + torch.einsum('nij,nj->ni', moved[:, :3, :3], arm)
    last = T.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(T), 1, 4)
    return torch.cat([torch.cat([R, t[:, :, None]], dim=2), last], dim=1)


def bent(sights: Tensor, lens: Tensor) -> Tensor:
    """Unit camera rays (n, 3) of a lens with another log focal length and centre."""
    xy = (sights[:, :2] / sights[:, 2:] - lens[1:]) * torch.exp(-lens[0])
    return functional.normalize(torch.cat([xy, torch.ones_like(xy[:, :1])], dim=1), dim=1)


def gauge_basis(poses: Array, form: str, scale_m: float) -> Array:
    """Orthonormal columns (n * width, 7): parameters that move, turn or scale everything."""
    arms = (poses[:, :3, 3] - poses[:, :3, 3].mean(axis=0)) / scale_m
    columns = []
    for axis in np.eye(3):
        columns.append(_column(np.broadcast_to(axis, arms.shape), np.zeros(3), form))
        shift = np.zeros_like(arms) if form == 'se3' else np.cross(axis, arms)
        columns.append(_column(shift, axis, form))
    columns.append(_column(arms, np.zeros(3), form))
    U, singular, _ = np.linalg.svd(np.stack(columns, axis=1), full_matrices=False)
    return np.asarray(U[:, singular > 1e-9 * singular[0]])


def velocities(poses: Array, stamps_ns: Sequence[int]) -> Array:
    """Tangent velocity (n, 6) a second of each frame, from its neighbours in time; 0: unknown."""
    order = np.argsort(np.asarray(stamps_ns), kind='stable')
    out = np.zeros((len(poses), 6))
    for before, here, after in zip(order[:-2], order[1:-1], order[2:]):
        span_s = 1e-9 * (stamps_ns[after] - stamps_ns[before])
        if 0.0 < span_s <= 2.0 * LONGEST_GAP_S:
            out[here] = se3.minus(poses[after], poses[before]) / span_s
    return out


def _column(shift: Array, turn: Array, form: str) -> Array:
    """Parameters of every frame for a small shift (n, 3) and one turn (3,)."""
    w = turn
    if form == '6d':
        w = np.concatenate([np.cross(turn, axis) for axis in np.eye(3)[:2]])
    return np.concatenate([shift, np.broadcast_to(w, (len(shift), len(w)))], axis=1).reshape(-1)

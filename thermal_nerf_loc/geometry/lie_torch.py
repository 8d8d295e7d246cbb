# SPDX-License-Identifier: Apache-2.0
"""
Differentiable rigid motions in torch, and the gauge of a set of poses.

The gauge are the seven degrees of freedom (shift, turn and scale of all poses together) that
images cannot determine.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor
from torch.nn import functional

from thermal_nerf_loc.geometry import se3

Array = NDArray[np.float64]

_SMALL_ANGLE_2 = 1e-2  # rad^2
LONGEST_GAP_S = 1.0  # between frames, for their poses to give a velocity


def se3_hat(xi: Tensor) -> Tensor:
    """Tangents (n, 6), translation first, as matrices (n, 4, 4) of the Lie algebra."""
    v, (x, y, z) = xi[:, :3], xi[:, 3:].unbind(-1)
    zero = torch.zeros_like(x)
    rows = torch.stack([zero, -z, y, v[:, 0], z, zero, -x, v[:, 1], -y, x, zero, v[:, 2],
                        zero, zero, zero, zero], dim=-1)
    return rows.view(-1, 4, 4)


def se3_exp(xi: Tensor) -> Tensor:
    """
    Motions (n, 4, 4) of tangents (n, 6): I + H + B H^2 + C H^3 with H = `se3_hat`.

    Closed, as `torch.matrix_exp` makes the host wait for a GPU; series near zero, where the
    quotients and their derivatives have no digits left.
    """
    H = se3_hat(xi)
    t2 = (xi[:, 3:]**2).sum(dim=1)
    small = t2 < _SMALL_ANGLE_2
    safe = torch.where(small, 1.0, t2)
    t = safe.sqrt()
    b = torch.where(small, 1/2 - t2 * (1/24 - t2 * (1/720 - t2 / 40320)), (1.0 - t.cos()) / safe)
    c = torch.where(small, 1/6 - t2 * (1/120 - t2 * (1/5040 - t2 / 362880)),
                    (t - t.sin()) / (safe * t))
    H2 = H @ H
    identity = torch.eye(4, dtype=xi.dtype, device=xi.device)
    return identity + H + b[:, None, None] * H2 + c[:, None, None] * (H2 @ H)


def rigid_motion(parameters: Tensor, scale_m: float) -> Tensor:
    """
    Motions (n, 4, 4) of R^3 x SO(3) parameters (n, 6); zero is the identity.

    Translation first, in units of `scale_m`, then a rotation vector in radians; unlike in SE(3)
    the two do not mix.
    """
    v, w = parameters[:, :3] * scale_m, parameters[:, 3:]
    R = se3_exp(torch.cat([torch.zeros_like(v), w], dim=1))[:, :3, :3]
    return _from_parts(R, v)


def moved_in_place(motion: Tensor, T: Tensor) -> Tensor:
    """Poses turned and shifted along the world's axes, each about its own position."""
    return _from_parts(motion[:, :3, :3] @ T[:, :3, :3], T[:, :3, 3] + motion[:, :3, 3])


def adjusted_rays(rays: Array, J: Array, lens: Tensor) -> Tensor:
    """
    Unit camera rays (n, 3) that follow the parameters `lens` (k,) of their lens.

    `rays` are those of the parameters as they are now, `J` (n, 3, k) is their Jacobian: values are
    exact, and so are first derivatives. (The ray of a pixel inverts the distortion, which takes
    iterations that no gradient need pass.)
    """
    moved = torch.from_numpy(J) @ (lens - lens.detach())
    return functional.normalize(torch.from_numpy(rays) + moved, dim=1)


def gauge_basis(poses: Array, scale_m: float) -> Array:
    """
    Orthonormal columns (n * 6, 7) of the parameters of `rigid_motion` for all poses (n, 4, 4).

    They span the gauge to first order: shifts, turns and scalings of all poses together.
    """
    arms = (poses[:, :3, 3] - poses[:, :3, 3].mean(axis=0)) / scale_m
    columns = []
    for axis in np.eye(3):
        columns.append(_column(np.broadcast_to(axis, arms.shape), np.zeros(3)))
        columns.append(_column(np.cross(axis, arms), axis))
    columns.append(_column(arms, np.zeros(3)))
    U, singular, _ = np.linalg.svd(np.stack(columns, axis=1), full_matrices=False)
    return np.asarray(U[:, singular > 1e-9 * singular[0]])


def velocities(poses: Array, stamps_ns: Sequence[int]) -> Array:
    """Tangent velocity (n, 6) per second of each frame, by its neighbours in time; 0: unknown."""
    order = np.argsort(np.asarray(stamps_ns), kind='stable')
    out = np.zeros((len(poses), 6))
    for before, here, after in zip(order[:-2], order[1:-1], order[2:]):
        span_s = 1e-9 * (stamps_ns[after] - stamps_ns[before])
        if 0.0 < span_s <= 2.0 * LONGEST_GAP_S:
            out[here] = se3.minus(poses[after], poses[before]) / span_s
    return out


def _from_parts(R: Tensor, t: Tensor) -> Tensor:
    last = torch.eye(4, dtype=t.dtype, device=t.device)[3:].expand(len(t), 1, 4)
    return torch.cat([torch.cat([R, t[:, :, None]], dim=2), last], dim=1)


def _column(shift: Array, turn: Array) -> Array:
    """Parameters of every frame for a small shift of each (n, 3) and one turn (3,)."""
    return np.concatenate([shift, np.broadcast_to(turn, (len(shift), 3))], axis=1).reshape(-1)

# SPDX-License-Identifier: Apache-2.0
"""
Similarities: rotation, translation and scale, fitted to points or chosen for a set of poses.

S. Umeyama, "Least-squares estimation of transformation parameters between two point patterns",
1991: the rotation R, translation t and scale c that minimise `sum |y_i - (c R x_i + t)|^2`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Similarity:
    """`p -> scale * R p + t`; the rotation of a pose becomes `R` times it, without the scale."""

    scale: float
    T: Array  # (4, 4): R and t

    def apply(self, poses: Array) -> Array:
        """Move poses (n, 4, 4)."""
        scaled = np.array(poses)
        scaled[:, :3, 3] *= self.scale
        return np.asarray(self.T @ scaled)


IDENTITY = Similarity(1.0, np.eye(4))


def umeyama(x: Array, y: Array, with_scale: bool) -> Similarity:
    """Align points `x` (n, 3) to `y` (n, 3); numbers in brackets are Umeyama's equations."""
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)  # (34), (35)
    variance = float(np.sum((x - mean_x)**2)) / len(x)  # (36)
    U, singular, Vt = np.linalg.svd((y - mean_y).T @ (x - mean_x) / len(x))  # (38)
    if np.count_nonzero(singular > np.finfo(np.float64).eps) < 2:
        raise InputError('positions do not determine a rotation',
                         expected='positions that do not lie on one line',
                         got=f'{len(x)} along a line or at one place')
    S = np.array([1.0, 1.0, np.sign(np.linalg.det(U) * np.linalg.det(Vt))])  # (43)
    R = (U * S) @ Vt  # (40)
    scale = float(singular @ S) / variance if with_scale else 1.0  # (42)
    return Similarity(scale, se3.from_parts(R, mean_y - scale * R @ mean_x))  # (41)


def upright_similarity(poses: Array, scale: float) -> Similarity:
    """Centre poses (n, 4, 4) of cameras, and turn their mean up direction along z."""
    up = -poses[:, :3, 1].sum(axis=0)  # cameras look along z, y is down
    length = float(np.linalg.norm(up))
    up = up / length if length > 1e-6 * len(poses) else np.array([0.0, 0.0, 1.0])
    R = _smallest_rotation(up, np.array([0.0, 0.0, 1.0]))
    return Similarity(scale, se3.from_parts(R, -scale * R @ poses[:, :3, 3].mean(axis=0)))


def _smallest_rotation(a: Array, b: Array) -> Array:
    """The rotation by the smallest angle that brings unit vector `a` to `b`."""
    axis, cosine = np.cross(a, b), float(a @ b)
    sine = float(np.linalg.norm(axis))
    if sine < 1e-9:
        return np.eye(3) if cosine > 0.0 else np.diag([1.0, -1.0, -1.0])
    return np.asarray(se3.so3_exp(axis / sine * np.arctan2(sine, cosine)))

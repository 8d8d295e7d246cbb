# SPDX-License-Identifier: Apache-2.0
"""
Rigid motions as 4x4 float64 matrices, batched over leading dimensions.

`T_a_b` maps coordinates: `p_a = T_a_b @ p_b`. Tangents are `xi = (v, w)`, translation first, and
act on the right: `T (+) xi = T @ exp(xi)`. Every function is stable near zero and near pi.
Equations: Sola et al., "A micro Lie theory for state estimation in robotics", appendix D.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thermal_nerf_loc.common.errors import InputError

Array = NDArray[np.float64]

_SMALL_ANGLE_RAD = 1e-4  # below it the Taylor series beat the closed forms in float64
ROTATION_TOLERANCE = 1e-5  # |R^T R - I| that text files with six digits still reach


def hat(w: ArrayLike) -> Array:
    """Cross-product matrix: `hat(w) @ p = w x p`; (..., 3) -> (..., 3, 3)."""
    w = np.asarray(w, dtype=np.float64)
    out = np.zeros((*w.shape[:-1], 3, 3))
    out[..., 0, 1], out[..., 0, 2], out[..., 1, 2] = -w[..., 2], w[..., 1], -w[..., 0]
    out[..., 1, 0], out[..., 2, 0], out[..., 2, 1] = w[..., 2], -w[..., 1], w[..., 0]
    return out


def so3_exp(w: ArrayLike) -> Array:
    """Rotation matrix of a rotation vector (Rodrigues)."""
    w = np.asarray(w, dtype=np.float64)
    a, b, _ = _series(np.linalg.norm(w, axis=-1))
    W = hat(w)
    return np.eye(3) + a * W + b * W @ W


def so3_log(R: ArrayLike) -> Array:
    """Rotation vector, angle in [0, pi]; by the quaternion, which is exact near 0 and pi."""
    q = quaternion_from_matrix(R)  # w >= 0
    n = np.linalg.norm(q[..., :3], axis=-1, keepdims=True)
    angle = 2.0 * np.arctan2(n, q[..., 3:])
    return np.where(n > 0.0, angle / np.where(n > 0.0, n, 1.0), 2.0) * q[..., :3]


def left_jacobian(w: ArrayLike) -> Array:
    """J with `so3_exp(w + dw) = so3_exp(J dw) @ so3_exp(w)` to first order."""
    w = np.asarray(w, dtype=np.float64)
    _, b, c = _series(np.linalg.norm(w, axis=-1))
    W = hat(w)
    return np.eye(3) + b * W + c * W @ W


def left_jacobian_inverse(w: ArrayLike) -> Array:
    """Inverse of `left_jacobian`, for |w| < 2 pi."""
    w = np.asarray(w, dtype=np.float64)
    angle = np.linalg.norm(w, axis=-1)
    small = angle < _SMALL_ANGLE_RAD
    safe = np.where(small, 1.0, angle)
    c = np.where(small, 1 / 12 + angle**2 / 720,
                 (1.0 - 0.5 * safe / np.tan(0.5 * safe)) / safe**2)[..., None, None]
    W = hat(w)
    return np.asarray(np.eye(3) - 0.5 * W + c * W @ W)


def exp(xi: ArrayLike) -> Array:
    """Pose of a tangent vector `(v, w)`; (..., 6) -> (..., 4, 4)."""
    xi = np.asarray(xi, dtype=np.float64)
    v, w = xi[..., :3], xi[..., 3:]
    return from_parts(so3_exp(w), (left_jacobian(w) @ v[..., None])[..., 0])


def log(T: ArrayLike) -> Array:
    """Tangent vector `(v, w)` of a pose; (..., 4, 4) -> (..., 6)."""
    T = np.asarray(T, dtype=np.float64)
    w = so3_log(T[..., :3, :3])
    v = (left_jacobian_inverse(w) @ T[..., :3, 3:])[..., 0]
    return np.concatenate([v, w], axis=-1)


def adjoint(T: ArrayLike) -> Array:
    """Ad with `T @ exp(xi) = exp(Ad xi) @ T`; (..., 4, 4) -> (..., 6, 6)."""
    T = np.asarray(T, dtype=np.float64)
    R = T[..., :3, :3]
    out = np.zeros((*T.shape[:-2], 6, 6))
    out[..., :3, :3] = out[..., 3:, 3:] = R
    out[..., :3, 3:] = hat(T[..., :3, 3]) @ R
    return out


def inverse(T: ArrayLike) -> Array:
    """Inverse pose, without a general matrix inversion."""
    T = np.asarray(T, dtype=np.float64)
    Rt = np.swapaxes(T[..., :3, :3], -1, -2)
    return from_parts(Rt, -(Rt @ T[..., :3, 3:])[..., 0])


def plus(T: ArrayLike, xi: ArrayLike) -> Array:
    """`T (+) xi = T @ exp(xi)`: a step in the body's own frame."""
    return np.asarray(T, dtype=np.float64) @ exp(xi)


def minus(T_b: ArrayLike, T_a: ArrayLike) -> Array:
    """`T_b (-) T_a`: the tangent with `plus(T_a, xi) = T_b`."""
    return log(inverse(T_a) @ np.asarray(T_b, dtype=np.float64))


def interpolate(T_a: ArrayLike, T_b: ArrayLike, share: ArrayLike) -> Array:
    """Geodesic from `T_a` (share 0) to `T_b` (share 1)."""
    return plus(T_a, np.asarray(share, dtype=np.float64)[..., None] * minus(T_b, T_a))


def from_parts(R: ArrayLike, t: ArrayLike) -> Array:
    """Pose from rotation (..., 3, 3) and translation (..., 3)."""
    R, t = np.asarray(R, dtype=np.float64), np.asarray(t, dtype=np.float64)
    T = np.zeros((*np.broadcast_shapes(R.shape[:-2], t.shape[:-1]), 4, 4))
    T[..., :3, :3], T[..., :3, 3], T[..., 3, 3] = R, t, 1.0
    return T


def transform(T: ArrayLike, points: ArrayLike) -> Array:
    """Apply one pose to points (..., 3)."""
    T, points = np.asarray(T, dtype=np.float64), np.asarray(points, dtype=np.float64)
    return np.asarray(points @ T[:3, :3].T + T[:3, 3])


def distance(T_a: ArrayLike, T_b: ArrayLike) -> tuple[float, float]:
    """Distance between two poses: (metres, degrees)."""
    xi = inverse(T_a) @ np.asarray(T_b, dtype=np.float64)
    return (float(np.linalg.norm(xi[:3, 3])),
            float(np.rad2deg(np.linalg.norm(so3_log(xi[:3, :3])))))


def from_quaternion(t: ArrayLike, q_xyzw: ArrayLike) -> Array:
    """Pose from a translation and a quaternion in ROS order (x, y, z, w), normalised here."""
    q = np.asarray(q_xyzw, dtype=np.float64)
    x, y, z, w = np.moveaxis(q / np.linalg.norm(q, axis=-1, keepdims=True), -1, 0)
    R = np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
                  2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
                  2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], axis=-1)
    return from_parts(R.reshape(*q.shape[:-1], 3, 3), t)


def quaternion_from_matrix(R: ArrayLike) -> Array:
    """Unit quaternion (x, y, z, w), w >= 0; Shepperd's method with the largest pivot."""
    R = np.asarray(R, dtype=np.float64)
    m00, m11, m22 = R[..., 0, 0], R[..., 1, 1], R[..., 2, 2]
    a = R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1]
    s = R[..., 1, 0] + R[..., 0, 1], R[..., 0, 2] + R[..., 2, 0], R[..., 2, 1] + R[..., 1, 2]
    rows = np.stack([  # 4 q q^T, one row for each component
        np.stack([1 + m00 - m11 - m22, s[0], s[1], a[0]], axis=-1),
        np.stack([s[0], 1 - m00 + m11 - m22, s[2], a[1]], axis=-1),
        np.stack([s[1], s[2], 1 - m00 - m11 + m22, a[2]], axis=-1),
        np.stack([a[0], a[1], a[2], 1 + m00 + m11 + m22], axis=-1)], axis=-2)
    pivot = np.argmax(np.diagonal(rows, axis1=-2, axis2=-1), axis=-1)
    q = np.take_along_axis(rows, pivot[..., None, None], axis=-2)[..., 0, :]
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    return np.asarray(np.where(q[..., 3:] < 0.0, -q, q))


def check_pose(T: ArrayLike, where: object = None) -> Array:
    """Return T as a proper pose, its rotation made exact; refuse what is no pose."""
    T = np.asarray(T, dtype=np.float64)
    if T.shape != (4, 4):
        raise InputError('pose has the wrong shape', where=where, expected=(4, 4), got=T.shape)
    if not np.isfinite(T).all():
        raise InputError('pose holds NaN or infinity', where=where, expected='16 finite numbers')
    R = T[:3, :3]
    error = np.abs(R.T @ R - np.eye(3)).max()
    if error > ROTATION_TOLERANCE or np.linalg.det(R) < 0.0:
        raise InputError('pose is no rigid motion', where=where,
                         expected='a rotation: R^T R = I, det R = 1',
                         got=f'|R^T R - I| = {error:.2g}, det R = {np.linalg.det(R):.4g}',
                         hint='Scale, shear and mirroring must be removed first.')
    if np.abs(T[3] - (0.0, 0.0, 0.0, 1.0)).max() > 1e-9:
        raise InputError('pose has a wrong last row', where=where, expected='[0, 0, 0, 1]',
                         got=T[3].tolist())
    return from_parts(so3_exp(so3_log(R)), T[:3, 3])


def pose_from_rows(rows: Any, where: object = None) -> Array:
    """A proper pose from 4x4 (or the upper 3x4) numbers in lists, as files hold them."""
    try:
        T = np.array(rows, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError('pose is no matrix of numbers', where=where, expected='4x4 numbers',
                         got=repr(rows)[:60]) from None
    return check_pose(np.vstack([T, [0.0, 0.0, 0.0, 1.0]]) if T.shape == (3, 4) else T, where)


def _series(angle: Array) -> tuple[Array, Array, Array]:
    """sin(x)/x, (1-cos x)/x^2 and (x-sin x)/x^3, shaped to scale 3x3 matrices."""
    small = angle < _SMALL_ANGLE_RAD
    x = np.where(small, 1.0, angle)
    square = angle**2
    a = np.where(small, 1 - square / 6, np.sin(x) / x)
    b = np.where(small, 0.5 - square / 24, 2.0 * np.sin(0.5 * x)**2 / x**2)
    c = np.where(small, 1 / 6 - square / 120, (x - np.sin(x)) / x**3)
    return a[..., None, None], b[..., None, None], c[..., None, None]

# SPDX-License-Identifier: Apache-2.0
"""
Camera paths that show a map: through the map's keyframes, on a circle, along a trajectory.

Poses are `T_world_cam`, cameras look along +z with y down.
"""

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import R_BASE_CAM
from thermal_nerf_loc.io.trajectory import Trajectory

Array = NDArray[np.float64]

# A camera at the origin of a robot's base that looks ahead (axes by REP 103).
T_BASE_CAM: Array = se3.from_parts(R_BASE_CAM, np.zeros(3))
_FINE = 64  # points between two keyframes at which the length of the path is measured
_CIRCLE_SHARE = 0.8  # of the distance at which the map's own cameras were


def up_direction(poses: Array) -> Array:
    """The world's up: the mean up of the cameras (n, 4, 4), snapped to an axis that is near."""
    mean = -np.asarray(poses)[:, :3, 1].sum(axis=0) if len(poses) else np.zeros(3)
    if np.linalg.norm(mean) < 1e-6:
        return np.array([0.0, 0.0, 1.0])
    mean /= np.linalg.norm(mean)
    axis = np.zeros(3)
    axis[np.argmax(np.abs(mean))] = np.sign(mean[np.argmax(np.abs(mean))])
    return axis if axis @ mean > np.cos(np.deg2rad(20.0)) else mean


def spline_path(poses: Array, count: int) -> Array:
    """
    `count` poses on a smooth path through all of `poses`, at even speed.

    Position and orientation each follow a centripetal Catmull-Rom spline, the latter on SO(3). A
    turn counts as a distance, see `_step_lengths`.
    """
    poses = np.asarray(poses, dtype=np.float64)
    size_m = float(np.linalg.norm(np.ptp(poses[:, :3, 3], axis=0))) or 1.0
    step = _step_lengths(poses, size_m)
    poses = poses[np.concatenate([[True], step > 1e-9])]
    if len(poses) < 2:
        return np.repeat(poses[:1], count, axis=0)
    knots = np.concatenate([[0.0], np.cumsum(np.sqrt(_step_lengths(poses, size_m)))])
    fine = np.interp(np.linspace(0.0, len(knots) - 1.0, _FINE * (len(knots) - 1) + 1),
                     np.arange(len(knots)), knots)
    steps = _step_lengths(_spline(poses, knots, fine), size_m)
    travelled = np.concatenate([[0.0], np.cumsum(steps)])
    return _spline(poses, knots,
                   np.interp(np.linspace(0.0, travelled[-1], count), travelled, fine))


def orbit_path(poses: Array, count: int) -> Array:
    """
    `count` poses on a level circle.

    Where the map's cameras all look at one point, the circle goes around it at their distance, and
    looks at it; else it lies among them, and looks across its middle.
    """
    poses = np.asarray(poses, dtype=np.float64)
    up = up_direction(poses)
    positions, forward = poses[:, :3, 3], poses[:, :3, 2]
    target, share = _focus(positions, forward), 1.0
    ahead = np.einsum('ij,ij->i', target - positions, forward) > 0.0
    if ahead.mean() < 0.9:
        target, share = positions.mean(axis=0), _CIRCLE_SHARE
    away = positions - target
    height = float(np.median(away @ up))
    radius = share * float(np.median(np.linalg.norm(away - np.outer(away @ up, up), axis=1)))
    first = np.cross(up, np.eye(3)[np.argmin(np.abs(up))])
    first /= np.linalg.norm(first)
    angle = np.linspace(0.0, 2.0 * np.pi, count, endpoint=False)[:, None]
    outward = np.cos(angle) * first + np.sin(angle) * np.cross(up, first)
    # At the middle itself (no radius) the cameras look level.
    inward = -outward * max(radius, 1e-6) - (height if share == 1.0 else 0.0) * up
    return cameras_facing(target + radius * outward + height * up, inward, up)


def cameras_facing(positions: Array, forward: Array, up: Array) -> Array:
    """Upright cameras (n, 4, 4) at `positions` (n, 3) that look along `forward` (n, 3)."""
    z = forward / np.linalg.norm(forward, axis=-1, keepdims=True)
    x = np.cross(z, up)
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
    return se3.from_parts(np.stack([x, np.cross(z, x), z], axis=-1), positions)


def sample_trajectory(trajectory: Trajectory, count: int) -> Array:
    """`count` poses at even times from the first to the last pose of a trajectory."""
    stamps = np.linspace(trajectory.stamps_ns[0], trajectory.stamps_ns[-1], count)
    found = [trajectory.at(int(stamp)) for stamp in np.clip(
        np.rint(stamps).astype(np.int64), trajectory.stamps_ns[0], trajectory.stamps_ns[-1])]
    return np.stack([T for T in found if T is not None])


def _step_lengths(poses: Array, size_m: float) -> Array:
    """Metres from each pose to the next (n - 1,); turning by 180 deg counts as `size_m`."""
    metres = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    R = poses[:, :3, :3]
    radians = np.linalg.norm(se3.so3_log(np.swapaxes(R[:-1], 1, 2) @ R[1:]), axis=-1)
    return np.asarray(np.hypot(metres, size_m / np.pi * radians))


def _spline(poses: Array, knots: Array, times: Array) -> Array:
    """
    Cubic Hermite pieces with Catmull-Rom slopes; the first and the last step keep their own.

    Orientation is R_i exp(phi), phi from 0 to w = log(R_i^T R_i+1): its rate at the end is the
    right Jacobian's inverse times the angular velocity there.
    """
    p, R = poses[:, :3, 3], poses[:, :3, :3]
    turn = se3.so3_log(np.swapaxes(R[:-1], 1, 2) @ R[1:])
    step = np.concatenate([np.diff(p, axis=0), turn], axis=1)
    dt = np.diff(knots)[:, None]
    speed = step / dt
    slopes = np.concatenate([speed[:1], (dt[1:] * speed[:-1] + dt[:-1] * speed[1:])
                             / (dt[1:] + dt[:-1]), speed[-1:]])
    i = np.clip(np.searchsorted(knots, times, side='right') - 1, 0, len(knots) - 2)
    s = (times[:, None] - knots[i, None]) / dt[i]
    start, end = dt[i] * slopes[i], dt[i] * slopes[i + 1]
    end[:, 3:] = (se3.left_jacobian_inverse(-turn[i]) @ end[:, 3:, None])[..., 0]
    offset = s * (1 - s)**2 * start + s**2 * (3 - 2 * s) * step[i] + s**2 * (s - 1) * end
    return se3.from_parts(R[i] @ se3.so3_exp(offset[:, 3:]), p[i] + offset[:, :3])


def _focus(positions: Array, forward: Array) -> Array:
    """The point nearest to all optical axes (least squares, regularized towards the cameras)."""
    projectors = np.eye(3) - forward[:, :, None] * forward[:, None, :]
    mean = positions.mean(axis=0)
    A = projectors.mean(axis=0) + 1e-3 * np.eye(3)
    b = np.einsum('nij,nj->i', projectors, positions - mean) / len(positions)
    return np.asarray(mean + np.linalg.solve(A, b))

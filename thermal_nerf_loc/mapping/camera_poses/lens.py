# SPDX-License-Identifier: Apache-2.0
"""
Lens corrections: seven numbers that adjust the cameras of all images of a modality.

With x the image point at focal length 1, d the coefficients of distortion as given,

    q = exp(a) distort(x; d + delta) + c,        pixel = (fx q_x + cx, fy q_y + cy)

a: log focal length; c: shift of the centre, in focal lengths; delta: k1 k2 p1 p2 (Brown-Conrady;
a camera without distortion gets one), or k1 k2 k3 k4 of a fisheye lens. q is where an image shows
a point, in focal lengths of the given camera from its centre: known before the lens is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.geometry.camera import Camera, CameraModel

Array = NDArray[np.float64]

LENS_SIZE = 7  # log focal length, centre (2), distortion (4)
LENS_SIGMA = np.array([0.1, 0.05, 0.05, 0.3, 0.3, 0.02, 0.02])  # of the priors, weak beside pixels

_NEWTON_STEPS = 20
_NEWTON_DONE = 1e-12  # of q
_LEAST_DEPTH = 1e-9


class Projection(NamedTuple):
    """Where lenses show points, with derivatives."""

    q: Array  # (n, 2)
    by_point: Array  # (n, 2, 3)
    by_lens: Array  # (n, 2, 7)


@dataclass(frozen=True, slots=True, eq=False)
class Lenses:
    """The given distortion of n images or observations."""

    fisheye: NDArray[np.bool_]  # (n,)
    coefficients: Array  # (n, 8) k1 k2 p1 p2 k3 k4 k5 k6, or k1 k2 k3 k4 of a fisheye lens

    @classmethod
    def of(cls, cameras: Sequence[Camera]) -> 'Lenses':
        """The lenses of cameras."""
        coefficients = np.zeros((len(cameras), 8))
        for row, camera in zip(coefficients, cameras):
            row[:len(camera.distortion)] = camera.distortion
        return cls(np.array([camera.model is CameraModel.OPENCV_FISHEYE for camera in cameras],
                            np.bool_), coefficients)

    def __getitem__(self, index: NDArray[np.int64] | NDArray[np.bool_] | slice) -> 'Lenses':
        return Lenses(self.fisheye[index], self.coefficients[index])

    def project(self, points: Array, lens: Array) -> Projection:
        """Points (n, 3) in the cameras, through lenses with corrections `lens` (n, 7)."""
        k = self.coefficients.copy()
        k[:, :4] += lens[:, 3:]
        if self.fisheye.all():
            flat, by_point, by_k = _equidistant(points, k)
        else:
            flat, by_point, by_k = _brown_conrady(points, k)
            if self.fisheye.any():
                part = self.fisheye
                flat[part], by_point[part], by_k[part] = _equidistant(points[part], k[part])
        grow = np.exp(lens[:, :1])
        by_lens = np.zeros((len(points), 2, LENS_SIZE))
        by_lens[:, :, 0] = grow * flat
        by_lens[:, 0, 1] = by_lens[:, 1, 2] = 1.0
        by_lens[:, :, 3:] = grow[:, None] * by_k
        return Projection(grow * flat + lens[:, 1:3], grow[:, None] * by_point, by_lens)

    def unproject(self, q: Array, lens: Array) -> tuple[Array, Array]:
        """
        Unit rays (n, 3) through q, and their Jacobian (n, 3, 7) in the lens.

        By Newton's method on the sphere. Where it finds none (beyond the fold of a strong
        distortion) the ray is that of a lens without distortion, and the Jacobian is 0.
        """
        ideal = (q - lens[:, 1:3]) * np.exp(-lens[:, :1])
        start = rays = self._undistorted_rays(ideal)
        with np.errstate(all='ignore'):
            for _ in range(_NEWTON_STEPS):
                found = self.project(rays, lens)
                off = q - found.q
                if not (np.abs(off) > _NEWTON_DONE).any():
                    break
                rays = rays + np.einsum('nij,nj->ni', _right_inverse(found.by_point), off)
                rays = rays / np.linalg.norm(rays, axis=1, keepdims=True)
            found = self.project(rays, lens)
            J = -_right_inverse(found.by_point) @ found.by_lens
            good = ((np.abs(found.q - q) < 1e-6).all(axis=1) & np.isfinite(J).all(axis=(1, 2))
                    & (self.fisheye | (rays[:, 2] > 0.0)))
        return (np.where(good[:, None], rays, start),
                np.where(good[:, None, None], J, 0.0))

    def _undistorted_rays(self, xy: Array) -> Array:
        """Unit rays of lenses without distortion."""
        rays = np.concatenate([xy, np.ones_like(xy[:, :1])], axis=1)
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        if self.fisheye.any():
            angle = np.linalg.norm(xy, axis=1, keepdims=True)
            around = np.concatenate([xy * np.sinc(angle / np.pi), np.cos(angle)], axis=1)
            rays = np.where(self.fisheye[:, None], around, rays)
        return np.asarray(rays)


def adjusted_camera(camera: Camera, lens: Array) -> Camera:
    """The camera with a correction (7,); without distortion it gets one where it needs it."""
    grow = float(np.exp(lens[0]))
    model, distortion = camera.model, camera.distortion
    if np.any(lens[3:]):
        model = CameraModel.OPENCV if model is CameraModel.PINHOLE else model
        distortion = distortion or (0.0,) * 4
        distortion = (*(float(k + delta) for k, delta in zip(distortion[:4], lens[3:])),
                      *distortion[4:])
    return replace(camera, fx=camera.fx * grow, fy=camera.fy * grow,
                   cx=float(camera.cx + camera.fx * lens[1]),
                   cy=float(camera.cy + camera.fy * lens[2]), model=model, distortion=distortion)


def image_points(camera: Camera, uv: Array) -> Array:
    """Pixels (n, 2) as q: in focal lengths from the centre."""
    return np.asarray((uv - (camera.cx, camera.cy)) / (camera.fx, camera.fy))


def _right_inverse(J: Array) -> Array:
    """J^T (J J^T)^-1 of matrices (n, 2, 3); along the ray, where J is blind, it is zero."""
    JJ = J @ J.transpose(0, 2, 1)
    a, b, d = JJ[:, 0, 0], JJ[:, 0, 1], JJ[:, 1, 1]
    inverse = np.stack([d, -b, -b, a], axis=1).reshape(-1, 2, 2) / (a * d - b * b)[:, None, None]
    return np.asarray(J.transpose(0, 2, 1) @ inverse)


def _brown_conrady(points: Array, k: Array) -> tuple[Array, Array, Array]:
    """Distorted points, their Jacobians in the points (n, 2, 3) and in k1 k2 p1 p2 (n, 2, 4)."""
    z = np.where(np.abs(points[:, 2]) > _LEAST_DEPTH, points[:, 2], _LEAST_DEPTH)
    x, y = points[:, 0] / z, points[:, 1] / z
    k1, k2, p1, p2, k3, k4, k5, k6 = k.T
    r2 = x * x + y * y
    top, bottom = 1 + r2 * (k1 + r2 * (k2 + r2 * k3)), 1 + r2 * (k4 + r2 * (k5 + r2 * k6))
    radial = top / bottom
    slope = ((k1 + r2 * (2 * k2 + 3 * k3 * r2))
             - radial * (k4 + r2 * (2 * k5 + 3 * k6 * r2))) / bottom  # d radial / d r2
    flat = np.stack([x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
                     y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y], axis=1)
    cross = 2 * x * y * slope + 2 * p1 * x + 2 * p2 * y
    D = np.stack([radial + 2 * x * x * slope + 2 * p1 * y + 6 * p2 * x, cross, cross,
                  radial + 2 * y * y * slope + 6 * p1 * y + 2 * p2 * x], axis=1)
    D = D.reshape(-1, 2, 2) / z[:, None, None]
    by_depth = -(D @ np.stack([x, y], axis=1)[:, :, None])
    by_k = np.stack([x * r2 / bottom, x * r2 * r2 / bottom, 2 * x * y, r2 + 2 * x * x,
                     y * r2 / bottom, y * r2 * r2 / bottom, r2 + 2 * y * y, 2 * x * y], axis=1)
    return flat, np.concatenate([D, by_depth], axis=2), by_k.reshape(-1, 2, 4)


def _equidistant(points: Array, k: Array) -> tuple[Array, Array, Array]:
    """As `_brown_conrady`, for a fisheye lens: theta (1 + k1 theta^2 + ..) along the direction."""
    radius = np.maximum(np.linalg.norm(points[:, :2], axis=1), 1e-9)
    unit, z = points[:, :2] / radius[:, None], points[:, 2]
    theta = np.arctan2(radius, z)
    powers = theta[:, None]**np.array([3, 5, 7, 9])
    image = theta + (powers * k[:, :4]).sum(axis=1)
    slope = 1.0 + (theta[:, None]**np.array([2, 4, 6, 8]) * k[:, :4] * (3, 5, 7, 9)).sum(axis=1)
    square = radius**2 + z**2
    by_point = np.zeros((len(points), 2, 3))
    outer = unit[:, :, None] * unit[:, None, :]
    by_point[:, :, :2] = ((slope * z / square)[:, None, None] * outer
                          + (image / radius)[:, None, None] * (np.eye(2) - outer))
    by_point[:, :, 2] = unit * (-slope * radius / square)[:, None]
    return image[:, None] * unit, by_point, unit[:, :, None] * powers[:, None, :]

# SPDX-License-Identifier: Apache-2.0
"""
Camera models: pinhole, OPENCV (Brown-Conrady, up to rational) and OPENCV_FISHEYE (equidistant).

Cameras look along +z with x right and y down. Pixel (0, 0) spans [0, 1) x [0, 1): its centre is
(0.5, 0.5), as in COLMAP and nerfstudio. OpenCV and ROS put the centre at (0, 0); the borders
(`io/bags/messages.py`) add that half pixel.
"""

from dataclasses import dataclass, replace
from enum import Enum
import functools
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thermal_nerf_loc.common.errors import InputError

Array = NDArray[np.float64]

# Camera axes (x right, y down, z forward) in those of a robot's base (x forward, y left, z up).
R_BASE_CAM: Array = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])

_MIN_DEPTH_M = 1e-6
_NEWTON_STEPS = 30
_NEWTON_DONE = 1e-14  # size of a step
_NEWTON_TOLERANCE = 1e-9  # of image coordinates at focal length 1
_REACHED_PX = 1e-3  # between a pixel and the projection of its own ray
_MAX_RADIUS = 10.0  # image radius at focal length 1, 84 deg off the axis


class CameraModel(str, Enum):
    """Names as nerfstudio and COLMAP write them."""

    PINHOLE = 'PINHOLE'
    OPENCV = 'OPENCV'
    OPENCV_FISHEYE = 'OPENCV_FISHEYE'


_COEFFICIENTS = {CameraModel.PINHOLE: (0,), CameraModel.OPENCV: (0, 4, 5, 8),
                 CameraModel.OPENCV_FISHEYE: (4,)}


@dataclass(frozen=True, slots=True)
class Camera:
    """Intrinsics; `distortion` in OpenCV's order (k1 k2 p1 p2 [k3 [k4 k5 k6]] or k1 k2 k3 k4)."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    model: CameraModel = CameraModel.PINHOLE
    distortion: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Refuse impossible sizes, focal lengths and numbers of coefficients."""
        if self.width < 1 or self.height < 1:
            raise InputError('camera has no pixels', expected='width and height >= 1',
                             got=f'{self.width}x{self.height}')
        values = (self.fx, self.fy, self.cx, self.cy, *self.distortion)
        if not np.isfinite(values).all() or self.fx <= 0.0 or self.fy <= 0.0:
            raise InputError('camera has impossible intrinsics',
                             expected='finite values, focal lengths > 0',
                             got=f'fx {self.fx}, fy {self.fy}, cx {self.cx}, cy {self.cy}, '
                                 f'distortion {self.distortion}')
        if len(self.distortion) not in _COEFFICIENTS[self.model]:
            raise InputError(f'{self.model.value} camera has a wrong number of coefficients',
                             expected=' or '.join(map(str, _COEFFICIENTS[self.model])),
                             got=len(self.distortion))

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.width, self.height

    @property
    def matrix(self) -> Array:
        """3x3 intrinsic matrix, in this module's pixel convention."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    @property
    def fold(self) -> float:
        """
        Where the projection stops growing and folds back.

        The square of the radius x^2 + y^2 at z = 1; for a fisheye the angle to the axis (rad).
        """
        if self.model is CameraModel.OPENCV_FISHEYE:
            return _fisheye_limit(self.distortion)
        return _fold(self.distortion) if self.distortion else float('inf')

    @classmethod
    def from_fov(cls, width: int, height: int, horizontal_deg: float, **lens: Any) -> 'Camera':
        """Centred camera with square pixels and a horizontal field of view."""
        f = 0.5 * width / np.tan(0.5 * np.deg2rad(horizontal_deg))
        return cls(width, height, float(f), float(f), 0.5 * width, 0.5 * height, **lens)

    def resized(self, width: int, height: int) -> 'Camera':
        """The same lens behind a sensor of another resolution."""
        sx, sy = width / self.width, height / self.height
        return replace(self, width=width, height=height, fx=self.fx * sx, fy=self.fy * sy,
                       cx=self.cx * sx, cy=self.cy * sy)

    def undistorted(self) -> 'Camera':
        """The pinhole camera with this camera's matrix."""
        return replace(self, model=CameraModel.PINHOLE, distortion=())

    def project(self, points: ArrayLike) -> tuple[Array, NDArray[np.bool_]]:
        """Camera points (..., 3) to pixels (..., 2); True where in front and inside the image."""
        uv, _, visible = self._project(np.asarray(points, dtype=np.float64), jacobian=False)
        return uv, visible

    def project_with_jacobian(self, points: ArrayLike) -> tuple[Array, Array, NDArray[np.bool_]]:
        """As `project`, with d(uv)/d(point) (..., 2, 3)."""
        return self._project(np.asarray(points, dtype=np.float64), jacobian=True)

    def unproject(self, uv: ArrayLike) -> Array:
        """
        Pixels (..., 2) to unit directions (..., 3) in the camera.

        Some pixels of a strongly distorted lens have no ray, because its projection folds back
        before it gets there: they get the outermost ray, and `reached` is False for them.
        """
        uv = np.asarray(uv, dtype=np.float64)
        xy = (uv - (self.cx, self.cy)) / (self.fx, self.fy)
        if self.model is CameraModel.OPENCV_FISHEYE:
            return _fisheye_directions(xy, self.distortion)
        xy = _undistort(xy, self.distortion) if self.distortion else xy
        rays = np.concatenate([xy, np.ones_like(xy[..., :1])], axis=-1)
        return np.asarray(rays / np.linalg.norm(rays, axis=-1, keepdims=True))

    def reached(self, uv: ArrayLike) -> NDArray[np.bool_]:
        """True for pixels (..., 2) that have a ray, see `unproject`."""
        uv = np.asarray(uv, dtype=np.float64)
        again, _, _ = self._project(self.unproject(uv), jacobian=False)
        return np.asarray((np.abs(again - uv) < _REACHED_PX).all(axis=-1))

    def pixel_centers(self) -> Array:
        """Every pixel's centre, row by row: (height * width, 2)."""
        u, v = np.meshgrid(np.arange(self.width) + 0.5, np.arange(self.height) + 0.5)
        return np.stack([u.ravel(), v.ravel()], axis=-1)

    def rays(self) -> Array:
        """Unit direction of every pixel, row by row: (height * width, 3)."""
        return self.unproject(self.pixel_centers())

    def _project(self, p: Array, jacobian: bool) -> tuple[Array, Array, NDArray[np.bool_]]:
        if self.model is CameraModel.OPENCV_FISHEYE:
            xy, J = _fisheye(p, self.distortion, jacobian)
            angle = np.arctan2(np.linalg.norm(p[..., :2], axis=-1), p[..., 2])
            front = ((np.linalg.norm(p, axis=-1) > _MIN_DEPTH_M)
                     & (angle < _fisheye_limit(self.distortion)))
        else:
            z = np.where(np.abs(p[..., 2]) > _MIN_DEPTH_M, p[..., 2], _MIN_DEPTH_M)
            flat = p[..., :2] / z[..., None]
            xy, D = _distort(flat, self.distortion, jacobian)
            J = D @ _perspective_jacobian(flat, z) if jacobian else D
            front = (p[..., 2] > _MIN_DEPTH_M) & _one_to_one(flat, self.distortion)
        f = np.array([self.fx, self.fy])
        uv = xy * f + (self.cx, self.cy)
        inside = ((uv >= 0.0) & (uv < (self.width, self.height))).all(axis=-1)
        return uv, J * f[:, None] if jacobian else J, front & inside


def _perspective_jacobian(flat: Array, z: Array) -> Array:
    """d(x/z, y/z)/d(x, y, z): (..., 2, 3)."""
    J = np.zeros((*flat.shape[:-1], 2, 3))
    J[..., 0, 0] = J[..., 1, 1] = 1.0 / z
    J[..., :, 2] = -flat / z[..., None]
    return J


def _pad_to_eight(coefficients: tuple[float, ...]) -> tuple[float, ...]:
    return (*coefficients, *(0.0,) * (8 - len(coefficients)))


def _distort(xy: Array, coefficients: tuple[float, ...], jacobian: bool = True,
             ) -> tuple[Array, Array]:
    """OpenCV's rational and tangential distortion and its Jacobian (..., 2, 2)."""
    if not coefficients:
        return xy, np.broadcast_to(np.eye(2), (*xy.shape[:-1], 2, 2))
    k1, k2, p1, p2, k3, k4, k5, k6 = _pad_to_eight(coefficients)
    x, y = xy[..., 0], xy[..., 1]
    r2 = x * x + y * y
    top, bottom = 1 + r2 * (k1 + r2 * (k2 + r2 * k3)), 1 + r2 * (k4 + r2 * (k5 + r2 * k6))
    radial = top / bottom
    out = np.stack([x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
                    y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y], axis=-1)
    if not jacobian:
        return out, out
    slope = ((k1 + r2 * (2 * k2 + 3 * k3 * r2))
             - radial * (k4 + r2 * (2 * k5 + 3 * k6 * r2))) / bottom  # d radial / d r2
    cross = 2 * x * y * slope + 2 * p1 * x + 2 * p2 * y
    J = np.stack([radial + 2 * x * x * slope + 2 * p1 * y + 6 * p2 * x, cross,
                  cross, radial + 2 * y * y * slope + 6 * p1 * y + 2 * p2 * x], axis=-1)
    return out, J.reshape(*xy.shape[:-1], 2, 2)


def _undistort(target: Array, coefficients: tuple[float, ...]) -> Array:
    """Invert `_distort` by Newton's method; where it has no inverse, the edge of its domain."""
    xy = target.copy()
    with np.errstate(all='ignore'):
        for _ in range(_NEWTON_STEPS):
            value, J = _distort(xy, coefficients)
            (a, b), (c, d) = np.moveaxis(J, (-2, -1), (0, 1))
            dx, dy = np.moveaxis(value - target, -1, 0)
            step = np.stack([d * dx - b * dy, a * dy - c * dx], axis=-1)
            step /= (a * d - b * c)[..., None]
            xy = xy - step
            if not (np.abs(step) > _NEWTON_DONE).any():
                break
        value, _ = _distort(xy, coefficients, jacobian=False)
        found = ((np.abs(value - target) < _NEWTON_TOLERANCE).all(axis=-1)
                 & _one_to_one(xy, coefficients))
    radius = np.linalg.norm(target, axis=-1, keepdims=True)
    edge = min(np.sqrt(_fold(coefficients)), _MAX_RADIUS)
    return np.where(found[..., None], xy, target * edge / np.where(radius > 0.0, radius, 1.0))


def _one_to_one(xy: Array, coefficients: tuple[float, ...]) -> NDArray[np.bool_]:
    """False where the radial polynomial has folded back, outside the lens' field of view."""
    if not coefficients:
        return np.ones(xy.shape[:-1], dtype=np.bool_)
    return np.asarray((xy**2).sum(axis=-1) < _fold(coefficients))


@functools.lru_cache(maxsize=64)
def _fold(coefficients: tuple[float, ...]) -> float:
    """Square of the radius at which r * radial(r^2) stops growing."""
    k1, k2, _, _, k3, k4, k5, k6 = _pad_to_eight(coefficients)
    polynomial = np.polynomial.Polynomial
    s, top, bottom = polynomial([0, 1]), polynomial([1, k1, k2, k3]), polynomial([1, k4, k5, k6])
    growth = (top + 2 * s * top.deriv()) * bottom - 2 * s * top * bottom.deriv()
    return min(_first_root(growth), _first_root(bottom))


@functools.lru_cache(maxsize=64)
def _fisheye_limit(k: tuple[float, ...]) -> float:
    """Angle at which the fisheye polynomial stops growing, at most pi."""
    slope = np.polynomial.Polynomial([1, 3 * k[0], 5 * k[1], 7 * k[2], 9 * k[3]])
    return float(min(np.sqrt(_first_root(slope)), np.pi))


def _first_root(polynomial: np.polynomial.Polynomial) -> float:
    """Smallest positive real root; infinity where there is none."""
    roots = polynomial.trim(1e-12).roots()
    real = roots[np.abs(np.imag(roots)) < 1e-9 * (1.0 + np.abs(roots))].real
    return float(np.min(real[real > 0.0], initial=np.inf))


def _fisheye(p: Array, k: tuple[float, ...], jacobian: bool) -> tuple[Array, Array]:
    """Equidistant projection theta (1 + k1 theta^2 + ...) along the image direction."""
    radius = np.linalg.norm(p[..., :2], axis=-1)
    theta = np.arctan2(radius, p[..., 2])
    distorted, slope = _fisheye_radius(theta, k)
    axis = radius < 1e-9
    safe = np.where(axis, 1.0, radius)
    depth = np.where(np.abs(p[..., 2]) > _MIN_DEPTH_M, p[..., 2], _MIN_DEPTH_M)
    scale = np.where(axis, 1.0 / depth, distorted / safe)
    xy = p[..., :2] * scale[..., None]
    if not jacobian:
        return xy, xy
    square = (p**2).sum(axis=-1)
    d_radius, d_depth = slope * p[..., 2] / square, -slope * radius / square
    unit = np.where(axis[..., None], 0.0, p[..., :2] / safe[..., None])
    J = np.zeros((*p.shape[:-1], 2, 3))
    J[..., :2, :2] = (scale[..., None, None] * np.eye(2) + unit[..., :, None]
                      * unit[..., None, :] * (d_radius - scale)[..., None, None])
    J[..., :, 2] = unit * d_depth[..., None]
    return xy, J


def _fisheye_directions(xy: Array, k: tuple[float, ...]) -> Array:
    """Invert `_fisheye` by Newton's method on theta, up to the angle where it folds back."""
    radius, limit = np.linalg.norm(xy, axis=-1), _fisheye_limit(k)
    theta = np.minimum(radius, limit)
    with np.errstate(all='ignore'):
        for _ in range(_NEWTON_STEPS):
            value, slope = _fisheye_radius(theta, k)
            before, theta = theta, np.clip(theta - (value - radius) / slope, 0.0, limit)
            if not (np.abs(theta - before) > _NEWTON_DONE).any():
                break
    unit = np.where(radius[..., None] > 0.0, xy / np.where(radius > 0.0, radius, 1.0)[..., None],
                    0.0)
    return np.concatenate([unit * np.sin(theta)[..., None], np.cos(theta)[..., None]], axis=-1)


def _fisheye_radius(theta: Array, k: tuple[float, ...]) -> tuple[Array, Array]:
    """Image radius at an angle from the axis, and its slope."""
    t2 = theta**2
    return (theta * (1 + t2 * (k[0] + t2 * (k[1] + t2 * (k[2] + t2 * k[3])))),
            1 + t2 * (3 * k[0] + t2 * (5 * k[1] + t2 * (7 * k[2] + t2 * 9 * k[3]))))

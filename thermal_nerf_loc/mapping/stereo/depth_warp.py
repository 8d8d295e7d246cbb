# SPDX-License-Identifier: Apache-2.0
"""
Warp depth from one camera into another that is not aligned with it.

The source's pixels are the corners of a mesh, which a compiled kernel draws into the target.
"""

import numba as nb
import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.geometry.camera import Camera, CameraModel

Array = NDArray[np.float64]

_LARGEST_RATIO = 1.1  # of the depths of neighbouring pixels on one surface


def lifted(depth_m: NDArray[np.floating], camera: Camera) -> Array:
    """Points (h, w, 3) in the camera frame, of depth along z (h, w)."""
    rays = camera.rays()
    flat = rays / np.where(np.abs(rays[:, 2:]) > 1e-6, rays[:, 2:], 1e-6)
    return np.asarray(flat.reshape(*depth_m.shape, 3) * np.asarray(depth_m, np.float64)[..., None])


def warp_depth(depth_m: NDArray[np.floating], confidence: NDArray[np.floating], source: Camera,
               target: Camera, T_target_source: Array,
               ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """
    Depth along z and its confidence (h, w) at the target's pixels; both 0 where unknown.

    Every target pixel gets the depth of its own centre, not that of the nearest source pixel; what
    is occluded in the target, or was in the source, is not filled.
    """
    points = lifted(depth_m, source) @ T_target_source[:3, :3].T + T_target_source[:3, 3]
    uv, _ = target.project(points)
    known = (np.asarray(depth_m) > 0.0) & _in_field(points, target)
    inverse = np.where(known, 1.0 / np.where(known, points[..., 2], 1.0), 0.0)
    out = np.zeros((target.height, target.width)), np.zeros((target.height, target.width))
    rasterize(np.ascontiguousarray(uv), inverse, np.asarray(confidence, np.float64),
              _LARGEST_RATIO, *out)
    drawn = out[0] > 0.0
    return (np.where(drawn, 1.0 / np.where(drawn, out[0], 1.0), 0.0).astype(np.float32),
            out[1].astype(np.float32))


def _in_field(points: Array, camera: Camera) -> NDArray[np.bool_]:
    """In front of the camera, and not where its distortion model folds back."""
    front = points[..., 2] > 1e-6
    z = np.where(front, points[..., 2], 1.0)
    radius = np.linalg.norm(points[..., :2], axis=-1) / z
    if camera.model is CameraModel.OPENCV_FISHEYE:
        return np.asarray(front & (np.arctan(radius) < camera.fold))
    return np.asarray(front & (radius**2 < camera.fold))


_OPTIONS = {'cache': True, 'nogil': True}


@nb.njit(**_OPTIONS)
def rasterize(uv, inverse, confidence, most_ratio, out_inverse, out_confidence):
    """
    Draw a surface, given as a mesh of pixels, into another image; the nearest surface wins.

    uv (h, w, 2): where each pixel lies in the other image, of any fraction of a pixel; inverse
    (h, w): 1 / z there, 0 where unknown. In the plane of a triangle 1 / z is linear in the image.
    Neighbours whose 1 / z differ by more than `most_ratio` belong to different surfaces.
    """
    h, w = inverse.shape
    for i in range(h - 1):
        for j in range(w - 1):
            _triangle(uv, inverse, confidence, i, j, i, j + 1, i + 1, j, most_ratio, out_inverse,
                      out_confidence)
            _triangle(uv, inverse, confidence, i + 1, j + 1, i + 1, j, i, j + 1, most_ratio,
                      out_inverse, out_confidence)


@nb.njit(**_OPTIONS)
def _triangle(uv, inverse, confidence, i0, j0, i1, j1, i2, j2, most_ratio, out_inverse,
              out_confidence):
    a, b, c = inverse[i0, j0], inverse[i1, j1], inverse[i2, j2]
    low, high = min(a, b, c), max(a, b, c)
    if low <= 0.0 or high > most_ratio * low:
        return
    x0, y0 = uv[i0, j0, 0], uv[i0, j0, 1]
    x1, y1 = uv[i1, j1, 0] - x0, uv[i1, j1, 1] - y0
    x2, y2 = uv[i2, j2, 0] - x0, uv[i2, j2, 1] - y0
    area = x1 * y2 - x2 * y1
    if abs(area) < 1e-9:
        return
    rows, columns = out_inverse.shape
    # Pixel centres lie at +0.5.
    top = max(int(np.ceil(y0 + min(0.0, y1, y2) - 0.5)), 0)
    bottom = min(int(np.floor(y0 + max(0.0, y1, y2) - 0.5)), rows - 1)
    left = max(int(np.ceil(x0 + min(0.0, x1, x2) - 0.5)), 0)
    right = min(int(np.floor(x0 + max(0.0, x1, x2) - 0.5)), columns - 1)
    for r in range(top, bottom + 1):
        for s in range(left, right + 1):
            x, y = s + 0.5 - x0, r + 0.5 - y0
            p = (x * y2 - x2 * y) / area
            q = (x1 * y - x * y1) / area
            if p < -1e-9 or q < -1e-9 or p + q > 1.0 + 1e-9:
                continue
            value = a + p * (b - a) + q * (c - a)
            if value > out_inverse[r, s]:
                out_inverse[r, s] = value
                out_confidence[r, s] = (confidence[i0, j0] * (1.0 - p - q)
                                        + confidence[i1, j1] * p + confidence[i2, j2] * q)

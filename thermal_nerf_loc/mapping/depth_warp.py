# SPDX-License-Identifier: Apache-2.0
"""Depth of one camera as another, unaligned one would see it."""

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.geometry.camera import Camera, CameraModel

Array = NDArray[np.float64]

_MOST_RATIO = 1.1  # of the depths of neighbours on one surface


def lifted(depth_m: NDArray[np.floating], camera: Camera) -> Array:
    """Points (h, w, 3) in the camera of depth along z (h, w)."""
    rays = camera.rays()
    flat = rays / np.where(np.abs(rays[:, 2:]) > 1e-6, rays[:, 2:], 1e-6)
    return np.asarray(flat.reshape(*depth_m.shape, 3) * np.asarray(depth_m, np.float64)[..., None])


def warp_depth(depth_m: NDArray[np.floating], trust: NDArray[np.floating], source: Camera,
               target: Camera, T_target_source: Array,
               ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """
    Depth along z and its trust (h, w) at the target's pixels; both 0 where nothing is known.

    The source's pixels are corners of a mesh that is drawn into the target, so that every target
    pixel gets the depth of its own centre, not that of the nearest source pixel; what is behind
    something else, or hidden from the source, is not filled.
    """
    from thermal_nerf_loc.mapping.kernels import rasterize

    points = lifted(depth_m, source) @ T_target_source[:3, :3].T + T_target_source[:3, 3]
    uv, _ = target.project(points)
    known = (np.asarray(depth_m) > 0.0) & _in_field(points, target)
    inverse = np.where(known, 1.0 / np.where(known, points[..., 2], 1.0), 0.0)
    out = np.zeros((target.height, target.width)), np.zeros((target.height, target.width))
    rasterize(np.ascontiguousarray(uv), inverse, np.asarray(trust, np.float64), _MOST_RATIO, *out)
    seen = out[0] > 0.0
    return (np.where(seen, 1.0 / np.where(seen, out[0], 1.0), 0.0).astype(np.float32),
            out[1].astype(np.float32))


def _in_field(points: Array, camera: Camera) -> NDArray[np.bool_]:
    """In front of a camera, and not where its distortion has folded back."""
    front = points[..., 2] > 1e-6
    z = np.where(front, points[..., 2], 1.0)
    radius = np.linalg.norm(points[..., :2], axis=-1) / z
    if camera.model is CameraModel.OPENCV_FISHEYE:
        return np.asarray(front & (np.arctan(radius) < camera.fold))
    return np.asarray(front & (radius**2 < camera.fold))

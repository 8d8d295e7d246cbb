# SPDX-License-Identifier: Apache-2.0
"""
Surface normals of a depth image, as colours: a flat wall has one colour, a bent one has bands.

Usual colours of normal maps, in the camera's frame: red to the right, green up, blue towards the
camera. A wall that faces the camera is light blue, a floor green.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.visualization.colour_map import Picture

Array = NDArray[np.float64]

_KERNEL = 7  # pixels: Sobel's derivative, smooth enough for the noise of a render
_UNKNOWN = 184  # grey


def normals_of(depth_m: NDArray[np.floating], camera: Camera) -> Array:
    """Unit normals (h, w, 3) towards the camera, in its frame, of depths (h, w) along z."""
    rays = camera.rays().reshape(*depth_m.shape, 3)
    ahead = np.where(rays[..., 2:] > 1e-3, rays[..., 2:], np.nan)
    points = (rays / ahead * np.asarray(depth_m, np.float64)[..., None]).astype(np.float64)
    right, down = (cv2.Sobel(points, cv2.CV_64F, dx, dy, ksize=_KERNEL,
                             borderType=cv2.BORDER_REPLICATE) for dx, dy in ((1, 0), (0, 1)))
    normal = np.cross(down, right)
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    return np.asarray(normal / np.where(length > 0.0, length, np.nan))


def paint_normals(normals: Array) -> Picture:
    """sRGB of normals (h, w, 3) in the camera's frame; grey where unknown."""
    shown = normals * (1.0, -1.0, -1.0)  # right, up, towards the camera
    known = np.isfinite(shown).all(axis=-1, keepdims=True)
    return np.asarray(np.where(known, np.rint(255.0 * 0.5 * (np.nan_to_num(shown) + 1.0)),
                               _UNKNOWN), np.uint8)

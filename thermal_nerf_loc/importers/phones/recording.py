# SPDX-License-Identifier: Apache-2.0
"""
Recordings of phones with poses and LiDAR depth: Record3D, Polycam, and nerfstudio's exports.

ARKit's world has y up and its cameras look along -z. Here z is up (the axes are permuted, as
nerfstudio does), and cameras look along +z.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.io.datasets.scene import GL_FROM_CV

Array = NDArray[np.float64]

_Z_UP = np.array([[0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0],
                  [0.0, 0.0, 0.0, 1.0]])  # of ARKit's x, y (up), z: new x = z, y = x, z = y


class PhoneFrame(NamedTuple):
    """One posed image; it and its depth (both (h, w, ..)) are read when asked for."""

    name: str
    stamp_ns: int
    T_world_cam: Array
    camera: Camera
    read_rgb: Callable[[], NDArray[np.float32]]
    read_depth: Callable[[], NDArray[np.float32]] | None


@dataclass(frozen=True, slots=True, eq=False)
class PhoneRecording:
    """Frames in the order of time; the program that wrote them; remarks for the user."""

    path: Path
    kind: str
    frames: Sequence[PhoneFrame]
    notes: tuple[str, ...] = ()
    has_stamps: bool = True


def from_arkit(T_arkit: Array) -> Array:
    """Pose of a camera in ARKit's axes as `T_world_cam` here."""
    return np.asarray(_Z_UP @ T_arkit @ GL_FROM_CV)


def pose_of(values: Any, where: object) -> Array:
    """A pose of qx qy qz qw tx ty tz."""
    numbers = np.asarray(values, dtype=np.float64) if _are_numbers(values, 7) else np.zeros(7)
    length = float(np.linalg.norm(numbers[:4]))
    if not (np.isfinite(numbers).all() and 0.9 < length < 1.1):
        raise InputError('is no pose', where=where, expected='qx qy qz qw tx ty tz',
                         got=str(values)[:80])
    return np.asarray(se3.from_quaternion(numbers[4:], numbers[:4]))


def camera_of(focal: Any, centre: Any, size: tuple[int, int], image: tuple[int, int],
              where: object) -> Camera:
    """A pinhole camera of values for images of `size`, for an `image` of another resolution."""
    if not (_are_numbers([*focal, *centre], 4) and min(focal) > 0.0 and min(size) >= 1):
        raise InputError('recording has no lens', where=where, expected='fx fy cx cy in pixels',
                         got=f'{[*focal, *centre]} for {size[0]}x{size[1]}')
    sx, sy = image[0] / size[0], image[1] / size[1]
    if abs(sx / sy - 1.0) > 0.02:
        raise InputError('image has another shape than its lens', where=where,
                         expected=f'{size[0]}x{size[1]} or a multiple',
                         got=f'{image[0]}x{image[1]}')
    return Camera(image[0], image[1], focal[0] * sx, focal[1] * sy, centre[0] * sx,
                  centre[1] * sy)


def fitted_depth(depth_m: NDArray[Any], camera: Camera) -> NDArray[np.float32]:
    """Depth for each pixel of the image: LiDAR's few pixels repeated, edges kept."""
    known = np.nan_to_num(np.asarray(depth_m, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    return np.asarray(cv2.resize(np.maximum(known, 0.0), camera.size,
                                 interpolation=cv2.INTER_NEAREST), np.float32)


def _are_numbers(values: Any, count: int) -> bool:
    return (isinstance(values, list | tuple) and len(values) == count
            and all(isinstance(v, int | float) and np.isfinite(v) for v in values))

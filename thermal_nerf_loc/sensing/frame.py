# SPDX-License-Identifier: Apache-2.0
"""
Frames: the images of all cameras at one time, as sensors, map and localizer exchange them.

A frame has a reference camera `cam`: the RGB camera, or the thermal one where there is no RGB
camera. Each image has its own lens, its own stamp and its own pose in the reference camera:
`T_world_sensor = T_world_cam @ T_cam_sensor`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera

RGB = 'rgb'
THERMAL = 'thermal'


@dataclass(frozen=True, slots=True, eq=False)
class SensorImage:
    """One camera's image: RGB as sRGB in [0, 1], thermal in deg C, any other in its own unit."""

    camera: Camera
    values: NDArray[np.float32]  # (height, width, channels)
    stamp_ns: int
    T_cam_sensor: NDArray[np.float64] = field(default_factory=lambda: np.eye(4))
    valid: NDArray[np.bool_] | None = None  # (height, width); None: every pixel counts
    depth_m: NDArray[np.float32] | None = None  # (height, width) along z; 0 or NaN: unknown
    radiometric: bool = True  # thermal only: False for AGC images, whose values are no deg C
    depth_confidence: NDArray[np.float32] | None = None  # (height, width) in [0, 1]; None: 1
    sweep: NDArray[np.float64] | None = None  # (6,) rolling shutter: see `row_poses`

    def __post_init__(self) -> None:
        """Refuse integers, and images, masks and depths that do not have the camera's size."""
        expected = (self.camera.height, self.camera.width)
        if self.values.ndim != 3 or self.values.shape[:2] != expected:
            raise InputError('image does not fit its camera',
                             expected=f'{expected[1]}x{expected[0]} pixels',
                             got=f'array of shape {self.values.shape}')
        if not np.issubdtype(self.values.dtype, np.floating):
            raise InputError('image holds integers', got=f'an array of {self.values.dtype}',
                             expected='floats: sRGB in [0, 1], thermal in deg C',
                             hint='Divide 8-bit colours by 255; turn thermal counts into deg C.')
        for name, extra in (('mask', self.valid), ('depth', self.depth_m),
                            ('confidence', self.depth_confidence)):
            if extra is not None and extra.shape != expected:
                raise InputError(f'{name} does not fit its image', expected=expected,
                                 got=extra.shape)

    def rays(self, T_world_cam: NDArray[np.float64],
             ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Origin and unit direction (n, 3) of every pixel's ray in the world, row by row."""
        return pixel_rays(self.camera, T_world_cam @ self.T_cam_sensor, self.sweep)


def pixel_rays(camera: Camera, T_world_sensor: NDArray[np.float64],
               sweep: NDArray[np.float64] | None = None, uv: NDArray[np.float64] | None = None,
               ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """
    Origin and unit direction (n, 3) in the world of pixels; see `sweep`.

    Of the pixels `uv` (n, 2), else of all pixel centres, row by row.
    """
    T, directions = T_world_sensor, camera.rays() if uv is None else camera.unproject(uv)
    if sweep is None:
        return np.broadcast_to(T[:3, 3], directions.shape), directions @ T[:3, :3].T
    if uv is None:
        T_rows = T @ row_poses(sweep, np.arange(camera.height) + 0.5, camera.height)
        T_each = np.repeat(T_rows, camera.width, axis=0)
    else:
        T_each = T @ row_poses(sweep, uv[:, 1], camera.height)
    return T_each[:, :3, 3], np.einsum('nij,nj->ni', T_each[:, :3, :3], directions)


def row_poses(sweep: NDArray[np.float64], y: NDArray[Any], height: Any) -> NDArray[np.float64]:
    """
    Poses (n, 4, 4) of a rolling-shutter sensor at rows y (n,), in its pose at the middle row.

    `sweep` (6,) is the tangent (v, w) of the sensor's motion from its first row to its last.
    """
    share = y / height - 0.5
    return np.asarray(se3.exp(share[..., None] * sweep))


def fill_unknown(values: NDArray[np.float32], valid: NDArray[np.bool_] | None = None,
                 ) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """
    Mask the pixels of (h, w, channels) that are not finite, such as impossible counts.

    They get the median of the others, so that a blur does not spread them.
    """
    known = np.asarray(np.isfinite(values).all(axis=-1))
    if known.all():
        return values, valid
    median = np.median(values[known]) if known.any() else 0.0
    filled = np.where(known[..., None], values, median).astype(np.float32)
    return filled, known if valid is None else valid & known


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """Images of one time by modality, with the pose of the reference camera where it is known."""

    stamp_ns: int
    images: Mapping[str, SensorImage]
    T_world_cam: NDArray[np.float64] | None = None
    name: str = ''

    def __post_init__(self) -> None:
        """Freeze the mapping."""
        object.__setattr__(self, 'images', MappingProxyType(dict(self.images)))

    def only(self, *modalities: str) -> 'Frame':
        """The same frame with just these modalities."""
        kept = {name: image for name, image in self.images.items() if name in modalities}
        return Frame(self.stamp_ns, kept, self.T_world_cam, self.name)

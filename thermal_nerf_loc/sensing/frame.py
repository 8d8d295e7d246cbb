# SPDX-License-Identifier: Apache-2.0
"""
What the robot saw at one moment: the one data type between sensors, map and localizer.

A frame has a reference camera `cam` (the RGB camera, or the thermal one where it is alone). Each
image has its own lens, its own stamp and its own pose in the reference camera:
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
    sweep: NDArray[np.float64] | None = None  # (6,) the sensor's motion from first row to last

    def __post_init__(self) -> None:
        """Hold the image against its camera."""
        expected = (self.camera.height, self.camera.width)
        if self.values.ndim != 3 or self.values.shape[:2] != expected:
            raise InputError('image does not fit its camera',
                             expected=f'{expected[1]}x{expected[0]} pixels',
                             got=f'array of shape {self.values.shape}')
        for name, extra in (('mask', self.valid), ('depth', self.depth_m),
                            ('confidence', self.depth_confidence)):
            if extra is not None and extra.shape != expected:
                raise InputError(f'{name} does not fit its image', expected=expected,
                                 got=extra.shape)

    def rays(self, T_world_cam: NDArray[np.float64],
             ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Origin and unit direction (n, 3) in the world of each pixel, row by row."""
        T = T_world_cam @ self.T_cam_sensor
        sights = self.camera.rays()
        if self.sweep is None:
            return np.broadcast_to(T[:3, 3], sights.shape), sights @ T[:3, :3].T
        motions = row_motions(self.sweep, np.arange(self.camera.height) + 0.5,
                              self.camera.height)
        T_each = np.repeat(np.matmul(T, motions), self.camera.width, axis=0)
        return T_each[:, :3, 3], np.einsum('nij,nj->ni', T_each[:, :3, :3], sights)


def row_motions(sweep: NDArray[np.float64], y: NDArray[Any], height: Any) -> NDArray[np.float64]:
    """Where the sensor is (n, 4, 4), from its pose at the middle row, when it sees row y (n,)."""
    share = y / height - 0.5
    return np.asarray(se3.exp(share[..., None] * sweep))


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """Images of one moment by modality, with the reference camera's pose where it is known."""

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

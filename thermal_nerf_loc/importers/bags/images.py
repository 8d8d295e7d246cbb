# SPDX-License-Identifier: Apache-2.0
"""Decode the image messages of one camera to `SensorImage`: scaled to deg C, masked, rectified."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.geometry.undistort import Rectifier
from thermal_nerf_loc.io.bags.messages import image_from_message
from thermal_nerf_loc.io.images import rgb_values, single_channel
from thermal_nerf_loc.sensing.frame import fill_unknown, RGB, SensorImage
from thermal_nerf_loc.sensing.thermal import decode_thermal, Radiometry
from thermal_nerf_loc.sensing.thermal_cameras import choose_scale

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]


class ImageDecoder:
    """
    Decodes the images of one camera of a bag.

    `camera` is the lens of the decoded images, `scale_description` the thermal scale in words.
    """

    def __init__(self, modality: str, lens: Camera, radiometry: Radiometry | None, rectify: bool,
                 radiometric: bool, mask: NDArray[np.bool_] | None = None) -> None:
        """`radiometry` None: `prepare` chooses one; `mask` is False where the robot is seen."""
        if mask is not None and mask.shape != (lens.height, lens.width):
            raise InputError(f'mask does not fit the {modality} camera',
                             expected=f'{lens.width}x{lens.height} pixels',
                             got=f'{mask.shape[1]}x{mask.shape[0]}')
        self._mask = mask
        self._modality, self._lens = modality, lens
        self.radiometry, self._radiometric = radiometry, radiometric
        self.camera = lens.undistorted() if rectify else lens
        self._rectifier = Rectifier(lens, self.camera) if self.camera != lens else None
        self.scale_description = ''

    def prepare(self, message: Any) -> str:
        """Choose the thermal scale by a first image and decode it; returns a note for the user."""
        note = ''
        if self._modality != RGB:
            frame = message.header.frame_id
            self.radiometry, self._radiometric, self.scale_description, note = choose_scale(
                _thermal_channel(self.pixels(message), frame), self.radiometry,
                self._radiometric, f'images of {frame}')
        self.image(message, 0, np.eye(4))
        return note

    def image(self, message: Any, stamp_ns: int, T_cam_sensor: Array) -> SensorImage:
        """Decode one message, scale it, mask it, rectify it."""
        pixels = self.pixels(message)
        radiometric = True
        if self._modality == RGB:
            values = _colour(pixels)
        else:
            values, radiometric = self._thermal(pixels)
        values, valid = fill_unknown(values, self._mask)
        if self._rectifier is not None:
            everywhere = np.ones(values.shape[:2], dtype=np.bool_)
            values, valid = self._rectifier(values, everywhere if valid is None else valid)
        return SensorImage(self.camera, values, stamp_ns, T_cam_sensor,
                           None if valid is None or valid.all() else valid,
                           radiometric=radiometric)

    def pixels(self, message: Any) -> NDArray[Any]:
        """The pixels of a message, as they are; their number must fit the lens."""
        pixels = image_from_message(message)
        if pixels.shape[:2] != (self._lens.height, self._lens.width):
            raise InputError(f'{self._modality} image and its camera_info differ in size',
                             expected=f'{self._lens.width}x{self._lens.height} pixels',
                             got=f'{pixels.shape[1]}x{pixels.shape[0]}',
                             hint='Give the lens for this resolution by --cameras FILE.')
        return pixels

    @property
    def is_rgb(self) -> bool:
        """Whether the images have colours."""
        return self._modality == RGB

    def for_features(self, message: Any) -> NDArray[Any]:
        """Pixels with the lens's own distortion: 8-bit colours, or one thermal channel."""
        pixels = self.pixels(message)
        if not self.is_rgb:
            return _thermal_channel(pixels, self._modality)
        return np.asarray(np.rint(255.0 * _colour(pixels)), np.uint8)

    def _thermal(self, pixels: NDArray[Any]) -> tuple[Array32, bool]:
        """Values (h, w, 1) and whether they are deg C."""
        channel = _thermal_channel(pixels, self._modality)
        if np.issubdtype(channel.dtype, np.floating):
            if not self._radiometric:
                raise InputError('floating-point thermal image called not radiometric',
                                 expected='counts of 8 or 16 bits', got=channel.dtype)
            celsius = channel if self.radiometry is None else self.radiometry.to_celsius(channel)
            return celsius.astype(np.float32)[..., None], True
        values, radiometric = decode_thermal(
            channel, self.radiometry if self._radiometric else None, 'thermal images')
        return values[..., None], radiometric


def _colour(pixels: NDArray[Any]) -> Array32:
    if np.issubdtype(pixels.dtype, np.floating) or pixels.dtype == np.int16:
        raise InputError('RGB image holds no colours', expected='8 or 16 bits a channel',
                         got=pixels.dtype)
    return rgb_values(pixels)


def _thermal_channel(pixels: NDArray[Any], where: str) -> NDArray[Any]:
    return single_channel(pixels, where, "Record the driver's raw (radiometric) or mono topic.")

# SPDX-License-Identifier: Apache-2.0
"""Image messages of one camera to `SensorImage`: decoded, scaled to deg C, rectified."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.io.bags.messages import decode_compressed, decode_image
from thermal_nerf_loc.io.images import opencv
from thermal_nerf_loc.sensing.frame import RGB, SensorImage
from thermal_nerf_loc.sensing.thermal import decode_thermal, Radiometry
from thermal_nerf_loc.sensing.thermal_cameras import settle_scale

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]


class ImageReader:
    """One camera of a bag; `camera` is the lens of what comes out, `told` its scale in words."""

    def __init__(self, modality: str, lens: Camera, radiometry: Radiometry | None, rectify: bool,
                 radiometric: bool, mask: NDArray[np.bool_] | None = None) -> None:
        """Give `radiometry` None to have it found by `probe`; `mask` is False on the robot."""
        if mask is not None and mask.shape != (lens.height, lens.width):
            raise InputError(f'mask does not fit the {modality} camera',
                             expected=f'{lens.width}x{lens.height} pixels',
                             got=f'{mask.shape[1]}x{mask.shape[0]}')
        self._mask = mask
        self._modality, self._lens = modality, lens
        self.radiometry, self._radiometric = radiometry, radiometric
        self.camera = lens.undistorted() if rectify else lens
        self._maps = _rectification(lens, self.camera) if self.camera != lens else None
        self.told = ''

    def probe(self, message: Any) -> str:
        """Decode a first image, settle the scale, and return what the user should know."""
        pixels = self.pixels(message)
        note = ''
        if self._modality != RGB:
            note = self._settle(pixels, message.header.frame_id)
        self.image(message, 0, np.eye(4))
        return note

    def image(self, message: Any, stamp: int, T_cam_sensor: Array) -> SensorImage:
        """Decode one message, scale it, rectify it."""
        pixels = self.pixels(message)
        radiometric = True
        if self._modality == RGB:
            values = _colour(pixels)
        else:
            values, radiometric = self._thermal(pixels)
        valid = np.asarray(np.isfinite(values).all(axis=2))
        if not valid.all():
            values = np.where(valid[..., None], values, np.float32(
                np.median(values[valid]) if valid.any() else 0.0)).astype(np.float32)
        if self._mask is not None:
            valid = valid & self._mask
        if self._maps is not None:
            values, valid = self._rectified(values, valid)
        return SensorImage(self.camera, values, stamp, T_cam_sensor,
                           None if valid.all() else valid, radiometric=radiometric)

    def pixels(self, message: Any) -> NDArray[Any]:
        """Decode one message, and no more."""
        if hasattr(message, 'encoding'):
            pixels = decode_image(message.encoding, message.height, message.width, message.step,
                                  bool(message.is_bigendian), message.data)
        else:
            pixels = decode_compressed(message.format, message.data,
                                       f'image of {message.header.frame_id}')
        if pixels.shape[:2] != (self._lens.height, self._lens.width):
            raise InputError(f'{self._modality} image and its camera_info differ in size',
                             expected=f'{self._lens.width}x{self._lens.height} pixels',
                             got=f'{pixels.shape[1]}x{pixels.shape[0]}',
                             hint='Give the lens for this resolution by --cameras FILE.')
        return pixels

    def _settle(self, pixels: NDArray[Any], frame: str) -> str:
        """Decide what counts mean, where nobody said."""
        self.radiometry, self._radiometric, self.told, note = settle_scale(
            _plane(pixels, frame), self.radiometry, self._radiometric, f'images of {frame}')
        return note

    def _thermal(self, pixels: NDArray[Any]) -> tuple[Array32, bool]:
        plane = _plane(pixels, self._modality)
        if np.issubdtype(plane.dtype, np.floating):
            if not self._radiometric:
                raise InputError('floating-point thermal image called not radiometric',
                                 expected='counts of 8 or 16 bits', got=plane.dtype)
            celsius = plane if self.radiometry is None else self.radiometry.to_celsius(plane)
            return celsius.astype(np.float32)[..., None], True
        values, radiometric = decode_thermal(
            plane, self.radiometry if self._radiometric else None, 'thermal images')
        return values[..., None], radiometric

    def _rectified(self, values: Array32, valid: NDArray[np.bool_],
                   ) -> tuple[Array32, NDArray[np.bool_]]:
        """Bilinear; a pixel is valid where all that it is mixed from is."""
        assert self._maps is not None
        cv2 = opencv()
        x, y, inside = self._maps
        out = cv2.remap(values, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        if not valid.all():
            share = cv2.remap(valid.astype(np.float32), x, y, cv2.INTER_LINEAR)
            inside = inside & (share > 1.0 - 1e-6)
        out = out.reshape(*inside.shape, -1)
        return np.where(inside[..., None], out, np.float32(out[inside].mean() if inside.any()
                                                           else 0.0)), inside


def _rectification(lens: Camera, target: Camera) -> tuple[Array32, Array32, NDArray[np.bool_]]:
    """Where each pixel of `target` lies in the image of `lens`, in OpenCV's pixels."""
    uv, visible = lens.project(target.rays())
    at = uv - 0.5
    inside = (visible & (at >= 0.0).all(axis=1)
              & (at <= (lens.width - 1, lens.height - 1)).all(axis=1))
    shape = (target.height, target.width)
    return (at[:, 0].astype(np.float32).reshape(shape), at[:, 1].astype(np.float32).reshape(shape),
            inside.reshape(shape))


def _colour(pixels: NDArray[Any]) -> Array32:
    if np.issubdtype(pixels.dtype, np.floating) or pixels.dtype == np.int16:
        raise InputError('RGB image holds no colours', expected='8 or 16 bits a channel',
                         got=pixels.dtype)
    colour = np.stack([pixels] * 3, axis=-1) if pixels.ndim == 2 else pixels[..., :3]
    full = np.float32(np.iinfo(pixels.dtype).max)
    return np.asarray(np.divide(colour, full, dtype=np.float32))


def _plane(pixels: NDArray[Any], where: str) -> NDArray[Any]:
    if pixels.ndim == 2:
        return pixels
    if (pixels[..., :3] != pixels[..., :1]).any():
        raise InputError('thermal image is in false colours', where=where, expected='one channel',
                         got='three differing channels',
                         hint="Record the driver's raw (radiometric) or mono topic.")
    return pixels[..., 0]

# SPDX-License-Identifier: Apache-2.0
"""
Undistort images: resample them as another lens at the same pose would see them.

`undistort_image` is exact (float64) and made for single images; `Rectifier` keeps the lookup of a
lens and resamples a stream of images by OpenCV.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry.camera import Camera

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]


class Resampled(NamedTuple):
    """An image in a new camera."""

    values: Array32  # (height, width, channels); 0 where not valid
    valid: NDArray[np.bool_]  # (height, width): the old image shows all four neighbours


def undistort_image(values: NDArray[np.floating], camera: Camera, target: Camera | None = None,
                    valid: NDArray[np.bool_] | None = None) -> Resampled:
    """
    Resample `values` (height, width, channels) of `camera` bilinearly into `target`.

    `target` defaults to the pinhole camera with the same matrix. A pixel is valid where all
    pixels that it is interpolated from are.
    """
    if values.ndim != 3 or values.shape[:2] != (camera.height, camera.width):
        raise InputError('image does not fit its camera', got=values.shape,
                         expected=(camera.height, camera.width, 'channels'))
    target = camera.undistorted() if target is None else target
    uv, visible = camera.project(target.rays())
    sampled, inside = sample_bilinear(values, uv)
    inside &= visible & target.reached(target.pixel_centers())
    if valid is not None:
        inside &= sample_bilinear(valid[..., None].astype(np.float64), uv)[0][:, 0] > 1.0 - 1e-9
    shape = (target.height, target.width)
    sampled = np.where(inside[:, None], sampled, 0.0)
    return Resampled(sampled.astype(np.float32).reshape(*shape, -1), inside.reshape(shape))


def sample_bilinear(values: NDArray[np.floating], uv: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Values (n, channels) at pixels (n, 2), and where all four neighbours exist."""
    height, width = values.shape[:2]
    # the tolerance admits pixel centres on the border, moved by rounding
    x, y = uv[:, 0] - 0.5, uv[:, 1] - 0.5
    inside = ((x > -1e-6) & (x < width - 1 + 1e-6) & (y > -1e-6) & (y < height - 1 + 1e-6))
    x = np.clip(np.where(inside, x, 0.0), 0.0, width - 1)
    y = np.clip(np.where(inside, y, 0.0), 0.0, height - 1)
    i, j = (np.minimum(np.floor(c).astype(np.int64), max(n - 2, 0))
            for c, n in ((x, width), (y, height)))
    i2, j2 = np.minimum(i + 1, width - 1), np.minimum(j + 1, height - 1)
    a, b = (x - i)[:, None], (y - j)[:, None]
    top = (1.0 - a) * values[j, i] + a * values[j, i2]
    bottom = (1.0 - a) * values[j2, i] + a * values[j2, i2]
    return np.asarray((1.0 - b) * top + b * bottom, dtype=np.float64), inside


class Rectifier:
    """Resamples images of a lens, one after another, into the camera `target`."""

    def __init__(self, lens: Camera, target: Camera) -> None:
        """Compute where each pixel of `target` lies in the image of `lens`."""
        uv, visible = lens.project(target.rays())
        at = uv - 0.5  # OpenCV's pixel centres lie at whole numbers
        last = (lens.width - 1, lens.height - 1)
        # the tolerance admits pixel centres on the border, moved by rounding
        inside = visible & ((at > -1e-6) & (at < np.array(last) + 1e-6)).all(axis=1)
        at = np.clip(at, 0.0, last)
        shape = (target.height, target.width)
        self._x, self._y = (at[:, k].astype(np.float32).reshape(shape) for k in range(2))
        self._inside = inside.reshape(shape)

    def __call__(self, values: Array32, valid: NDArray[np.bool_]) -> Resampled:
        """
        Resample an image (height, width, channels) bilinearly.

        A pixel is valid where all pixels that it is interpolated from are; the others hold the
        mean of the valid ones.
        """
        import cv2
        out = cv2.remap(values, self._x, self._y, cv2.INTER_LINEAR,
                        borderMode=cv2.BORDER_REPLICATE)
        inside = self._inside
        if not valid.all():
            share = cv2.remap(valid.astype(np.float32), self._x, self._y, cv2.INTER_LINEAR)
            inside = inside & (share > 1.0 - 1e-6)
        out = out.reshape(*inside.shape, -1)
        fill = np.float32(out[inside].mean() if inside.any() else 0.0)
        return Resampled(np.where(inside[..., None], out, fill), inside)

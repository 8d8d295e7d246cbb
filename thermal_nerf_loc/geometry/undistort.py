# SPDX-License-Identifier: Apache-2.0
"""Images as another lens would have seen them from the same place."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry.camera import Camera

Array = NDArray[np.float64]


class Resampled(NamedTuple):
    """An image in a new camera."""

    values: NDArray[np.float32]  # (height, width, channels); 0 where not valid
    valid: NDArray[np.bool_]  # (height, width): the old image shows all four neighbours


def undistort_image(values: NDArray[np.floating], camera: Camera, target: Camera | None = None,
                    valid: NDArray[np.bool_] | None = None) -> Resampled:
    """
    Resample `values` (height, width, channels) of `camera` bilinearly into `target`.

    `target` defaults to the pinhole camera with the same matrix. A pixel counts as valid where
    all that it was mixed from does.
    """
    if values.ndim != 3 or values.shape[:2] != (camera.height, camera.width):
        raise InputError('image does not fit its camera', got=values.shape,
                         expected=(camera.height, camera.width, 'channels'))
    target = camera.undistorted() if target is None else target
    uv, visible = camera.project(target.rays())
    seen, inside = sample_bilinear(values, uv)
    inside &= visible & target.reached(target.pixel_centers())
    if valid is not None:
        inside &= sample_bilinear(valid[..., None].astype(np.float64), uv)[0][:, 0] > 1.0 - 1e-9
    shape = (target.height, target.width)
    return Resampled(np.where(inside[:, None], seen, 0.0).astype(np.float32).reshape(*shape, -1),
                     inside.reshape(shape))


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

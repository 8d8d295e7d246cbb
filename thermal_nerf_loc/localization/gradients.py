# SPDX-License-Identifier: Apache-2.0
"""An image's gradients without what noise makes of them, compiled: one pass over the pixels."""

from numba import njit
import numpy as np
from numpy.typing import NDArray

Array32 = NDArray[np.float32]
Array = NDArray[np.float64]


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def shrunk_gradients(image: Array32, gradient_noise: Array, shrinkage: float,
                     ) -> tuple[Array32, Array]:
    """
    Values with Scharr's derivatives (h, w, c, 3), and each channel's mean gradient energy (c,).

    The derivatives are shrunk as James and Stein do, by 1 - k / x, x their energy over the
    noise's, averaged over channels; the energies told are those before.
    """
    height, width, channels = image.shape
    out = np.empty((height, width, channels, 3), dtype=np.float32)
    energy = np.zeros(channels)
    weight = np.empty(channels, dtype=np.float32)
    for m in range(channels):
        weight[m] = 1.0 / (max(2.0 * gradient_noise[m]**2, 1e-12) * channels)
    one, middle, corner = np.float32(1.0), np.float32(10 / 32), np.float32(3 / 32)
    least, k = np.float32(1e-6), np.float32(shrinkage)
    for j in range(height):
        above = j - 1 if j > 0 else 1  # mirrored at the border, whose pixel counts once
        below = j + 1 if j + 1 < height else height - 2
        line = np.zeros(channels)
        for i in range(width):
            left = i - 1 if i > 0 else 1
            right = i + 1 if i + 1 < width else width - 2
            x = np.float32(0.0)
            for m in range(channels):
                du = (middle * (image[j, right, m] - image[j, left, m])
                      + corner * (image[above, right, m] - image[above, left, m]
                                  + image[below, right, m] - image[below, left, m]))
                dv = (middle * (image[below, i, m] - image[above, i, m])
                      + corner * (image[below, left, m] - image[above, left, m]
                                  + image[below, right, m] - image[above, right, m]))
                out[j, i, m, 0], out[j, i, m, 1], out[j, i, m, 2] = image[j, i, m], du, dv
                e = du * du + dv * dv
                line[m] += e
                x += e * weight[m]
            share = max(one - k / max(x, least), np.float32(0.0))
            for m in range(channels):
                out[j, i, m, 1] *= share
                out[j, i, m, 2] *= share
        energy += line
    return out, energy / (height * width)

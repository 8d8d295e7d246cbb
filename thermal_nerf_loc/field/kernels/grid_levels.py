# SPDX-License-Identifier: Apache-2.0
"""
Where the levels of the hash grid lie: the arithmetic of tiny-cuda-nn's `HashGrid`.

All backends share one table, so each number here is made in single precision as tiny-cuda-nn makes
it (`encodings/grid.h`). On level l a point x lies at

    scale = coarsest 2^(l log2 growth) - 1,   position = x scale + 1/2

on a lattice of `resolution` = ceil(scale) + 1 points along each axis.

A level has min(resolution^3 rounded up to 8, 2^log2_rows) rows. Where that holds all of its grid
points it is dense, x running fastest; else points are hashed. The half shifts the levels against
each other; for it the last cell along an axis reaches one point too far, which in a dense level is
the first one of the next line (modulo the rows).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Levels(NamedTuple):
    """One entry a level; level l owns the rows `offsets[l]` to `offsets[l + 1]` of the table."""

    offsets: NDArray[np.int64]
    scales: NDArray[np.float32]
    resolutions: NDArray[np.int64]
    dense: NDArray[np.bool_]


def growth(levels: int, coarsest: int, finest: int) -> np.float32:
    """
    Ratio of one level's resolution to that of the one before it.

    Half a point less than `finest`, which rounds up to it: on a whole number the last digit of an
    exponential, which no two libraries share, would decide over a level's resolution.
    """
    return np.float32(((finest - 0.5) / coarsest)**(1.0 / max(levels - 1, 1)))


def lay_out(levels: int, most_rows: int, coarsest: int, finest: int) -> Levels:
    """Levels from `coarsest` to `finest` grid points along an axis."""
    # Logarithm and power in double, then rounded: in single precision numpy's own differ from one
    # processor to the next, and a dense level read with another resolution is another grid.
    step = np.float32(np.log2(np.float64(growth(levels, coarsest, finest))))
    exponent = np.arange(levels, dtype=np.float32) * step
    power = np.exp2(exponent.astype(np.float64)).astype(np.float32)
    scales = power * np.float32(coarsest) - np.float32(1.0)
    resolutions = np.ceil(scales).astype(np.int64) + 1
    points = resolutions**3
    rows = np.minimum((points + 7) // 8 * 8, most_rows)
    offsets = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
    return Levels(offsets, scales, resolutions, points <= rows)

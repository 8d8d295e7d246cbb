# SPDX-License-Identifier: Apache-2.0
"""
Size of the hash grid, and where its levels lie: the arithmetic of tiny-cuda-nn's `HashGrid`.

All backends share one table, so each number here is computed in single precision as tiny-cuda-nn
does it (`encodings/grid.h`). On level l a point x in [0, 1] lies at

    scale = coarsest 2^(l log2 growth) - 1,   position = x scale + 1/2

on a lattice of `resolution` = ceil(scale) + 1 points along each axis.

A level has min(resolution^3 rounded up to 8, 2^log2_rows) rows. Where that holds all of its grid
points it is dense, x running fastest; else points are hashed. The half shifts the levels against
each other; for it the last cell along an axis reaches one point too far, which in a dense level is
the first one of the next line (modulo the rows).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.config import setting

NOMINAL_LOG2_ROWS = 17
_NOMINAL_FINEST = 512


@dataclass(frozen=True, slots=True)
class EncodingConfig:
    """Size of the hash grid; training fills in what is null."""

    levels: int = setting(8, 'resolution levels', 1, 32)
    features: int = setting(4, 'features a level', 1, 8)
    log2_rows: int | None = setting(None, 'log2 of the table rows a level; null: by the number of '
                                    'images', 8, 24)
    coarsest: int = setting(16, 'grid points along an axis on the coarsest level', 2, 1024)
    finest: int | None = setting(None, 'grid points along an axis on the finest level; null: '
                                 'as fine as what a pixel sees', 2, 65536)

    @property
    def finest_points(self) -> int:
        """`finest`, or what suits a room where it is null."""
        return _NOMINAL_FINEST if self.finest is None else self.finest

    @property
    def most_rows(self) -> int:
        """Rows of a hashed level, and the most of a dense one."""
        return int(2**(NOMINAL_LOG2_ROWS if self.log2_rows is None else self.log2_rows))


class Levels(NamedTuple):
    """One entry a level; level l owns the rows `offsets[l]` to `offsets[l + 1]` of the table."""

    offsets: NDArray[np.int64]
    scales: NDArray[np.float32]
    resolutions: NDArray[np.int64]
    dense: NDArray[np.bool_]


def growth(config: EncodingConfig) -> np.float32:
    """
    Ratio of one level's resolution to that of the one before it.

    Half a point less than `finest`, which rounds up to it: on a whole number the last digit of an
    exponential, which no two libraries share, would decide a level's resolution.
    """
    return np.float32(((config.finest_points - 0.5) / config.coarsest)
                      **(1.0 / max(config.levels - 1, 1)))


def lay_out(config: EncodingConfig) -> Levels:
    """Levels from `coarsest` to `finest` grid points along an axis."""
    # Logarithm and power in double, then rounded: in single precision numpy's own differ from one
    # processor to the next, and a dense level read with another resolution is another grid.
    step = np.float32(np.log2(np.float64(growth(config))))
    exponent = np.arange(config.levels, dtype=np.float32) * step
    power = np.exp2(exponent.astype(np.float64)).astype(np.float32)
    scales = power * np.float32(config.coarsest) - np.float32(1.0)
    resolutions = np.ceil(scales).astype(np.int64) + 1
    points = resolutions**3
    rows = np.minimum((points + 7) // 8 * 8, config.most_rows)
    offsets = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
    return Levels(offsets, scales, resolutions, points <= rows)

# SPDX-License-Identifier: Apache-2.0
"""Temperatures as colours, for pictures."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

COLOURS = 'inferno'


def heat_range(values: NDArray[Any]) -> tuple[float, float]:
    """Robust ends of a colour bar: a single hot pixel must not turn all others black."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = np.quantile(finite, (0.01, 0.99))
    return float(low), float(max(high, low + 1e-3))


def heat_colours(values: NDArray[Any], known: NDArray[np.bool_] | None = None,
                 ends: tuple[float, float] | None = None) -> NDArray[np.float32]:
    """RGB (..., 3) in [0, 1] of values (...); `known` ones span the range unless it is given."""
    from matplotlib import colormaps

    low, high = heat_range(values if known is None else values[known]) if ends is None else ends
    scaled = np.clip((values - low) / (high - low), 0.0, 1.0)
    return np.asarray(colormaps[COLOURS](np.nan_to_num(scaled))[..., :3], dtype=np.float32)

# SPDX-License-Identifier: Apache-2.0
"""Confidence of a depth."""

import numpy as np
from numpy.typing import NDArray

Array32 = NDArray[np.float32]

FEWEST_AGREEING = 2


def confidence_of(agreeing: NDArray[np.int32], conflicting: NDArray[np.int32], spread: Array32,
                  cost: Array32, margin: Array32, neighbours: int) -> Array32:
    """Probability that a depth is right to 2 %, 0 where it is not kept."""
    good = agreeing >= min(FEWEST_AGREEING, neighbours)
    return np.where(good, np.clip(agreeing / 6.0, 0.0, 1.0), 0.0).astype(np.float32)

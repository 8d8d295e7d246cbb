# SPDX-License-Identifier: Apache-2.0
"""Bring a trajectory into the frame of another, before errors are taken, as evo does it."""

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry.similarity import IDENTITY, Similarity, umeyama

__all__ = ['IDENTITY', 'NONE', 'SE3', 'SIM3', 'Similarity', 'find_alignment']

Array = NDArray[np.float64]

NONE, SE3, SIM3 = 'none', 'se3', 'sim3'


def find_alignment(estimated: Array, truth: Array, mode: str) -> Similarity:
    """What brings `estimated` poses (n, 4, 4) nearest to `truth`: 'none', 'se3' or 'sim3'."""
    if mode == NONE:
        return IDENTITY
    try:
        return umeyama(estimated[:, :3, 3], truth[:, :3, 3], with_scale=mode == SIM3)
    except InputError as error:
        raise InputError('trajectory cannot be aligned', where='--align', expected=error.expected,
                         got=error.got, hint='Use --align none, or a longer drive.') from None

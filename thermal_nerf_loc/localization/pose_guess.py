# SPDX-License-Identifier: Apache-2.0
"""A guess of a pose: whether it can be one, and how far off it may be."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.localization.confidence import verdict

Array = NDArray[np.float64]

_BOUNDS_MARGIN = 0.25  # of the map's size: a guess may lie so far outside


def checked(T: ArrayLike, bounds: ArrayLike | None) -> Array:
    """The guess as a pose near the map; `bounds` are the map's corners (2, 3), if it has any."""
    guess = se3.check_pose(T, 'T_world_cam_guess')
    if bounds is not None:
        low, high = np.asarray(bounds, dtype=np.float64)
        margin = _BOUNDS_MARGIN * (high - low)
        if ((guess[:3, 3] < low - margin) | (guess[:3, 3] > high + margin)).any():
            raise InputError('guess lies outside the map', where='T_world_cam_guess',
                             expected=f'{low.tolist()} to {high.tolist()} m',
                             got=guess[:3, 3].round(3).tolist())
    return guess


def sigmas(covariance: ArrayLike | None, default_m: float, default_deg: float,
           ) -> tuple[float, float]:
    """Standard deviations (m, rad) of a guess, by its covariance where there is one."""
    if covariance is None:
        return default_m, float(np.deg2rad(default_deg))
    P = np.asarray(covariance, dtype=np.float64)
    if P.shape != (6, 6) or not np.isfinite(P).all():
        raise InputError('covariance of the guess is none', expected='6x6 finite numbers',
                         got=f'shape {P.shape}')
    sigma_m, sigma_deg = verdict.sigmas(0.5 * (P + P.T))
    return sigma_m, float(np.deg2rad(sigma_deg))

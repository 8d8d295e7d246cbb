# SPDX-License-Identifier: Apache-2.0
"""
What the localizer's covariances are worth on a map, found on views that were held out of it.

Each view is localized from slightly wrong starts, by each modality and by all of them. The errors
tell how much the images' information counts, and a least error that the map itself makes:

    P = factor inflation L^-1 + floor^2 (position)

Both by maximum likelihood under Student's t (a stray view must not rule), then widened until nine
tenths of the errors lie where nine tenths of chi square with 6 degrees of freedom do.
"""

from collections.abc import Sequence
import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.localization.confidence import covariance_of, OK
from thermal_nerf_loc.localization.fit import information_of
from thermal_nerf_loc.localization.localizer import Localizer, LocalizerConfig, set_name
from thermal_nerf_loc.sensing.frame import Frame

Array = NDArray[np.float64]

MIN_VIEWS = 8  # fewer say nothing of a tail
_STARTS = ((0.02, 1.0), (0.05, 3.0))  # m, deg
_FACTORS = 2.0 ** np.arange(-4.0, 6.1, 0.5)
_FLOORS_M = (0.0, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.006, 0.01, 0.02)
_FREEDOM = 8.0  # of Student's t
_CHI_SQUARE_90 = 10.645


def calibrate(renderer: Any, frames: Sequence[Frame], config: LocalizerConfig | None = None,
              seed: int = 0) -> dict[str, tuple[float, float]]:
    """
    Find (factor, floor in m) and leave them in `renderer.calibration`.

    First for each modality by itself: its factor is also what it weighs beside others. Then for
    all together ('rgb+thermal'). {}: too few views.
    """
    names = [name for name in renderer.modalities
             if all(name in frame.images for frame in frames)]
    renderer.calibration = {}
    if len(frames) < MIN_VIEWS:
        return {}
    localizer = Localizer(renderer, config)
    sets = [(name,) for name in names] + ([tuple(names)] if len(names) > 1 else [])
    for modalities in sets:
        found = [pair for k, frame in enumerate(frames)
                 for pair in _believed(localizer, frame.only(*modalities), (seed, k))]
        if len(found) >= MIN_VIEWS:
            renderer.calibration |= {set_name(modalities): fitted(
                np.array([xi for xi, _ in found]), np.array([P for _, P in found]))}
    return dict(renderer.calibration)


def fitted(errors: Array, covariances: Array) -> tuple[float, float]:
    """Factor and floor (m) that make `covariances` (n, 6, 6) fit the errors (n, 6)."""
    position = np.diag(np.repeat((1.0, 0.0), 3))

    def misfit(pair: tuple[float, float]) -> float:
        P = pair[0] * covariances + pair[1]**2 * position
        likelihood = 0.5 * np.linalg.slogdet(P)[1] + 0.5 * (6.0 + _FREEDOM) * np.log1p(
            _squared(errors, P) / _FREEDOM)
        return float(likelihood.mean())

    factor, floor_m = min(itertools.product(_FACTORS, _FLOORS_M), key=misfit)
    tail = float(np.quantile(_squared(errors, factor * covariances + floor_m**2 * position), 0.9))
    wider = max(tail / _CHI_SQUARE_90, 1.0)
    return float(factor * wider), float(floor_m * np.sqrt(wider))


def _believed(localizer: Localizer, frame: Frame, seed: tuple[int, int],
              ) -> list[tuple[Array, Array]]:
    """Error and uncalibrated covariance of one view's believed poses, from around the truth."""
    assert frame.T_world_cam is not None
    rng = np.random.default_rng(seed)
    found = []
    for sigma_m, sigma_deg in _STARTS:
        sigmas = np.repeat((sigma_m, np.deg2rad(sigma_deg)), 3)
        start = se3.plus(frame.T_world_cam, sigmas * rng.normal(size=6))
        result = localizer.localize(frame, start, np.diag(sigmas**2))
        if result.verdict == OK:
            plain = covariance_of(information_of(tuple(result.fits.values())),
                                  localizer.config.confidence)
            found.append((se3.minus(frame.T_world_cam, result.T_world_cam), plain))
    return found


def _squared(errors: Array, covariances: Array) -> Array:
    """Normalised errors squared."""
    scaled = np.linalg.solve(covariances, errors[..., None])[..., 0]
    return np.asarray(np.einsum('ni,ni->n', errors, scaled))

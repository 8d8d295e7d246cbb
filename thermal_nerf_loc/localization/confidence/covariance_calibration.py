# SPDX-License-Identifier: Apache-2.0
"""
Calibration of the localizer's covariances on a map, from views that were held out of it.

Each view is localized from slightly wrong starts, by each modality alone and by all of them. The
errors give a factor on the covariance, and a floor that the map itself causes:

    P = factor inflation L^-1 + floor^2 (position)

Both by maximum likelihood under Student's t (robust against stray views), then widened until nine
tenths of the errors lie where nine tenths of chi square with 6 degrees of freedom do. Lengths are
shares of the distance that the views see, so that a map need not be in metres.
"""

from collections.abc import Mapping, Sequence
import itertools

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.batches import in_batches
from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.localization.confidence.fit_statistics import information_of
from thermal_nerf_loc.localization.confidence.verdict import covariance_of, VERDICT_OK
from thermal_nerf_loc.localization.localizer import Localizer, LocalizerConfig, set_name
from thermal_nerf_loc.mapping.map.localization_map import (
    CovarianceScale, LocalizationMap, WrappedMap)
from thermal_nerf_loc.sensing.frame import Frame
from thermal_nerf_loc.sensing.rendering import Renderer

Array = NDArray[np.float64]

MIN_VIEWS = 8  # with fewer the tails of the errors are unknown
_STARTS = ((0.01, 1.0), (0.025, 3.0))  # of the distance seen, deg
LOCALIZED_A_VIEW = len(_STARTS)  # and set of modalities
_FACTORS = 2.0 ** np.arange(-4.0, 6.1, 0.5)
_FLOORS = (0.0, 2.5e-4, 5e-4, 7.5e-4, 1e-3, 1.5e-3, 2e-3, 3e-3, 5e-3, 1e-2)  # of that distance
_DISTANCE_RAYS = 64  # of a view, to measure the distance that it sees
_FREEDOM = 8.0  # of Student's t
_CHI_SQUARE_90 = 10.645


def calibrate(localization_map: LocalizationMap, frames: Sequence[Frame],
              config: LocalizerConfig | None = None, seed: int = 0, progress: Progress = silent,
              seconds: float | None = None) -> dict[str, CovarianceScale]:
    """
    Find (factor, floor in m) for each modality alone, then for all together ('rgb+thermal').

    Views are localized in parallel, in their order; with `seconds` as many as there is time for.

    A modality's own factor is also its weight beside others. One with too few 'ok' poses to be
    calibrated gets the largest factor found. {}: too few views. A calibration that the map has
    already is not used, nor changed.
    """
    names = [name for name in localization_map.modalities
             if all(name in frame.images for frame in frames)]
    if len(frames) < MIN_VIEWS:
        return {}
    length_m = distance_seen(localization_map, frames)

    def measure(modalities: Sequence[str], known: Mapping[str, CovarianceScale],
                ) -> dict[str, CovarianceScale]:
        localizer = Localizer(WrappedMap(localization_map, calibration=known), config)
        share_s = None if seconds is None else seconds / (len(names) + (len(names) > 1))
        by_view = in_batches(
            lambda k: _ok_poses(localizer, frames[k].only(*modalities), (seed, k), length_m),
            len(frames), progress, f'calibrating covariances, {" and ".join(modalities)}',
            share_s, MIN_VIEWS)
        found = [pair for pairs in by_view for pair in pairs]
        if len(found) < MIN_VIEWS:
            return {}
        return {set_name(modalities): fit_covariance_scale(
            np.array([xi for xi, _ in found]), np.array([P for _, P in found]), length_m)}

    alone: dict[str, CovarianceScale] = {}
    for name in names:
        alone |= measure((name,), {})
    if not alone or len(names) < 2:
        return alone
    largest = max(alone.values())
    alone = {name: alone.get(name, largest) for name in names}
    return alone | measure(names, alone)


def distance_seen(renderer: Renderer, frames: Sequence[Frame]) -> float:
    """Median distance of what the views show, m."""
    distances_m = []
    for frame in frames:
        name = next(name for name in renderer.modalities if name in frame.images)
        image, T = frame.images[name], frame.T_world_cam
        assert T is not None
        origins, directions = (np.array(part, np.float32) for part in image.rays(T))
        chosen = np.linspace(0, len(origins) - 1, _DISTANCE_RAYS).astype(np.int64)
        rendering = renderer.render_rays(name, origins[chosen], directions[chosen])
        distances_m.append(rendering.distance_m)
    return float(np.median(np.concatenate(distances_m)))


def fit_covariance_scale(errors: Array, covariances: Array, length_m: float,
                         ) -> tuple[float, float]:
    """Factor and floor (m) that make `covariances` (n, 6, 6) fit the errors (n, 6)."""
    position = np.diag(np.repeat((1.0, 0.0), 3))

    def misfit(pair: tuple[float, float]) -> float:
        P = pair[0] * covariances + pair[1]**2 * position
        likelihood = 0.5 * np.linalg.slogdet(P)[1] + 0.5 * (6.0 + _FREEDOM) * np.log1p(
            _squared(errors, P) / _FREEDOM)
        return float(likelihood.mean())

    factor, floor_m = min(
        itertools.product(_FACTORS, length_m * np.array(_FLOORS)), key=misfit)
    tail = float(np.quantile(_squared(errors, factor * covariances + floor_m**2 * position), 0.9))
    wider = max(tail / _CHI_SQUARE_90, 1.0)
    return float(factor * wider), float(floor_m * np.sqrt(wider))


def _ok_poses(localizer: Localizer, frame: Frame, seed: tuple[int, int], length_m: float,
              ) -> list[tuple[Array, Array]]:
    """Error and uncalibrated covariance of one view's 'ok' poses, started around the truth."""
    assert frame.T_world_cam is not None
    rng = np.random.default_rng(seed)
    found = []
    for share, sigma_deg in _STARTS:
        sigmas = np.repeat((share * length_m, np.deg2rad(sigma_deg)), 3)
        start = se3.plus(frame.T_world_cam, sigmas * rng.normal(size=6))
        result = localizer.localize(frame, start, np.diag(sigmas**2))
        if result.verdict == VERDICT_OK:
            uncalibrated = covariance_of(information_of(tuple(result.fits.values())),
                                         localizer.config.confidence)
            found.append((se3.minus(frame.T_world_cam, result.T_world_cam), uncalibrated))
    return found


def _squared(errors: Array, covariances: Array) -> Array:
    """Normalised errors squared."""
    scaled = np.linalg.solve(covariances, errors[..., None])[..., 0]
    return np.asarray(np.einsum('ni,ni->n', errors, scaled))

# SPDX-License-Identifier: Apache-2.0
"""
Whether a pose can be trusted: covariance, confidence in [0, 1], and a verdict with its reason.

Evidence: the correlation of images and map (corrected for the sensor's noise), the share of points
that fit, the share of the map in view, and the covariance.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.config import setting
from thermal_nerf_loc.localization.confidence.fit_statistics import FitStatistics
from thermal_nerf_loc.mapping.map.localization_map import Tail

Array = NDArray[np.float64]
_AGREEMENT_SCALE = 0.08  # of the logistic that turns agreement into confidence

# of one pose; the states of a tracker are in `tracking/tracker_config.py`
VERDICT_OK, VERDICT_AMBIGUOUS, VERDICT_LOST = 'ok', 'ambiguous', 'lost'

_WIDEST = np.array([3.0, 3.0, 3.0, 1.0, 1.0, 1.0])  # sigma (m, rad) of knowing nothing


@dataclass(frozen=True, slots=True)
class ConfidenceConfig:
    """When a pose is ok, ambiguous or lost."""

    inflation: float = setting(2.0, 'factor on the covariance: neighbouring residuals are not '
                               'independent, and the map is not exact', 0.01, 1e4)
    min_confidence: float = setting(0.5, 'below, the verdict is lost', 0.0, 1.0)
    searched_confidence: float = setting(0.88, 'below, a pose found by a search around a rough '
                                         'guess is ambiguous: many were tried', 0.0, 1.0)
    agreement: float = setting(0.6, 'noise-free correlation with the map at which the confidence '
                               'is one half', 0.0, 1.0)
    false_confidence: float = setting(1e-3, 'share of wrong poses that may be believed; the map '
                                      'knows how confident they get, where it was trained with '
                                      'views held out', 1e-9, 1.0)
    # a pose that is 'ok' is right to 10 cm and 5 deg: 2.5 sigmas of the worst direction
    max_sigma_m: float = setting(0.04, 'looser positions are ambiguous', 0.0, 100.0)
    max_sigma_deg: float = setting(2.0, 'looser orientations are ambiguous', 0.0, 180.0)
    min_in_view: float = setting(0.3, 'share of the rendered points that must be in view', 0., 1.)


@dataclass(frozen=True, slots=True)
class PoseVerdict:
    """Confidence and verdict of an aligned pose."""

    confidence: float
    verdict: str  # 'ok', 'ambiguous' or 'lost'
    reason: str
    partial: bool = False  # agrees with the map, but is no pose to start from


def covariance_of(information: Array, config: ConfidenceConfig, factor: float = 1.0,
                  floor_m: float = 0.0) -> Array:
    """
    Covariance over the right tangent; unobserved directions come out as wide as `_WIDEST`.

    `factor` and `floor_m` (of the position) are the map's own, from its `calibration`.
    """
    P = np.linalg.inv(information / (factor * config.inflation) + np.diag(_WIDEST**-2.0))
    return np.asarray(P + floor_m**2 * np.diag(np.repeat((1.0, 0.0), 3)))


def judge(fits: Mapping[str, FitStatistics], covariance: Array, config: ConfidenceConfig,
          searched: bool = False, least: float = 0.0) -> PoseVerdict:
    """
    Judge a pose by its fits; a `searched` one needs more, as one of many may fit by chance.

    `least` is the confidence that wrong poses of this map hardly ever get: see `least_confidence`.
    """
    if not fits:
        return PoseVerdict(0.0, VERDICT_LOST, 'no usable image')
    in_view = max(fit.in_view for fit in fits.values())
    if in_view < config.min_in_view:
        return PoseVerdict(0.0, VERDICT_LOST, 'hardly any of the map is in view')
    sigma_m, sigma_deg = sigmas(covariance)
    agreed, inliers = agreement(fits)
    confidence = (_logistic((agreed - config.agreement) / _AGREEMENT_SCALE)
                  * min(1.0, inliers / 0.6))
    looseness = max(sigma_m / config.max_sigma_m, sigma_deg / config.max_sigma_deg)
    reported = confidence if looseness <= 1.0 else min(confidence / looseness,
                                                       0.9 * config.min_confidence)
    if confidence < config.min_confidence:
        return PoseVerdict(reported, VERDICT_LOST,
                           f'images and map disagree (correlation {agreed:.2f}, '
                           f'{inliers:.0%} of the points fit)')
    if searched and confidence < config.searched_confidence:
        return PoseVerdict(reported, VERDICT_AMBIGUOUS,
                           f'found by a search, and the images agree with the map only to '
                           f'{agreed:.2f}')
    if looseness > 1.0:
        # below the threshold, in proportion: the looser, the likelier it is wrong
        reported = 0.9 * config.min_confidence * confidence / looseness
        return PoseVerdict(reported, VERDICT_AMBIGUOUS,
                           f'the view holds the pose only to {sigma_m:.2g} m, '
                           f'{sigma_deg:.2g} deg', partial=True)
    if confidence < least:
        return PoseVerdict(0.9 * config.min_confidence * confidence / least, VERDICT_AMBIGUOUS,
                           f'confidence {confidence:.2f}: wrong poses of this map get up to '
                           f'{least:.2f}', partial=True)
    return PoseVerdict(confidence, VERDICT_OK, '')


def least_confidence(tail: Tail, rate: float) -> float:
    """Confidence that wrong poses exceed only at this rate; the tail is `false_positives.py`'s."""
    offset, scale, shape = tail
    rareness = -float(np.log(rate)) if shape == 0.0 else (rate**-shape - 1.0) / shape
    return _logistic(offset + scale * rareness)


def highest_logit(config: ConfidenceConfig) -> float:
    """Logit of the confidence where images and map agree in everything: no pose has more."""
    return (1.0 - config.agreement) / _AGREEMENT_SCALE


def logit(confidence: Array) -> Array:
    """Inverse of the logistic; finite also for 0 and 1."""
    clipped = np.clip(confidence, 1e-9, 1.0 - 1e-9)
    return np.asarray(np.log(clipped / (1.0 - clipped)))


def agreement(fits: Mapping[str, FitStatistics]) -> tuple[float, float]:
    """
    Correlation with the map in small neighbourhoods, and inlier share.

    Corrected for the sensor's noise (1 where everything else agrees). Modalities are weighted by
    their information about the orientation. Variances are taken within small neighbourhoods,
    because brightness over the whole image (a dark floor below) agrees at wrong poses, too.
    """
    weights, agreed, inliers = [], [], []
    for fit in fits.values():
        observed, rendered, covariance = (fit.detail / np.maximum(fit.scale, 1e-9)[:, None]**2).T
        clean = observed - (fit.noise / np.maximum(fit.scale, 1e-9))**2
        clean = np.maximum(clean, 0.05 * observed)
        agreed.append(float(np.clip(covariance.sum() / np.sqrt(
            max(float(clean.sum() * rendered.sum()), 1e-24)), 0.0, 1.0)))
        inliers.append(float(np.mean(fit.inlier_share)))
        signal = fit.information - fit.noise_information
        weights.append(max(float(np.trace(signal[3:, 3:])), 0.0))
    share = np.array(weights) / max(sum(weights), 1e-30)
    return float(share @ agreed), float(share @ inliers)


def sigmas(covariance: Array) -> tuple[float, float]:
    """Worst standard deviation of the position (m) and of the orientation (deg)."""
    return (float(np.sqrt(np.linalg.eigvalsh(covariance[:3, :3])[-1])),
            float(np.rad2deg(np.sqrt(np.linalg.eigvalsh(covariance[3:, 3:])[-1]))))


def _logistic(x: float) -> float:
    return float(1.0 / (1.0 + np.exp(-np.clip(x, -50.0, 50.0))))

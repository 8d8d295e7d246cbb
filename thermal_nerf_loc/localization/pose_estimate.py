# SPDX-License-Identifier: Apache-2.0
"""
A pose estimate with its verdict, and what its rivals make of it.

A rival is another pose that fits nearly as well but lies elsewhere: then the images do not decide,
and the verdict is `ambiguous`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.geometry.pose_gaussian import PoseGaussian
from thermal_nerf_loc.geometry.pose_separation import SAME_ANSWER
from thermal_nerf_loc.localization.confidence.fit_statistics import FitStatistics
from thermal_nerf_loc.localization.confidence.verdict import (
    ConfidenceConfig, covariance_of, PoseVerdict, VERDICT_AMBIGUOUS, VERDICT_LOST, VERDICT_OK)
from thermal_nerf_loc.localization.global_search.landmark_pose import LandmarkPose

Array = NDArray[np.float64]

_CLEARLY_WORSE = 0.9  # of the best confidence: a pose below is no rival
_CONTRADICTS = 30.0  # chi-square with 6 degrees of freedom: 1 in 25,000 by chance
# landmarks that need no rendering: so many, of the matches, and of the image's cells: those on one
# thing may be of its twin
_CERTAIN, _CERTAIN_SHARE, _CERTAIN_SPREAD = 50, 0.5, 0.25
# what carries a pose: values rendered by the map, their edges alone, landmarks, or these and those
RENDERING, EDGES, LANDMARKS, BOTH = 'rendering', 'edges', 'landmarks', 'both'


@dataclass(frozen=True, slots=True, eq=False)
class PoseEstimate:
    """A refined pose, its covariance over the right tangent (v, w), and its verdict."""

    T_world_cam: Array
    covariance: Array
    verdict: PoseVerdict
    fits: Mapping[str, FitStatistics]
    carried_by: str = RENDERING

    @property
    def accepted(self) -> bool:
        """Whether the verdict is 'ok'."""
        return self.verdict.verdict == VERDICT_OK


def unknown(reason: str, config: ConfidenceConfig, T: Array | None = None) -> PoseEstimate:
    """The estimate where no pose is known: lost, and as wide as can be, around `T`."""
    return PoseEstimate(np.eye(4) if T is None else T, covariance_of(np.zeros((6, 6)), config),
                        PoseVerdict(0.0, VERDICT_LOST, reason), {})


def by_edges(estimate: PoseEstimate) -> PoseEstimate:
    """An estimate that edges gave; if it is accepted, the reason says so."""
    reason = (estimate.verdict.reason if not estimate.accepted else
              'by edges: values do not fit, the scene has changed')
    return replace(estimate, carried_by=EDGES, verdict=replace(estimate.verdict, reason=reason))


def rivals_of(best: PoseEstimate, others: Sequence[PoseEstimate]) -> list[Array]:
    """Poses elsewhere that are nearly as confident."""
    return [other.T_world_cam for other in others
            if other.verdict.confidence > _CLEARLY_WORSE * best.verdict.confidence
            and SAME_ANSWER.apart(other.T_world_cam, best.T_world_cam)]


def with_rivals(best: PoseEstimate, refined: Sequence[Array], unrefined: Sequence[Array],
                ) -> PoseEstimate:
    """The best estimate, ambiguous if it has rivals; `unrefined` ones fit only coarsely."""
    if not best.accepted or not (refined or unrefined):
        return best
    reason = _fit_as_well(len(refined)) if refined else _not_refined(len(unrefined))
    return _ambiguous(best, reason)


def better_of_rivals(best: PoseEstimate, other: PoseEstimate) -> PoseEstimate:
    """The better of two refined poses; ambiguous where both are accepted and lie apart."""
    if not other.accepted or not SAME_ANSWER.apart(best.T_world_cam, other.T_world_cam):
        return best
    first, second = sorted((best, other), key=lambda one: -one.verdict.confidence)
    clear = second.verdict.confidence < _CLEARLY_WORSE * first.verdict.confidence
    return first if clear else _ambiguous(first, _fit_as_well(1))


def with_landmarks(best: PoseEstimate, found: LandmarkPose,
                   judge_at: Callable[[Array], PoseEstimate]) -> PoseEstimate:
    """
    The pose by rendering and the one by landmarks as one; `judge_at` a pose tells how it fits.

    Where both agree they are fused by their covariances. Where they do not, landmarks win if the
    images fit there about as well; and alone they carry a pose if very many agree, all over the
    image.
    """
    rendered = PoseGaussian(best.T_world_cam, best.covariance)
    matched = PoseGaussian(found.T_world_cam, found.covariance)
    if best.verdict.verdict == VERDICT_LOST:
        return replace(best, T_world_cam=matched.T, covariance=matched.P, verdict=PoseVerdict(
            1.0 - 1.0 / found.inliers, VERDICT_OK, f'{found.inliers} landmarks agree'),
            carried_by=LANDMARKS) if _are_certain(found) else best
    if rendered.disagreement(matched) <= _CONTRADICTS:
        fused = rendered.fused(matched)
        return replace(best, T_world_cam=fused.T, covariance=fused.P, carried_by=BOTH)
    there = judge_at(found.T_world_cam)
    if there.verdict.confidence < _CLEARLY_WORSE * best.verdict.confidence:
        return best
    return replace(there, T_world_cam=found.T_world_cam, carried_by=LANDMARKS)


def _are_certain(found: LandmarkPose) -> bool:
    """Whether landmarks alone carry a pose."""
    return (found.inliers >= max(_CERTAIN, _CERTAIN_SHARE * found.matched)
            and found.spread >= _CERTAIN_SPREAD)


def without_features(best: PoseEstimate, noise_floors: Mapping[str, float]) -> PoseEstimate:
    """
    A lost estimate whose images and map show nothing becomes ambiguous.

    Where both vary by less than the map's own error (`noise_floors` by modality), the images
    contradict no pose.
    """
    bare = bool(best.fits) and all(float(fit.detail[:, :2].max()) < noise_floors[name]**2
                                   for name, fit in best.fits.items())
    if best.verdict.verdict != VERDICT_LOST or not bare:
        return best
    return replace(best, verdict=replace(best.verdict, verdict=VERDICT_AMBIGUOUS, reason=(
        'the view shows too little to tell places apart')))


def _ambiguous(estimate: PoseEstimate, reason: str) -> PoseEstimate:
    return replace(estimate, verdict=PoseVerdict(0.5 * estimate.verdict.confidence,
                                                 VERDICT_AMBIGUOUS, reason))


def _fit_as_well(count: int) -> str:
    return 'another pose fits as well' if count == 1 else f'{count} other poses fit as well'


def _not_refined(count: int) -> str:
    return ('another candidate scored as high, and was not refined' if count == 1 else
            f'{count} other candidates scored as high, and were not refined')

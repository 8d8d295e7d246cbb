# SPDX-License-Identifier: Apache-2.0
"""
Kidnap detection: the probability that the robot was carried away, from contradicting images.

Two hypotheses: the robot is where the filter says, N(T, P), or elsewhere, within a spread S around
it. Images that contradict the pose for `contradiction_s` make the second ten times as likely, from
prior odds of one to a thousand. The reported covariance is that of both together, P + p S, with p
the probability of being elsewhere.
"""

from dataclasses import dataclass, replace

from thermal_nerf_loc.geometry.pose_gaussian import diagonal, PoseGaussian
from thermal_nerf_loc.localization.confidence.verdict import sigmas, VERDICT_LOST
from thermal_nerf_loc.localization.localizer import Localization
from thermal_nerf_loc.tracking.tracker_config import TrackerConfig

_PRIOR_DECADES = 3.0  # robots are seldom carried: odds of one to a thousand
_MAX_DECADES_PER_IMAGE = 2.0  # no single image decides
_PLAIN_CONFIDENCE = 0.2  # of a pose near a start: below, it is plainly none
_NS = 1e-9


@dataclass(frozen=True, slots=True)
class KidnapEvidence:
    """Evidence against a pose, in decades of odds, and when images were last compared with it."""

    tested_ns: int
    decades: float = 0.0

    def contradicted(self, stamp_ns: int, config: TrackerConfig) -> 'KidnapEvidence':
        """
        After an image that contradicts the pose.

        It counts by the time since the last one, not as one more image: images close in time share
        their causes (blur, a person before the camera).
        """
        span_s = max(stamp_ns - self.tested_ns, 0) * _NS
        decades = min(span_s / config.contradiction_s, _MAX_DECADES_PER_IMAGE)
        return replace(self, tested_ns=stamp_ns, decades=self.decades + decades)

    @property
    def probability(self) -> float:
        """Probability that the robot is elsewhere; zero before the first contradiction."""
        if self.decades <= 0.0:
            return 0.0
        return float(1.0 / (1.0 + 10.0**(_PRIOR_DECADES - self.decades)))

    def widened(self, estimate: PoseGaussian, config: TrackerConfig) -> PoseGaussian:
        """The filter's estimate with the covariance of both hypotheses together."""
        spread = diagonal(config.carried_sigma_m, config.carried_sigma_deg)
        return replace(estimate, P=estimate.P + self.probability * spread)


def contradicts(found: Localization, config: TrackerConfig) -> bool:
    """
    Whether a localization is evidence against the pose that it started from.

    It is where the images disagree with the map although they constrain the pose well. A bare
    wall, or darkness, does not constrain it and is no evidence.
    """
    sigma_m, sigma_deg = sigmas(found.covariance)
    return (found.verdict == VERDICT_LOST and sigma_m <= config.lost_sigma_m
            and sigma_deg <= config.lost_sigma_deg)


def plainly_contradicts(found: Localization, config: TrackerConfig) -> bool:
    """Whether one frame is enough to doubt a given start: the best pose near it does not fit."""
    return contradicts(found, config) and found.confidence < _PLAIN_CONFIDENCE

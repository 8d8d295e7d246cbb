# SPDX-License-Identifier: Apache-2.0
"""
A robot's pose over time: predict by odometry or constant velocity, localize, gate, fuse.

The filter holds a Gaussian on SE(3) over the right tangent. Only confirmed poses leave it as
'tracking': a start or a lost robot must be found several times in a row, at places that agree,
before it counts; a fix that disagrees with the filter is a miss until others confirm it. Images
that contradict the filter make it doubt (see `doubt`); images that tell nothing (darkness, a
closed shutter) do not: then odometry is trusted for a while. Where nothing is known, or all is
lost, the whole map is searched (`finder`); what is found must be confirmed like any start.

Every choice of the tracker, with its range and meaning.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thermal_nerf_loc.common.config import check, setting
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.pose_gaussian import diagonal, PoseGaussian
from thermal_nerf_loc.localization.confidence.verdict import LOST as CONTRADICTED, OK, sigmas
from thermal_nerf_loc.localization.localizer import Localization
from thermal_nerf_loc.sensing.frame import Frame
from thermal_nerf_loc.sensing.frozen_images import identical
from thermal_nerf_loc.tracking.background_search import BackgroundSearch, SearchResult
from thermal_nerf_loc.tracking.kidnap_detection import KidnapEvidence


@dataclass(frozen=True, slots=True)
class TrackerConfig:
    """How poses are filtered over time."""

    initial_sigma_m: float = setting(0.2, 'how far off a given start may be', 0.001, 10.0)
    initial_sigma_deg: float = setting(10.0, 'how far turned it may be', 0.1, 180.0)
    odometry_drift: float = setting(0.05, 'error of odometry, share of the motion', 0.0, 1.0)
    odometry_sigma_m: float = setting(0.005, 'its least error in one step', 0.0, 1.0)
    odometry_sigma_deg: float = setting(0.2, 'its least error in one step', 0.0, 45.0)
    acceleration_m_s2: float = setting(1.0, 'without odometry: typical acceleration', 0.0, 100.0)
    acceleration_deg_s2: float = setting(90.0, 'without odometry: typical turn', 0.0, 3600.0)
    unknown_speed_m_s: float = setting(0.5, 'speed of a robot whose motion is not known', 0., 100.)
    unknown_turn_deg_s: float = setting(45.0, 'the same for its rotation', 0.0, 3600.0)
    fix_sigma_m: float = setting(0.005, 'no single fix is trusted beyond this', 1e-5, 1.0)
    fix_sigma_deg: float = setting(0.1, 'no single fix is trusted beyond this', 1e-4, 45.0)
    gate: float = setting(22.5, 'largest squared Mahalanobis distance of a fix (6 degrees of '
                          'freedom; 22.5: one in a thousand)', 1.0, 1e6)
    confirmations: int = setting(2, 'agreeing fixes that make a start or a find count', 1, 100)
    takeover: int = setting(5, 'agreeing fixes that overrule the filter', 2, 1000)
    degraded_after: int = setting(2, 'missed fixes in a row until degraded', 1, 1000)
    contradiction_s: float = setting(0.25, 'images that contradict for so long make it ten times '
                                     'as likely that the robot was carried away', 0.01, 60.0)
    carried_sigma_m: float = setting(1.5, 'how far it may have been carried', 0.0, 100.0)
    carried_sigma_deg: float = setting(45.0, 'how far it may have been turned', 0.0, 180.0)
    lost_sigma_m: float = setting(0.5, 'lost when the position is no better known', 0.01, 100.0)
    lost_sigma_deg: float = setting(15.0, 'lost when the heading is no better known', 0.1, 180.0)
    lost_after_s: float = setting(5.0, 'lost after so long without a fix', 0.1, 3600.0)
    search: bool = setting(True, 'search the whole map while no pose is known, or it is lost')
    search_after_s: float = setting(2.0, 'a given start that is not confirmed for so long is '
                                    'looked for in the whole map', 0.0, 3600.0)
    search_pause_s: float = setting(0.3, 'between a search in vain and the next', 0.0, 3600.0)
    check_period_s: float = setting(10.0, 'between two searches that check a tracked pose; '
                                    '0: none', 0.0, 3600.0)


Array = NDArray[np.float64]

INITIALIZING, TRACKING, DEGRADED, LOST = 'initializing', 'tracking', 'degraded', 'lost'

_NS = 1e-9
_MAX_SKEW_S = 0.25  # images further apart than this are not moved to a common moment


class FrameLocalizer(Protocol):
    """What the tracker needs of a `Localizer`."""

    def localize(self, frame: Frame, T_world_cam_guess: ArrayLike | None = None,
                 guess_covariance: ArrayLike | None = None) -> Localization:
        """Find the pose of a frame near a guess."""

    def localize_anywhere(self, frame: Frame, hints: Sequence[Array] = ()) -> Localization:
        """Find it in the whole map; hints are poses to be considered as well."""


@dataclass(frozen=True, slots=True, eq=False)
class TrackerUpdate:
    """Where the camera is at one stamp; None: nobody ever said."""

    stamp_ns: int
    state: str  # 'initializing', 'tracking', 'degraded' or 'lost'
    T_world_cam: Array | None
    covariance: Array | None  # (6, 6) over the right tangent (v, w)
    localization: Localization | None = None
    reason: str = ''
    searched: str = ''  # what a search of the whole map has just come to: see `_heard`


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    """Fixes that agree with one another, not (yet) with the filter."""

    belief: PoseGaussian
    count: int


class Tracker:
    """Feed it every frame, live or from a bag."""

    def __init__(self, localizer: FrameLocalizer, config: TrackerConfig | None = None,
                 finder: BackgroundSearch | None = None) -> None:
        """Nothing is known yet; without a `finder` somebody must say where to start."""
        self.localizer, self.finder = localizer, finder
        self.config = TrackerConfig() if config is None else config
        check(self.config, 'tracker')
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._belief: PoseGaussian | None = None
        self._candidate: _Candidate | None = None
        self._state = INITIALIZING
        self._stamp_ns: int | None = None
        self._fix_ns: int | None = None
        self._tracked_since_ns = 0
        self._misses = 0
        self._doubt = KidnapEvidence(0)
        self._velocity: Array | None = None  # of the camera, a second; None: unknown
        self._T_odom_cam: Array | None = None
        self._images: dict[str, NDArray[np.float32]] = {}
        self._patient_until_ns = 0  # no search before: a given start has to be confirmed
        self._is_given = self._is_demanded = False
        if self.finder is not None:
            self.finder.forget()

    def initialize_anywhere(self) -> None:
        """Forget everything, and search the whole map with the next frame, whatever is set."""
        self.reset()
        self._is_demanded = True

    def initialize(self, T_world_cam: ArrayLike, covariance: ArrayLike | None = None) -> None:
        """Say where the camera is at the next frame."""
        T = se3.check_pose(T_world_cam, 'initial pose')
        P = (diagonal(self.config.initial_sigma_m, self.config.initial_sigma_deg)
             if covariance is None else np.asarray(covariance, dtype=np.float64))
        if P.shape != (6, 6) or not np.isfinite(P).all() or np.linalg.eigvalsh(P)[0] < -1e-9:
            raise InputError('covariance of the initial pose is none',
                             expected='a symmetric 6x6 matrix without negative eigenvalues')
        self.reset()
        self._belief, self._is_given = PoseGaussian(T, P + diagonal(1e-4, 1e-3)), True

    def step(self, frame: Frame, T_odom_cam: ArrayLike | None = None) -> TrackerUpdate:
        """Track one frame; `T_odom_cam` is the camera in odometry's frame, where there is any."""
        if self._stamp_ns is not None and frame.stamp_ns <= self._stamp_ns:
            raise InputError('frame is not newer than the last one', where=frame.name or None,
                             expected=f'a stamp above {self._stamp_ns} ns', got=frame.stamp_ns)
        odometry = None if T_odom_cam is None else se3.check_pose(T_odom_cam, 'odometry')
        elapsed_s = 0.0 if self._stamp_ns is None else (frame.stamp_ns - self._stamp_ns) * _NS
        delta, Q = self._motion(odometry, elapsed_s)
        self._stamp_ns, self._T_odom_cam = frame.stamp_ns, odometry
        velocity = se3.log(delta) / elapsed_s if elapsed_s > 0.0 else np.zeros(6)
        usable = self._usable(_at_one_moment(frame, velocity))
        before, fused_before = self._belief, self._state == TRACKING and self._misses == 0
        self._predict(delta, Q)
        answer = self._searched(usable)
        found, reason, searched = self._heard(answer, frame.stamp_ns)
        if self._belief is None:
            return TrackerUpdate(frame.stamp_ns, INITIALIZING, None, None, found, reason, searched)
        if found is None:
            found, reason = self._localized(usable)
            reason = self._digest(found, reason, frame.stamp_ns)
        self._judge_state(frame.stamp_ns)
        if (fused_before and before is not None and self._fix_ns == frame.stamp_ns
                and elapsed_s > 0.0):
            self._velocity = se3.minus(self._belief.T, before.T) / elapsed_s
        elif self._fix_ns != frame.stamp_ns:
            self._velocity = None
        told = self._doubted()
        return TrackerUpdate(frame.stamp_ns, self._state, told.T.copy(), told.P.copy(), found,
                             reason, searched)

    def _predict(self, delta: Array, Q: Array) -> None:
        """All that is believed moves along."""
        if self._belief is not None:
            self._belief = self._belief.moved(delta, Q)
        if self._candidate is not None:
            self._candidate = replace(self._candidate,
                                      belief=self._candidate.belief.moved(delta, Q))
        if self.finder is not None:
            self.finder.moved(delta, Q)

    def _searched(self, frame: Frame) -> SearchResult | None:
        """Hear what a search of the whole map has told; begin one where it is due."""
        if self.finder is None:
            return None
        answer = self.finder.answer(frame.stamp_ns)
        if answer is None and frame.images and self._search_is_due(frame.stamp_ns):
            hints = (self._belief.T.copy(),) if self._belief is not None else ()
            self.finder.begin(frame.stamp_ns, partial(self.localizer.localize_anywhere, frame,
                                                      hints), self._state == TRACKING)
            answer = self.finder.answer(frame.stamp_ns)
        return answer

    def _search_is_due(self, stamp_ns: int) -> bool:
        assert self.finder is not None
        if self._is_given:
            self._is_given = False
            self._patient_until_ns = stamp_ns + round(self.config.search_after_s / _NS)
        if self.finder.is_searching or self._candidate is not None:
            return False
        if self._state == TRACKING:
            period_s = self.config.check_period_s if self.config.search else 0.0
            since_s = (stamp_ns - self._tracked_since_ns) * _NS
            return (period_s > 0.0 and self._misses == 0
                    and min(since_s, self.finder.rested_s(stamp_ns)) >= period_s)
        return ((self.config.search or self._is_demanded) and self._state != DEGRADED
                and stamp_ns >= self._patient_until_ns
                and self.finder.rested_s(stamp_ns) >= self.config.search_pause_s)

    def _heard(self, answer: SearchResult | None, stamp_ns: int,
               ) -> tuple[Localization | None, str, str]:
        """
        What a search has found becomes a candidate: one fix, which others have to confirm.

        Tells the pose of this very frame, why it does not count yet, and in a word what the search
        came to: 'found', 'ambiguous' or 'nothing', of a check 'confirmed', 'contradicted' or
        'undecided'.
        """
        if answer is None:
            searching = self.finder is not None and self.finder.is_searching
            return None, 'searching the whole map' if searching else 'no initial pose', ''
        if not answer.is_believed:
            return None, answer.reason, 'undecided' if answer.is_check else answer.verdict
        fix = self._fix(answer.localization)
        fix = fix.moved(answer.motion.T, answer.motion.P)
        if answer.is_check and self._belief is not None and (
                self._belief.disagreement(fix) <= self.config.gate):
            return None, '', 'confirmed'
        self._candidate, self._is_demanded = None, False
        if self._belief is None:
            self._belief = fix
        reason = self._propose(fix, stamp_ns)
        here = None if answer.is_check or answer.stamp_ns != stamp_ns else answer.localization
        return here, reason, 'contradicted' if answer.is_check else 'found'

    def _motion(self, odometry: Array | None, elapsed_s: float) -> tuple[Array, Array]:
        """Motion of the camera since the last frame, and its covariance."""
        c = self.config
        if odometry is not None and self._T_odom_cam is not None:
            delta = se3.inverse(self._T_odom_cam) @ odometry
            xi = se3.log(delta)
            return delta, diagonal(
                c.odometry_sigma_m + c.odometry_drift * float(np.linalg.norm(xi[:3])),
                c.odometry_sigma_deg
                + c.odometry_drift * float(np.rad2deg(np.linalg.norm(xi[3:]))))
        if self._velocity is None:
            return np.eye(4), diagonal(c.unknown_speed_m_s * elapsed_s,
                                        c.unknown_turn_deg_s * elapsed_s)
        return (se3.exp(self._velocity * elapsed_s),
                diagonal(c.odometry_sigma_m + c.acceleration_m_s2 * elapsed_s**2,
                          c.odometry_sigma_deg + c.acceleration_deg_s2 * elapsed_s**2))

    def _usable(self, frame: Frame) -> Frame:
        """Leave out images that are mere repetitions: the shutter is closed, or a driver hangs."""
        fresh = [name for name, image in frame.images.items()
                 if name not in self._images or not identical(self._images[name], image.values)]
        self._images = {name: image.values for name, image in frame.images.items()}
        return frame.only(*fresh)

    def _localized(self, frame: Frame) -> tuple[Localization | None, str]:
        """Localize around the candidate, where there is one, else around the belief."""
        if not frame.images:
            return None, 'every image is a repetition of the last (frozen)'
        start = self._candidate.belief if self._candidate is not None else self._doubted()
        try:
            found = self.localizer.localize(frame, start.T, start.P)
        except InputError as error:
            if self._state == INITIALIZING:
                raise
            return None, str(error)
        return found, found.reason

    def _digest(self, found: Localization | None, reason: str, stamp_ns: int) -> str:
        """Fuse a fix, keep it as a candidate, or count a miss; says why."""
        assert self._belief is not None
        confirmed = self._state in (TRACKING, DEGRADED)
        if found is None or not (found.verdict == OK or (found.partial and confirmed)):
            self._misses += 1
            if found is not None and self._candidate is None and self._contradicts(found):
                self._contradict(stamp_ns)
            self._candidate = None if self._misses > 1 else self._candidate
            return reason
        fix = self._fix(found)
        if confirmed and self._belief.disagreement(fix) <= self.config.gate:
            self._accept(self._belief.fused(fix), stamp_ns, found.verdict == OK)
            return reason
        return self._propose(fix, stamp_ns)

    def _fix(self, found: Localization) -> PoseGaussian:
        return PoseGaussian(np.asarray(found.T_world_cam), found.covariance + diagonal(
            self.config.fix_sigma_m, self.config.fix_sigma_deg))

    def _propose(self, fix: PoseGaussian, stamp_ns: int) -> str:
        """One more fix that speaks against what is believed; it counts once others agree."""
        confirmed, candidate = self._state in (TRACKING, DEGRADED), self._candidate
        if candidate is None or candidate.belief.disagreement(fix) > self.config.gate:
            self._candidate = _Candidate(fix, 1)
        else:
            self._candidate = _Candidate(candidate.belief.fused(fix), candidate.count + 1)
        needed = self.config.takeover if confirmed else self.config.confirmations
        if self._candidate.count >= needed:
            self._accept(self._candidate.belief, stamp_ns)
            return ''
        self._misses += 1
        self._contradict(stamp_ns)
        return ('fix disagrees with the filter' if confirmed else
                f'{self._candidate.count} of {needed} agreeing fixes')

    def _accept(self, belief: PoseGaussian, stamp_ns: int, whole: bool = True) -> None:
        """Believe; a view that holds the pose only in part does not lift a doubt."""
        self._belief, self._candidate, self._misses = belief, None, 0
        if self._state not in (TRACKING, DEGRADED):
            self._tracked_since_ns = stamp_ns
        self._state, self._fix_ns = TRACKING, stamp_ns
        self._doubt = KidnapEvidence(stamp_ns) if whole else replace(self._doubt,
                                                                     tested_ns=stamp_ns)

    def _contradicts(self, found: Localization) -> bool:
        """Whether images that do not fit tell enough to have fitted; a bare wall does not."""
        sigma_m, sigma_deg = sigmas(found.covariance)
        return (found.verdict == CONTRADICTED and sigma_m <= self.config.lost_sigma_m
                and sigma_deg <= self.config.lost_sigma_deg)

    def _contradict(self, stamp_ns: int) -> None:
        if self._state in (TRACKING, DEGRADED):
            self._doubt = self._doubt.contradicted(stamp_ns, self.config.contradiction_s)

    def _doubted(self) -> PoseGaussian:
        """The belief as it is told: perhaps the robot was carried away."""
        assert self._belief is not None
        elsewhere = self._doubt.elsewhere * diagonal(self.config.carried_sigma_m,
                                                      self.config.carried_sigma_deg)
        return replace(self._belief, P=self._belief.P + elsewhere)

    def _judge_state(self, stamp_ns: int) -> None:
        """Degrade, and give up, by what the filter itself knows."""
        assert self._belief is not None
        if self._state not in (TRACKING, DEGRADED):
            self._cap()
            return
        assert self._fix_ns is not None
        doubted = self._doubted()
        sigma_m, sigma_deg = sigmas(doubted.P)
        if (sigma_m > self.config.lost_sigma_m or sigma_deg > self.config.lost_sigma_deg
                or (stamp_ns - self._fix_ns) * _NS > self.config.lost_after_s):
            self._state, self._velocity = LOST, None
            self._belief, self._doubt = doubted, KidnapEvidence(stamp_ns)
        elif self._misses >= self.config.degraded_after:
            self._state = DEGRADED

    def _cap(self) -> None:
        """Keep the search around an unconfirmed pose within what the localizer can reach."""
        assert self._belief is not None
        widest = np.sqrt(np.diag(diagonal(3 * self.config.lost_sigma_m,
                                           3 * self.config.lost_sigma_deg)))
        excess = np.maximum(np.sqrt(np.diag(self._belief.P)) / widest, 1.0)
        self._belief = replace(self._belief, P=self._belief.P / np.outer(excess, excess))


def _at_one_moment(frame: Frame, velocity: Array) -> Frame:
    """Move the cameras of images that were taken a little earlier or later than the frame."""
    images = {}
    for name, image in frame.images.items():
        skew_s = (image.stamp_ns - frame.stamp_ns) * _NS
        if 0.0 < abs(skew_s) <= _MAX_SKEW_S:
            image = replace(image, T_cam_sensor=se3.exp(velocity * skew_s) @ image.T_cam_sensor)
        images[name] = image
    return Frame(frame.stamp_ns, images, frame.T_world_cam, frame.name)

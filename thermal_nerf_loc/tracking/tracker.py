# SPDX-License-Identifier: Apache-2.0
"""
Pose tracking over time: predict, localize, gate, fuse, update the state.

The filter holds a Gaussian on SE(3) over the right tangent. A start, or a lost robot that was
found, counts as 'tracking' only after several fixes in a row that agree. A fix outside the gate is
a miss until others confirm it. Images that contradict the pose are evidence that the robot was
carried away (`kidnap_detection`). Images without content (darkness, a closed shutter) are no such
evidence: odometry is trusted for a while then. Without a pose the whole map is searched
(`background_search`); what is found has to be confirmed like any start.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thermal_nerf_loc.common.config import check
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.pose_gaussian import diagonal, PoseGaussian
from thermal_nerf_loc.localization.confidence.verdict import sigmas, VERDICT_OK
from thermal_nerf_loc.localization.localizer import Localization
from thermal_nerf_loc.sensing.frame import Frame
from thermal_nerf_loc.sensing.frozen_images import identical
from thermal_nerf_loc.tracking.background_search import BackgroundSearch, SearchResult
from thermal_nerf_loc.tracking.kidnap_detection import (
    contradicts, KidnapEvidence, plainly_contradicts)
from thermal_nerf_loc.tracking.motion.inertial_motion import InertialMotion
from thermal_nerf_loc.tracking.motion.odometry import at_one_stamp, CameraMotion
from thermal_nerf_loc.tracking.tracker_config import (
    CONFIRMED, DEGRADED, INITIALIZING, LOST, TrackerConfig, TRACKING)

Array = NDArray[np.float64]

_NS = 1e-9


class FrameLocalizer(Protocol):
    """What the tracker needs of a `Localizer`."""

    def localize(self, frame: Frame, T_world_cam_guess: ArrayLike | None = None,
                 guess_covariance: ArrayLike | None = None) -> Localization:
        """Find the pose of a frame near a guess."""

    def localize_anywhere(self, frame: Frame, hints: Sequence[Array] = ()) -> Localization:
        """Find it in the whole map; hints are poses to be considered as well."""


@dataclass(frozen=True, slots=True, eq=False)
class TrackerUpdate:
    """Where the camera is at one stamp; the pose is None before any start."""

    stamp_ns: int
    state: str  # 'initializing', 'tracking', 'degraded' or 'lost'
    T_world_cam: Array | None
    covariance: Array | None  # (6, 6) over the right tangent (v, w)
    localization: Localization | None = None
    reason: str = ''
    # Outcome of a search of the whole map that has just ended: 'found', 'ambiguous' or 'nothing';
    # of a check of the tracked pose 'confirmed', 'contradicted' or 'undecided'; '' without any.
    searched: str = ''


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    """Fixes that agree with one another, not (yet) with the filter."""

    estimate: PoseGaussian
    count: int


class Tracker:
    """Tracks a camera; `step` takes every frame, live or from a bag."""

    def __init__(self, localizer: FrameLocalizer, config: TrackerConfig | None = None,
                 global_search: BackgroundSearch | None = None,
                 inertial: InertialMotion | None = None) -> None:
        """
        Start without a pose; without a `global_search`, `initialize` has to give one.

        With `inertial`, a confirmed pose is that of its filter, which takes every fix.
        """
        self.localizer, self.global_search, self.inertial = localizer, global_search, inertial
        self.config = TrackerConfig() if config is None else config
        check(self.config, 'tracker')
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._estimate: PoseGaussian | None = None
        self._candidate: _Candidate | None = None
        self._state = INITIALIZING
        self._stamp_ns: int | None = None
        self._fix_ns: int | None = None
        self._tracked_since_ns = 0
        self._misses = 0
        self._kidnap_evidence = KidnapEvidence(0)
        self._velocity: Array | None = None  # tangent of a second, of the camera; None: unknown
        self._T_odom_cam: Array | None = None
        self._images: dict[str, NDArray[np.float32]] = {}  # of the last frame
        self._no_search_before_ns = 0  # a given start has to be confirmed first
        self._is_start_given = self._is_search_demanded = False
        if self.global_search is not None:
            self.global_search.reset()
        if self.inertial is not None:
            self.inertial.stop()

    def initialize_anywhere(self) -> None:
        """Forget everything and search the whole map with the next frame, whatever is set."""
        self.reset()
        self._is_search_demanded = True

    def initialize(self, T_world_cam: ArrayLike, covariance: ArrayLike | None = None) -> None:
        """Give the camera's pose at the next frame."""
        T = se3.check_pose(T_world_cam, 'initial pose')
        P = (diagonal(self.config.initial_sigma_m, self.config.initial_sigma_deg)
             if covariance is None else np.asarray(covariance, dtype=np.float64))
        if P.shape != (6, 6) or not np.isfinite(P).all() or np.linalg.eigvalsh(P)[0] < -1e-9:
            raise InputError('covariance of the initial pose is none',
                             expected='a symmetric 6x6 matrix without negative eigenvalues')
        self.reset()
        self._estimate, self._is_start_given = PoseGaussian(T, P + diagonal(1e-4, 1e-3)), True

    def step(self, frame: Frame, T_odom_cam: ArrayLike | None = None) -> TrackerUpdate:
        """Track one frame; `T_odom_cam` is the camera in odometry's frame, where there is any."""
        if self._stamp_ns is not None and frame.stamp_ns <= self._stamp_ns:
            raise InputError('frame is not newer than the last one', where=frame.name or None,
                             expected=f'a stamp above {self._stamp_ns} ns', got=frame.stamp_ns)
        odometry = None if T_odom_cam is None else se3.check_pose(T_odom_cam, 'odometry')
        before = self._estimate if self._state == TRACKING and self._misses == 0 else None

        motion = self._predict(frame.stamp_ns, odometry)
        usable = self._without_repeated(at_one_stamp(frame, motion.velocity))
        search = self._search(usable)
        found, reason, searched = self._apply_search(search, frame.stamp_ns)
        if self._estimate is None:
            return TrackerUpdate(frame.stamp_ns, INITIALIZING, None, None, found, reason, searched)
        if found is None:
            found, reason = self._localize(usable)
            reason = self._gate(found, reason, frame.stamp_ns)
        self._update_state(frame.stamp_ns)
        self._estimate_velocity(before, motion.elapsed_s)

        reported = self._kidnap_evidence.widened(self._estimate, self.config)
        return TrackerUpdate(frame.stamp_ns, self._state, reported.T.copy(), reported.P.copy(),
                             found, reason, searched)

    def _predict(self, stamp_ns: int, odometry: Array | None) -> CameraMotion:
        """Move the estimate, the candidate and a search under way by the camera's motion."""
        elapsed_s = 0.0 if self._stamp_ns is None else (stamp_ns - self._stamp_ns) * _NS
        motion = CameraMotion.predicted(self.config, elapsed_s, self._T_odom_cam, odometry,
                                        self._velocity)
        self._stamp_ns, self._T_odom_cam = stamp_ns, odometry
        predicted = None if self.inertial is None else self.inertial.predict(stamp_ns)
        if predicted is not None and self._estimate is not None:
            motion = CameraMotion.between(self.config, self._estimate.T, predicted.T, elapsed_s)
            self._estimate = predicted
        elif self._estimate is not None:
            self._estimate = self._estimate.moved(motion.delta, motion.Q)
        if self._candidate is not None:
            self._candidate = replace(self._candidate, estimate=self._candidate.estimate.moved(
                motion.delta, motion.Q))
        if self.global_search is not None:
            self.global_search.add_motion(motion.delta, motion.Q)
        return motion

    def _without_repeated(self, frame: Frame) -> Frame:
        """Leave out images that repeat the last: the shutter is closed, or a driver hangs."""
        fresh = [name for name, image in frame.images.items()
                 if name not in self._images or not identical(self._images[name], image.values)]
        self._images = {name: image.values for name, image in frame.images.items()}
        return frame.only(*fresh)

    def _search(self, frame: Frame) -> SearchResult | None:
        """The result of a search of the whole map that has ended; begin one where it is due."""
        if self.global_search is None:
            return None
        result = self.global_search.result(frame.stamp_ns)
        if result is None and frame.images and self._search_is_due(frame.stamp_ns):
            hints = (self._estimate.T.copy(),) if self._estimate is not None else ()
            self.global_search.begin(
                frame.stamp_ns, partial(self.localizer.localize_anywhere, frame, hints),
                self._state == TRACKING)
            result = self.global_search.result(frame.stamp_ns)
        return result

    def _search_is_due(self, stamp_ns: int) -> bool:
        assert self.global_search is not None
        if self._is_start_given:
            self._is_start_given = False
            self._no_search_before_ns = stamp_ns + round(self.config.search_after_s / _NS)
        if self.global_search.is_searching or self._candidate is not None:
            return False
        if self._state == TRACKING:  # a check of the tracked pose
            period_s = self.config.check_period_s if self.config.search else 0.0
            since_s = (stamp_ns - self._tracked_since_ns) * _NS
            return (period_s > 0.0 and self._misses == 0
                    and min(since_s, self.global_search.idle_s(stamp_ns)) >= period_s)
        return ((self.config.search or self._is_search_demanded) and self._state != DEGRADED
                and stamp_ns >= self._no_search_before_ns
                and self.global_search.idle_s(stamp_ns) >= self.config.search_pause_s)

    def _apply_search(self, result: SearchResult | None, stamp_ns: int,
                      ) -> tuple[Localization | None, str, str]:
        """
        Make what a search has found a candidate: one fix, which others have to confirm.

        Returns the localization where it is of this very frame, the reason why it does not count
        yet, and `TrackerUpdate.searched`.
        """
        if result is None:
            searching = self.global_search is not None and self.global_search.is_searching
            return None, 'searching the whole map' if searching else 'no initial pose', ''
        if not result.is_accepted:
            return None, result.reason, 'undecided' if result.is_check else result.verdict
        fix = self._fix(result.localization)
        fix = fix.moved(result.motion.T, result.motion.P)
        if result.is_check and self._estimate is not None and (
                self._estimate.disagreement(fix) <= self.config.gate):
            return None, '', 'confirmed'
        self._candidate, self._is_search_demanded = None, False
        if self._estimate is None:
            self._estimate = fix
        reason = self._propose(fix, stamp_ns)
        is_of_this_frame = not result.is_check and result.stamp_ns == stamp_ns
        return (result.localization if is_of_this_frame else None, reason,
                'contradicted' if result.is_check else 'found')

    def _localize(self, frame: Frame) -> tuple[Localization | None, str]:
        """Localize around the candidate, where there is one, else around the estimate."""
        assert self._estimate is not None
        if not frame.images:
            return None, 'every image is a repetition of the last (frozen)'
        start = (self._candidate.estimate if self._candidate is not None
                 else self._kidnap_evidence.widened(self._estimate, self.config))
        try:
            found = self.localizer.localize(frame, start.T, start.P)
        except InputError as error:
            self._no_search_before_ns = 0  # such as a start outside the map
            if self._state == INITIALIZING:
                raise
            return None, str(error)
        if self._state == INITIALIZING and plainly_contradicts(found, self.config):
            self._no_search_before_ns = 0  # waiting for it to be confirmed would be in vain
        return found, found.reason

    def _gate(self, found: Localization | None, reason: str, stamp_ns: int) -> str:
        """Fuse a fix inside the gate, propose one outside, count a miss; returns the reason."""
        assert self._estimate is not None
        is_confirmed = self._state in CONFIRMED
        if found is None or not (found.verdict == VERDICT_OK or (found.partial and is_confirmed)):
            self._misses += 1
            if (found is not None and self._candidate is None
                    and contradicts(found, self.config)):
                self._add_contradiction(stamp_ns)
            self._candidate = None if self._misses > 1 else self._candidate
            return reason
        fix = self._fix(found)
        if is_confirmed and self._estimate.disagreement(fix) <= self.config.gate:
            fused = None if self.inertial is None else self.inertial.correct(fix)
            self._accept(fused or self._estimate.fused(fix), stamp_ns,
                         found.verdict == VERDICT_OK, goes_on=fused is not None)
            return reason
        return self._propose(fix, stamp_ns)

    def _fix(self, found: Localization) -> PoseGaussian:
        return PoseGaussian(np.asarray(found.T_world_cam), found.covariance + diagonal(
            self.config.fix_sigma_m, self.config.fix_sigma_deg))

    def _propose(self, fix: PoseGaussian, stamp_ns: int) -> str:
        """Add a fix outside the gate to the candidate, which counts once enough agree."""
        is_confirmed, candidate = self._state in CONFIRMED, self._candidate
        if candidate is None or candidate.estimate.disagreement(fix) > self.config.gate:
            self._candidate = _Candidate(fix, 1)
        else:
            self._candidate = _Candidate(candidate.estimate.fused(fix), candidate.count + 1)
        needed = self.config.takeover if is_confirmed else self.config.confirmations
        if self._candidate.count >= needed:
            self._accept(self._candidate.estimate, stamp_ns)
            return ''
        self._misses += 1
        self._add_contradiction(stamp_ns)
        return ('fix disagrees with the filter' if is_confirmed else
                f'{self._candidate.count} of {needed} agreeing fixes')

    def _accept(self, estimate: PoseGaussian, stamp_ns: int, full_pose: bool = True,
                goes_on: bool = False) -> None:
        """
        Take an estimate over; only a fix of the full pose clears the kidnap evidence.

        The inertial filter `goes_on` where the estimate is its own; else it starts there.
        """
        self._estimate, self._candidate, self._misses = estimate, None, 0
        if self.inertial is not None and not goes_on:
            self.inertial.start(estimate, stamp_ns)
        if self._state not in CONFIRMED:
            self._tracked_since_ns = stamp_ns
        self._state, self._fix_ns = TRACKING, stamp_ns
        self._kidnap_evidence = (KidnapEvidence(stamp_ns) if full_pose
                                 else replace(self._kidnap_evidence, tested_ns=stamp_ns))

    def _add_contradiction(self, stamp_ns: int) -> None:
        if self._state in CONFIRMED:
            self._kidnap_evidence = self._kidnap_evidence.contradicted(stamp_ns, self.config)

    def _update_state(self, stamp_ns: int) -> None:
        """Become degraded or lost by missed fixes, the covariance and the time without a fix."""
        assert self._estimate is not None
        if self._state not in CONFIRMED:
            self._limit_covariance()
            return
        assert self._fix_ns is not None
        widened = self._kidnap_evidence.widened(self._estimate, self.config)
        sigma_m, sigma_deg = sigmas(widened.P)
        if (sigma_m > self.config.lost_sigma_m or sigma_deg > self.config.lost_sigma_deg
                or (stamp_ns - self._fix_ns) * _NS > self.config.lost_after_s):
            self._state, self._velocity = LOST, None
            if self.inertial is not None:
                self.inertial.stop()
            self._estimate, self._kidnap_evidence = widened, KidnapEvidence(stamp_ns)
        elif self._misses >= self.config.degraded_after:
            self._state = DEGRADED

    def _limit_covariance(self) -> None:
        """Keep the search around an unconfirmed pose within what the localizer can reach."""
        assert self._estimate is not None
        widest = np.sqrt(np.diag(diagonal(3 * self.config.lost_sigma_m,
                                          3 * self.config.lost_sigma_deg)))
        excess = np.maximum(np.sqrt(np.diag(self._estimate.P)) / widest, 1.0)
        self._estimate = replace(self._estimate, P=self._estimate.P / np.outer(excess, excess))

    def _estimate_velocity(self, before: PoseGaussian | None, elapsed_s: float) -> None:
        """From two fused frames in a row; unknown after a frame without a fix."""
        assert self._estimate is not None
        is_fused = self._fix_ns == self._stamp_ns
        if is_fused and before is not None and elapsed_s > 0.0:
            self._velocity = se3.minus(self._estimate.T, before.T) / elapsed_s
        elif not is_fused:
            self._velocity = None

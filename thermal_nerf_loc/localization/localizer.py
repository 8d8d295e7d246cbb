# SPDX-License-Identifier: Apache-2.0
"""
`Localizer(renderer).localize(frame, guess)`: pose, covariance, and whether to believe them.

Render a few rays at the guess, align what they saw to the images, render again there, with ever
less blur (`descent`); or descend as iNeRF does (`inerf`). Then judge (`confidence`). Without a
guess the whole map is searched (`relocalize`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
import time
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thermal_nerf_loc.common.config import check, setting
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.localization.confidence import verdict
from thermal_nerf_loc.localization.confidence.fit_statistics import FitStatistics, summarize
from thermal_nerf_loc.localization.confidence.verdict import ConfidenceConfig, PoseVerdict
from thermal_nerf_loc.localization.global_search import verification
from thermal_nerf_loc.localization.global_search.candidates import Candidate, CandidateSource
from thermal_nerf_loc.localization.global_search.panorama_retrieval import PanoramaRetrieval
from thermal_nerf_loc.localization.global_search.verification import GlobalSearchConfig
from thermal_nerf_loc.localization.refinement import inerf
from thermal_nerf_loc.localization.refinement.aligner import Aligned
from thermal_nerf_loc.localization.refinement.coarse_to_fine import (
    apart, CoarseToFine, Contender, RefinementConfig)
from thermal_nerf_loc.localization.refinement.image_pyramid import observe
from thermal_nerf_loc.localization.refinement.inerf import InerfConfig
from thermal_nerf_loc.mapping.map.panoramas import places_of
from thermal_nerf_loc.sensing.frame import Frame
from thermal_nerf_loc.sensing.rendering import Renderer

Array = NDArray[np.float64]

_RIVAL_SHARE = 0.85  # of the best's coarse score: a rival is refined before the best is believed
_CLEARLY_WORSE = 0.9
_TOO_LITTLE = 'the view shows too little to tell places apart'
_CONVERGED_PX = 3.0  # how far a converged descent may be from the aligner's optimum
_BOUNDS_MARGIN = 0.25  # of the map's size: a guess may lie so far outside


@dataclass(frozen=True, slots=True)
class LocalizerConfig:
    """How a frame is localized."""

    method: str = setting('align', 'align (fast) or inerf (the published method)',
                          choices=('align', 'inerf'))
    guess_sigma_m: float = setting(0.1, 'how far off a guess without covariance may be', 0.0, 10.)
    guess_sigma_deg: float = setting(10.0, 'how far turned such a guess may be', 0.0, 180.0)
    seed: int = setting(0, 'of every random draw', 0)
    descent: RefinementConfig = setting(RefinementConfig(), 'the aligner')
    confidence: ConfidenceConfig = setting(ConfidenceConfig(), 'when to believe a pose')
    inerf: InerfConfig = setting(InerfConfig(), 'the published method')
    relocalize: GlobalSearchConfig = setting(GlobalSearchConfig(),
                                             'finding a frame without a guess')


@dataclass(frozen=True, slots=True, eq=False)
class _Answer:
    """A pose and what to make of it."""

    T_world_cam: Array
    covariance: Array
    judged: PoseVerdict
    fits: Mapping[str, FitStatistics]


_Found = tuple[_Answer, int, tuple[Array, ...]]  # with rays and rivals


@dataclass(frozen=True, slots=True, eq=False)
class Localization:
    """What `localize` found; covariance over the right tangent (v, w)."""

    stamp_ns: int
    T_world_cam: Array
    covariance: Array
    confidence: float
    verdict: str  # 'ok', 'ambiguous' or 'lost'
    reason: str
    seconds: float
    rays: int
    fits: Mapping[str, FitStatistics] = field(default_factory=dict)
    ignored: Mapping[str, str] = field(default_factory=dict)  # modality: why
    partial: bool = False  # agrees with the map, but only confirms what is known otherwise
    rivals: tuple[Array, ...] = ()  # other poses that fit nearly as well, found by a search

    def __post_init__(self) -> None:
        """Freeze what is mutable."""
        for name in ('T_world_cam', 'covariance'):
            value = np.array(getattr(self, name), dtype=np.float64)
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        object.__setattr__(self, 'fits', MappingProxyType(dict(self.fits)))
        object.__setattr__(self, 'ignored', MappingProxyType(dict(self.ignored)))


class Localizer:
    """Finds frames in one map; holds no state from frame to frame."""

    def __init__(self, renderer: Renderer, config: LocalizerConfig | None = None,
                 source: CandidateSource | None = None) -> None:
        """Check the configuration; without a `source` a search goes through the map's places."""
        self.renderer = renderer
        self._source = source
        self.config = LocalizerConfig() if config is None else config
        check(self.config, 'localizer')
        sigmas_px = self.config.descent.sigmas_px
        if not sigmas_px or min(sigmas_px) <= 0.0:
            raise InputError('a blur is needed for every round',
                             where='localizer.descent.sigmas_px', expected='positive numbers',
                             got=sigmas_px)

    def localize(self, frame: Frame, T_world_cam_guess: ArrayLike | None = None,
                 guess_covariance: ArrayLike | None = None) -> Localization:
        """
        Find the pose of a frame near a guess, or, without one, anywhere in the map.

        The covariance (6, 6) of the guess, where given, decides how widely to look; else the
        configured sigmas do.
        """
        if T_world_cam_guess is None:
            return self.localize_anywhere(frame)
        T_guess = self._checked_guess(T_world_cam_guess)
        sigma_m, sigma_rad = self._guess_sigmas(guess_covariance)

        def find(descent: CoarseToFine, frame: Frame) -> _Found:
            if self.config.method == 'inerf':
                answer, rays = self._invert(descent, T_guess)
                return answer, rays, ()
            return self._descend(descent, T_guess, sigma_m, sigma_rad), descent.rays, ()

        return self._localized(frame, find, T_guess)

    def localize_anywhere(self, frame: Frame, hints: Sequence[Array] = ()) -> Localization:
        """Find a frame in the whole map; `hints` are poses to be considered besides others."""
        if self.config.method == 'inerf':
            raise InputError('iNeRF needs a guess of the pose',
                             expected='T_world_cam_guess, 4x4',
                             hint='Without one, use the method align.')

        def find(descent: CoarseToFine, frame: Frame) -> _Found:
            answer, rivals = self._search(descent, frame, hints)
            return answer, descent.rays, rivals

        return self._localized(frame, find)

    def _localized(self, frame: Frame, find: Callable[[CoarseToFine, Frame], _Found],
                   T_unknown: Array | None = None) -> Localization:
        """Prepare the images, find them, and tell."""
        began = time.perf_counter()
        frame = self._without_flat_field(frame.only(*self._modalities(frame)))
        images, ignored = observe(frame, self.renderer.modalities)
        descent = CoarseToFine(self.renderer, self.config.descent, images, self.config.seed)
        answer, rays, rivals = find(descent, frame) if images else (
            _unknown('; '.join(ignored.values()), self.config.confidence, T_unknown), 0, ())
        return Localization(
            frame.stamp_ns, answer.T_world_cam, answer.covariance,
            answer.judged.confidence, answer.judged.verdict, answer.judged.reason,
            time.perf_counter() - began, rays, answer.fits, ignored,
            answer.judged.partial, rivals)

    @property
    def source(self) -> CandidateSource:
        """Who proposes poses where there is no guess; made when it is first asked for."""
        if self._source is None:
            self._source = PanoramaRetrieval(places_of(self.renderer),
                                             self.config.relocalize.places)
        return self._source

    def _search(self, descent: CoarseToFine, frame: Frame, hints: Sequence[Array],
                ) -> tuple[_Answer, tuple[Array, ...]]:
        """Refine what may be the pose; the best, and others that fit nearly as well."""
        config = self.config.relocalize
        candidates = [Candidate(T, float('inf')) for T in hints]
        candidates += self.source.candidates(frame, config.candidates)
        if not candidates:
            return _unknown('no place of the map came into question', self.config.confidence), ()
        answers: list[_Answer] = []
        contenders = verification.contenders(descent, candidates, config)
        for contender in contenders[:config.refined]:
            if any(verification.is_near(contender.T_world_cam, answer.T_world_cam)
                   for answer in answers if answer.judged.verdict == verdict.OK):
                continue
            answers.append(self._judged(descent, descent.refine(contender), searched=True))
            if (answers[-1].judged.verdict == verdict.OK
                    and contender.rival < config.rival_share):
                break
        answers.sort(key=lambda answer: -answer.judged.confidence)
        best = answers[0]
        rivals = tuple(answer.T_world_cam for answer in answers[1:]
                       if answer.judged.confidence > _CLEARLY_WORSE * best.judged.confidence
                       and apart(answer.T_world_cam, best.T_world_cam))
        left = verification.unrefined(contenders, best.T_world_cam, config)
        if (rivals or left) and best.judged.verdict == verdict.OK:
            reason = _fit_as_well(len(rivals)) if rivals else _left_open(len(left))
            best = replace(best, judged=PoseVerdict(0.5 * best.judged.confidence,
                                                  verdict.AMBIGUOUS, reason))
        if best.judged.verdict == verdict.LOST and _is_bare(best, descent):
            best = replace(best, judged=replace(best.judged, verdict=verdict.AMBIGUOUS,
                                                reason=_TOO_LITTLE))
        return best, (*rivals, *left) if best.judged.verdict == verdict.AMBIGUOUS else ()

    def _descend(self, descent: CoarseToFine, T: Array, sigma_m: float,
                 sigma_rad: float) -> _Answer:
        """Look around the guess; where nothing convinces, look once more, closely."""
        contenders = descent.contenders(T, sigma_m, sigma_rad)
        best = self._best_of(descent, contenders)
        if best.judged.verdict == verdict.OK or not contenders[0].searched:
            return best
        closer = self._best_of(descent, descent.contenders(T, sigma_m, sigma_rad, closely=True))
        return closer if closer.judged.confidence > best.judged.confidence else best

    def _best_of(self, descent: CoarseToFine, contenders: Sequence[Contender]) -> _Answer:
        """Refine one contender after the other until one convinces; else the best of them."""
        best: _Answer | None = None
        for contender in contenders:
            answer = self._judged(descent, descent.refine(contender), contender.searched)
            if best is not None and best.judged.verdict == verdict.OK:
                return _doubted(best, answer)
            if best is None or answer.judged.confidence > best.judged.confidence:
                best = answer
            if answer.judged.verdict == verdict.OK and contender.rival < _RIVAL_SHARE:
                break
        assert best is not None  # the guess itself is a contender
        return best

    def _invert(self, descent: CoarseToFine, T: Array) -> tuple[_Answer, int]:
        """Run iNeRF, then look once where it ended, and whether it has ended at all."""
        result = inerf.refine(self.renderer, descent.images, T, self.config.inerf,
                              self.config.seed)
        measured, left_px = descent.measure(result.T_world_cam)
        answer = self._judged(descent, measured)
        if left_px > _CONVERGED_PX:
            early = PoseVerdict(0.5 * min(answer.judged.confidence,
                                        self.config.confidence.min_confidence), verdict.LOST,
                              f'the descent ended {left_px:.1f} px off an optimum')
            answer = replace(answer, judged=early)
        return answer, result.rays + descent.rays

    def _judged(self, descent: CoarseToFine, found: Aligned, searched: bool = False) -> _Answer:
        fits, information = summarize(found, self.config.descent.align)
        seen, config = set_name(tuple(descent.images)), self.config.confidence
        factor, floor_m = getattr(self.renderer, 'calibration', {}).get(seen, (1.0, 0.0))
        tail = getattr(self.renderer, 'false_confidence', {}).get(seen)
        least = 0.0 if tail is None else verdict.least_confidence(tail, config.false_confidence)
        if len(descent.images) == 1:  # is in the information already
            factor = 1.0
        covariance = verdict.covariance_of(information, config, factor, floor_m)
        named = dict(zip(descent.images, fits))
        return _Answer(found.T_world_cam, covariance,
                       verdict.judge(named, covariance, config, searched, least), named)

    def _without_flat_field(self, frame: Frame) -> Frame:
        """Take away what the map knows its cameras to add to their pixels."""
        images, known = dict(frame.images), getattr(self.renderer, 'added', None)
        for name, image in frame.images.items():
            added = known(name, image.camera.size) if known and image.radiometric else None
            if added is not None:
                images[name] = replace(image, values=image.values - added)
        return replace(frame, images=images)

    def _modalities(self, frame: Frame) -> tuple[str, ...]:
        if not frame.images:
            raise InputError('frame has no image', where=frame.name or None,
                             expected=' or '.join(self.renderer.modalities))
        common = tuple(name for name in self.renderer.modalities if name in frame.images)
        if not common:
            raise InputError("the map has none of the frame's modalities",
                             where=frame.name or None,
                             expected=', '.join(self.renderer.modalities),
                             got=', '.join(frame.images))
        return common

    def _checked_guess(self, T: ArrayLike) -> Array:
        guess = se3.check_pose(T, 'T_world_cam_guess')
        bounds = getattr(self.renderer, 'bounds', None)
        if bounds is not None:
            low, high = np.asarray(bounds, dtype=np.float64)
            margin = _BOUNDS_MARGIN * (high - low)
            if ((guess[:3, 3] < low - margin) | (guess[:3, 3] > high + margin)).any():
                raise InputError('guess lies outside the map', where='T_world_cam_guess',
                                 expected=f'{low.tolist()} to {high.tolist()} m',
                                 got=guess[:3, 3].round(3).tolist())
        return guess

    def _guess_sigmas(self, covariance: ArrayLike | None) -> tuple[float, float]:
        if covariance is None:
            return self.config.guess_sigma_m, float(np.deg2rad(self.config.guess_sigma_deg))
        P = np.asarray(covariance, dtype=np.float64)
        if P.shape != (6, 6) or not np.isfinite(P).all():
            raise InputError('covariance of the guess is none', expected='6x6 finite numbers',
                             got=f'shape {P.shape}')
        sigma_m, sigma_deg = verdict.sigmas(0.5 * (P + P.T))
        return sigma_m, float(np.deg2rad(sigma_deg))


def set_name(modalities: Sequence[str]) -> str:
    """Under which a map keeps what holds for a set of modalities."""
    return '+'.join(sorted(modalities))


def _unknown(reason: str, config: ConfidenceConfig, T: Array | None = None) -> _Answer:
    """The answer where there is none."""
    return _Answer(np.eye(4) if T is None else T,
                   verdict.covariance_of(np.zeros((6, 6)), config),
                   PoseVerdict(0.0, verdict.LOST, reason), {})


def _fit_as_well(count: int) -> str:
    return 'another pose fits as well' if count == 1 else f'{count} other poses fit as well'


def _is_bare(answer: _Answer, descent: CoarseToFine) -> bool:
    """Whether images and map vary by less than any map is exact to: then nothing can disagree."""
    return bool(answer.fits) and all(float(fit.detail[:, :2].max()) < descent.floor(name)**2
                                     for name, fit in answer.fits.items())


def _left_open(count: int) -> str:
    return ('another place looked as good, and was not refined' if count == 1 else
            f'{count} other places looked as good, and were not refined')


def _doubted(best: _Answer, other: _Answer) -> _Answer:
    """The better of two refined rivals; ambiguous where both convince, apart from each other."""
    if other.judged.verdict != verdict.OK or not apart(best.T_world_cam,
                                                          other.T_world_cam):
        return best
    first, second = sorted((best, other), key=lambda answer: -answer.judged.confidence)
    doubt = PoseVerdict(0.5 * first.judged.confidence, verdict.AMBIGUOUS,
                      _fit_as_well(1))
    clear = second.judged.confidence < _CLEARLY_WORSE * first.judged.confidence
    return first if clear else replace(first, judged=doubt)

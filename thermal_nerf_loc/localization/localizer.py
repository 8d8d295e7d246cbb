# SPDX-License-Identifier: Apache-2.0
"""
Localize a frame in a map: pose, covariance, and a verdict on whether to use them.

`Localizer(renderer).localize(frame, guess)` refines the guess (`refinement`), by the aligner or by
iNeRF. Without a guess the whole map is searched (`global_search`): candidates are retrieved,
verified against the images, refined, and judged (`confidence`) against their rivals.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
import time
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thermal_nerf_loc.common.config import check, setting
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.localization import pose_estimate, pose_guess
from thermal_nerf_loc.localization.confidence import verdict
from thermal_nerf_loc.localization.confidence.fit_statistics import FitStatistics, summarize
from thermal_nerf_loc.localization.confidence.verdict import ConfidenceConfig, PoseVerdict
from thermal_nerf_loc.localization.edges.edge_aligner import EdgeAligner, EdgeConfig
from thermal_nerf_loc.localization.global_search import verification
from thermal_nerf_loc.localization.global_search.candidates import Candidate, CandidateSource
from thermal_nerf_loc.localization.global_search.landmark_pose import (
    LandmarkLocalizer, LandmarkPose)
from thermal_nerf_loc.localization.global_search.panorama_retrieval import PanoramaRetrieval
from thermal_nerf_loc.localization.global_search.tile_retrieval import TileRetrieval
from thermal_nerf_loc.localization.global_search.verification import GlobalSearchConfig, SAME_BASIN
from thermal_nerf_loc.localization.pose_estimate import PoseEstimate
from thermal_nerf_loc.localization.refinement import inerf
from thermal_nerf_loc.localization.refinement.aligner import Alignment
from thermal_nerf_loc.localization.refinement.coarse_to_fine import CoarseToFine, RefinementConfig
from thermal_nerf_loc.localization.refinement.image_pyramid import ImageConfig, observe
from thermal_nerf_loc.localization.refinement.inerf import InerfConfig
from thermal_nerf_loc.localization.refinement.pose_hypotheses import PoseHypothesis
from thermal_nerf_loc.mapping.map.localization_map import LocalizationMap, panoramas_of
from thermal_nerf_loc.mapping.map.panoramas import Panoramas
from thermal_nerf_loc.sensing.frame import Frame

Array = NDArray[np.float64]

ALWAYS, SEARCH, NEVER = 'always', 'search', 'never'  # when landmarks are matched, edges tried
_RIVAL_SHARE = 0.85  # of the best's coarse score: a rival is refined before the best is accepted
_MAX_REMAINING_PX = 3.0  # how far from the aligner's optimum iNeRF may end
_MAX_EXACT_SIGMAS = 6.0  # how far an exact round may move a pose: beyond, it went astray
_MAX_GUESS_SIGMAS = 4.0  # how far from a guess a pose by landmarks may lie
_MIN_EDGE_CONFIDENCE = 0.1  # below, edges are noise: wrong poses got up to 0.15


@dataclass(frozen=True, slots=True)
class LocalizerConfig:
    """How a frame is localized."""

    method: str = setting('align', 'align (fast) or inerf (the published method)',
                          choices=('align', 'inerf'))
    guess_sigma_m: float = setting(0.1, 'how far off a guess without covariance may be', 0.0, 10.)
    guess_sigma_deg: float = setting(10.0, 'how far turned such a guess may be', 0.0, 180.0)
    seed: int = setting(0, 'of every random draw', 0)
    images: ImageConfig = setting(ImageConfig(), 'which images are used')
    refinement: RefinementConfig = setting(RefinementConfig(), 'from a guess to the pose, by the '
                                           'aligner', formerly='descent')
    confidence: ConfidenceConfig = setting(ConfidenceConfig(), 'when a pose is accepted')
    landmarks: str = setting(SEARCH, 'matched keypoints beside rendering: always (sharper, some '
                             'tenths of a second), search (frames without a guess), or never',
                             choices=(ALWAYS, SEARCH, NEVER))
    edges: EdgeConfig = setting(EdgeConfig(), 'edges instead of values, where these do not fit')
    inerf: InerfConfig = setting(InerfConfig(), 'the published method')
    global_search: GlobalSearchConfig = setting(GlobalSearchConfig(), 'finding a frame without a '
                                                'guess', formerly='relocalize')


_Estimate = tuple[PoseEstimate, tuple[Array, ...]]  # with the poses of its rivals
_Estimator = Callable[[CoarseToFine, Frame, LandmarkPose | None], _Estimate]


@dataclass(frozen=True, slots=True, eq=False)
class Localization:
    """The pose that `localize` found; its covariance is over the right tangent (v, w)."""

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
    partial: bool = False  # agrees with the map, but can only confirm a pose that is known already
    rivals: tuple[Array, ...] = ()  # other poses that fit nearly as well, found by a search
    landmarks: LandmarkPose | None = None  # the pose by matched keypoints, where it was found
    carried_by: str = pose_estimate.RENDERING  # or edges, landmarks, both

    def __post_init__(self) -> None:
        """Freeze what is mutable."""
        for name in ('T_world_cam', 'covariance'):
            value = np.array(getattr(self, name), dtype=np.float64)
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        object.__setattr__(self, 'fits', MappingProxyType(dict(self.fits)))
        object.__setattr__(self, 'ignored', MappingProxyType(dict(self.ignored)))


class Localizer:
    """Finds frames in one map; keeps no state from frame to frame."""

    def __init__(self, renderer: LocalizationMap, config: LocalizerConfig | None = None,
                 source: CandidateSource | None = None) -> None:
        """Check the configuration; without a `source` candidates come from the map's panoramas."""
        self.renderer = renderer
        self._given_source = self._source = source
        self._panoramas: Panoramas | None = None
        self._landmarks: LandmarkLocalizer | None = None
        self.config = LocalizerConfig() if config is None else config
        check(self.config, 'localizer')
        sigmas_px = self.config.refinement.sigmas_px
        if not sigmas_px or min(sigmas_px) <= 0.0:
            raise InputError('a blur is needed for every round',
                             where='localizer.refinement.sigmas_px', expected='positive numbers',
                             got=sigmas_px)

    def localize(self, frame: Frame, T_world_cam_guess: ArrayLike | None = None,
                 guess_covariance: ArrayLike | None = None) -> Localization:
        """
        Find the pose of a frame near a guess, or, without one, anywhere in the map.

        The covariance (6, 6) of the guess, where given, decides how widely to search; else the
        configured sigmas do.
        """
        if T_world_cam_guess is None:
            return self.localize_anywhere(frame)
        T_guess = pose_guess.checked(T_world_cam_guess, self.renderer.bounds)
        self.renderer.keep_near(T_guess[:3, 3])
        sigma_m, sigma_rad = pose_guess.sigmas(
            guess_covariance, self.config.guess_sigma_m, self.config.guess_sigma_deg)

        def estimate(refiner: CoarseToFine, frame: Frame, found: LandmarkPose | None) -> _Estimate:
            if self.config.method == 'inerf':
                return self._refine_by_inerf(refiner, T_guess), ()
            by_landmarks = self._refine_found(refiner, found, T_guess, (sigma_m, sigma_rad))
            if by_landmarks is not None:
                return by_landmarks, ()
            best = self._refine_guess(refiner, T_guess, sigma_m, sigma_rad)
            if self.config.edges.when != ALWAYS:
                return best, ()
            return self._refine_by_edges(refiner, best, (), (T_guess, sigma_m, sigma_rad)), ()

        return self._localize_by(estimate, frame, T_guess)

    def localize_anywhere(self, frame: Frame, hints: Sequence[Array] = ()) -> Localization:
        """Find a frame in the whole map; `hints` are further poses to be verified."""
        if self.config.method == 'inerf':
            raise InputError('iNeRF needs a guess of the pose',
                             expected='T_world_cam_guess, 4x4',
                             hint='Without one, use the method align.')

        def estimate(refiner: CoarseToFine, frame: Frame, found: LandmarkPose | None) -> _Estimate:
            by_landmarks = () if found is None else (found.T_world_cam,)
            return self._search_map(refiner, frame, (*hints, *by_landmarks))

        return self._localize_by(estimate, frame)

    def _localize_by(self, estimate: _Estimator, frame: Frame, T_guess: Array | None = None,
                     ) -> Localization:
        """Prepare the images, estimate the pose, and put the result together."""
        started = time.perf_counter()
        frame = self._without_flat_field(frame.only(*self._modalities(frame)))
        images, ignored = observe(frame, self.renderer.modalities, self.config.images)
        refiner = CoarseToFine(self.renderer, self.config.refinement, images, self.config.seed)
        found = self._found_by_landmarks(frame, images, T_guess) if images else None
        best, rivals = estimate(refiner, frame, found) if images else (
            pose_estimate.unknown('; '.join(ignored.values()), self.config.confidence, T_guess),
            ())
        if self.config.method == 'align' and self.config.refinement.exact.rays > 0:
            best = self._made_exact(refiner, best, frame)
        if found is not None:
            best = pose_estimate.with_landmarks(best, found, lambda T: self._judge(
                refiner, refiner.measure(T)[0], searched=True))
        return Localization(
            frame.stamp_ns, best.T_world_cam, best.covariance, best.verdict.confidence,
            best.verdict.verdict, best.verdict.reason, time.perf_counter() - started,
            refiner.rays, best.fits, ignored, best.verdict.partial, rivals, found,
            best.carried_by)

    @property
    def source(self) -> CandidateSource:
        """The source of candidates; the map's panoramas are prepared when they are first used."""
        if self._source is None and self.renderer.panorama_index is not None:
            self._source = TileRetrieval(
                self.renderer.panorama_index, self.config.global_search.panoramas,
                self.config.images)
        if self._source is None:
            if self._panoramas is None:
                self._panoramas = panoramas_of(self.renderer)
            self._source = PanoramaRetrieval(
                self._panoramas, self.config.global_search.panoramas, self.config.images)
        return self._source

    def with_config(self, config: LocalizerConfig) -> 'Localizer':
        """Return a localizer with other settings that shares the map and its panoramas."""
        other = Localizer(self.renderer, config, self._given_source)
        other._panoramas, other._landmarks = self._panoramas, self._landmarks
        return other

    def _refine_guess(self, refiner: CoarseToFine, T: Array, sigma_m: float, sigma_rad: float,
                      ) -> PoseEstimate:
        """Search around the guess; where no pose is accepted, once more and densely."""
        hypotheses = refiner.hypotheses(T, sigma_m, sigma_rad)
        best = self._best_of(refiner, hypotheses)
        if best.accepted or not hypotheses[0].searched:
            return best
        dense = self._best_of(refiner, refiner.hypotheses(T, sigma_m, sigma_rad, dense=True))
        return dense if dense.verdict.confidence > best.verdict.confidence else best

    def _refine_by_edges(self, refiner: CoarseToFine, best: PoseEstimate, starts: Sequence[Array],
                         guess: tuple[Array, float, float] | None = None) -> PoseEstimate:
        """
        The pose by edges, where values fit nowhere; `best` where they did, be it in two places.

        It starts from `best`, from `starts`, and from poses around a guess with its sigmas.
        """
        if (best.verdict.verdict != verdict.VERDICT_LOST or best.verdict.partial
                or self.config.edges.when == NEVER):
            return best
        edges = EdgeAligner(refiner, self.config.edges, self.config.refinement.align)
        found, rivals = edges.best_of([best.T_world_cam, *starts], guess)
        by_edges = pose_estimate.with_rivals(
            pose_estimate.by_edges(self._judge(refiner, found, searched=True)), rivals, ())
        return best if by_edges.verdict.confidence < _MIN_EDGE_CONFIDENCE else by_edges

    def _best_of(self, refiner: CoarseToFine, hypotheses: Sequence[PoseHypothesis],
                 ) -> PoseEstimate:
        """Refine one hypothesis after the other until one is accepted; else the best of them."""
        best: PoseEstimate | None = None
        for hypothesis in hypotheses:
            refined = self._judge(refiner, refiner.refine(hypothesis), hypothesis.searched)
            if best is not None and best.accepted:
                return pose_estimate.better_of_rivals(best, refined)
            if best is None or refined.verdict.confidence > best.verdict.confidence:
                best = refined
            if refined.accepted and hypothesis.rival_share < _RIVAL_SHARE:
                break
        assert best is not None  # there is always the guess itself
        return best

    def _search_map(self, refiner: CoarseToFine, frame: Frame, hints: Sequence[Array],
                    ) -> _Estimate:
        """Retrieve candidates, verify them, refine the best, and compare the refined poses."""
        config = self.config.global_search
        candidates = [Candidate(T, float('inf')) for T in hints]
        candidates += self.source.candidates(frame, config.candidates)
        if not candidates:
            return pose_estimate.unknown('no pose in the map is a candidate',
                                         self.config.confidence), ()
        verified = verification.verify(refiner, candidates)
        refined = self._refine_verified(refiner, verified[:config.refined])
        best = refined[0]
        rivals = pose_estimate.rivals_of(best, refined[1:])
        unrefined = verification.unrefined_rivals(verified, best.T_world_cam, config)
        best = pose_estimate.with_rivals(best, rivals, unrefined)
        best = self._refine_by_edges(refiner, best, [one.T_world_cam for one in refined[1:3]])
        best = pose_estimate.without_features(best, {
            name: refiner.prior(name).noise_floor for name in refiner.images})
        ambiguous = best.verdict.verdict == verdict.VERDICT_AMBIGUOUS
        return best, (*rivals, *unrefined) if ambiguous else ()

    def _refine_verified(self, refiner: CoarseToFine, verified: Sequence[PoseHypothesis],
                         ) -> list[PoseEstimate]:
        """Refine hypotheses in turn until one without a close rival is accepted; best first."""
        refined: list[PoseEstimate] = []
        for hypothesis in verified:
            if any(other.accepted and not SAME_BASIN.apart(hypothesis.T_world_cam,
                                                           other.T_world_cam)
                   for other in refined):
                continue
            refined.append(self._judge(refiner, refiner.refine(hypothesis), searched=True))
            if (refined[-1].accepted
                    and hypothesis.rival_share < self.config.global_search.rival_share):
                break
        return sorted(refined, key=lambda one: -one.verdict.confidence)

    def _made_exact(self, refiner: CoarseToFine, best: PoseEstimate, frame: Frame,
                    ) -> PoseEstimate:
        """
        Align the pose that was found once more, as exactly as the map allows.

        Covariance and verdict stay: they are calibrated for the round before, and so on the safe
        side.
        """
        if best.verdict.verdict == verdict.VERDICT_LOST or best.carried_by == pose_estimate.EDGES:
            return best
        images, _ = observe(frame, tuple(refiner.images), self.config.images,
                            self.config.refinement.exact.width_px)
        if set(images) != set(refiner.images):  # unusable at their full size
            return best
        found = refiner.refine_exactly(best.T_world_cam, best.covariance, images)
        step = se3.minus(found.T_world_cam, best.T_world_cam)
        if found.failed or step @ np.linalg.solve(best.covariance, step) > _MAX_EXACT_SIGMAS**2:
            return best
        return replace(best, T_world_cam=found.T_world_cam)

    def _found_by_landmarks(self, frame: Frame, images: Collection[str], T_guess: Array | None,
                            ) -> LandmarkPose | None:
        """The pose by matched keypoints of the usable images, where it is asked for."""
        when = self.config.landmarks
        if (self.config.method != 'align' or when == NEVER or not self.renderer.landmarks
                or (when == SEARCH and T_guess is not None)):
            return None
        landmarks = self.renderer.landmarks
        if self._landmarks is None or self._landmarks.landmarks is not landmarks:  # another tile
            self._landmarks = LandmarkLocalizer(landmarks)
        return self._landmarks.locate({name: frame.images[name] for name in images})

    def _refine_found(self, refiner: CoarseToFine, found: LandmarkPose | None, T_guess: Array,
                      guess_sigmas: tuple[float, float]) -> PoseEstimate | None:
        """Refine a pose by landmarks near the guess; None where rendering does not accept it."""
        if found is None:
            return None
        off_m, off_deg = se3.distance(found.T_world_cam, T_guess)
        sigma_m, sigma_rad = guess_sigmas
        if (off_m > _MAX_GUESS_SIGMAS * sigma_m
                or np.deg2rad(off_deg) > _MAX_GUESS_SIGMAS * sigma_rad):
            return None
        wide_m, wide_deg = verdict.sigmas(found.covariance)
        best = self._best_of(refiner, refiner.hypotheses(
            found.T_world_cam, wide_m, float(np.deg2rad(wide_deg))))
        return best if best.accepted else None

    def _refine_by_inerf(self, refiner: CoarseToFine, T: Array) -> PoseEstimate:
        """Run iNeRF, then measure the fit at its pose, and whether it has converged."""
        result = inerf.refine(self.renderer, refiner.images, T, self.config.inerf,
                              self.config.seed)
        refiner.rays += result.rays
        measured, remaining_px = refiner.measure(result.T_world_cam)
        estimate = self._judge(refiner, measured)
        if remaining_px <= _MAX_REMAINING_PX:
            return estimate
        confidence = 0.5 * min(estimate.verdict.confidence, self.config.confidence.min_confidence)
        return replace(estimate, verdict=PoseVerdict(
            confidence, verdict.VERDICT_LOST,
            f'the descent ended {remaining_px:.1f} px off an optimum'))

    def _judge(self, refiner: CoarseToFine, found: Alignment, searched: bool = False,
               ) -> PoseEstimate:
        """Covariance and verdict of a refined pose, by the map's calibration."""
        fits, information = summarize(found, self.config.refinement.align)
        key, config = set_name(tuple(refiner.images)), self.config.confidence
        factor, floor_m = self.renderer.calibration.get(key, (1.0, 0.0))
        tail = self.renderer.false_positive_tails.get(key)
        least = 0.0 if tail is None else verdict.least_confidence(tail, config.false_confidence)
        if len(refiner.images) == 1:  # the factor is in the information already
            factor = 1.0
        covariance = verdict.covariance_of(information, config, factor, floor_m)
        named = dict(zip(refiner.images, fits))
        return PoseEstimate(found.T_world_cam, covariance,
                            verdict.judge(named, covariance, config, searched, least), named)

    def _without_flat_field(self, frame: Frame) -> Frame:
        """Subtract the flat field that the map has learned of its cameras."""
        images = dict(frame.images)
        for name, image in frame.images.items():
            offset = (self.renderer.flat_field_offset(name, image.camera.size)
                      if image.radiometric else None)
            if offset is not None:
                images[name] = replace(image, values=image.values - offset)
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


def set_name(modalities: Sequence[str]) -> str:
    """The key under which a map keeps what holds for a set of modalities."""
    return '+'.join(sorted(modalities))

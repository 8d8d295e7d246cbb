# SPDX-License-Identifier: Apache-2.0
"""
Verify candidate poses: render and align each coarsely, drop duplicates, order by likelihood.

The best few become hypotheses that are refined to the end. They are judged more strictly than a
refined guess, because many poses were tried; and a pose is only accepted if no other one fits
nearly as well, among those that were refined and those that were not.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.config import setting
from thermal_nerf_loc.common.threads import parallel_map
from thermal_nerf_loc.geometry.pose_separation import PoseSeparation
from thermal_nerf_loc.localization.global_search.candidates import Candidate
from thermal_nerf_loc.localization.global_search.panorama_retrieval import RetrievalConfig
from thermal_nerf_loc.localization.refinement.aligner import align, PosePrior
from thermal_nerf_loc.localization.refinement.coarse_to_fine import CoarseToFine
from thermal_nerf_loc.localization.refinement.pose_hypotheses import PoseHypothesis, score_poses

Array = NDArray[np.float64]

_PRIOR_M, _PRIOR_RAD = 0.5, np.deg2rad(15.0)  # sigmas of a candidate
_COARSE_ITERATIONS = 8
_COARSE_STEP_PX = 0.1
_DUPLICATES = PoseSeparation(0.15, float(np.deg2rad(6.0)))  # after the coarse alignment
# Coarse poses closer than this are expected to end at the same pose when they are refined.
SAME_BASIN = PoseSeparation(0.4, float(np.deg2rad(15.0)))


@dataclass(frozen=True, slots=True)
class GlobalSearchConfig:
    """How a frame is found without a guess."""

    candidates: int = setting(16, 'poses rendered and aligned coarsely', 1, 1000)
    refined: int = setting(6, 'of them refined, until one is accepted', 1, 100)
    rival_share: float = setting(0.7, 'of the best coarse score: a rival that reaches it is '
                                 'refined before the best is accepted', 0.0, 1.0)
    panoramas: RetrievalConfig = setting(RetrievalConfig(), 'retrieval from panoramas',
                                         formerly='places')


def verify(refiner: CoarseToFine, candidates: Sequence[Candidate]) -> list[PoseHypothesis]:
    """Distinct poses after a coarse alignment of the candidates, the best first."""
    blurs, proposed = refiner.config.sigmas_px, [c.T_world_cam for c in candidates]
    sigmas_px = refiner.with_finer_rounds((*(blurs[1:] or blurs), 0.5 * blurs[-1]))
    poses, scores = align_coarsely(refiner, proposed, _COARSE_ITERATIONS)
    order = np.argsort(-scores, kind='stable')
    kept = [int(order[k]) for k in _DUPLICATES.distinct([poses[k] for k in order])]
    best = max(scores[kept[0]], 1e-9)
    rival_shares = [scores[k] / best for k in kept[1:]] + [0.0]
    return [PoseHypothesis(poses[k], sigmas_px, _prior_of(proposed[k]), share, True)
            for k, share in zip(kept, rival_shares)]


def unrefined_rivals(verified: Sequence[PoseHypothesis], T_best: Array,
                     config: GlobalSearchConfig) -> list[Array]:
    """Poses beyond those that were refined that score nearly as well and lie elsewhere."""
    return [hypothesis.T_world_cam for k, hypothesis in enumerate(verified)
            if k >= config.refined and verified[k - 1].rival_share >= config.rival_share
            and SAME_BASIN.apart(hypothesis.T_world_cam, T_best)]


def align_coarsely(refiner: CoarseToFine, poses: Sequence[Array], iterations: int,
                   ) -> tuple[Array, Array]:
    """Poses (n, 4, 4), each rendered once and aligned with the coarsest blur; scores (n,)."""
    config = replace(refiner.config.align, iterations=iterations, step_px=_COARSE_STEP_PX)
    views = [refiner.render(T, refiner.config.sigmas_px[0]) for T in poses]

    def align_one(k: int) -> tuple[Array, float]:
        T = align(views[k], poses[k], poses[k], config, _prior_of(poses[k])).T_world_cam
        return T, float(score_poses(views[k], poses[k], T[None])[0])

    found, scores = zip(*parallel_map(align_one, range(len(poses))), strict=True)
    return np.stack(found), np.array(scores)


def _prior_of(T_candidate: Array) -> PosePrior:
    return PosePrior(T_candidate, np.diag(np.repeat((_PRIOR_M**-2.0, _PRIOR_RAD**-2.0), 3)))

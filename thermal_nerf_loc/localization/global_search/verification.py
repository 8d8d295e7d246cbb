# SPDX-License-Identifier: Apache-2.0
"""
What candidates are worth: a coarse alignment of each, then the best ones refined and compared.

Every candidate is rendered once and aligned with much blur; those that end at the same pose are
one. The best few are refined to the end and judged as poses that a search has found: stricter,
because many were tried. A pose is believed only if no other that was refined fits nearly as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.config import setting
from thermal_nerf_loc.common.threads import side_by_side
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.localization.global_search.candidates import Candidate, distinct
from thermal_nerf_loc.localization.global_search.panorama_retrieval import RetrievalConfig
from thermal_nerf_loc.localization.refinement import pose_hypotheses
from thermal_nerf_loc.localization.refinement.aligner import align, PosePrior
from thermal_nerf_loc.localization.refinement.coarse_to_fine import CoarseToFine, Contender

Array = NDArray[np.float64]

_PRIOR_M, _PRIOR_RAD = 0.5, np.deg2rad(15.0)  # sigmas of a candidate
_QUICK_ITERATIONS = 8
_QUICK_STEP_PX = 0.1
_NEAR_M, _NEAR_DEG = 0.4, 15.0
_SAME_M, _SAME_RAD = 0.15, np.deg2rad(6.0)  # after the coarse alignment


@dataclass(frozen=True, slots=True)
class GlobalSearchConfig:
    """How a frame is found without a guess."""

    candidates: int = setting(16, 'poses rendered and aligned coarsely', 1, 1000)
    refined: int = setting(6, 'of them refined, while none convinces', 1, 100)
    rival_share: float = setting(0.7, 'of the best coarse score: a rival that reaches it is '
                                 'refined before the best is believed', 0.0, 1.0)
    places: RetrievalConfig = setting(RetrievalConfig(), 'search of the panoramas')


def is_near(T_a: Array, T_b: Array) -> bool:
    """Whether refining one pose would end where the other one already is."""
    metres, degrees = se3.distance(T_a, T_b)
    return metres < _NEAR_M and degrees < _NEAR_DEG


def contenders(descent: CoarseToFine, candidates: Sequence[Candidate], config: GlobalSearchConfig,
               ) -> list[Contender]:
    """
    Candidates after a coarse alignment, the best first; `rival` is the next one's share.

    The first `config.refined` are worth the time; a rival beyond them is not out of the question.
    """
    rounds, proposed = descent.config.sigmas_px, [c.T_world_cam for c in candidates]
    thorough = descent.detailed((*(rounds[1:] or rounds), 0.5 * rounds[-1]))
    poses, scores = settled(descent, proposed, _QUICK_ITERATIONS)
    order = np.argsort(-scores, kind='stable')
    kept = [int(order[k]) for k in distinct([poses[k] for k in order], _SAME_M, _SAME_RAD)]
    best = max(scores[kept[0]], 1e-9)
    shares = [scores[k] / best for k in kept[1:]] + [0.0]
    return [Contender(poses[k], thorough, _around(proposed[k]), share, True)
            for k, share in zip(kept, shares)]


def unrefined(found: Sequence[Contender], T_best: Array,
              config: GlobalSearchConfig) -> list[Array]:
    """Poses elsewhere that looked as good as the best to begin with, beyond what was refined."""
    return [contender.T_world_cam for k, contender in enumerate(found)
            if k >= config.refined and found[k - 1].rival >= config.rival_share
            and not is_near(contender.T_world_cam, T_best)]


def settled(descent: CoarseToFine, poses: Sequence[Array], iterations: int) -> tuple[Array, Array]:
    """Poses (n, 4, 4) rendered once and aligned with the coarsest blur, and their scores (n,)."""
    quick = replace(descent.config.align, iterations=iterations, step_px=_QUICK_STEP_PX)
    views = [descent.look(T, descent.config.sigmas_px[0]) for T in poses]

    def settle(k: int) -> tuple[Array, float]:
        found = align(views[k], poses[k], poses[k], quick, _around(poses[k])).T_world_cam
        return found, float(pose_hypotheses.scores(views[k], poses[k], found[None])[0])

    found, scores = zip(*side_by_side(settle, range(len(poses))), strict=True)
    return np.stack(found), np.array(scores)


def _around(T: Array) -> PosePrior:
    return PosePrior(T, np.diag(np.repeat((_PRIOR_M**-2.0, _PRIOR_RAD**-2.0), 3)))

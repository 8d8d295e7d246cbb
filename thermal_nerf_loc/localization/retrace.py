# SPDX-License-Identifier: Apache-2.0
"""Held-out frames with wrong poses: found in the finished map, before anything is measured."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.localization.confidence.fit_statistics import summarize
from thermal_nerf_loc.localization.confidence.verdict import agreement
from thermal_nerf_loc.localization.refinement.aligner import Aligned, PosePrior
from thermal_nerf_loc.localization.refinement.coarse_to_fine import (Contender, Descent,
                                                                     DescentConfig)
from thermal_nerf_loc.localization.refinement.image_pyramid import Observation, observe
from thermal_nerf_loc.sensing.rendering import Renderer

Array = NDArray[np.float64]

# for images 160 px wide. Poses may be some degrees off, which only blurred images can mend; where
# they are nearly right, much blur may lead away: what is large and smooth is often light
ROUNDS_PX = (9.0, 6.0, 3.0, 1.2, 0.8, 0.8), (3.0, 1.2, 0.8, 0.8), (1.2, 0.8, 0.8)
_FREE = np.diag(np.repeat((1.0, 10.0), 3))  # information of a prior that only forbids leaps


def retrace(renderer: Renderer, scene: Scene, indices: Sequence[int],
            rounds_px: Sequence[tuple[float, ...]] = ROUNDS_PX) -> list[Array]:
    """Poses of frames, each aligned to the map from where the scene has it, as fits best."""
    return [_aligned(renderer, scene, index, rounds_px) for index in indices]


def _aligned(renderer: Renderer, scene: Scene, index: int,
             rounds_px: Sequence[tuple[float, ...]]) -> Array:
    frame = scene.load(index)
    assert frame.T_world_cam is not None  # scenes are posed
    images, _ = observe(frame, tuple(name for name in renderer.modalities
                                     if name in frame.images))
    if not images:
        return frame.T_world_cam
    descent = Descent(renderer, DescentConfig(), images, index)
    prior = PosePrior(frame.T_world_cam, _FREE)
    found = [descent.refine(Contender(frame.T_world_cam, descent.detailed(rounds), prior, 0.0))
             for rounds in rounds_px]
    good = [one for one in found if not one.failed]
    if not good:
        return frame.T_world_cam
    return max(good, key=lambda one: _agreement(one, descent, images)).T_world_cam


def _agreement(found: Aligned, descent: Descent, images: Mapping[str, Observation]) -> float:
    fits, _ = summarize(found, descent.config.align)
    return agreement(dict(zip(images, fits)))[0]

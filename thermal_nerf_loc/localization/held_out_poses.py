# SPDX-License-Identifier: Apache-2.0
"""
Poses of held-out views for a map whose training poses were refined.

Images fix neither position nor scale of a scene, so that refined training poses may have moved as
a whole. Held-out poses are moved along with them (Sim(3)) and then refined against the frozen map,
as BARF does it: otherwise an error of the poses would be counted as an error of the map.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.batches import in_batches
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.geometry.similarity import IDENTITY, Similarity, umeyama
from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.localization.confidence.fit_statistics import summarize
from thermal_nerf_loc.localization.confidence.verdict import agreement
from thermal_nerf_loc.localization.refinement.aligner import Alignment, PosePrior
from thermal_nerf_loc.localization.refinement.coarse_to_fine import CoarseToFine, RefinementConfig
from thermal_nerf_loc.localization.refinement.image_pyramid import observe, ObservedImage
from thermal_nerf_loc.localization.refinement.pose_hypotheses import PoseHypothesis
from thermal_nerf_loc.mapping.map.localization_map import LocalizationMap

Array = NDArray[np.float64]

# Blurs for images 160 px wide. A pose that is some degrees off is only found with blurred images.
# One that is nearly right may get worse with them, because large smooth structures are often
# light, not the scene. So all three sequences are tried.
_ROUNDS_PX = (9.0, 6.0, 3.0, 1.2, 0.8, 0.8), (3.0, 1.2, 0.8, 0.8), (1.2, 0.8, 0.8)
_WEAK_PRIOR = np.diag(np.repeat((1.0, 10.0), 3))  # information; it only prevents jumps


def with_held_out(given: Scene, refined: Scene, localization_map: LocalizationMap,
                  progress: Progress = silent) -> Scene:
    """Return the refined scene with its held-out poses moved along and refined in the map."""
    before, after = (poses_of(scene, scene.train) for scene in (given, refined))
    moved = similarity_between(before, after).apply(poses_of(given, given.test))
    scene = _with_poses(refined, given.test, list(moved))
    poses = in_batches(lambda k: _refined(localization_map, scene, given.test[k]),
                       len(given.test), progress, 'poses of held-out images')
    return _with_poses(scene, given.test, poses)


def poses_of(scene: Scene, indices: Sequence[int]) -> Array:
    """T_world_cam of frames (n, 4, 4)."""
    return np.array([scene.frames[i].T_world_cam for i in indices]).reshape(-1, 4, 4)


def similarity_between(estimated: Array, truth: Array) -> Similarity:
    """Sim(3) over positions of poses (n, 4, 4); identity where they lie on a line."""
    try:
        return umeyama(estimated[:, :3, 3], truth[:, :3, 3], with_scale=True)
    except InputError:
        return IDENTITY


def _with_poses(scene: Scene, indices: Sequence[int], poses: Sequence[Array]) -> Scene:
    frames = list(scene.frames)
    for index, T in zip(indices, poses):
        frames[index] = replace(frames[index], T_world_cam=T)
    return replace(scene, frames=tuple(frames))


def _refined(localization_map: LocalizationMap, scene: Scene, index: int) -> Array:
    """Pose of a frame, aligned to the map from where the scene has it, with the best agreement."""
    frame = scene.load(index)
    assert frame.T_world_cam is not None  # scenes are posed
    images, _ = observe(frame, tuple(name for name in localization_map.modalities
                                     if name in frame.images))
    if not images:
        return frame.T_world_cam
    refiner = CoarseToFine(localization_map, RefinementConfig(), images, index)
    prior = PosePrior(frame.T_world_cam, _WEAK_PRIOR)
    found = [refiner.refine(PoseHypothesis(
        frame.T_world_cam, refiner.with_finer_rounds(rounds), prior, 0.0))
        for rounds in _ROUNDS_PX]
    good = [one for one in found if not one.failed]
    if not good:
        return frame.T_world_cam
    return max(good, key=lambda one: _agreement(one, refiner, images)).T_world_cam


def _agreement(found: Alignment, refiner: CoarseToFine,
               images: Mapping[str, ObservedImage]) -> float:
    fits, _ = summarize(found, refiner.config.align)
    return agreement(dict(zip(images, fits)))[0]

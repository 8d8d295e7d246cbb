# SPDX-License-Identifier: Apache-2.0
"""
What refined poses are worth: against the truth where it is known, and on views held out.

Images fix neither place nor scale of everything, so that both sides are aligned first, as evo
does it. Held-out poses go along with the training poses around them, and are then refined against
the frozen map, as BARF does it: else wrong poses would be counted as a wrong map.

Held-out frames with wrong poses: found in the finished map, before anything is measured.

What poses that were found in a map are worth: how many are believed, and against the truth.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.evaluation.association import find_alignment, IDENTITY, SIM3, Similarity
from thermal_nerf_loc.evaluation.map_quality import MapQuality
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.localization.confidence.fit_statistics import summarize
from thermal_nerf_loc.localization.confidence.verdict import agreement, sigmas
from thermal_nerf_loc.localization.refinement.aligner import Alignment, PosePrior
from thermal_nerf_loc.localization.refinement.coarse_to_fine import CoarseToFine, RefinementConfig
from thermal_nerf_loc.localization.refinement.image_pyramid import observe, ObservedImage
from thermal_nerf_loc.localization.refinement.pose_hypotheses import PoseHypothesis
from thermal_nerf_loc.localization.unposed_images import Finding
from thermal_nerf_loc.sensing.frame import THERMAL
from thermal_nerf_loc.sensing.rendering import Renderer

Array = NDArray[np.float64]

HELD_OUT = 'aligned with the training poses, then refined against the frozen map'


def with_held_out(given: Scene, refined: Scene, renderer: Renderer) -> Scene:
    """The refined scene, its held-out poses moved along and found in the map."""
    before, after = (poses_of(scene, scene.train) for scene in (given, refined))
    moved = _alignment(before, after).apply(poses_of(given, given.test))
    scene = _with_poses(refined, given.test, list(moved))
    return _with_poses(scene, given.test, retrace(renderer, scene, given.test))


def truth_errors(scene: Scene, split: str = 'train') -> dict[str, float] | None:
    """RMSE of poses after Sim(3) alignment, and of the rig; None where no truth is known."""
    indices = scene.split(split)
    truth = [scene.frames[i].T_world_cam_true for i in indices]
    known = [T for T in truth if T is not None]
    if len(known) < len(truth) or len(known) < 3:
        return None
    errors = pose_errors(poses_of(scene, indices), np.stack(known))
    rig = rig_error(scene)
    return errors if rig is None else {**errors, 'rig_m': rig[0], 'rig_deg': rig[1]}


def pose_errors(estimated: Array, truth: Array) -> dict[str, float]:
    """RMSE in metres and degrees of poses (n, 4, 4) after Sim(3) alignment, and its scale."""
    found = _alignment(estimated, truth)
    aligned = found.apply(estimated)
    off = np.array([se3.distance(a, b) for a, b in zip(aligned, truth)])
    rmse_m, rmse_deg = np.sqrt((off**2).mean(axis=0))
    return {'rmse_m': float(rmse_m), 'rmse_deg': float(rmse_deg), 'scale': found.scale}


def rig_error(scene: Scene) -> tuple[float, float] | None:
    """By how much the thermal camera is off in the rig, metres and degrees."""
    for frame in scene.frames:
        record = frame.records.get(THERMAL)
        if record is not None and record.T_cam_sensor_true is not None:
            return se3.distance(record.T_cam_sensor, record.T_cam_sensor_true)
    return None


def summary(facts: dict[str, Any], given: Scene, refined: Scene) -> dict[str, Any]:
    """Figures of a refinement: how far all was moved, and errors before and after."""
    figures = {name: value for name, value in facts.items() if name != 'frames'}
    for name, scene in (('truth_before', given), ('truth_after', refined)):
        errors = truth_errors(scene)
        if errors is not None:
            figures[name] = errors
    return figures


def poses_of(scene: Scene, indices: Sequence[int]) -> Array:
    """T_world_cam of frames (n, 4, 4)."""
    return np.array([scene.frames[i].T_world_cam for i in indices]).reshape(-1, 4, 4)


def _alignment(estimated: Array, truth: Array) -> Similarity:
    """Sim(3) over positions; where they lie on a line, what was given stays."""
    try:
        return find_alignment(estimated, truth, SIM3)
    except InputError:
        return IDENTITY


def _with_poses(scene: Scene, indices: Sequence[int], poses: Sequence[Array]) -> Scene:
    frames = list(scene.frames)
    for index, T in zip(indices, poses):
        frames[index] = replace(frames[index], T_world_cam=T)
    return replace(scene, frames=tuple(frames))


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
    descent = CoarseToFine(renderer, RefinementConfig(), images, index)
    prior = PosePrior(frame.T_world_cam, _FREE)
    found = [descent.refine(PoseHypothesis(
        frame.T_world_cam, descent.with_finer_rounds(rounds), prior, 0.0)) for rounds in rounds_px]
    good = [one for one in found if not one.failed]
    if not good:
        return frame.T_world_cam
    return max(good, key=lambda one: _agreement(one, descent, images)).T_world_cam


def _agreement(found: Alignment, descent: CoarseToFine,
               images: Mapping[str, ObservedImage]) -> float:
    fits, _ = summarize(found, descent.config.align)
    return agreement(dict(zip(images, fits)))[0]


GOOD_M, GOOD_DEG = 0.05, 2.0  # what is learned from should be no worse


def facts_of(finding: Finding) -> dict[str, Any]:
    """One frame's figures; errors where the truth is known."""
    found, refusal, truth = finding.localization, finding.refusal, finding.frame.T_world_cam_true
    sigma_m, sigma_deg = sigmas(found.covariance)
    facts = {'name': finding.frame.name, 'accepted': refusal is None, 'began': finding.start,
             'refused': refusal.kind if refusal else None,
             'reason': refusal.reason if refusal else '', 'verdict': found.verdict,
             'confidence': found.confidence, 'sigma_m': sigma_m, 'sigma_deg': sigma_deg}
    if truth is not None:
        facts['error_m'], facts['error_deg'] = se3.distance(found.T_world_cam, truth)
    return facts


def found_summary(findings: Sequence[Finding]) -> dict[str, Any]:
    """Shares of all frames that were looked for, and the errors of the accepted ones."""
    frames = [facts_of(finding) for finding in findings]
    accepted = [facts for facts in frames if facts['accepted']]
    refused = Counter(facts['refused'] for facts in frames if not facts['accepted'])
    known = np.array([(facts['error_m'], facts['error_deg']) for facts in accepted
                      if 'error_m' in facts]).reshape(-1, 2)
    figures = {'tried': len(frames), 'accepted': len(accepted),
               'accepted_share': len(accepted) / max(len(frames), 1), 'refused': dict(refused)}
    if len(known):
        bad = (known[:, 0] > GOOD_M) | (known[:, 1] > GOOD_DEG)
        figures['accepted_truth'] = {
            'known': len(known), 'median_m': float(np.median(known[:, 0])),
            'median_deg': float(np.median(known[:, 1])), 'worst_m': float(known[:, 0].max()),
            'worst_deg': float(known[:, 1].max()), 'worse_than_5cm_2deg': int(bad.sum())}
    return {**figures, 'frames': frames}


def gain(before: MapQuality, after: MapQuality) -> dict[str, float]:
    """By how much more a map shows of the held-out views, dB."""
    return {name: getattr(after, f'{name}_psnr') - getattr(before, f'{name}_psnr')
            for name in ('rgb', 'thermal') if getattr(before, f'{name}_psnr') is not None}

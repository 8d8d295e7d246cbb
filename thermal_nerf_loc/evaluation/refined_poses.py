# SPDX-License-Identifier: Apache-2.0
"""
Measure poses that were refined in training, or found for images that came without a pose.

Refined poses are compared with the truth, where it is known, after a Sim(3) alignment: images fix
neither the frame nor the scale of the world. For poses found in a map: how many were accepted,
their errors, and how much better the map became by them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.evaluation.map_quality import evaluate_map, MapQuality
from thermal_nerf_loc.evaluation.metrics import TRAINING_DEG, TRAINING_M
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.localization.confidence.verdict import sigmas
from thermal_nerf_loc.localization.extend_map import ExtendedMap
from thermal_nerf_loc.localization.held_out_poses import poses_of, similarity_between
from thermal_nerf_loc.localization.unposed_images import Finding
from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
from thermal_nerf_loc.sensing.frame import THERMAL

Array = NDArray[np.float64]

HELD_OUT = 'aligned with the training poses, then refined against the frozen map'
_COMPARED = ('rgb_psnr', 'rgb_ssim', 'thermal_psnr', 'thermal_ssim', 'thermal_mae_celsius',
             'depth_median_error_m')


def truth_errors(scene: Scene, split: str = 'train') -> dict[str, float] | None:
    """RMSE of poses after Sim(3) alignment, and of the rig; None where no truth is known."""
    indices = scene.split(split)
    truth = [scene.frames[i].T_world_cam_true for i in indices]
    known = [T for T in truth if T is not None]
    if len(known) < len(truth) or len(known) < 3:
        return None
    errors = aligned_rmse(poses_of(scene, indices), np.stack(known))
    rig = rig_error(scene)
    return errors if rig is None else {**errors, 'rig_m': rig[0], 'rig_deg': rig[1]}


def aligned_rmse(estimated: Array, truth: Array) -> dict[str, float]:
    """RMSE in metres and degrees of poses (n, 4, 4) after Sim(3) alignment, and its scale."""
    found = similarity_between(estimated, truth)
    aligned = found.apply(estimated)
    off = np.array([se3.distance(a, b) for a, b in zip(aligned, truth)])
    rmse_m, rmse_deg = np.sqrt((off**2).mean(axis=0))
    return {'rmse_m': float(rmse_m), 'rmse_deg': float(rmse_deg), 'scale': found.scale}


def rig_error(scene: Scene) -> tuple[float, float] | None:
    """Error of the thermal camera's pose in the rig, metres and degrees; None: no truth."""
    for frame in scene.frames:
        record = frame.records.get(THERMAL)
        if record is not None and record.T_cam_sensor_true is not None:
            return se3.distance(record.T_cam_sensor, record.T_cam_sensor_true)
    return None


def refinement_figures(facts: Mapping[str, Any], given: Scene, refined: Scene,
                       ) -> dict[str, Any]:
    """Figures of a refinement: how far poses and cameras moved, errors before and after."""
    if not facts:
        return {}
    figures = {name: value for name, value in facts.items() if name != 'frames'}
    for name, scene in (('truth_before', given), ('truth_after', refined)):
        errors = truth_errors(scene)
        if errors is not None:
            figures[name] = errors
    if 'poses' in facts['what'] and given.test:
        figures['held_out_poses'] = HELD_OUT
    return figures


def extension_figures(start: RadianceMap, scene: Scene, extended: ExtendedMap) -> dict[str, Any]:
    """Figures of an extension: frames found, rounds, and the quality of both maps."""
    before, after = evaluate_map(start, scene), evaluate_map(extended.map, extended.scene)
    rounds = [{'tried': one.tried, 'accepted': one.accepted}
              | ({} if one.seconds is None else
                 {'seconds': one.seconds, 'places': one.panoramas}) for one in extended.rounds]
    return {**unposed_summary(extended.findings), 'rounds': rounds,
            **{name: {key: asdict(quality)[key] for key in _COMPARED}
               for name, quality in (('before', before), ('after', after))},
            'gain_db': psnr_gain(before, after)}


def finding_figures(finding: Finding) -> dict[str, Any]:
    """Figures of one frame that had no pose; errors where the truth is known."""
    found, refusal, truth = finding.localization, finding.refusal, finding.frame.T_world_cam_true
    sigma_m, sigma_deg = sigmas(found.covariance)
    figures = {'name': finding.frame.name, 'accepted': refusal is None, 'began': finding.start,
               'refused': refusal.kind if refusal else None,
               'reason': refusal.reason if refusal else '', 'verdict': found.verdict,
               'confidence': found.confidence, 'sigma_m': sigma_m, 'sigma_deg': sigma_deg}
    if truth is not None:
        figures['error_m'], figures['error_deg'] = se3.distance(found.T_world_cam, truth)
    return figures


def unposed_summary(findings: Sequence[Finding]) -> dict[str, Any]:
    """Shares of all frames that were localized, and the errors of the accepted ones."""
    frames = [finding_figures(finding) for finding in findings]
    accepted = [row for row in frames if row['accepted']]
    refused = Counter(row['refused'] for row in frames if not row['accepted'])
    known = np.array([(row['error_m'], row['error_deg']) for row in accepted
                      if 'error_m' in row]).reshape(-1, 2)
    figures = {'tried': len(frames), 'accepted': len(accepted),
               'accepted_share': len(accepted) / max(len(frames), 1), 'refused': dict(refused)}
    if len(known):
        bad = (known[:, 0] > TRAINING_M) | (known[:, 1] > TRAINING_DEG)
        figures['accepted_truth'] = {
            'known': len(known), 'median_m': float(np.median(known[:, 0])),
            'median_deg': float(np.median(known[:, 1])), 'worst_m': float(known[:, 0].max()),
            'worst_deg': float(known[:, 1].max()), 'worse_than_5cm_2deg': int(bad.sum())}
    return {**figures, 'frames': frames}


def psnr_gain(before: MapQuality, after: MapQuality) -> dict[str, float]:
    """Gain in PSNR on the held-out views, dB by modality."""
    return {name: getattr(after, f'{name}_psnr') - getattr(before, f'{name}_psnr')
            for name in ('rgb', 'thermal') if getattr(before, f'{name}_psnr') is not None}

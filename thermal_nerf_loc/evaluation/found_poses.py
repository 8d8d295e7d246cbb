# SPDX-License-Identifier: Apache-2.0
"""What poses that were found in a map are worth: how many are believed, and against the truth."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from thermal_nerf_loc.evaluation.map_quality import MapQuality
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.localization.confidence.verdict import sigmas
from thermal_nerf_loc.localization.unposed_images import Finding

GOOD_M, GOOD_DEG = 0.05, 2.0  # what is learned from should be no worse


def facts_of(finding: Finding) -> dict[str, Any]:
    """One frame's figures; errors where the truth is known."""
    found, refusal, truth = finding.localization, finding.refusal, finding.frame.T_world_cam_true
    sigma_m, sigma_deg = sigmas(found.covariance)
    facts = {'name': finding.frame.name, 'accepted': refusal is None, 'began': finding.began,
             'refused': refusal.kind if refusal else None,
             'reason': refusal.reason if refusal else '', 'verdict': found.verdict,
             'confidence': found.confidence, 'sigma_m': sigma_m, 'sigma_deg': sigma_deg}
    if truth is not None:
        facts['error_m'], facts['error_deg'] = se3.distance(found.T_world_cam, truth)
    return facts


def summary(findings: Sequence[Finding]) -> dict[str, Any]:
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

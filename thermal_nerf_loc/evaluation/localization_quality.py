# SPDX-License-Identifier: Apache-2.0
"""Localize the images of a data set, one by one, and compare the poses with those it gives."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.evaluation.metrics import pose_errors
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.localization.confidence.verdict import VERDICT_AMBIGUOUS, VERDICT_OK
from thermal_nerf_loc.localization.localizer import Localizer

Array = NDArray[np.float64]


def localize_scene(localizer: Localizer, scene: Scene, modalities: Sequence[str],
                   split: str = 'test', start_error: tuple[float, float] | None = None,
                   most: int | None = None, seed: int = 0,
                   progress: Progress = silent) -> dict[str, Any]:
    """
    Localize the first `most` images of a split; figures of each and of all, as JSON takes them.

    Each search starts `start_error` (metres, degrees) off the true pose; None: without a start.
    """
    indices = scene.split(split)[:most]
    rows, found, truth = [], [], []
    for done, index in enumerate(indices):
        frame = scene.load(index)
        assert frame.T_world_cam is not None  # scenes are posed
        start = None if start_error is None else perturbed(
            frame.T_world_cam, *start_error, (seed, int(index)))
        result = localizer.localize(frame.only(*modalities), start)
        errors = pose_errors(result.T_world_cam, frame.T_world_cam)
        found.append(result.T_world_cam)
        truth.append(frame.T_world_cam)
        rows.append({'name': frame.name, 'error_m': float(errors.metres[0]),
                     'error_deg': float(errors.degrees[0]), 'seconds': result.seconds,
                     'confident': result.verdict == VERDICT_OK, 'confidence': result.confidence,
                     'verdict': result.verdict, 'reason': result.reason,
                     'rivals': len(result.rivals), 'carried_by': result.carried_by})
        progress(done + 1, len(indices), frame.name)
    errors = pose_errors(np.array(found), np.array(truth))
    confident = np.array([row['confident'] for row in rows])
    return {'frames': rows, 'success_5cm_5deg': errors.success_5cm_5deg,
            'median_m': float(np.median(errors.metres)),
            'median_deg': float(np.median(errors.degrees)),
            'median_seconds': float(np.median([row['seconds'] for row in rows])),
            'confident_share': float(confident.mean()),
            'ambiguous_share': float(np.mean(
                [row['verdict'] == VERDICT_AMBIGUOUS for row in rows])),
            'wrong_but_confident_share': float((confident & errors.wrong).mean())}


def perturbed(T_world_cam: Array, metres: float, degrees: float, seed: tuple[int, ...]) -> Array:
    """
    Shift and turn a pose by so much, in random directions.

    By `se3.plus`, in which a turn shortens the shift a little (0.1 % at 10 deg).
    """
    v, w = np.random.default_rng(seed).normal(size=(2, 3))
    return se3.plus(T_world_cam, np.concatenate([
        metres * v / np.linalg.norm(v), np.deg2rad(degrees) * w / np.linalg.norm(w)]))

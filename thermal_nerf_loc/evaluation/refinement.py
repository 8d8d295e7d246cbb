# SPDX-License-Identifier: Apache-2.0
"""
What refined poses are worth: against the truth where it is known, and on views held out.

Images fix neither place nor scale of everything, so that both sides are aligned first, as evo
does it. Held-out poses go along with the training poses around them, and are then refined against
the frozen map, as BARF does it: else wrong poses would be counted as a wrong map.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.evaluation.alignment import find_alignment, IDENTITY, SIM3, Similarity
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.localization.retrace import retrace
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

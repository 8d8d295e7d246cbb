# SPDX-License-Identifier: Apache-2.0
"""Held-out frames with wrong poses: found in the finished map, before anything is measured."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.data.scene import Scene
from thermal_nerf_loc.localization.alignment import PosePrior
from thermal_nerf_loc.localization.descent import Contender, Descent, DescentConfig
from thermal_nerf_loc.localization.observation import observe
from thermal_nerf_loc.sensing.rendering import Renderer

Array = NDArray[np.float64]

SIGMAS_PX = (9.0, 6.0, 3.0, 1.2, 0.8, 0.8)
_FREE = np.diag(np.repeat((1.0, 10.0), 3))  # information of a prior that only forbids leaps


def retrace(renderer: Renderer, scene: Scene, indices: Sequence[int],
            sigmas_px: tuple[float, ...] = SIGMAS_PX) -> list[Array]:
    """Poses of frames, each aligned to the map from where the scene has it."""
    return [_aligned(renderer, scene, index, sigmas_px) for index in indices]


def _aligned(renderer: Renderer, scene: Scene, index: int, sigmas_px: tuple[float, ...]) -> Array:
    frame = scene.load(index)
    assert frame.T_world_cam is not None  # scenes are posed
    images, _ = observe(frame, tuple(name for name in renderer.modalities
                                     if name in frame.images))
    if not images:
        return frame.T_world_cam
    descent = Descent(renderer, DescentConfig(), images, index)
    aligned = descent.refine(Contender(frame.T_world_cam, sigmas_px,
                                       PosePrior(frame.T_world_cam, _FREE), 0.0))
    return frame.T_world_cam if aligned.failed else aligned.T_world_cam

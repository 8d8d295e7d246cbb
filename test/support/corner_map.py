# SPDX-License-Identifier: Apache-2.0
"""The textured corner as a posed scene, and as a map whose wall may be bent."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from stand_in_map import StandInMap
from textured_corner import CAMERA, write_photographs

from thermal_nerf_loc.io.datasets.scene import ImageRecord, Scene, SceneFrame
from thermal_nerf_loc.sensing.rendering import RayRendering

WALL_Z_M, FLOOR_Y_M = 3.0, 1.0


def corner_scene(folder: Path, count: int = 12, held_out: int = 3) -> Scene:
    """Photographs of the corner; every few of them held out."""
    poses = write_photographs(folder, count)
    frames = tuple(SceneFrame(f'{k:02d}', T, {'rgb': ImageRecord(
        folder / f'{k:02d}.png', CAMERA, np.eye(4))}) for k, T in enumerate(poses))
    test = tuple(range(1, count, count // held_out))
    return Scene(folder, frames, tuple(k for k in range(count) if k not in test), test)


class CornerMap(StandInMap):
    """
    Wall and floor where they are, but for `error`.

    `error(origins, points)` is the share by which the distance to each of these points is wrong.
    """

    modalities = ('rgb',)

    def __init__(self, error: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
                 **members: object) -> None:
        super().__init__(**members)
        self._error = error
        self.rays = 0

    def render_rays(self, modality: str, origins: np.ndarray, directions: np.ndarray,
                    ) -> RayRendering:
        """Exact distances, times one plus the error."""
        self.rays += len(origins)
        o, d = origins.astype(np.float64), directions.astype(np.float64)
        with np.errstate(divide='ignore', invalid='ignore'):
            hits = np.stack([(WALL_Z_M - o[:, 2]) / d[:, 2], (FLOOR_Y_M - o[:, 1]) / d[:, 1]])
        distance = np.minimum(np.where(hits > 0.0, hits, 50.0).min(axis=0), 50.0)
        if self._error is not None:
            distance = distance * (1.0 + self._error(o, o + distance[:, None] * d))
        nothing = np.zeros(len(o), np.float32)
        return RayRendering(np.zeros((len(o), 3), np.float32), distance.astype(np.float32),
                            nothing, nothing + 1.0)

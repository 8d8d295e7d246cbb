# SPDX-License-Identifier: Apache-2.0
"""Keyframes: poses and thumbnails of the training views, kept inside the map."""

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.io.datasets.scene import load_image, Scene

_WIDTH_PX, _HEIGHT_PX = 40, 30
_MAX_KEYFRAMES = 400


@dataclass(frozen=True, slots=True, eq=False)
class Keyframes:
    """Poses of reference cameras (n, 4, 4) and thumbnails by modality (n, 30, 40, channels)."""

    poses: NDArray[np.float64]
    thumbnails: Mapping[str, NDArray[np.float32]]

    def __len__(self) -> int:
        """Number of keyframes."""
        return len(self.poses)


def keyframes_of(scene: Scene) -> Keyframes:
    """Training frames that hold every modality, evenly thinned to at most 400."""
    complete = [i for i in scene.train if set(scene.frames[i].records) == set(scene.modalities)]
    chosen = complete[::max(1, -(-len(complete) // _MAX_KEYFRAMES))]
    thumbnails = {}
    for name in scene.modalities:  # one image in memory at a time
        small = [_thumbnail(load_image(name, scene.frames[i].records[name]).values)
                 for i in chosen]
        thumbnails[name] = (np.stack(small) if small else
                            np.empty((0, _HEIGHT_PX, _WIDTH_PX, 1), np.float32))
    poses = [scene.frames[i].T_world_cam for i in chosen]
    return Keyframes(np.stack(poses) if poses else np.empty((0, 4, 4)), thumbnails)


def _thumbnail(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Small version (30, 40, channels) of an image."""
    small = cv2.resize(np.nan_to_num(values), (_WIDTH_PX, _HEIGHT_PX),
                       interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32).reshape(_HEIGHT_PX, _WIDTH_PX, -1)

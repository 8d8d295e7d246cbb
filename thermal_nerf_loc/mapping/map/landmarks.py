# SPDX-License-Identifier: Apache-2.0
"""
Landmarks: points of the map that a feature detector finds again, with what they look like.

A radiance map shows surfaces as sharp as its hash grid and its training allow; a corner in a
training image is known to a fraction of its pixel. Landmarks keep some of that in the map.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.config import setting

WIDTH = 128  # of a SIFT descriptor
_STEPS = 512.0  # of a component; unit descriptors have few above a half


@dataclass(frozen=True, slots=True)
class LandmarkConfig:
    """Landmarks that a map keeps."""

    most: int = setting(20_000, 'landmarks of each modality; 0: none', 0, 1_000_000)
    keypoints: int = setting(1500, 'keypoints of each training image, at most', 50, 100_000)
    neighbours: int = setting(12, 'images that each one is matched with', 1, 1000)


@dataclass(frozen=True, slots=True, eq=False)
class Landmarks:
    """Points (n, 3) in world metres and their descriptors (n, 128), of one modality."""

    points: NDArray[np.float32]
    descriptors: NDArray[np.uint8]  # unit vectors, see `as_bytes`

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together."""
        n = len(self.points)
        if (self.points.shape != (n, 3) or self.descriptors.shape != (n, WIDTH)
                or self.descriptors.dtype != np.uint8 or not np.isfinite(self.points).all()):
            raise ValueError('landmarks are points with a descriptor each')

    def __len__(self) -> int:
        """Number of points."""
        return len(self.points)

    def unit_descriptors(self) -> NDArray[np.float32]:
        """Descriptors (n, 128) of length 1."""
        values = self.descriptors.astype(np.float32)
        return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1.0),
                          np.float32)


def as_bytes(descriptors: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Descriptors (n, 128) about of length 1 as the map keeps them."""
    return np.asarray(np.clip(np.rint(_STEPS * descriptors), 0, 255), np.uint8)


def tensors_of(landmarks: Mapping[str, Landmarks]) -> dict[str, NDArray[Any]]:
    """Arrays by name, for the map file."""
    return {f'{name}.{part}': getattr(found, part) for name, found in landmarks.items()
            for part in ('points', 'descriptors')}


def from_tensors(tensors: Mapping[str, NDArray[Any]]) -> dict[str, Landmarks]:
    """Landmarks by modality."""
    names = {key.rpartition('.')[0] for key in tensors}
    return {name: Landmarks(tensors[f'{name}.points'], tensors[f'{name}.descriptors'])
            for name in sorted(names)}

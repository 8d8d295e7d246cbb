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
    keypoints: int = setting(2000, 'keypoints of each training image, at most', 50, 100_000)
    of_all_images: int = setting(200_000, 'keypoints of all images together, about', 1000,
                                 100_000_000)
    neighbours: int = setting(12, 'images that each one is matched with', 1, 1000)
    descriptors: int = setting(3, 'descriptors of a landmark, as different views show it, at most',
                               1, 20)

    def per_image(self, images: int) -> int:
        """Keypoints of each of so many images; fewer in large sets, so that time is bounded."""
        return max(min(self.keypoints, self.of_all_images // max(images, 1)), 50)


@dataclass(frozen=True, slots=True, eq=False)
class Landmarks:
    """Points of one modality in world metres, and how images show them."""

    points: NDArray[np.float32]  # (n, 3)
    covariances: NDArray[np.float32]  # (n, 3, 3) m^2; 0: not known
    directions: NDArray[np.float32]  # (n, 3) unit, from the cameras that saw it; 0: not known
    descriptors: NDArray[np.uint8]  # (m, 128) unit vectors, see `as_bytes`; several a point
    owners: NDArray[np.int32]  # (m,) the point of each, in order

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together."""
        n, m = len(self.points), len(self.descriptors)
        shapes = {'points': (n, 3), 'covariances': (n, 3, 3), 'directions': (n, 3),
                  'descriptors': (m, WIDTH), 'owners': (m,)}
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value.shape != shape or not np.isfinite(value).all():
                raise ValueError(f'landmarks are points with descriptors: {name} is of shape '
                                 f'{value.shape}, not {shape}')
        if self.descriptors.dtype != np.uint8 or not self._owned():
            raise ValueError('landmarks are points with one descriptor or more each')

    def __len__(self) -> int:
        """Number of points."""
        return len(self.points)

    @property
    def nbytes(self) -> int:
        """Size in memory and in the map file."""
        return sum(getattr(self, name).nbytes for name in _PARTS)

    def unit_descriptors(self) -> NDArray[np.float32]:
        """Descriptors (m, 128) of length 1."""
        values = self.descriptors.astype(np.float32)
        return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1.0),
                          np.float32)

    def _owned(self) -> bool:
        """Every point has descriptors, and they are in order."""
        return np.array_equal(np.unique(self.owners), np.arange(len(self.points))) and bool(
            (np.diff(self.owners) >= 0).all())


_PARTS = 'points', 'covariances', 'directions', 'descriptors', 'owners'


def plain_landmarks(points: NDArray[np.float32], descriptors: NDArray[np.uint8]) -> Landmarks:
    """Landmarks with one descriptor each, of which nothing else is known."""
    n = len(points)
    return Landmarks(points, np.zeros((n, 3, 3), np.float32), np.zeros((n, 3), np.float32),
                     descriptors, np.arange(n, dtype=np.int32))


def as_bytes(descriptors: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Descriptors (n, 128) about of length 1 as the map keeps them."""
    return np.asarray(np.clip(np.rint(_STEPS * descriptors), 0, 255), np.uint8)


def tensors_of(landmarks: Mapping[str, Landmarks]) -> dict[str, NDArray[Any]]:
    """Arrays by name, for the map file."""
    return {f'{name}.{part}': getattr(found, part) for name, found in landmarks.items()
            for part in _PARTS}


def from_tensors(tensors: Mapping[str, NDArray[Any]]) -> dict[str, Landmarks]:
    """Landmarks by modality; older files keep points and one descriptor of each alone."""
    names = sorted({key.rpartition('.')[0] for key in tensors})
    unknown = set(tensors) - {f'{name}.{part}' for name in names for part in _PARTS}
    if unknown:
        raise ValueError(f'landmarks have no {", ".join(sorted(unknown))}')
    return {name: Landmarks(*(tensors[f'{name}.{part}'] for part in _PARTS))
            if f'{name}.owners' in tensors else
            plain_landmarks(tensors[f'{name}.points'], tensors[f'{name}.descriptors'])
            for name in names}

# SPDX-License-Identifier: Apache-2.0
"""
Keypoints of an image matched with the landmarks of a map.

All over the map a match must be mutual and distinct (Lowe). Near a known pose it need only be that
among the few keypoints close to where the landmark projects, so that far more are found.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.mapping.camera_poses.features import (
    detect_features, FeatureConfig, ImageFeatures)
from thermal_nerf_loc.mapping.map.landmarks import Landmarks
from thermal_nerf_loc.sensing.frame import SensorImage

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]
Indices = NDArray[np.intp]

_QUERY = FeatureConfig(per_image=2000)
_RATIO = 0.85  # of the distances to the best and the second-best landmark (Lowe)
_SECOND_BEST = 4  # landmarks among which the best one elsewhere is looked for
_SAME_PLACE = 0.01  # of the map's size: a second landmark so near to the best is the same corner
_NEARBY_RATIO = 0.95  # near a pose: keypoints elsewhere do not compete
_LEAST_ALIKE, _UNRELATED = 0.75, 0.6  # cosines: of a match; of a keypoint that shows another point
_WIDEST_COSINE = 0.4  # between the direction of a landmark and that from which it was seen
_CHUNK = 8192  # pairs of descriptors compared at once
_NOMINAL_WIDTH_PX = 640  # tolerances are in pixels of images of this width


class Matches(NamedTuple):
    """Landmarks and the pixels that show them."""

    uv: Array  # (n, 2)
    landmark: Indices  # (n,)

    @classmethod
    def none(cls) -> 'Matches':
        """No match."""
        return cls(np.empty((0, 2)), np.empty(0, np.intp))


class LandmarkTable:
    """Landmarks of one modality, ready to be compared: those with most descriptors first."""

    def __init__(self, landmarks: Landmarks) -> None:
        """Unpack descriptors once, into one table for each rank."""
        counts = np.bincount(landmarks.owners, minlength=len(landmarks))
        order = np.argsort(-counts, kind='stable')
        first, unit = np.searchsorted(landmarks.owners, order), landmarks.unit_descriptors()
        having = [order[counts[order] > k] for k in range(int(counts.max(initial=0)))]
        self.points, self.covariances, self.directions = (
            part[order].astype(np.float64) for part in
            (landmarks.points, landmarks.covariances, landmarks.directions))
        # (n_k, 128) of the first n_k landmarks
        self.descriptors = [unit[first[:len(part)] + k] for k, part in enumerate(having)]
        middle = np.median(self.points, axis=0)
        self.size_m = float(np.median(np.linalg.norm(self.points - middle, axis=1)))

    def similarity(self, descriptors: Array32) -> Array32:
        """Cosines (q, n) of descriptors; of a landmark's own the most alike counts."""
        best = descriptors @ self.descriptors[0].T
        for table in self.descriptors[1:]:
            part = best[:, :len(table)]
            np.maximum(part, descriptors @ table.T, out=part)
        return best

    def similarity_of(self, landmark: Indices, descriptors: Array32) -> Array32:
        """The same of pairs (n,)."""
        best = np.full(len(landmark), -1.0, np.float32)
        for table in self.descriptors:
            rows = np.flatnonzero(landmark < len(table))
            for k in range(0, len(rows), _CHUNK):
                part = rows[k:k + _CHUNK]
                alike = np.einsum('ij,ij->i', table[landmark[part]], descriptors[part])
                best[part] = np.maximum(best[part], alike)
        return best


class ImageLandmarks:
    """One camera's image and the landmarks of its modality."""

    def __init__(self, modality: str, image: SensorImage, table: LandmarkTable,
                 features: ImageFeatures | None = None) -> None:
        """Find the image's keypoints, if they are not given."""
        self.image, self.table = image, table
        self.features = features or detect_features(modality, 1, lambda _: image, _QUERY)[0]
        self.unit_px = image.camera.width / _NOMINAL_WIDTH_PX  # a nominal pixel

    def everywhere(self) -> Matches:
        """Mutual and distinct matches with all landmarks."""
        if not len(self.features.uv) or len(self.table.points) < _SECOND_BEST:
            return Matches.none()
        similarity = self.table.similarity(self.features.descriptors)
        best = similarity.argmax(axis=1)
        rows = np.flatnonzero(_best_rows(similarity, best))
        landmark = best[rows]
        chosen = _is_distinct(similarity[rows], self.table)
        return Matches(self.features.uv[rows[chosen]], landmark[chosen])

    def near(self, T_world_cam: Array, radius_px: float) -> Matches:
        """Landmarks in view of a pose, each with the keypoint near it that is most like it."""
        T = T_world_cam @ self.image.T_cam_sensor
        points, directions = self.table.points, self.table.directions
        uv, seen = self.image.camera.project(se3.transform(se3.inverse(T), points))
        ray = points - T[:3, 3]
        length = np.linalg.norm(ray, axis=1)
        known = directions.any(axis=1)
        seen &= ~known | ((ray * directions).sum(axis=1) > _WIDEST_COSINE * length)
        visible = np.flatnonzero(seen)
        if not len(visible) or not len(self.features.uv):
            return Matches.none()
        found = cKDTree(self.features.uv).query_ball_point(uv[visible], radius_px * self.unit_px)
        counts = np.array([len(part) for part in found])
        keypoint = np.array([k for part in found for k in part], np.intp)
        landmark = np.repeat(visible, counts)
        if not len(landmark):
            return Matches.none()
        alike = self.table.similarity_of(landmark, self.features.descriptors[keypoint])
        chosen = _best_pairs(landmark, keypoint, alike, len(self.features.uv))
        return Matches(self.features.uv[keypoint[chosen]], landmark[chosen])


def _best_rows(similarity: Array32, best: Indices) -> NDArray[np.bool_]:
    """Rows that are the best of the column that is best for them (mutual)."""
    most = similarity.max(axis=0)
    return np.asarray(similarity[np.arange(len(best)), best] >= most[best])


def _is_distinct(similarity: Array32, table: LandmarkTable) -> NDArray[np.bool_]:
    """Whether the best landmark (of n rows) is nearer by far than the best one elsewhere."""
    rows = np.arange(len(similarity))
    first, top = np.empty(0, np.intp), np.empty(0, np.float32)
    second = np.full(len(rows), np.nan)
    for k in range(_SECOND_BEST):
        column = similarity.argmax(axis=1)
        alike = similarity[rows, column]
        if k == 0:
            first, top = column, alike
        else:
            apart_m = np.linalg.norm(table.points[column] - table.points[first], axis=1)
            elsewhere = (apart_m > _SAME_PLACE * table.size_m) | (k == _SECOND_BEST - 1)
            second = np.where(np.isnan(second) & elsewhere, alike, second)
        similarity[rows, column] = -1.0
    return np.asarray(1.0 - top < _RATIO**2 * (1.0 - second))  # squared distances, halved


def _best_pairs(landmark: Indices, keypoint: Indices, alike: Array32, keypoints: int) -> Indices:
    """Of pairs (n,), in the order of landmarks, those that are alike, mutually and distinctly."""
    order = np.lexsort((-alike, landmark))
    of, sorted_alike = landmark[order], alike[order]
    first = np.flatnonzero(np.diff(of, prepend=-1))
    following = np.minimum(first + 1, len(order) - 1)
    rivalled = (following > first) & (of[following] == of[first])
    second = np.where(rivalled, sorted_alike[following], _UNRELATED)
    pair, top = order[first], sorted_alike[first]
    best_of_keypoint = np.full(keypoints, -1.0, np.float32)
    np.maximum.at(best_of_keypoint, keypoint, alike)
    good = ((top >= best_of_keypoint[keypoint[pair]]) & (top > _LEAST_ALIKE)
            & (1.0 - top < _NEARBY_RATIO**2 * (1.0 - second)))
    return np.asarray(pair[good])


def spread(images: Sequence[ImageLandmarks], matches: Sequence[Matches]) -> float:
    """The largest share of an image's cells (8 by 8) that hold a match."""
    best = 0.0
    for one, found in zip(images, matches):
        cell = np.clip((8.0 * found.uv / one.image.camera.size).astype(np.intp), 0, 7)
        best = max(best, len(np.unique(cell @ (1, 8))) / 64.0)
    return best

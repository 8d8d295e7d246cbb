# SPDX-License-Identifier: Apache-2.0
"""
Feature tracks: SIFT keypoints, matched mutually, verified by the essential matrix, joined.

Poses choose the pairs of images that are matched and nothing else, so that wrong ones do no harm.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csgraph

from thermal_nerf_loc.common.config import setting
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.sensing.frame import RGB, SensorImage

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]

_SMALLEST_PX = 320  # images narrower than this are doubled: SIFT needs some pixels
_LARGEST_PX = 960
_WIDEST_RAD = np.deg2rad(70.0)  # between the axes of two images that are matched
NOMINAL_WIDTH_PX = 160  # tolerances and residuals are in pixels of images of this width
_FEWEST_MATCHES = 12  # that a pair must keep, for its geometry to be trusted
_LEAST_INLIERS = 0.3  # of a pair's matches
_HIGH_PASS_SHARE = 0.06  # of the width: what is smoother in a thermal image is vignetting or drift


@dataclass(frozen=True, slots=True)
class FeatureConfig:
    """How points that images share are found."""

    per_image: int = setting(600, 'SIFT keypoints an image', 50, 100_000)
    ratio: float = setting(0.85, 'most of the distances to the best and the second-best match '
                           '(Lowe)', 0.1, 1.0)
    neighbours: int = setting(16, 'images that each one is matched with', 1, 1000)
    epipolar_px: float = setting(1.0, 'most distance of a match from its epipolar line, in images '
                                 '160 pixels wide', 0.01, 100.0)


@dataclass(frozen=True, slots=True, eq=False)
class Tracks:
    """Points that several images show; one entry an observation."""

    image: NDArray[np.int64]  # (n,)
    point: NDArray[np.int64]  # (n,) 0 to points - 1
    xy: Array  # (n, 2) undistorted, at focal length 1
    points: int


@dataclass(frozen=True, slots=True, eq=False)
class ImageFeatures:
    """Keypoints of one image."""

    uv: Array  # (n, 2) pixels
    xy: Array  # (n, 2) undistorted, at focal length 1
    descriptors: Array32  # (n, 128) of length 1
    camera: Camera


def find_tracks(modality: str, count: int, load: Callable[[int], SensorImage],
                poses: Array, config: FeatureConfig = FeatureConfig()) -> Tracks:
    """Match images 0 to `count` with sensors at about `poses` (n, 4, 4) T_world_sensor."""
    features = detect_features(modality, count, load, config)
    starts = np.concatenate([[0], np.cumsum([len(f.xy) for f in features])]).astype(np.int64)
    ends: list[NDArray[np.int64]] = []
    for a, b in candidate_pairs(poses, config.neighbours):
        found = _match(features[a], features[b], config)
        ends.append(found + starts[[a, b]])
    edges = np.concatenate(ends) if ends else np.empty((0, 2), np.int64)
    xy = np.concatenate([f.xy for f in features])
    image = np.repeat(np.arange(count), np.diff(starts))
    return _joined(edges, image, xy)


def detect_features(modality: str, count: int, load: Callable[[int], SensorImage],
                    config: FeatureConfig = FeatureConfig()) -> list[ImageFeatures]:
    """Keypoints of images 0 to `count`."""
    pattern = None if modality == RGB else _fixed_pattern(count, load)
    return [_features(load(i), modality, pattern, config.per_image) for i in range(count)]


def candidate_pairs(poses: Array, neighbours: int) -> list[tuple[int, int]]:
    """Pairs that may overlap: each image with its nearest in direction and position."""
    axes, centers = poses[:, :3, 2], poses[:, :3, 3]
    angle = np.arccos(np.clip(axes @ axes.T, -1.0, 1.0))
    distances_m = np.linalg.norm(centers[:, None] - centers[None], axis=-1)
    cost = angle + 0.5 * distances_m / max(float(np.median(distances_m)), 1e-9)
    cost[angle > _WIDEST_RAD] = np.inf
    np.fill_diagonal(cost, np.inf)
    pairs = set()
    for a, row in enumerate(cost):
        for b in np.argsort(row, kind='stable')[:neighbours]:
            if np.isfinite(row[b]):
                pairs.add((min(a, int(b)), max(a, int(b))))
    return sorted(pairs)


def _features(image: SensorImage, modality: str, pattern: Array32 | None, count: int,
              ) -> ImageFeatures:
    grey = image.values.mean(axis=-1)
    if modality != RGB:
        grey = _detail(grey)
        grey = grey if pattern is None or pattern.shape != grey.shape else grey - pattern
        grey = cv2.GaussianBlur(grey, (0, 0), 0.8)
    low, high = np.quantile(grey, (0.005, 0.995))
    pixels = np.clip((grey - low) / max(high - low, 1e-9) * 255.0, 0, 255).astype(np.uint8)
    scale = 1.0
    if pixels.shape[1] < _SMALLEST_PX:
        scale = 2.0
    elif pixels.shape[1] > _LARGEST_PX:
        scale = _LARGEST_PX / pixels.shape[1]
    if scale != 1.0:
        pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    mask = None
    if image.valid is not None:
        mask = cv2.resize(image.valid.astype(np.uint8), pixels.shape[::-1],
                          interpolation=cv2.INTER_NEAREST)
    sift = cv2.SIFT.create(nfeatures=count, contrastThreshold=0.01)
    keypoints, descriptors = sift.detectAndCompute(pixels, mask)
    if not keypoints:
        return ImageFeatures(np.empty((0, 2)), np.empty((0, 2)), np.empty((0, 128), np.float32),
                             image.camera)
    root = np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-9))
    uv = (np.array([k.pt for k in keypoints]) + 0.5) / scale
    rays = image.camera.unproject(uv)
    return ImageFeatures(uv, rays[:, :2] / rays[:, 2:], root.astype(np.float32), image.camera)


def _detail(values: Array32) -> Array32:
    """A thermal image without vignetting and drift (high pass)."""
    sigma = _HIGH_PASS_SHARE * values.shape[1]
    return np.asarray(values - cv2.GaussianBlur(values, (0, 0), sigma), np.float32)


def _fixed_pattern(count: int, load: Callable[[int], SensorImage]) -> Array32 | None:
    """Median detail of all images: columns and pixels of the detector; None: not known."""
    details = [_detail(load(i).values[..., 0]) for i in range(0, count, max(1, count // 24))]
    if len({d.shape for d in details}) > 1 or len(details) < 5:
        return None
    return np.asarray(np.median(details, axis=0), np.float32)


def _match(a: ImageFeatures, b: ImageFeatures, config: FeatureConfig) -> NDArray[np.int64]:
    """Indices (n, 2) of matching keypoints: mutual, distinct, on their epipolar lines."""
    nothing = np.empty((0, 2), np.int64)
    if min(len(a.xy), len(b.xy)) < _FEWEST_MATCHES:
        return nothing
    similarity = a.descriptors @ b.descriptors.T
    best = similarity.argmax(axis=1)
    rows = np.arange(len(best))
    first = similarity[rows, best]
    mutual = similarity.argmax(axis=0)[best] == rows
    similarity[rows, best] = -1.0
    second = 2.0 - 2.0 * similarity.max(axis=1)  # squared distances of unit vectors
    chosen = np.flatnonzero(mutual & (2.0 - 2.0 * first < config.ratio**2 * second))
    if len(chosen) < _FEWEST_MATCHES:
        return nothing
    # at focal length 1
    tolerance = config.epipolar_px * a.camera.width / (NOMINAL_WIDTH_PX * a.camera.fx)
    E, inside = cv2.findEssentialMat(a.xy[chosen], b.xy[best[chosen]], np.eye(3), cv2.RANSAC,
                                     0.999, tolerance)
    if np.shape(E) != (3, 3) or inside.sum() < max(_FEWEST_MATCHES, _LEAST_INLIERS * len(chosen)):
        return nothing
    kept = chosen[inside[:, 0] > 0]
    return np.stack([kept, best[kept]], axis=1).astype(np.int64)


def _joined(edges: NDArray[np.int64], image: NDArray[np.int64], xy: Array) -> Tracks:
    """Connected keypoints as points, without those that one image shows twice."""
    total = len(xy)
    graph = coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(total, total))
    _, label = csgraph.connected_components(graph, directed=False)
    pairs, counts = np.unique(np.stack([label, image], axis=1), axis=0, return_counts=True)
    bad = np.unique(pairs[counts > 1, 0])
    size = np.bincount(label)
    good = (size >= 2) & ~np.isin(np.arange(len(size)), bad)
    chosen = good[label]
    names, point = np.unique(label[chosen], return_inverse=True)
    return Tracks(image[chosen].astype(np.int64), point.astype(np.int64), xy[chosen], len(names))

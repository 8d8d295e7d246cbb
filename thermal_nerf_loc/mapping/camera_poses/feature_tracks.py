# SPDX-License-Identifier: Apache-2.0
"""
Feature tracks: keypoints matched mutually, verified by the essential matrix, joined to points.

Poses choose the pairs of images that are matched and nothing else, so that wrong ones do no harm.
The lens matters to the verification: where it is to be refined, matches are verified again with
the lens that was found.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.mapping.camera_poses.features import FeatureConfig, ImageFeatures
from thermal_nerf_loc.mapping.camera_poses.lens import adjusted_camera, image_points, LENS_SIZE

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]
Pair = tuple[int, int]

NOMINAL_WIDTH_PX = 160  # tolerances and residuals are in pixels of images of this width
_WIDEST_RAD = np.deg2rad(70.0)  # between the axes of two images that are matched
_FEWEST_MATCHES = 12  # that a pair must keep, for its geometry to be trusted
_LEAST_INLIERS = 0.3  # of a pair's matches
_LEAST_FORWARD = 0.05  # z of a keypoint's unit ray: beyond, it has no place at focal length 1


@dataclass(frozen=True, slots=True, eq=False)
class Tracks:
    """Points that several images show; one entry an observation."""

    image: NDArray[np.int64]  # (n,)
    point: NDArray[np.int64]  # (n,) 0 to points - 1
    xy: Array  # (n, 2) in focal lengths from the centre, as the (distorted) image shows it
    points: int
    keypoint: NDArray[np.int64] = field(  # (n,) index among the keypoints of all images
        default_factory=lambda: np.empty(0, np.int64))


class FeatureMatches:
    """Keypoints of some images of one modality, and which of them look alike."""

    def __init__(self, features: Sequence[ImageFeatures], pairs: Sequence[Pair],
                 config: FeatureConfig = FeatureConfig()) -> None:
        """Match the images of every pair."""
        self.features, self.config = list(features), config
        self.alike = {(a, b): _matched(self.features[a], self.features[b], config.ratio)
                      for a, b in pairs}

    def verified(self, lens: Array | None = None, slack: float = 1.0,
                 ) -> dict[Pair, NDArray[np.int64]]:
        """
        Matches (n, 2) of the pairs that have a two-view geometry, through a lens correction (7,).

        `slack` times the tolerance: for a lens that is not known yet.
        """
        lens = np.zeros(LENS_SIZE) if lens is None else lens
        cameras = {camera: adjusted_camera(camera, lens)
                   for camera in {f.camera for f in self.features}}
        xy = [image_rays(cameras[f.camera], f.uv)[:, :2] for f in self.features]
        out = {}
        for (a, b), alike in self.alike.items():
            tolerance = (slack * self.config.epipolar_px
                         / nominal_focal_px(cameras[self.features[a].camera]))
            inside = _epipolar_inliers(xy[a][alike[:, 0]], xy[b][alike[:, 1]], tolerance)
            if inside.any():
                out[a, b] = alike[inside]
        return out

    def tracks(self, lens: Array | None = None, slack: float = 1.0) -> Tracks:
        """Verified matches, joined."""
        return self.joined(self.verified(lens, slack))

    def joined(self, matches: Mapping[Pair, NDArray[np.int64]]) -> Tracks:
        """Matches of some pairs as points."""
        starts = np.concatenate([[0], np.cumsum([len(f.uv) for f in self.features])])
        ends = [found + starts[[a, b]] for (a, b), found in matches.items()]
        edges = np.concatenate(ends) if ends else np.empty((0, 2), np.int64)
        q = np.concatenate([image_points(f.camera, f.uv) for f in self.features])
        image = np.repeat(np.arange(len(self.features)), np.diff(starts))
        return _joined(edges.astype(np.int64), image, q)


def image_rays(camera: Camera, uv: Array) -> Array:
    """Undistorted image points (n, 3), z = 1; NaN where a fisheye lens looks sideways."""
    rays = camera.unproject(uv)
    return np.asarray(rays / np.where(rays[:, 2:] > _LEAST_FORWARD, rays[:, 2:], np.nan))


def nominal_focal_px(camera: Camera) -> float:
    """Focal length in pixels of an image of the nominal width."""
    return camera.fx * NOMINAL_WIDTH_PX / camera.width


def candidate_pairs(poses: Array, neighbours: int) -> list[Pair]:
    """Pairs that may overlap: each image with its nearest in direction and position."""
    cost = _view_costs(poses, poses)
    np.fill_diagonal(cost, np.inf)
    pairs = set()
    for a, row in enumerate(cost):
        for b in np.argsort(row, kind='stable')[:neighbours]:
            if np.isfinite(row[b]):
                pairs.add((min(a, int(b)), max(a, int(b))))
    return sorted(pairs)


def nearest_views(poses: Array, view: int, count: int) -> list[int]:
    """At most `count` views with the most similar directions and positions, but for the same."""
    cost = _view_costs(poses[view:view + 1], poses)[0]
    cost[view] = np.inf
    nearest = np.argsort(cost, kind='stable')[:count]
    return [int(k) for k in nearest if np.isfinite(cost[k])]


def _view_costs(views: Array, poses: Array) -> Array:
    """How differently views (n, 4, 4) and poses (m, 4, 4) look: (n, m); infinite: no overlap."""
    angle = np.arccos(np.clip(views[:, :3, 2] @ poses[:, :3, 2].T, -1.0, 1.0))
    distances_m = np.linalg.norm(views[:, None, :3, 3] - poses[None, :, :3, 3], axis=-1)
    cost = angle + 0.5 * distances_m / max(float(np.median(distances_m)), 1e-9)
    return np.where(angle > _WIDEST_RAD, np.inf, cost)


def mutual_matches(a: Array32, b: Array32, ratio: float) -> NDArray[np.int64]:
    """Rows (n, 2) of unit descriptors that are each other's best match, and distinct (Lowe)."""
    if not len(a) or len(b) < 2:
        return np.empty((0, 2), np.int64)
    similarity = a @ b.T
    best = similarity.argmax(axis=1)
    rows = np.arange(len(best))
    first = similarity[rows, best]
    mutual = similarity.max(axis=0)[best] <= first  # argmax is ten times slower
    similarity[rows, best] = -1.0
    second = 2.0 - 2.0 * similarity.max(axis=1)  # squared distances of unit vectors
    chosen = np.flatnonzero(mutual & (2.0 - 2.0 * first < ratio**2 * second))
    return np.stack([chosen, best[chosen]], axis=1).astype(np.int64)


def _matched(a: ImageFeatures, b: ImageFeatures, ratio: float) -> NDArray[np.int64]:
    """Indices (n, 2) of keypoints of two images that match; none where keypoints are few."""
    if min(len(a.uv), len(b.uv)) < _FEWEST_MATCHES:
        return np.empty((0, 2), np.int64)
    return mutual_matches(a.descriptors, b.descriptors, ratio)


def _epipolar_inliers(a: Array, b: Array, tolerance: float) -> NDArray[np.bool_]:
    """Matches (n, 2) at focal length 1 that one essential matrix explains; none if too few."""
    nothing = np.zeros(len(a), np.bool_)
    ahead = np.flatnonzero(np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1))
    if len(ahead) < _FEWEST_MATCHES:
        return nothing
    E, inside = cv2.findEssentialMat(a[ahead], b[ahead], np.eye(3), cv2.RANSAC, 0.999, tolerance)
    if np.shape(E) != (3, 3) or inside.sum() < max(_FEWEST_MATCHES, _LEAST_INLIERS * len(ahead)):
        return nothing
    nothing[ahead[inside[:, 0] > 0]] = True
    return nothing


def _joined(edges: NDArray[np.int64], image: NDArray[np.int64], xy: Array) -> Tracks:
    """Connected keypoints as points, without those that one image shows twice."""
    total = len(xy)
    from scipy.sparse import coo_array, csgraph  # imported late: `localize` needs the matches only
    graph = coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(total, total))
    _, label = csgraph.connected_components(graph, directed=False)
    pairs, counts = np.unique(np.stack([label, image], axis=1), axis=0, return_counts=True)
    bad = np.unique(pairs[counts > 1, 0])
    size = np.bincount(label)
    good = (size >= 2) & ~np.isin(np.arange(len(size)), bad)
    chosen = good[label]
    names, point = np.unique(label[chosen], return_inverse=True)
    return Tracks(image[chosen].astype(np.int64), point.astype(np.int64), xy[chosen], len(names),
                  np.flatnonzero(chosen))

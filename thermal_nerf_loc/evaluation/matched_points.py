# SPDX-License-Identifier: Apache-2.0
"""
Depth of points in held-out images, measured by matching, to hold a map's depth against.

SIFT keypoints of held-out images are matched along the epipolar lines of the given poses, with
training and other held-out images. Each match gives a depth along the keypoint's ray; one that two
other images agree on is kept, refined over all that agree, and given its standard deviation from
the residuals. No rendering is involved, so that the depth is independent of any map. A map that
was trained on matched points itself may know these: then points that two or more training images
show, which training could have triangulated, are left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.datasets.scene import load_image, Scene
from thermal_nerf_loc.mapping.camera_poses.features import (
    detect_features, FeatureConfig, ImageFeatures)
from thermal_nerf_loc.sensing.frame import SensorImage

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]

_MOST_IMAGES = 6  # held out, whose points are measured
_NEIGHBOURS = 8  # images that each is matched with
_WIDEST_RAD = np.deg2rad(60.0)  # between the axes of two images that are matched
_NOMINAL_WIDTH_PX = 160  # tolerances are in pixels of images of this width
_APART = 0.15  # of the median distance of all other views: nearer ones show no parallax
_EPIPOLAR_PX = 0.5
_RATIO = 0.85  # of the distances to the best and the second-best match on the line
_AGREE_PX = 0.4  # of a match from where the point projects to
_FEWEST_AGREEING = 2  # other images
_LEAST_SIGMA_PX = 0.05  # of a keypoint, however small the residuals
_FINE, _COARSE = 0.005, 0.02  # standard deviations, as shares of the depth
_ENOUGH = 50  # fine points; with fewer, coarser ones are taken, too


@dataclass(frozen=True, slots=True, eq=False)
class MatchedPoints:
    """Points of held-out images: their rays in the world, and how far away they are."""

    origins: Array  # (n, 3)
    directions: Array  # (n, 3) unit
    distance_m: Array  # (n,)
    sigma: Array  # (n,) standard deviation of the distance, as a share of it
    frame: NDArray[np.int64]  # (n,) index of the held-out frame

    def __len__(self) -> int:
        """How many points there are."""
        return len(self.distance_m)


@dataclass(frozen=True, slots=True, eq=False)
class _Epipolar:
    """
    Keypoints of one image and their matches in its neighbours.

    A point at depth z along a keypoint's ray lies at `offset + z * slope` in a neighbour.
    """

    xy: Array  # (n, 2) of the keypoints, at focal length 1
    matches: Array  # (n, neighbours, 2) the same of their matches; NaN: none
    offset: Array  # (neighbours, 3)
    slope: Array  # (n, neighbours, 3)
    focal_px: Array  # (neighbours,) at a width of 160

    def depths(self) -> Array:
        """Depth (n, neighbours) by each match alone: least squares of its two equations."""
        x = self.matches
        a = self.slope[..., :2] - x * self.slope[..., 2:]
        b = x * self.offset[:, 2:] - self.offset[:, :2]
        return np.asarray((a * b).sum(axis=-1) / np.maximum((a**2).sum(axis=-1), 1e-12))

    def residuals_px(self, z: Array) -> Array:
        """Distances (n, neighbours) of depths (n,) from the matches; infinite where none."""
        p = self.offset + z[:, None, None] * self.slope
        front = (p[..., 2] > 1e-6) & (z > 0.0)[:, None]
        flat = p[..., :2] / np.where(front, p[..., 2], 1.0)[..., None]
        off = self.focal_px * np.linalg.norm(flat - self.matches, axis=-1)
        return np.where(front & np.isfinite(off), off, np.inf)

    def information(self, z: Array) -> Array:
        """Inverse variance (n, neighbours) of z for matches that are good to one pixel."""
        p = self.offset + z[:, None, None] * self.slope
        pz = np.maximum(p[..., 2:], 1e-6)
        moved = (self.slope[..., :2] - p[..., :2] / pz * self.slope[..., 2:]) / pz
        return np.asarray((self.focal_px * np.linalg.norm(moved, axis=-1))**2)


def measure_points(scene: Scene, modality: str, *, unseen_by_training: bool = False,
                   progress: Progress = silent, features: FeatureConfig = FeatureConfig(),
                   ) -> MatchedPoints:
    """
    Measure points of a few held-out images, spread over the test split.

    With `unseen_by_training`, at most one training image may show a point.
    """
    members = [i for i, frame in enumerate(scene.frames) if modality in frame.records]
    records = [scene.frames[i].records[modality] for i in members]
    poses = np.stack([scene.frames[i].T_world_cam @ record.T_cam_sensor
                      for i, record in zip(members, records)] or [np.eye(4)])
    tests = [k for k, i in enumerate(members) if i in set(scene.test)]
    tests = [tests[k] for k in spread(len(tests), _MOST_IMAGES)]
    neighbours = {k: nearest_views(poses, k, _NEIGHBOURS) for k in tests}
    used = sorted({*tests, *(j for found in neighbours.values() for j in found)})
    progress(0.0, 1.0, f'{modality} points of {len(tests)} held-out images')

    def load(position: int) -> SensorImage:
        progress(0.9 * position / len(used), 1.0, f'{modality} points: image {position + 1}')
        return load_image(modality, records[used[position]])

    keypoints = dict(zip(used, detect_features(modality, len(used), load, features)))
    is_train = np.isin(members, scene.train)
    parts = []
    for k in tests:
        matched = _match_all(keypoints, poses, k, neighbours[k])
        parts.append(_agreed(matched, poses[k], members[k],
                             is_train[neighbours[k]] if unseen_by_training else None))
    return _precise(parts)


def spread(count: int, most: int) -> list[int]:
    """At most so many indices below `count`, evenly spread."""
    if count <= 0:
        return []
    return [int(k) for k in np.unique(np.linspace(0, count - 1, min(count, most)).round())]


def nearest_views(poses: Array, view: int, count: int) -> list[int]:
    """
    Views that may show the same, nearest in direction and position.

    They stand apart from the view and from each other: the next frames of a video show no
    parallax, and the same errors.
    """
    centers, axes = poses[:, :3, 3], poses[:, :3, 2]
    angle = np.arccos(np.clip(axes @ axes[view], -1.0, 1.0))
    distance_m = np.linalg.norm(centers - centers[view], axis=1)
    size_m = max(float(np.median(distance_m)), 1e-9)
    cost = angle + 0.5 * distance_m / size_m
    chosen = [view]
    for j in np.argsort(cost, kind='stable'):
        apart_m = np.linalg.norm(centers[chosen] - centers[j], axis=1).min()
        if angle[j] <= _WIDEST_RAD and apart_m > _APART * size_m:
            chosen.append(int(j))
        if len(chosen) > count:
            break
    return chosen[1:]


def _match_all(keypoints: Mapping[int, ImageFeatures], poses: Array, view: int,
               neighbours: Sequence[int]) -> _Epipolar:
    """Match the keypoints of a view in each of its neighbours."""
    xy, known = _flat(keypoints[view])
    matches = np.full((len(xy), len(neighbours), 2), np.nan)
    relative = se3.inverse(poses[list(neighbours)]) @ poses[view]
    focal = np.array([_focal_px(keypoints[j]) for j in neighbours])
    ahead = np.concatenate([xy, np.ones((len(xy), 1))], axis=1)
    for n, j in enumerate(neighbours):
        other, other_known = _flat(keypoints[j])
        lines = ahead @ (se3.hat(relative[n, :3, 3]) @ relative[n, :3, :3]).T
        ahead_other = np.concatenate([other, np.ones((len(other), 1))], axis=1)
        off = np.abs(lines @ ahead_other.T) / np.maximum(
            np.linalg.norm(lines[:, :2], axis=1), 1e-12)[:, None]
        near = (off * focal[n] < _EPIPOLAR_PX) & known[:, None] & other_known
        first, second = _match(keypoints[view].descriptors @ keypoints[j].descriptors.T, near)
        matches[first, n] = other[second]
    slope = np.einsum('mij,nj->nmi', relative[:, :3, :3], ahead)
    return _Epipolar(xy, matches, relative[:, :3, 3], slope, focal)


def _match(similarity: NDArray[np.floating], near: Bools,
           ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Mutual and distinct matches among those that are near each other's epipolar lines."""
    nothing = np.empty(0, np.int64)
    if min(similarity.shape) < 2:
        return nothing, nothing
    allowed = np.where(near, similarity, -1.0)
    best, rows = allowed.argmax(axis=1), np.arange(len(allowed))
    top = allowed[rows, best]
    mutual = (allowed.argmax(axis=0)[best] == rows) & (top > 0.0)
    allowed[rows, best] = -1.0
    distance2 = 2.0 - 2.0 * top  # of unit vectors
    chosen = np.flatnonzero(mutual & (distance2 < _RATIO**2 * (2.0 - 2.0 * allowed.max(axis=1))))
    return chosen, best[chosen]


def _agreed(matched: _Epipolar, T_world_sensor: Array, frame: int, is_train: Bools | None,
            ) -> tuple[MatchedPoints, Array]:
    """Points that enough neighbours agree on, sigma at one pixel; and their residuals."""
    depths = matched.depths()
    z = np.full(len(depths), np.nan)
    most = np.zeros(len(depths), np.int64)
    for candidate in depths.T:
        votes = (matched.residuals_px(np.nan_to_num(candidate, nan=-1.0)) < _AGREE_PX).sum(axis=1)
        better = votes > most
        z, most = np.where(better, candidate, z), np.where(better, votes, most)
    z = np.nan_to_num(z, nan=-1.0)
    for _ in range(3):  # weighted mean of those that agree
        inliers = matched.residuals_px(z) < _AGREE_PX
        weight = np.where(inliers, matched.information(z), 0.0)
        total = weight.sum(axis=1)
        z = np.where(total > 0.0, (weight * np.nan_to_num(depths)).sum(axis=1)
                     / np.maximum(total, 1e-12), -1.0)
    residual = matched.residuals_px(z)
    inliers = residual < _AGREE_PX
    good = (inliers.sum(axis=1) >= _FEWEST_AGREEING) & (z > 0.0)
    if is_train is not None:
        good &= (inliers & is_train).sum(axis=1) <= 1
    ahead = np.concatenate([matched.xy[good], np.ones((int(good.sum()), 1))], axis=1)
    length = np.linalg.norm(ahead, axis=1)
    information = np.where(inliers, matched.information(z), 0.0)[good].sum(axis=1)
    directions = (ahead / length[:, None]) @ T_world_sensor[:3, :3].T
    return MatchedPoints(np.broadcast_to(T_world_sensor[:3, 3], directions.shape), directions,
                         z[good] * length, 1.0 / (z[good] * np.sqrt(information)),
                         np.full(len(length), frame)), residual[good][inliers[good]]


def _precise(parts: Sequence[tuple[MatchedPoints, Array]]) -> MatchedPoints:
    """The finest points, by the residuals of all: a coarse one could not tell 1 %."""
    residual = np.concatenate([np.empty(0), *(off for _, off in parts)])
    pixel = max(float(np.median(residual)) / 1.18, _LEAST_SIGMA_PX) if residual.size else 1.0
    joined = [np.concatenate([empty, *(getattr(found, name) for found, _ in parts)])
              for name, empty in (('origins', np.empty((0, 3))), ('directions', np.empty((0, 3))),
                                  ('distance_m', np.empty(0)), ('sigma', np.empty(0)),
                                  ('frame', np.empty(0, np.int64)))]
    joined[3] = joined[3] * pixel
    ranked = np.sort(joined[3])
    limit = ranked[min(_ENOUGH, len(ranked)) - 1] if len(ranked) else _FINE
    kept = joined[3] <= np.clip(limit, _FINE, _COARSE)
    return MatchedPoints(*(part[kept] for part in joined))


def _flat(found: ImageFeatures) -> tuple[Array, Bools]:
    """Keypoints at focal length 1, and which of them are ahead of the camera."""
    rays = found.camera.unproject(found.uv)
    ahead = rays[:, 2] > 0.1
    return rays[:, :2] / np.where(ahead, rays[:, 2], 1.0)[:, None], ahead


def _focal_px(found: ImageFeatures) -> float:
    return found.camera.fx * _NOMINAL_WIDTH_PX / found.camera.width

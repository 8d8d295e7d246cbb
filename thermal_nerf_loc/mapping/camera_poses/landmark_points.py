# SPDX-License-Identifier: Apache-2.0
"""
Landmarks of a scene: keypoints that its training images share, triangulated from their poses.

A point is where the robust reprojection error of its observations is least (Gauss-Newton with
Cauchy's weights); its covariance is the inverse of their information, scaled by the residuals of
all. Kept are those of long tracks that are exact, spread over all images.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.progress import Progress
from thermal_nerf_loc.field.contraction import space_around_cameras
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.mapping.camera_poses.bundle_adjustment import (
    BundleAdjustment, FreeParameters, OWN)
from thermal_nerf_loc.mapping.camera_poses.feature_tracks import (
    FeatureMatches, image_rays, nominal_focal_px, Pair, Tracks)
from thermal_nerf_loc.mapping.camera_poses.features import FeatureConfig
from thermal_nerf_loc.mapping.camera_poses.pose_initialization import matches_of, sensor_of
from thermal_nerf_loc.mapping.map.landmarks import as_bytes, LandmarkConfig, Landmarks

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]
Indices = NDArray[np.int64]

_TOLERANCE_PX = 0.5  # of inliers, in images 160 pixels wide
_LEAST_PARALLAX = 1e-5  # see `Reprojection.triangulated`: long tracks make up for small angles
_ROUNDS = 4
_LEAST_SIGMA_PX = 0.02  # of an observation, however small the residuals
_MEDIAN_NORM = 1.18  # of a two-dimensional normal error, in standard deviations
_CUTOFF = 3.0  # sigmas beyond which an observation hardly counts
_MOST_SIGMA = 0.02  # of a point, as a share of its distance: farther off it holds no pose
_FEWEST = 50  # fewer do not carry a pose


class _Points(NamedTuple):
    """Triangulated points and the observations that fit them."""

    positions: Array  # (n, 3)
    covariances: Array  # (n, 3, 3)
    directions: Array  # (n, 3) unit, from the cameras, on average
    sigma: Array  # (n,) largest standard deviation, as a share of the distance
    image: Indices  # (m,) of each observation
    keypoint: Indices  # (m,) among those of all images
    point: Indices  # (m,)


def find_landmarks(scene: Scene, modality: str, config: LandmarkConfig, progress: Progress,
                   ) -> Landmarks | None:
    """Landmarks of a modality in the frame of the scene's poses; None where they are few."""
    images = sum(modality in scene.frames[i].records for i in scene.train)
    if config.most == 0 or images < 2:
        return None
    progress(0.0, 1.0, f'landmarks of {modality} images')
    matches = matches_of(scene, modality, FeatureConfig(
        per_image=config.per_image(images), neighbours=config.neighbours))
    poses = _sensor_poses(scene, modality)
    tracks = matches.joined(_on_epipolar_lines(matches, poses))
    if tracks.points < _FEWEST:
        return None
    progress(0.9, 1.0, f'landmarks of {modality} images')
    found = _triangulated(scene, modality, tracks, poses)
    kept = _chosen(found, config.most)
    if len(kept) < _FEWEST:
        return None
    descriptors = np.concatenate([features.descriptors for features in matches.features])
    return _landmarks(found, kept, descriptors, config.descriptors)


def _sensor_poses(scene: Scene, modality: str) -> Array:
    """T_world_sensor (n, 4, 4) of the training images of a modality."""
    frames = [scene.frames[i] for i in scene.train if modality in scene.frames[i].records]
    return np.stack([frame.T_world_cam @ frame.records[modality].T_cam_sensor
                     for frame in frames])


def _on_epipolar_lines(matches: FeatureMatches, poses: Array) -> dict[Pair, NDArray[np.int64]]:
    """Matches (n, 2) of each pair that its poses allow: far faster than to estimate geometry."""
    rays = [image_rays(features.camera, features.uv) for features in matches.features]
    kept = {}
    for (a, b), alike in matches.alike.items():
        T = se3.inverse(poses[b]) @ poses[a]
        E = se3.hat(T[:3, 3]) @ T[:3, :3]
        x_a, x_b = rays[a][alike[:, 0]], rays[b][alike[:, 1]]
        line_b, line_a = x_a @ E.T, x_b @ E
        off = np.abs((x_b * line_b).sum(axis=1))
        limit = matches.config.epipolar_px / nominal_focal_px(matches.features[a].camera)
        near = [off < limit * np.linalg.norm(line[:, :2], axis=1) for line in (line_a, line_b)]
        kept[a, b] = alike[near[0] & near[1]]
    return kept


def _triangulated(scene: Scene, modality: str, tracks: Tracks, poses: Array) -> _Points:
    """Points of all tracks where their observations fit best."""
    cameras = np.stack([scene.frames[i].T_world_cam for i in scene.train])
    problem = BundleAdjustment({modality: sensor_of(scene, modality, tracks)}, cameras,
                               np.zeros((len(cameras), 6)),
                               space_around_cameras(cameras[:, :3, 3]).scale_m, FreeParameters(),
                               solver=OWN)
    positions, inliers = problem.points_and_inliers(problem.start, _TOLERANCE_PX,
                                                    _LEAST_PARALLAX)
    R = poses[tracks.image, :3, :3]
    H, sigma_px = np.zeros((tracks.points, 3, 3)), 1.0
    for _ in range(_ROUNDS):
        r, by_point, _ = problem.reprojection.residuals(problem.start, positions)
        squared = (r**2).sum(axis=1)
        inliers &= squared < _TOLERANCE_PX**2
        if inliers.any():
            sigma_px = max(float(np.sqrt(np.median(squared[inliers]))) / _MEDIAN_NORM,
                           _LEAST_SIGMA_PX)
        weight = np.where(inliers, 1.0 / (1.0 + squared / (_CUTOFF * sigma_px)**2), 0.0)
        J = by_point @ R.transpose(0, 2, 1)
        H[:], b = 0.0, np.zeros((tracks.points, 3))
        np.add.at(H, tracks.point, np.einsum('n,nki,nkj->nij', weight, J, J))
        np.add.at(b, tracks.point, np.einsum('n,nki,nk->ni', weight, J, r))
        trace = np.trace(H, axis1=1, axis2=2)[:, None, None]
        H += np.eye(3) * np.maximum(1e-9 * trace, 1e-12)
        positions = positions - np.linalg.solve(H, b[..., None])[..., 0]
    covariances: Array = np.asarray(np.linalg.inv(H) * sigma_px**2, np.float64)
    offset = positions[tracks.point] - poses[tracks.image, :3, 3]
    range_m = np.maximum(np.linalg.norm(offset, axis=1), 1e-9)
    directions, nearest_m = np.zeros((tracks.points, 3)), np.full(tracks.points, np.inf)
    np.add.at(directions, tracks.point, offset / range_m[:, None] * inliers[:, None])
    directions /= np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-9)
    np.minimum.at(nearest_m, tracks.point[inliers], range_m[inliers])
    sigma = np.sqrt(np.linalg.eigvalsh(covariances)[:, -1]) / nearest_m
    return _Points(positions, covariances, directions,
                   np.where(np.isfinite(nearest_m), sigma, np.inf), tracks.image[inliers],
                   tracks.keypoint[inliers], tracks.point[inliers])


def _chosen(found: _Points, most: int) -> Indices:
    """Points to keep: of every image those of the longest tracks, the exact ones first."""
    length = np.bincount(found.point, minlength=len(found.positions))
    good = np.flatnonzero((length >= 2) & (found.sigma < _MOST_SIGMA))
    rank = np.empty(len(length), np.int64)
    rank[np.lexsort((found.sigma, -length))] = np.arange(len(length))
    # its place among the points of the image that needs it most
    by_image = np.lexsort((rank[found.point], found.image))
    first = np.searchsorted(found.image[by_image], found.image[by_image])
    place = np.full(len(length), len(by_image))
    np.minimum.at(place, found.point[by_image], np.arange(len(by_image)) - first)
    return np.sort(good[np.lexsort((rank[good], place[good]))][:most])


def _landmarks(found: _Points, kept: Indices, descriptors: Array32, most: int) -> Landmarks:
    """The kept points, each with the descriptors that differ most."""
    order = np.argsort(found.point, kind='stable')
    bounds = np.searchsorted(found.point[order], np.stack([kept, kept + 1]))
    chosen = [_different(descriptors[found.keypoint[order[start:stop]]], most)
              for start, stop in bounds.T]
    owners = np.repeat(np.arange(len(kept)), [len(part) for part in chosen])
    return Landmarks(found.positions[kept].astype(np.float32),
                     found.covariances[kept].astype(np.float32),
                     found.directions[kept].astype(np.float32),
                     as_bytes(np.concatenate(chosen)), owners.astype(np.int32))


def _different(descriptors: Array32, most: int) -> Array32:
    """The most typical descriptor, then each time the one that is least like those chosen."""
    alike = descriptors @ descriptors.T
    chosen = [int(alike.sum(axis=1).argmax())]
    while len(chosen) < min(most, len(descriptors)):
        nearest = alike[:, chosen].max(axis=1)
        nearest[chosen] = np.inf
        chosen.append(int(nearest.argmin()))
    return descriptors[chosen]

# SPDX-License-Identifier: Apache-2.0
"""
Landmarks of a scene: keypoints that its training images share, triangulated from their poses.

The most often seen ones are kept, cell by cell of a coarse grid, so that no textured corner takes
the place of all others.
"""

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.progress import Progress
from thermal_nerf_loc.field.contraction import space_around_cameras
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.mapping.camera_poses.bundle_adjustment import (
    BundleAdjustment, FreeParameters)
from thermal_nerf_loc.mapping.camera_poses.feature_tracks import (
    FeatureMatches, image_rays, nominal_focal_px, Pair)
from thermal_nerf_loc.mapping.camera_poses.features import FeatureConfig
from thermal_nerf_loc.mapping.camera_poses.pose_initialization import matches_of, sensor_of
from thermal_nerf_loc.mapping.map.landmarks import as_bytes, LandmarkConfig, Landmarks

Array = NDArray[np.float64]

_TOLERANCE_PX = 0.5  # of inliers, in images 160 pixels wide
_CELLS = 24  # of the box around the points, along its longest side
_FEWEST = 50  # fewer do not carry a pose


def find_landmarks(scene: Scene, modality: str, config: LandmarkConfig, progress: Progress,
                   ) -> Landmarks | None:
    """Landmarks of a modality in the frame of the scene's poses; None where they are few."""
    if config.most == 0 or sum(modality in scene.frames[i].records for i in scene.train) < 2:
        return None
    progress(0.0, 1.0, f'landmarks of {modality} images')
    matches = matches_of(scene, modality, FeatureConfig(
        per_image=config.keypoints, neighbours=config.neighbours))
    tracks = matches.joined(_on_epipolar_lines(matches, _sensor_poses(scene, modality)))
    if tracks.points < _FEWEST:
        return None
    poses = np.stack([scene.frames[i].T_world_cam for i in scene.train])
    problem = BundleAdjustment({modality: sensor_of(scene, modality, tracks)}, poses,
                               np.zeros((len(poses), 6)),
                               space_around_cameras(poses[:, :3, 3]).scale_m, FreeParameters())
    points, inliers = problem.points_and_inliers(problem.start, _TOLERANCE_PX)
    seen = np.bincount(tracks.point[inliers], minlength=tracks.points)
    kept = _chosen(points, seen, config.most)
    if len(kept) < _FEWEST:
        return None
    descriptors = np.concatenate([features.descriptors for features in matches.features])
    mean = np.zeros((tracks.points, descriptors.shape[1]))
    np.add.at(mean, tracks.point[inliers], descriptors[tracks.keypoint[inliers]])
    mean /= np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-9)
    return Landmarks(points[kept].astype(np.float32), as_bytes(mean[kept]))


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


def _chosen(points: NDArray[np.float64], seen: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Points seen in two images or more: in every cell the most often seen ones first."""
    good = np.flatnonzero(seen >= 2)
    if len(good) <= most:
        return good
    low = points[good].min(axis=0)
    side = max(float(np.ptp(points[good], axis=0).max()) / _CELLS, 1e-9)
    cell = ((points[good] - low) / side).astype(np.int64) @ np.array([1, 10_007, 100_000_007])
    order = np.lexsort((-seen[good], cell))
    first = np.flatnonzero(np.r_[True, np.diff(cell[order]) != 0])
    rank = np.arange(len(order)) - np.repeat(first, np.diff(np.r_[first, len(order)]))
    by_rank = good[order[np.argsort(rank, kind='stable')]]
    return np.sort(by_rank[:most])

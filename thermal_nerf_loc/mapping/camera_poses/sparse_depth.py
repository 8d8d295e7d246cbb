# SPDX-License-Identifier: Apache-2.0
"""
Sparse depth: points that several images share, triangulated, as depth for training.

Few views, far apart, leave a field free to explain every image by fog before its camera. But where
images match, their rays meet at a surface: SIFT points, triangulated from the given poses (or from
adjusted ones, where poses are refined), without outliers. An observation gives the depth of the
few pixels around it, with less confidence the farther away they are.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import RunError
from thermal_nerf_loc.common.progress import Progress
from thermal_nerf_loc.field.contraction import space_around_cameras
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.mapping.camera_poses.bundle_adjustment import (
    BundleAdjustment, FreeParameters)
from thermal_nerf_loc.mapping.camera_poses.features import FeatureConfig
from thermal_nerf_loc.mapping.camera_poses.pose_initialization import matches_of, sensor_of

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]

_TOLERANCE_PX = 0.3  # of inliers, in images 160 pixels wide
_PATCH_RADIUS = 0.005  # of the image's width
_FEWEST_OBSERVATIONS = 5  # an image, on average


class SparseDepth(NamedTuple):
    """Depth of triangulated points in one image."""

    pixels: Array  # (n, 2)
    depth_m: Array  # (n,) along z


def triangulated_depth(scene: Scene, modality: str, free_poses: bool, progress: Progress,
                       features: FeatureConfig = FeatureConfig()) -> dict[int, SparseDepth]:
    """Sparse depth of the training images of a modality, by frame."""
    poses = np.stack([scene.frames[i].T_world_cam for i in scene.train])
    progress(0.0, 1.0, f'points that {modality} images share')
    sensor = sensor_of(scene, modality, matches_of(scene, modality, features).tracks())
    scale_m = space_around_cameras(poses[:, :3, 3]).scale_m
    problem = BundleAdjustment({modality: sensor}, poses, np.zeros((len(poses), 6)), scale_m,
                               FreeParameters(poses=free_poses))
    cameras = problem.solve().cameras if free_poses else problem.start
    points, inliers = problem.points_and_inliers(cameras, _TOLERANCE_PX)
    members = [i for i in scene.train if modality in scene.frames[i].records]
    if inliers.sum() < _FEWEST_OBSERVATIONS * len(members):
        raise RunError(f'{modality} images share too few points to tell depth', where=scene.root,
                       expected=f'{_FEWEST_OBSERVATIONS} observations an image',
                       got=f'{inliers.sum() / max(len(members), 1):.1f}',
                       hint='Train without --depth-from points; if many images overlap, '
                       'their poses may be off: see --refine poses.')
    found = {}
    for k, (i, frame) in enumerate(zip(members, sensor.frame)):
        T = cameras.poses[frame] @ sensor.T_cam_sensor[k]
        chosen = inliers & (sensor.tracks.image == k)
        T_sensor_world = se3.inverse(T)
        points_sensor = se3.transform(T_sensor_world, points[sensor.tracks.point[chosen]])
        pixels, inside = scene.frames[i].records[modality].camera.project(points_sensor)
        inside &= points_sensor[:, 2] > 0.0
        found[i] = SparseDepth(pixels[inside], points_sensor[inside, 2])
    return found


def depth_map(found: SparseDepth, camera: Camera) -> tuple[Array32, Array32]:
    """Depth and confidence (h, w): 1 at a point, less around it; 0 where nothing is known."""
    depth = np.zeros((camera.height, camera.width), np.float32)
    confidence = np.zeros_like(depth)
    radius = max(round(_PATCH_RADIUS * camera.width), 1)
    around = np.arange(-radius, radius + 1)
    dx, dy = (part.reshape(-1) for part in np.meshgrid(around, around))
    weights = np.exp(-0.5 * (dx**2 + dy**2) / (radius / 1.5)**2)
    corners = np.floor(found.pixels).astype(np.int64)
    for k in np.argsort(weights, kind='stable'):  # the highest last: it stays
        x, y = corners[:, 0] + dx[k], corners[:, 1] + dy[k]
        inside = (x >= 0) & (y >= 0) & (x < camera.width) & (y < camera.height)
        depth[y[inside], x[inside]] = found.depth_m[inside]
        confidence[y[inside], x[inside]] = weights[k]
    return depth, confidence

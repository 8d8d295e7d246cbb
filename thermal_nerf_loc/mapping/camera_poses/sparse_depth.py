# SPDX-License-Identifier: Apache-2.0
"""
Depth of points that several images share.

Few views, far apart, leave a field free to paint every image onto fog before its camera. But
where images match, their rays cross, and where they cross is a surface: SIFT points, triangulated
from the given poses (or from adjusted ones, where poses are refined), held against all their
sightings. A sighting tells the depth of the few pixels around it, ever less surely.
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
from thermal_nerf_loc.mapping.camera_poses.bundle_adjustment import BundleAdjustment
from thermal_nerf_loc.mapping.camera_poses.pose_initialization import sensor_of

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]

_TOLERANCE_PX = 0.3  # at a width of 160: sightings farther from their point are mistaken
_PATCH = 0.005  # of the image's width around a sighting that is as far away as it
_FEWEST_EACH = 5  # sightings an image, on average


class Sightings(NamedTuple):
    """What one image shows of points whose place is known."""

    pixels: Array  # (n, 2)
    depth_m: Array  # (n,) along z


def matched_depth(scene: Scene, modality: str, free_poses: bool, progress: Progress,
                  ) -> dict[int, Sightings]:
    """Sightings in the training images of a modality, by frame."""
    poses = np.stack([scene.frames[i].T_world_cam for i in scene.train])
    progress(0.0, 1.0, f'points that {modality} images share')
    sensor = sensor_of(scene, modality)
    scale_m = space_around_cameras(poses[:, :3, 3]).scale_m
    problem = BundleAdjustment({modality: sensor}, poses, np.zeros((len(poses), 6)), scale_m,
                      (free_poses, False, False, False))
    cameras = problem.solve().cameras if free_poses else problem.begin
    points, fits = problem.points(cameras, _TOLERANCE_PX)
    members = [i for i in scene.train if modality in scene.frames[i].records]
    if fits.sum() < _FEWEST_EACH * len(members):
        raise RunError(f'{modality} images share too few points to tell depth', where=scene.root,
                       expected=f'{_FEWEST_EACH} sightings an image',
                       got=f'{fits.sum() / max(len(members), 1):.1f}',
                       hint='Train without --depth-from points; if many images overlap, '
                       'their poses may be off: see --refine poses.')
    found = {}
    for k, (i, frame) in enumerate(zip(members, sensor.frame)):
        T = cameras.poses[frame] @ sensor.T_cam_sensor[k]
        chosen = fits & (sensor.tracks.image == k)
        X = se3.inverse(T)
        seen = points[sensor.tracks.point[chosen]] @ X[:3, :3].T + X[:3, 3]
        pixels, inside = scene.frames[i].records[modality].camera.project(seen)
        inside &= seen[:, 2] > 0.0
        found[i] = Sightings(pixels[inside], seen[inside, 2])
    return found


def painted(found: Sightings, camera: Camera) -> tuple[Array32, Array32]:
    """Depth and confidence (h, w): 1 at a sighting, less around it; 0 where nothing is known."""
    depth = np.zeros((camera.height, camera.width), np.float32)
    trust = np.zeros_like(depth)
    reach = max(round(_PATCH * camera.width), 1)
    around = np.arange(-reach, reach + 1)
    dx, dy = (part.reshape(-1) for part in np.meshgrid(around, around))
    shares = np.exp(-0.5 * (dx**2 + dy**2) / (reach / 1.5)**2)
    corners = np.floor(found.pixels).astype(np.int64)
    for k in np.argsort(shares, kind='stable'):  # the surest last: they stay
        x, y = corners[:, 0] + dx[k], corners[:, 1] + dy[k]
        inside = (x >= 0) & (y >= 0) & (x < camera.width) & (y < camera.height)
        depth[y[inside], x[inside]] = found.depth_m[inside]
        trust[y[inside], x[inside]] = shares[k]
    return depth, trust

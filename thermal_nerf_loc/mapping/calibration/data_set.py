# SPDX-License-Identifier: Apache-2.0
"""Lens, rig and time offset from a data set itself: bundle adjustment of points of its images."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.common.progress import Progress
from thermal_nerf_loc.field.contraction import space_around_cameras
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.mapping.camera_poses.camera_optimizer import CameraOptimizer
from thermal_nerf_loc.mapping.camera_poses.pose_initialization import initialize_by_points
from thermal_nerf_loc.mapping.training.config import RefineConfig
from thermal_nerf_loc.sensing.frame import RGB, THERMAL


class SelfCalibration(NamedTuple):
    """The scene with its cameras as they fit best, and residuals."""

    scene: Scene
    delay_s: float  # of the thermal stamps: to be added
    residual_px: dict[str, float]  # median by modality
    observations: dict[str, int]
    moved_m: float  # of the thermal camera in the rig
    turned_deg: float


def calibrate_by_images(scene: Scene, what: Sequence[str], progress: Progress) -> SelfCalibration:
    """Adjust `what` (of poses, intrinsics, rig, time) of a data set."""
    scene.require(THERMAL)
    modalities = scene.modalities
    if RGB not in modalities and {'rig', 'time'} & set(what):
        raise InputError('a rig has two cameras', where=scene.root, expected='RGB images too',
                         got='thermal images alone', hint='Give --what intrinsics.')
    centers = np.array([scene.frames[i].T_world_cam[:3, 3] for i in scene.train])
    config = RefineConfig(what=tuple(what), lenses='thermal' if RGB in modalities else 'both')
    optimizer = CameraOptimizer(config, scene, modalities, space_around_cameras(centers).scale_m)
    solutions, cameras = initialize_by_points(optimizer, scene, progress)
    adjusted = optimizer.applied(scene)
    before, after = (next(frame.records[THERMAL].T_cam_sensor for frame in each.frames
                          if THERMAL in frame.records) for each in (scene, adjusted))
    moved_m, turned_deg = se3.distance(before, after)
    return SelfCalibration(
        adjusted, cameras.delay_s,
        {name: value for s in solutions for name, value in s.residual_px.items()},
        {name: value for s in solutions for name, value in s.observations.items()}, moved_m,
        turned_deg)

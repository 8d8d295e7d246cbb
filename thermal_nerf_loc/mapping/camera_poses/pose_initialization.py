# SPDX-License-Identifier: Apache-2.0
"""Poses and rig before training, from what images share: points, or edges in a map of colour."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import RunError
from thermal_nerf_loc.common.progress import Progress
from thermal_nerf_loc.field.cpu_renderer import CpuRenderer, render_torch
from thermal_nerf_loc.io.datasets.scene import load_image, Scene
from thermal_nerf_loc.mapping.camera_poses.bundle_adjustment import (
    BundleAdjustment, BundleSolution, Cameras, Sensor)
from thermal_nerf_loc.mapping.camera_poses.camera_optimizer import CameraOptimizer
from thermal_nerf_loc.mapping.camera_poses.features import find_tracks
from thermal_nerf_loc.mapping.camera_poses.thermal_extrinsics import Array32, find_rig, Look
from thermal_nerf_loc.mapping.training.config import INTRINSICS, POSES, RIG, TIME
from thermal_nerf_loc.mapping.training.strategies import Learner
from thermal_nerf_loc.sensing.frame import RGB, THERMAL

_NOMINAL_WIDTH_PX = 160
_CHUNK_RAYS = 8192
_SAMPLES, _EXPLORING = 32, 0.5
_FEWEST_EACH = 15  # sightings an image, on average, for its pose to be believed


def adjust(corrections: CameraOptimizer, scene: Scene, progress: Progress,
           ) -> tuple[BundleSolution, ...]:
    """
    Find what is free from matched points, and let the corrections begin there.

    Poses first, from cameras whose place in the rig is known; then the thermal camera beside
    them: all at once, a rig some degrees off would drag the poses along.
    """
    what, found = corrections.config.what, []
    cameras = Cameras(corrections.given, np.eye(4), np.zeros(3), 0.0)
    movable = bool({RIG, INTRINSICS, TIME} & set(what))
    if POSES in what:
        fixed = [name for name in corrections.modalities if not (movable and name == THERMAL)]
        found.append(_bundle(corrections, scene, fixed, cameras.poses, progress))
        cameras = found[-1].cameras
    if movable:
        found.append(_bundle(corrections, scene, [THERMAL], cameras.poses, progress))
        cameras = found[-1].cameras
    corrections.begin_at(cameras)
    return tuple(found)


def place_thermal(corrections: CameraOptimizer, scene: Scene, learners: Sequence[Learner],
                  progress: Progress) -> None:
    """Find the rig by edges, once a field knows how far away is what colour shows."""
    learner = next(learner for learner in learners if RGB in learner.modalities)
    progress(0.0, 1.0, 'edges of heat on edges of colour')
    found = find_rig(corrections.applied(scene), _looking_with(learner))
    corrections.place(found.T, found.correlation)


def _looking_with(learner: Learner) -> Look:
    """Distances that a field in training sees; its sampling grid is not trusted yet."""
    field, grid = learner.field, learner.grid
    on_cpu = field.encoding.table.device.type == 'cpu'
    fast = CpuRenderer(field, grid, RGB) if on_cpu else None

    def look(origins: Array32, directions: Array32) -> Array32:
        out = []
        for i in range(0, len(origins), _CHUNK_RAYS):
            o, d = (np.ascontiguousarray(part[i:i + _CHUNK_RAYS], np.float32)
                    for part in (origins, directions))
            seen = (fast.render(o, d, _SAMPLES, _EXPLORING) if fast is not None else
                    render_torch(field, grid, RGB, o, d, _SAMPLES, _EXPLORING))
            out.append(seen[1])
        return np.concatenate(out)

    return look


def _bundle(corrections: CameraOptimizer, scene: Scene, modalities: list[str],
            poses: NDArray[np.float64], progress: Progress) -> BundleSolution:
    """Adjust poses by cameras that are fixed in the rig, or the one that is not by poses."""
    what = corrections.config.what
    movable = bool({RIG, INTRINSICS, TIME} & set(what)) and modalities == [THERMAL]
    sensors = {}
    for name in modalities:
        progress(0.0, 1.0, f'points that {name} images share')
        sensors[name] = sensor_of(scene, name, movable)
    progress(0.0, 1.0, 'bundle adjustment')
    free = ((False, RIG in what, INTRINSICS in what, TIME in what) if movable else
            (True, False, False, False))
    found = BundleAdjustment(sensors, poses, corrections.twists, corrections.scale_m, free).solve()
    _check(found, sensors, scene)
    return found


def sensor_of(scene: Scene, name: str, movable: bool = False) -> Sensor:
    """What the training images of a modality share, matched."""
    members = [(k, scene.frames[i], scene.frames[i].records[name])
               for k, i in enumerate(scene.train) if name in scene.frames[i].records]
    records = [record for _, _, record in members]
    poses = np.stack([frame.T_world_cam @ record.T_cam_sensor for _, frame, record in members])
    tracks = find_tracks(name, len(records), lambda i: load_image(name, records[i]), poses)
    focal = [record.camera.fx * _NOMINAL_WIDTH_PX / record.camera.width for record in records]
    return Sensor(tracks, np.array([k for k, _, _ in members]),
                  np.stack([record.T_cam_sensor for record in records]), np.array(focal), movable)


def _check(found: BundleSolution, sensors: dict[str, Sensor], scene: Scene) -> None:
    """Refuse what rests on too little."""
    sightings, images = sum(found.sightings.values()), sum(len(s.frame) for s in sensors.values())
    if sightings < _FEWEST_EACH * images:
        raise RunError(f'{" and ".join(sensors)} images share too few points', where=scene.root,
                       expected=f'{_FEWEST_EACH} sightings an image',
                       got=f'{sightings / max(images, 1):.1f}',
                       hint='Try --refine-method gradient or, for the rig, edges.')

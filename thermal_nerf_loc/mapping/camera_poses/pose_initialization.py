# SPDX-License-Identifier: Apache-2.0
"""
Poses and rig before training: by bundle adjustment of image points, or by thermal edges.

Either result is where the camera optimizer begins.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import RunError
from thermal_nerf_loc.common.progress import Progress
from thermal_nerf_loc.field.cpu_renderer import CpuRenderer, render_torch
from thermal_nerf_loc.io.datasets.scene import load_image, Scene
from thermal_nerf_loc.mapping.camera_poses.bundle_adjustment import (
    BundleAdjustment, BundleSolution, CameraEstimate, Sensor)
from thermal_nerf_loc.mapping.camera_poses.camera_optimizer import CameraOptimizer
from thermal_nerf_loc.mapping.camera_poses.features import (
    FeatureConfig, find_tracks, NOMINAL_WIDTH_PX)
from thermal_nerf_loc.mapping.camera_poses.thermal_extrinsics import (
    Array32, find_rig, RenderDistance)
from thermal_nerf_loc.mapping.training.config import INTRINSICS, POSES, RIG, TIME
from thermal_nerf_loc.mapping.training.strategies import Learner
from thermal_nerf_loc.sensing.frame import RGB, THERMAL

_CHUNK_RAYS = 8192
_SAMPLES, _EXPLORING = 32, 0.5  # half of them uniform: the density grid is not reliable yet
_FEWEST_OBSERVATIONS = 15  # an image, on average, for its pose to be trusted


def initialize_by_points(optimizer: CameraOptimizer, scene: Scene, progress: Progress,
                         ) -> tuple[BundleSolution, ...]:
    """
    Adjust what is to be refined by matched points, and let the camera optimizer begin there.

    Poses first, from cameras whose place in the rig is known; then the thermal camera beside
    them: all at once, a rig some degrees off would drag the poses along.
    """
    what, solutions = optimizer.config.what, []
    cameras = CameraEstimate(optimizer.given, np.eye(4), np.zeros(3), 0.0)
    movable = bool({RIG, INTRINSICS, TIME} & set(what))
    if POSES in what:
        fixed = [name for name in optimizer.modalities if not (movable and name == THERMAL)]
        solutions.append(_bundle(optimizer, scene, fixed, cameras.poses, progress))
        cameras = solutions[-1].cameras
    if movable:
        solutions.append(_bundle(optimizer, scene, [THERMAL], cameras.poses, progress))
        cameras = solutions[-1].cameras
    optimizer.start_from(cameras)
    return tuple(solutions)


def initialize_rig_by_edges(optimizer: CameraOptimizer, scene: Scene, learners: Sequence[Learner],
                            progress: Progress) -> None:
    """Find the rig by edges; of `learners` the colour field gives the distances."""
    learner = next(learner for learner in learners if RGB in learner.modalities)
    progress(0.0, 1.0, 'edges of heat on edges of colour')
    found = find_rig(optimizer.applied(scene), _distance_renderer(learner))
    optimizer.start_from_rig(found.T, found.correlation)


def _distance_renderer(learner: Learner) -> RenderDistance:
    """Render distances (n,) in metres with a field in training."""
    field, grid = learner.field, learner.grid
    on_cpu = field.encoding.table.device.type == 'cpu'
    cpu_renderer = CpuRenderer(field, grid, RGB) if on_cpu else None

    def render_distance(origins: Array32, directions: Array32) -> Array32:
        out = []
        for i in range(0, len(origins), _CHUNK_RAYS):
            o, d = (np.ascontiguousarray(part[i:i + _CHUNK_RAYS], np.float32)
                    for part in (origins, directions))
            rendered = (cpu_renderer.render(o, d, _SAMPLES, _EXPLORING)
                        if cpu_renderer is not None
                        else render_torch(field, grid, RGB, o, d, _SAMPLES, _EXPLORING))
            out.append(rendered[1])
        return np.concatenate(out)

    return render_distance


def _bundle(optimizer: CameraOptimizer, scene: Scene, modalities: list[str],
            poses: NDArray[np.float64], progress: Progress) -> BundleSolution:
    """Adjust poses by cameras that are fixed in the rig, or the movable one by given poses."""
    config = optimizer.config
    movable = bool({RIG, INTRINSICS, TIME} & set(config.what)) and modalities == [THERMAL]
    sensors = {}
    for name in modalities:
        progress(0.0, 1.0, f'points that {name} images share')
        sensors[name] = sensor_of(scene, name, config.features, movable)
    progress(0.0, 1.0, 'bundle adjustment')
    free = ((False, RIG in config.what, INTRINSICS in config.what, TIME in config.what)
            if movable else (True, False, False, False))
    found = BundleAdjustment(sensors, poses, optimizer.twists, optimizer.scale_m, free).solve()
    _check(found, sensors, scene)
    return found


def sensor_of(scene: Scene, name: str, features: FeatureConfig, movable: bool = False) -> Sensor:
    """The training images of a modality, their points matched."""
    members = [(k, scene.frames[i], scene.frames[i].records[name])
               for k, i in enumerate(scene.train) if name in scene.frames[i].records]
    records = [record for _, _, record in members]
    poses = np.stack([frame.T_world_cam @ record.T_cam_sensor for _, frame, record in members])
    tracks = find_tracks(name, len(records), lambda i: load_image(name, records[i]), poses,
                         features)
    focal = [record.camera.fx * NOMINAL_WIDTH_PX / record.camera.width for record in records]
    return Sensor(tracks, np.array([k for k, _, _ in members]),
                  np.stack([record.T_cam_sensor for record in records]), np.array(focal), movable)


def _check(found: BundleSolution, sensors: dict[str, Sensor], scene: Scene) -> None:
    """Refuse a solution that rests on too few observations."""
    count = sum(found.observations.values())
    images = sum(len(sensor.frame) for sensor in sensors.values())
    if count < _FEWEST_OBSERVATIONS * images:
        raise RunError(f'{" and ".join(sensors)} images share too few points', where=scene.root,
                       expected=f'{_FEWEST_OBSERVATIONS} observations an image',
                       got=f'{count / max(images, 1):.1f}',
                       hint='Try --refine-method gradient or, for the rig, edges.')

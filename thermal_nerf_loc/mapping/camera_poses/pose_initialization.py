# SPDX-License-Identifier: Apache-2.0
"""
Poses, lenses and rig before training: by bundle adjustment of image points, or by thermal edges.

Either result is where the camera optimizer begins.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from thermal_nerf_loc.common.errors import RunError
from thermal_nerf_loc.common.progress import Progress
from thermal_nerf_loc.field.contraction import space_around_cameras
from thermal_nerf_loc.field.cpu_renderer import CpuRenderer
from thermal_nerf_loc.field.device_renderer import render_torch
from thermal_nerf_loc.io.datasets.scene import load_image, Scene
from thermal_nerf_loc.mapping.camera_poses.bundle_adjustment import (
    BundleAdjustment, BundleSolution, FreeParameters)
from thermal_nerf_loc.mapping.camera_poses.camera_optimizer import CameraOptimizer
from thermal_nerf_loc.mapping.camera_poses.feature_tracks import (
    candidate_pairs, FeatureMatches, nominal_focal_px, Tracks)
from thermal_nerf_loc.mapping.camera_poses.features import detect_features, FeatureConfig
from thermal_nerf_loc.mapping.camera_poses.lens import Lenses
from thermal_nerf_loc.mapping.camera_poses.reprojection import CameraEstimate, Sensor
from thermal_nerf_loc.mapping.camera_poses.thermal_extrinsics import (
    Array32, find_rig, RenderDistance)
from thermal_nerf_loc.mapping.training.config import (
    BOTH, FEATURES, POSES, RefineConfig, RIG, TIME)
from thermal_nerf_loc.mapping.training.strategies import Learner
from thermal_nerf_loc.sensing.frame import RGB, THERMAL

_CHUNK_RAYS = 8192
_SAMPLES, _EXPLORING = 32, 0.5  # half of them uniform: the density grid is not reliable yet
_LOOSE = 3.0  # times the tolerance of matches, while their lens is not known
_FEWEST_OBSERVATIONS = 15  # an image, on average, for its pose to be trusted


class AdjustedCameras(NamedTuple):
    """Cameras before training: the scene with them, and the estimate itself."""

    scene: Scene
    cameras: CameraEstimate | None  # None: as given


def adjusted_cameras(scene: Scene, modalities: Sequence[str], config: RefineConfig,
                     progress: Progress) -> AdjustedCameras:
    """The cameras adjusted by matched points, where the method of refinement begins with that."""
    if not config.what or config.method not in (FEATURES, BOTH):
        return AdjustedCameras(scene, None)
    centers = np.array([scene.frames[i].T_world_cam[:3, 3] for i in scene.train])
    optimizer = CameraOptimizer(config, scene, modalities, space_around_cameras(centers).scale_m)
    _, cameras = initialize_by_points(optimizer, scene, progress)
    return AdjustedCameras(optimizer.applied(scene), cameras)


def initialize_by_points(optimizer: CameraOptimizer, scene: Scene, progress: Progress,
                         ) -> tuple[tuple[BundleSolution, ...], CameraEstimate]:
    """
    Adjust what is to be refined by matched points, and let the camera optimizer begin there.

    First poses and lenses of the cameras whose place in the rig is known; then the thermal camera
    beside them: all at once, a rig some degrees off would drag the poses along.
    """
    what, lenses, solutions = optimizer.config.what, optimizer.refined_lenses, []
    cameras = CameraEstimate.given(optimizer.given, optimizer.modalities)
    beside = RGB in optimizer.modalities and (bool({RIG, TIME} & set(what)) or THERMAL in lenses)
    fixed = tuple(name for name in optimizer.modalities if not (beside and name == THERMAL))
    first = FreeParameters(POSES in what, lenses=tuple(set(fixed) & set(lenses)))
    if first != FreeParameters():
        solutions.append(_bundle(optimizer, scene, fixed, cameras, first, progress))
        cameras = solutions[-1].cameras
    if beside:
        then = FreeParameters(False, RIG in what, tuple({THERMAL} & set(lenses)), TIME in what)
        solutions.append(_bundle(optimizer, scene, (THERMAL,), cameras, then, progress))
        cameras = replace(solutions[-1].cameras, lenses={**cameras.lenses,
                                                         **solutions[-1].cameras.lenses})
    optimizer.start_from(cameras)
    return tuple(solutions), cameras


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


def _bundle(optimizer: CameraOptimizer, scene: Scene, modalities: Sequence[str],
            cameras: CameraEstimate, free: FreeParameters, progress: Progress) -> BundleSolution:
    """
    Adjust what is free.

    A lens decides which matches have a two-view geometry: where it is free, they are verified
    loosely first, and strictly once it is known.
    """
    matches = {}
    for name in modalities:
        progress(0.0, 1.0, f'points that {name} images share')
        matches[name] = matches_of(scene, name, optimizer.config.features)
    for slack in (_LOOSE, 1.0) if free.lenses else (1.0,):
        progress(0.0, 1.0, 'bundle adjustment')
        sensors = {name: sensor_of(
            scene, name, matches[name].tracks(cameras.lenses[name],
                                              slack if name in free.lenses else 1.0),
            movable=free.rig or free.delay) for name in modalities}
        problem = BundleAdjustment(sensors, cameras.poses, optimizer.twists, optimizer.scale_m,
                                   free, cameras.lenses, optimizer.config.solver)
        found = problem.solve()
        _check(found, sensors, scene)
        cameras = replace(cameras, lenses={**cameras.lenses, **found.cameras.lenses})
    return found


def matches_of(scene: Scene, name: str, features: FeatureConfig) -> FeatureMatches:
    """What the training images of a modality share."""
    members = [(scene.frames[i], scene.frames[i].records[name]) for i in scene.train
               if name in scene.frames[i].records]
    poses = np.stack([frame.T_world_cam @ record.T_cam_sensor for frame, record in members])
    found = detect_features(name, len(members), lambda i: load_image(name, members[i][1]),
                            features)
    return FeatureMatches(found, candidate_pairs(poses, features.neighbours), features)


def sensor_of(scene: Scene, name: str, tracks: Tracks, movable: bool = False) -> Sensor:
    """The training images of a modality with the points that they share."""
    members = [(k, scene.frames[i].records[name]) for k, i in enumerate(scene.train)
               if name in scene.frames[i].records]
    cameras = [record.camera for _, record in members]
    return Sensor(tracks, np.array([k for k, _ in members]),
                  np.stack([record.T_cam_sensor for _, record in members]),
                  np.array([nominal_focal_px(camera) for camera in cameras]), movable,
                  Lenses.of(cameras))


def _check(found: BundleSolution, sensors: dict[str, Sensor], scene: Scene) -> None:
    """Refuse a solution that rests on too few observations."""
    count = sum(found.observations.values())
    images = sum(len(sensor.frame) for sensor in sensors.values())
    if count < _FEWEST_OBSERVATIONS * images:
        raise RunError(f'{" and ".join(sensors)} images share too few points', where=scene.root,
                       expected=f'{_FEWEST_OBSERVATIONS} observations an image',
                       got=f'{count / max(images, 1):.1f}',
                       hint='Try --refine-method gradient or, for the rig, edges.')

# SPDX-License-Identifier: Apache-2.0
"""Poses and rig before training: bundle adjustment over all that a scene's images share."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.data.scene import load_image, Scene
from thermal_nerf_loc.errors import RunError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.mapping.bundle import Bundle, Cameras, Problem, Sensor
from thermal_nerf_loc.mapping.cross_modal import find_turn
from thermal_nerf_loc.mapping.features import find_tracks
from thermal_nerf_loc.mapping.rig import Corrections
from thermal_nerf_loc.mapping.settings import EDGES, INTRINSICS, POSES, RIG, TIME
from thermal_nerf_loc.progress import Progress
from thermal_nerf_loc.sensing.frame import THERMAL

_NOMINAL_WIDTH_PX = 160
_FEWEST_EACH = 15  # sightings an image, on average, for its pose to be believed


def adjust(corrections: Corrections, scene: Scene, progress: Progress) -> tuple[Bundle, ...]:
    """
    Find what is free from matched points, and let the corrections begin there.

    Poses first, from cameras whose place in the rig is known; then the thermal camera beside
    them: all at once, a rig some degrees off would drag the poses along.
    """
    what, found = corrections.config.what, []
    cameras = Cameras(corrections.given, np.eye(4), np.zeros(3), 0.0)
    if corrections.config.method == EDGES:
        progress(0.0, 1.0, 'edges of heat on edges of colour')
        turn = se3.from_parts(find_turn(scene).R, np.zeros(3))
        corrections.begin_at(replace(cameras, rig=turn))
        return ()
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


def _bundle(corrections: Corrections, scene: Scene, modalities: list[str],
            poses: NDArray[np.float64], progress: Progress) -> Bundle:
    """Adjust poses by cameras that are fixed in the rig, or the one that is not by poses."""
    what = corrections.config.what
    movable = bool({RIG, INTRINSICS, TIME} & set(what)) and modalities == [THERMAL]
    sensors = {}
    for name in modalities:
        progress(0.0, 1.0, f'points that {name} images share')
        sensors[name] = _sensor(scene, name, movable)
    progress(0.0, 1.0, 'bundle adjustment')
    free = ((False, RIG in what, INTRINSICS in what, TIME in what) if movable else
            (True, False, False, False))
    found = Problem(sensors, poses, corrections.twists, corrections.scale_m, free).solve()
    _check(found, sensors, scene)
    return found


def _sensor(scene: Scene, name: str, movable: bool) -> Sensor:
    members = [(k, scene.frames[i], scene.frames[i].records[name])
               for k, i in enumerate(scene.train) if name in scene.frames[i].records]
    records = [record for _, _, record in members]
    poses = np.stack([frame.T_world_cam @ record.T_cam_sensor for _, frame, record in members])
    tracks = find_tracks(name, len(records), lambda i: load_image(name, records[i]), poses)
    focal = [record.camera.fx * _NOMINAL_WIDTH_PX / record.camera.width for record in records]
    return Sensor(tracks, np.array([k for k, _, _ in members]),
                  np.stack([record.T_cam_sensor for record in records]), np.array(focal), movable)


def _check(found: Bundle, sensors: dict[str, Sensor], scene: Scene) -> None:
    """Refuse what rests on too little."""
    sightings, images = sum(found.sightings.values()), sum(len(s.frame) for s in sensors.values())
    if sightings < _FEWEST_EACH * images:
        raise RunError(f'{" and ".join(sensors)} images share too few points', where=scene.root,
                       expected=f'{_FEWEST_EACH} sightings an image',
                       got=f'{sightings / max(images, 1):.1f}',
                       hint='Try --refine-method gradient or, for the rig, edges.')

# SPDX-License-Identifier: Apache-2.0
"""Perturbed data sets: errors of poses and rig, as measured ones have, and missing poses."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.config import setting
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.datasets.scene import Scene, UnposedFrame
from thermal_nerf_loc.sensing.frame import THERMAL

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PerturbationConfig:
    """Errors of a data set; the truth is kept in its `ground_truth`."""

    pose_deg: float = setting(0.0, 'RMS error of the orientations', 0, 45)
    pose_m: float = setting(0.0, 'RMS error of the positions', 0, 10)
    rig_deg: float = setting(0.0, 'rotation of the thermal camera away from the stated rig', 0, 90)
    rig_m: float = setting(0.0, 'shift of the thermal camera away from the stated rig', 0, 10)
    unposed: float = setting(0.0, 'share of the training frames that come without a pose', 0, 0.95)
    thermal_delay_s: float = setting(0.0, 'by which thermal images are later than their stamps', 0,
                                     1)

    @property
    def is_active(self) -> bool:
        """Whether there is any error."""
        return self != PerturbationConfig()


def perturbed_scene(scene: Scene, config: PerturbationConfig, seed: int = 0) -> Scene:
    """The scene with errors in poses and rig; the images stay the same."""
    T_error = rig_error(config, seed)
    frames = []
    for i, frame in enumerate(scene.frames):
        records = dict(frame.records)
        if THERMAL in records:
            record = records[THERMAL]
            records[THERMAL] = replace(record, T_cam_sensor=record.T_cam_sensor @ T_error,
                                       T_cam_sensor_true=record.T_cam_sensor)
        frames.append(replace(frame, records=records, T_world_cam_true=frame.T_world_cam,
                              T_world_cam=perturbed_pose(frame.T_world_cam, config, (seed, i))))
    return replace(scene, frames=tuple(frames))


def without_poses(scene: Scene, share: float, pattern: str = 'spread') -> Scene:
    """The scene, a share of its training frames unposed: 'spread' evenly, or the last 'block'."""
    count = len(scene.train)
    path = sorted(scene.train, key=lambda index: scene.frames[index].stamp_ns)
    taken = {index for k, index in enumerate(path)
             if (lacks_pose(k, share) if pattern == 'spread' else k >= round((1 - share) * count))}
    unposed = tuple(UnposedFrame(f.name, f.records, f.stamp_ns, f.T_world_cam)
                    for f in (scene.frames[index] for index in sorted(taken)))
    return replace(scene, train=tuple(i for i in scene.train if i not in taken), unposed=unposed)


def lacks_pose(k: int, share: float) -> bool:
    """Whether the k-th frame is unposed, where this share is spread evenly."""
    return int((k + 1) * share) > int(k * share)


def perturbed_pose(T_world_cam: Array, config: PerturbationConfig, seed: tuple[int, int]) -> Array:
    """A pose with white noise in its orientation and position."""
    noise = np.random.default_rng([*seed, 6]).normal(size=6) / np.sqrt(3.0)
    R = T_world_cam[:3, :3] @ se3.so3_exp(np.deg2rad(config.pose_deg) * noise[3:])
    return se3.from_parts(R, T_world_cam[:3, 3] + config.pose_m * noise[:3])


def rig_error(config: PerturbationConfig, seed: int) -> Array:
    """The error of the rig: of the given size, in a random direction."""
    v, w = np.random.default_rng([seed, 7]).normal(size=(2, 3))
    return se3.from_parts(se3.so3_exp(np.deg2rad(config.rig_deg) * w / np.linalg.norm(w)),
                          config.rig_m * v / np.linalg.norm(v))

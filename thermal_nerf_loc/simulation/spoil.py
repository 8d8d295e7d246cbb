# SPDX-License-Identifier: Apache-2.0
"""Posed images with wrong poses and a wrong rig, as odometry and rulers give them; or without."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.config import setting
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.datasets.scene import Scene, UnposedFrame
from thermal_nerf_loc.sensing.frame import THERMAL

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SpoilConfig:
    """How wrong; what is true stays beside it (`ground_truth_...` in a data set)."""

    pose_deg: float = setting(0.0, 'RMS error of the orientations', 0, 45)
    pose_m: float = setting(0.0, 'RMS error of the positions', 0, 10)
    rig_deg: float = setting(0.0, 'by how much the thermal camera is turned in the rig', 0, 90)
    rig_m: float = setting(0.0, 'by how much it is shifted', 0, 10)
    unposed: float = setting(0.0, 'share of the training frames that come without a pose', 0, 0.95)
    thermal_delay_s: float = setting(0.0, 'thermal images are later than their stamps', 0, 1)

    @property
    def spoils(self) -> bool:
        """Whether anything is wrong."""
        return self != SpoilConfig()


def spoiled(scene: Scene, config: SpoilConfig, seed: int = 0) -> Scene:
    """The scene with wrong poses and a wrong rig; images stay as they are on disk."""
    rig = wrong_rig(config, seed)
    frames = []
    for i, frame in enumerate(scene.frames):
        records = dict(frame.records)
        if THERMAL in records:
            record = records[THERMAL]
            records[THERMAL] = replace(record, T_cam_sensor=record.T_cam_sensor @ rig,
                                       T_cam_sensor_true=record.T_cam_sensor)
        frames.append(replace(frame, records=records, T_world_cam_true=frame.T_world_cam,
                              T_world_cam=wrong_pose(frame.T_world_cam, config, (seed, i))))
    return replace(scene, frames=tuple(frames))


def without_poses(scene: Scene, share: float, pattern: str = 'spread') -> Scene:
    """The scene without poses of a share of its training frames: 'spread', or the last 'block'."""
    count = len(scene.train)
    path = sorted(scene.train, key=lambda index: scene.frames[index].stamp_ns)
    taken = {index for k, index in enumerate(path)
             if (lacks_pose(k, share) if pattern == 'spread' else k >= round((1 - share) * count))}
    unposed = tuple(UnposedFrame(f.name, f.records, f.stamp_ns, f.T_world_cam)
                    for f in (scene.frames[index] for index in sorted(taken)))
    return replace(scene, train=tuple(i for i in scene.train if i not in taken), unposed=unposed)


def lacks_pose(k: int, share: float) -> bool:
    """Whether the k-th of evenly spread frames is among that share."""
    return int((k + 1) * share) > int(k * share)


def wrong_pose(T_world_cam: Array, config: SpoilConfig, seed: tuple[int, int]) -> Array:
    """A pose with white noise: turned in place and shifted."""
    noise = np.random.default_rng([*seed, 6]).normal(size=6) / np.sqrt(3.0)
    R = T_world_cam[:3, :3] @ se3.so3_exp(np.deg2rad(config.pose_deg) * noise[3:])
    return se3.from_parts(R, T_world_cam[:3, 3] + config.pose_m * noise[:3])


def wrong_rig(config: SpoilConfig, seed: int) -> Array:
    """What the rig is off by: exactly so far, in a random direction."""
    v, w = np.random.default_rng([seed, 7]).normal(size=(2, 3))
    return se3.from_parts(se3.so3_exp(np.deg2rad(config.rig_deg) * w / np.linalg.norm(w)),
                          config.rig_m * v / np.linalg.norm(v))

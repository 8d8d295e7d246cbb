# SPDX-License-Identifier: Apache-2.0
"""
The camera optimizer: poses, rig, thermal intrinsics and time offset, learned with the map.

    T_world_sensor = P_i T_world_cam_i  exp(dt xi_i)  T_cam_sensor D

for frame i with its given pose. P_i corrects it in the world, D corrects where the thermal camera
is in the rig, dt is by how much thermal images are later than their stamps, xi_i is the frame's
velocity. Lengths count in scene scales, so that one learning rate serves metres and radians.

Images do not determine a motion or scaling of everything: those seven directions (the gauge) are
projected out of the P_i, to first order. Coarse hash levels learn first (`HashLevelSchedule`):
fine ones would fit every image to its wrong pose, and hold it there (BARF, Lin et al. 2021).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.lie_torch import (
    adjusted_rays, gauge_basis, LONGEST_GAP_S, moved_in_place, rigid_motion, se3_hat, velocities)
from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.mapping.camera_poses.bundle_adjustment import CameraEstimate
from thermal_nerf_loc.mapping.training.config import (
    EDGES, FEATURES, INTRINSICS, POSES, RefineConfig, RIG, TIME)
from thermal_nerf_loc.mapping.training.ray_sampler import RayBatch
from thermal_nerf_loc.sensing.frame import RGB, THERMAL

Array = NDArray[np.float64]


class FixedCameras:
    """Null object of `CameraOptimizer`: rays from the poses of the data set."""

    @staticmethod
    def rays(modality: str, batch: RayBatch) -> tuple[Tensor, Tensor]:
        """Origins and directions (n, 3)."""
        return torch.from_numpy(batch.origins), torch.from_numpy(batch.directions)


class CameraOptimizer(nn.Module):
    """Corrections of all that `config.what` names, as parameters that begin at zero."""

    start_poses: Tensor  # (frames, 4, 4) that `poses` correct: as given, or initialized
    start_rig: Tensor  # (4, 4) that `rig` corrects
    edge_correlation: Tensor  # of colour and thermal edges, where they gave the rig

    def __init__(self, config: RefineConfig, scene: Scene, modalities: Sequence[str],
                 scale_m: float) -> None:
        """Take poses and rig from the training split."""
        super().__init__()
        self.config, self.scale_m = config, scale_m
        _check(config, scene, modalities)
        self.given = np.stack([scene.frames[i].T_world_cam for i in scene.train])
        self.modalities = tuple(modalities)
        self.register_buffer('start_poses', torch.from_numpy(self.given).clone())
        self.register_buffer('start_rig', torch.eye(4, dtype=torch.float64))
        self.register_buffer('edge_correlation', torch.tensor(0.0, dtype=torch.float64))
        self._frame_of_image: dict[str, NDArray[np.int64]] = {}
        self._T_cam_sensor: dict[str, Tensor] = {}
        for name in modalities:
            members = [(k, scene.frames[i].records[name]) for k, i in enumerate(scene.train)
                       if name in scene.frames[i].records]
            self._frame_of_image[name] = np.array([k for k, _ in members])
            self._T_cam_sensor[name] = torch.from_numpy(
                np.stack([record.T_cam_sensor for _, record in members]))
        self.poses = self._parameter(POSES, len(scene.train), 6)
        self.rig = self._parameter(RIG, 1, 6)
        self.lens = self._parameter(INTRINSICS, 3)  # log focal length, shift of the centre
        self.delay_s = self._parameter(TIME)
        self._gauge = torch.from_numpy(gauge_basis(self.given, scale_m))
        self.twists = velocities(self.given, [scene.frames[i].stamp_ns for i in scene.train])

    def rays(self, modality: str, batch: RayBatch) -> tuple[Tensor, Tensor]:
        """Origins and directions (n, 3) from the cameras as they are estimated now."""
        T = self.sensor_poses(modality)[batch.image.cpu()]
        if batch.row_motion is not None:
            T = T @ torch.from_numpy(batch.row_motion)
        T = T.float()
        directions = torch.from_numpy(batch.directions_cam)
        if modality == THERMAL and INTRINSICS in self.config.what:
            directions = adjusted_rays(directions, self.lens.float())
        return T[:, :3, 3], torch.einsum('nij,nj->ni', T[:, :3, :3], directions)

    def sensor_poses(self, modality: str) -> Tensor:
        """T_world_sensor of every image of a modality (n, 4, 4)."""
        frames = torch.from_numpy(self._frame_of_image[modality])
        T = self.frame_poses()[frames]
        if modality != THERMAL:
            return T @ self._T_cam_sensor[modality]
        if TIME in self.config.what:
            twists = torch.from_numpy(self.twists)[frames]
            T = T @ torch.matrix_exp(se3_hat(twists) * self.delay_s)
        return T @ self._T_cam_sensor[modality] @ self.rig_correction()

    def frame_poses(self) -> Tensor:
        """T_world_cam of every training frame (n, 4, 4)."""
        free = self.poses.reshape(-1)
        in_gauge = (free - self._gauge @ (self._gauge.T @ free)).view_as(self.poses)
        return moved_in_place(rigid_motion(in_gauge, self.scale_m), self.start_poses)

    def rig_correction(self) -> Tensor:
        """D: pose of the thermal camera in the frame where it was given (4, 4)."""
        return self.start_rig @ rigid_motion(self.rig, self.scale_m)[0]

    def prior(self) -> Tensor:
        """Weak pull towards where the parameters began; else unconstrained frames would wander."""
        return (self.poses**2).sum(dim=1).mean() + (self.rig**2).sum()

    @torch.no_grad()
    def start_from(self, cameras: CameraEstimate) -> None:
        """Begin at the result of bundle adjustment."""
        if POSES in self.config.what:
            self.start_from_poses(cameras.poses)
        self.start_rig[:] = torch.from_numpy(cameras.rig)
        self.lens[:] = torch.from_numpy(cameras.lens)
        self.delay_s.fill_(cameras.delay_s)

    @torch.no_grad()
    def start_from_rig(self, T: Array, edge_correlation: float) -> None:
        """Begin with the rig moved by T (4, 4) in the thermal camera's own frame."""
        self.start_rig[:] = torch.from_numpy(self.rig_correction().numpy() @ T)
        self.rig.zero_()
        self.edge_correlation.fill_(edge_correlation)

    @torch.no_grad()
    def start_from_poses(self, poses: Array) -> None:
        """Begin at other poses (n, 4, 4) of the frames, in the gauge of those given."""
        offset = np.concatenate([
            (poses[:, :3, 3] - self.given[:, :3, 3]) / self.scale_m,
            se3.so3_log(poses[:, :3, :3] @ self.given[:, :3, :3].transpose(0, 2, 1))], axis=1)
        basis = self._gauge.numpy()
        free = offset.reshape(-1) - basis @ (basis.T @ offset.reshape(-1))
        offset = free.reshape(-1, 6)
        self.start_poses[:, :3, :3] = torch.from_numpy(
            se3.so3_exp(offset[:, 3:]) @ self.given[:, :3, :3])
        self.start_poses[:, :3, 3] = torch.from_numpy(
            self.given[:, :3, 3] + self.scale_m * offset[:, :3])
        self.poses.zero_()

    @torch.no_grad()
    def applied(self, scene: Scene) -> Scene:
        """The scene with training poses, rig and thermal camera as they are estimated now."""
        poses = self.frame_poses().numpy()
        D = self.rig_correction().numpy()
        log_focal, dx, dy = self.lens.tolist()
        delay_ns = round(1e9 * float(self.delay_s))
        twists = _twists_of(scene)
        frames = list(scene.frames)
        for k, i in enumerate(scene.train):
            frames[i] = replace(frames[i], T_world_cam=se3.check_pose(poses[k]))
        for i, frame in enumerate(frames):
            if THERMAL not in frame.records:
                continue
            record = frame.records[THERMAL]
            T = se3.exp(twists[i] * 1e-9 * delay_ns) @ record.T_cam_sensor @ D
            camera = record.camera
            camera = replace(camera, fx=camera.fx * np.exp(log_focal),
                             fy=camera.fy * np.exp(log_focal),
                             cx=camera.cx + camera.fx * dx, cy=camera.cy + camera.fy * dy)
            frames[i] = replace(frame, records={**frame.records, THERMAL: replace(
                record, T_cam_sensor=se3.check_pose(T), camera=camera)})
        return replace(scene, frames=tuple(frames))

    @torch.no_grad()
    def facts(self, scene: Scene) -> dict[str, Any]:
        """What the map file records: how far all was moved, and where the cameras are now."""
        poses = self.frame_poses().numpy()
        R = poses[:, :3, :3] @ self.given[:, :3, :3].transpose(0, 2, 1)
        moved_m = np.linalg.norm(poses[:, :3, 3] - self.given[:, :3, 3], axis=1)
        moved_rad = np.linalg.norm(se3.so3_log(R), axis=1)
        D = self.rig_correction().numpy()
        rig_m, rig_deg = se3.distance(np.eye(4), D)
        log_focal, dx, dy = self.lens.tolist()
        return {'what': list(self.config.what), 'method': self.config.method,
                'gauge': 'no motion and no scaling of all poses together',
                'pose_rms_m': float(np.sqrt((moved_m**2).mean())),
                'pose_rms_deg': float(np.rad2deg(np.sqrt((moved_rad**2).mean()))),
                'rig_m': rig_m, 'rig_deg': rig_deg, 'T_thermal_given_thermal': D.tolist(),
                'thermal_focal_factor': float(np.exp(log_focal)),
                'thermal_centre_shift': [dx, dy],  # of the focal length
                'thermal_delay_s': float(self.delay_s),
                **({'edge_correlation': float(self.edge_correlation)}
                   if self.config.method == EDGES else {}),
                'frames': {scene.frames[i].name: poses[k].tolist()
                           for k, i in enumerate(scene.train)} if POSES in self.config.what
                else {}}

    def _parameter(self, name: str, *shape: int) -> nn.Parameter:
        """Zeros; trainable where `name` is refined by the images while training."""
        initialized_only = (self.config.method == FEATURES
                            or (self.config.method == EDGES and name == RIG))
        return nn.Parameter(torch.zeros(shape, dtype=torch.float64),
                            requires_grad=name in self.config.what and not initialized_only)


@dataclass(frozen=True, slots=True)
class HashLevelSchedule:
    """
    How many hash levels are read: `first` until `begin`, all from `fine` on, linear between.

    Times are shares of the training.
    """

    first: float
    fine: float
    begin: float = 0.0

    def levels(self, share: float, levels: int) -> float:
        """Levels read at a share of the training."""
        if share >= self.fine:
            return float(levels)
        done = max(share - self.begin, 0.0) / max(self.fine - self.begin, 1e-9)
        first = min(self.first, levels)
        return first + done * (levels - first)


def _twists_of(scene: Scene) -> Array:
    """Velocities (n, 6) of all frames; each split counts as one drive."""
    out = np.zeros((len(scene.frames), 6))
    for part in (scene.train, scene.test):
        if part:
            chosen = list(part)
            out[chosen] = velocities(np.stack([scene.frames[i].T_world_cam for i in chosen]),
                                     [scene.frames[i].stamp_ns for i in chosen])
    return out


def _check(config: RefineConfig, scene: Scene, modalities: Sequence[str]) -> None:
    both = RGB in modalities and THERMAL in modalities
    for what in (RIG, INTRINSICS, TIME):
        if what in config.what and not both:
            raise InputError(f'{what} cannot be refined', where='refine',
                             expected='colour and thermal images', got=', '.join(modalities),
                             hint='With one camera alone its poses say it all: refine poses.')
    if POSES in config.what and len(scene.train) < 3:
        raise InputError('too few frames to refine poses', where=scene.root, expected='3 or more',
                         got=len(scene.train))
    if TIME in config.what:
        stamps = [scene.frames[i].stamp_ns for i in scene.train]
        poses = np.stack([scene.frames[i].T_world_cam for i in scene.train])
        if not velocities(poses, stamps).any():
            raise InputError('no time offset can be found', where=scene.root,
                             expected=f'stamps with frames at most {LONGEST_GAP_S:g} s apart',
                             got='none that follow each other so closely')

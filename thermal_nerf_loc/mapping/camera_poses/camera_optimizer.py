# SPDX-License-Identifier: Apache-2.0
"""
What is learned about where the cameras stood: poses, the rig, thermal intrinsics, a time offset.

    T_world_sensor = P_i T_world_cam_i  exp(dt xi_i)  T_cam_sensor D

for frame i with its given pose; P_i corrects it in the world, D turns and shifts the thermal
camera in the rig, dt is by how much thermal images are later than their stamps say, at the
frame's own velocity xi_i. Lengths count in scene scales, so that one learning rate serves metres
and radians.

No image can tell a motion or a scaling of everything: those seven directions are projected out
of the P_i, to first order. Coarse hash levels learn first (`HashLevelSchedule`): fine ones would
paint every image where its wrong pose sees it, and hold it there.
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
    about, bent, gauge_basis, hats, LONGEST_GAP_S, motion, velocities)
from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.mapping.camera_poses.bundle_adjustment import Cameras
from thermal_nerf_loc.mapping.training.config import (
    EDGES, FEATURES, INTRINSICS, POSES, RefineConfig, RIG, TIME)
from thermal_nerf_loc.mapping.training.ray_sampler import RayBatch
from thermal_nerf_loc.sensing.frame import RGB, THERMAL

Array = NDArray[np.float64]


class FixedCameras:
    """The null correction: rays as the data set gives them."""

    @staticmethod
    def rays(modality: str, batch: RayBatch) -> tuple[Tensor, Tensor]:
        """Origins and directions (n, 3)."""
        return torch.from_numpy(batch.origins), torch.from_numpy(batch.directions)


class CameraOptimizer(nn.Module):
    """All that `config.what` names, as parameters that begin at zero."""

    base: Tensor
    base_rig: Tensor
    likeness: Tensor

    def __init__(self, config: RefineConfig, scene: Scene, modalities: Sequence[str],
                 scale_m: float) -> None:
        """Take poses and rig from the training split."""
        super().__init__()
        self.config, self.scale_m = config, scale_m
        _check(config, scene, modalities)
        self.given = np.stack([scene.frames[i].T_world_cam for i in scene.train])
        self.modalities = tuple(modalities)
        self.register_buffer('base', torch.from_numpy(self.given).clone())
        self.register_buffer('base_rig', torch.eye(4, dtype=torch.float64))
        self.register_buffer('likeness', torch.tensor(0.0, dtype=torch.float64))
        self._of_image: dict[str, NDArray[np.int64]] = {}
        self._rigs: dict[str, Tensor] = {}
        for name in modalities:
            members = [(k, scene.frames[i].records[name]) for k, i in enumerate(scene.train)
                       if name in scene.frames[i].records]
            self._of_image[name] = np.array([k for k, _ in members])
            self._rigs[name] = torch.from_numpy(
                np.stack([record.T_cam_sensor for _, record in members]))
        width = 9 if config.form == '6d' else 6
        self.poses = self._parameter(POSES, len(scene.train), width)
        self.rig = self._parameter(RIG, 1, width)
        self.lens = self._parameter(INTRINSICS, 3)  # log focal, centre
        self.delay = self._parameter(TIME)
        self._gauge = torch.from_numpy(gauge_basis(self.given, config.form, scale_m))
        self.twists = velocities(self.given, [scene.frames[i].stamp_ns for i in scene.train])

    def rays(self, modality: str, batch: RayBatch) -> tuple[Tensor, Tensor]:
        """Origins and directions (n, 3) from where the cameras are now believed to stand."""
        T = self.sensor_poses(modality)[batch.image.cpu()]
        if batch.moved is not None:
            T = T @ torch.from_numpy(batch.moved)
        T = T.float()
        sights = torch.from_numpy(batch.sights)
        if modality == THERMAL and INTRINSICS in self.config.what:
            sights = bent(sights, self.lens.float())
        return T[:, :3, 3], torch.einsum('nij,nj->ni', T[:, :3, :3], sights)

    def sensor_poses(self, modality: str) -> Tensor:
        """T_world_sensor of every image of a modality (n, 4, 4)."""
        frames = torch.from_numpy(self._of_image[modality])
        T = self.frame_poses()[frames]
        if modality != THERMAL:
            return T @ self._rigs[modality]
        if TIME in self.config.what:
            twists = torch.from_numpy(self.twists)[frames]
            T = T @ torch.matrix_exp(hats(twists) * self.delay)
        return T @ self._rigs[modality] @ self.rig_correction()

    def frame_poses(self) -> Tensor:
        """T_world_cam of every training frame (n, 4, 4)."""
        free = self.poses.reshape(-1)
        moved = motion((free - self._gauge @ (self._gauge.T @ free)).view_as(self.poses),
                       self.config.form, self.scale_m)
        return about(moved, self.base, self.config.form, self._center())

    def rig_correction(self) -> Tensor:
        """D: where the thermal camera is, seen from where it was said to be (4, 4)."""
        return self.base_rig @ motion(self.rig, self.config.form, self.scale_m)[0]

    def prior(self) -> Tensor:
        """Weak pull towards what was given; without it, frames that see nothing would wander."""
        return (self.poses**2).sum(dim=1).mean() + (self.rig**2).sum()

    @torch.no_grad()
    def begin_at(self, cameras: Cameras) -> None:
        """Let all parameters begin at what bundle adjustment has found."""
        if POSES in self.config.what:
            self.rebase(cameras.poses)
        self.base_rig[:] = torch.from_numpy(cameras.rig)
        self.lens[:] = torch.from_numpy(cameras.lens)
        self.delay.fill_(cameras.delay_s)

    @torch.no_grad()
    def place(self, T: Array, likeness: float) -> None:
        """Let the rig begin at T (4, 4) behind what it was."""
        self.base_rig[:] = torch.from_numpy(self.rig_correction().numpy() @ T)
        self.rig.zero_()
        self.likeness.fill_(likeness)

    @torch.no_grad()
    def rebase(self, poses: Array) -> None:
        """Go on from other poses (n, 4, 4) of the frames, in the gauge of those given."""
        offset = np.concatenate([
            (poses[:, :3, 3] - self.given[:, :3, 3]) / self.scale_m,
            se3.so3_log(poses[:, :3, :3] @ self.given[:, :3, :3].transpose(0, 2, 1))], axis=1)
        basis = gauge_basis(self.given, 'so3xr3', self.scale_m)
        free = offset.reshape(-1) - basis @ (basis.T @ offset.reshape(-1))
        offset = free.reshape(-1, 6)
        self.base[:, :3, :3] = torch.from_numpy(
            se3.so3_exp(offset[:, 3:]) @ self.given[:, :3, :3])
        self.base[:, :3, 3] = torch.from_numpy(
            self.given[:, :3, 3] + self.scale_m * offset[:, :3])
        self.poses.zero_()

    @torch.no_grad()
    def applied(self, scene: Scene) -> Scene:
        """The scene with training poses, rig and thermal camera as they are now believed."""
        poses = self.frame_poses().numpy()
        turn = self.rig_correction().numpy()
        log_focal, dx, dy = self.lens.tolist()
        delay_ns = round(1e9 * float(self.delay))
        twists = _twists_of(scene)
        frames = list(scene.frames)
        for k, i in enumerate(scene.train):
            frames[i] = replace(frames[i], T_world_cam=se3.check_pose(poses[k]))
        for i, frame in enumerate(frames):
            if THERMAL not in frame.records:
                continue
            record = frame.records[THERMAL]
            T = se3.exp(twists[i] * 1e-9 * delay_ns) @ record.T_cam_sensor @ turn
            camera = record.camera
            camera = replace(camera, fx=camera.fx * np.exp(log_focal),
                             fy=camera.fy * np.exp(log_focal),
                             cx=camera.cx + camera.fx * dx, cy=camera.cy + camera.fy * dy)
            frames[i] = replace(frame, records={**frame.records, THERMAL: replace(
                record, T_cam_sensor=se3.check_pose(T), camera=camera)})
        return replace(scene, frames=tuple(frames))

    @torch.no_grad()
    def facts(self, scene: Scene) -> dict[str, Any]:
        """What the map file tells: how far all was moved, and where the cameras are now."""
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
                'thermal_delay_s': float(self.delay),
                **({'edge_correlation': float(self.likeness)}
                   if self.config.method == EDGES else {}),
                'frames': {scene.frames[i].name: poses[k].tolist()
                           for k, i in enumerate(scene.train)} if POSES in self.config.what
                else {}}

    def _parameter(self, name: str, *shape: int) -> nn.Parameter:
        """Zeros that learn where the gradient of the images is asked."""
        found = self.config.method == FEATURES or (self.config.method == EDGES and name == RIG)
        return nn.Parameter(torch.zeros(shape, dtype=torch.float64),
                            requires_grad=name in self.config.what and not found)

    def _center(self) -> Tensor:
        return torch.from_numpy(self.given[:, :3, 3].mean(axis=0))


@dataclass(frozen=True, slots=True)
class HashLevelSchedule:
    """How many hash levels are read when: few at first, all from `fine` on (shares of the run)."""

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
    """Velocities of all frames, each from its own split: one drive."""
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

# SPDX-License-Identifier: Apache-2.0
"""
The camera optimizer: poses, rig, lenses and time offset, learned with the map.

    T_world_sensor = P_i T_world_cam_i  exp(dt xi_i)  T_cam_sensor D

for frame i with its given pose. P_i corrects it in the world, D corrects where the thermal camera
is in the rig, dt is by how much thermal images are later than their stamps, xi_i is the frame's
velocity. Lenses: `lens.py`. Lengths count in scene scales, so that one learning rate serves metres
and radians.

Images do not determine a motion or scaling of everything: those seven directions (the gauge) are
projected out of the P_i, to first order. Coarse hash levels learn first (`HashLevelSchedule`):
fine ones would fit every image to its wrong pose, and hold it there (BARF, Lin et al. 2021).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.lie_torch import (
    adjusted_rays, gauge_basis, LONGEST_GAP_S, moved_in_place, rigid_motion, se3_exp, velocities)
from thermal_nerf_loc.io.datasets.scene import ImageRecord, Scene
from thermal_nerf_loc.mapping.camera_poses.lens import adjusted_camera, LENS_SIZE, Lenses
from thermal_nerf_loc.mapping.camera_poses.reprojection import CameraEstimate
from thermal_nerf_loc.mapping.training.config import (
    EDGES, FEATURES, INTRINSICS, POSES, RefineConfig, RIG, TIME)
from thermal_nerf_loc.mapping.training.ray_sampler import DeviceBatch, RayBatch
from thermal_nerf_loc.sensing.frame import RGB, THERMAL

Array = NDArray[np.float64]


class FixedCameras:
    """Null object of `CameraOptimizer`: rays from the poses of the data set."""

    @staticmethod
    def rays(modality: str, batch: RayBatch | DeviceBatch) -> tuple[Tensor, Tensor]:
        """Origins and directions (n, 3)."""
        on = batch.on(batch.truth.device)
        return on.origins, on.directions


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
        self._lenses: dict[str, Lenses] = {}
        for name in modalities:
            members = [(k, scene.frames[i].records[name]) for k, i in enumerate(scene.train)
                       if name in scene.frames[i].records]
            self._constant(f'frames_{name}', np.array([k for k, _ in members]))
            self._constant(f'T_cam_{name}', np.stack([record.T_cam_sensor
                                                      for _, record in members]))
            self._lenses[name] = Lenses.of([record.camera for _, record in members])
        self.poses = self._parameter(POSES, len(scene.train), 6)
        self.rig = self._parameter(RIG, 1, 6)
        self.lens = self._parameter(INTRINSICS, len(modalities), LENS_SIZE)
        self.delay_s = self._parameter(TIME)
        self._constant('gauge', gauge_basis(self.given, scale_m))
        self.twists = velocities(self.given, [scene.frames[i].stamp_ns for i in scene.train])
        self._constant('all_twists', self.twists)

    def rays(self, modality: str, batch: RayBatch | DeviceBatch) -> tuple[Tensor, Tensor]:
        """Origins and directions (n, 3) from the cameras as they are estimated now."""
        on = batch.on(self.poses.device)
        T = self.sensor_poses(modality)[on.image]
        if on.row_motion is not None:
            T = T @ on.row_motion
        T = T.float()
        directions = on.directions_cam
        if modality in self.refined_lenses:
            directions = self._lens_rays(modality, on).float()
        return T[:, :3, 3], torch.einsum('nij,nj->ni', T[:, :3, :3], directions)

    @property
    def refined_lenses(self) -> tuple[str, ...]:
        """Modalities whose lens is refined."""
        return self.config.lenses_of(self.modalities)

    def lens_of(self, modality: str) -> Tensor:
        """Correction (7,) of a lens."""
        return self.lens[self.modalities.index(modality)]

    def _lens_rays(self, modality: str, batch: DeviceBatch) -> Tensor:
        """
        Rays in the camera (n, 3) through the lens as it is estimated now.

        A refined lens is inverted on the processor, so that a GPU waits for it in every step.
        """
        lens = self.lens_of(modality)
        lenses = self._lenses[modality][batch.image.cpu().numpy()]
        zero = np.zeros((len(batch.directions_cam), LENS_SIZE))
        q = lenses.project(batch.directions_cam.cpu().double().numpy(), zero).q
        rays, J = lenses.unproject(q, zero + lens.detach().cpu().numpy())
        return adjusted_rays(rays, J, lens.cpu()).to(lens.device)

    def sensor_poses(self, modality: str) -> Tensor:
        """T_world_sensor of every image of a modality (n, 4, 4)."""
        frames = self.get_buffer(f'frames_{modality}')
        T, T_cam_sensor = self.frame_poses()[frames], self.get_buffer(f'T_cam_{modality}')
        if modality != THERMAL:
            return T @ T_cam_sensor
        if TIME in self.config.what:
            T = T @ se3_exp(self.get_buffer('all_twists')[frames] * self.delay_s)
        return T @ T_cam_sensor @ self.rig_correction()

    def frame_poses(self) -> Tensor:
        """T_world_cam of every training frame (n, 4, 4)."""
        free = self.poses.reshape(-1)
        gauge = self.get_buffer('gauge')
        in_gauge = (free - gauge @ (gauge.T @ free)).view_as(self.poses)
        return moved_in_place(rigid_motion(in_gauge, self.scale_m), self.start_poses)

    def rig_correction(self) -> Tensor:
        """D: pose of the thermal camera in the frame where it was given (4, 4)."""
        return self.start_rig @ rigid_motion(self.rig, self.scale_m)[0]

    def prior(self) -> Tensor:
        """Weak pull towards where the parameters began; else unconstrained frames would wander."""
        return (self.poses**2).sum(dim=1).mean() + (self.rig**2).sum() + (self.lens**2).sum()

    @torch.no_grad()
    def start_from(self, cameras: CameraEstimate) -> None:
        """Begin at the result of bundle adjustment."""
        if POSES in self.config.what:
            self.start_from_poses(cameras.poses)
        self.start_rig[:] = torch.from_numpy(cameras.rig)
        for name, lens in cameras.lenses.items():
            self.lens_of(name)[:] = torch.from_numpy(lens)
        self.delay_s.fill_(cameras.delay_s)

    @torch.no_grad()
    def start_from_rig(self, T: Array, edge_correlation: float) -> None:
        """Begin with the rig moved by T (4, 4) in the thermal camera's own frame."""
        self.start_rig[:] = torch.from_numpy(self.rig_correction().cpu().numpy() @ T)
        self.rig.zero_()
        self.edge_correlation.fill_(edge_correlation)

    @torch.no_grad()
    def start_from_poses(self, poses: Array) -> None:
        """Begin at other poses (n, 4, 4) of the frames, in the gauge of those given."""
        offset = np.concatenate([
            (poses[:, :3, 3] - self.given[:, :3, 3]) / self.scale_m,
            se3.so3_log(poses[:, :3, :3] @ self.given[:, :3, :3].transpose(0, 2, 1))], axis=1)
        basis = self.get_buffer('gauge').cpu().numpy()
        free = offset.reshape(-1) - basis @ (basis.T @ offset.reshape(-1))
        offset = free.reshape(-1, 6)
        self.start_poses[:, :3, :3] = torch.from_numpy(
            se3.so3_exp(offset[:, 3:]) @ self.given[:, :3, :3])
        self.start_poses[:, :3, 3] = torch.from_numpy(
            self.given[:, :3, 3] + self.scale_m * offset[:, :3])
        self.poses.zero_()

    @torch.no_grad()
    def applied(self, scene: Scene) -> Scene:
        """The scene with training poses, rig and cameras as they are estimated now."""
        poses, twists = self.frame_poses().cpu().numpy(), _twists_of(scene)
        frames = list(scene.frames)
        for k, i in enumerate(scene.train):
            frames[i] = replace(frames[i], T_world_cam=se3.check_pose(poses[k]))
        for i, frame in enumerate(frames):
            frames[i] = replace(frame, records=self._adjusted(frame.records, twists[i]))
        unposed = tuple(replace(frame, records=self._adjusted(frame.records, np.zeros(6)))
                        for frame in scene.unposed)
        return replace(scene, frames=tuple(frames), unposed=unposed)

    def _adjusted(self, records: Mapping[str, ImageRecord], twist: Array,
                  ) -> dict[str, ImageRecord]:
        """Images of a frame with its velocity (6,), their cameras as they are estimated now."""
        out = dict(records)
        for name in set(self.refined_lenses) & set(records):
            out[name] = replace(out[name], camera=adjusted_camera(
                out[name].camera, self.lens_of(name).cpu().numpy()))
        if THERMAL in records:
            D = self.rig_correction().cpu().numpy()
            delay_s = round(1e9 * float(self.delay_s)) * 1e-9
            T = se3.exp(twist * delay_s) @ records[THERMAL].T_cam_sensor @ D
            out[THERMAL] = replace(out[THERMAL], T_cam_sensor=se3.check_pose(T))
        return out

    @torch.no_grad()
    def facts(self, scene: Scene) -> dict[str, Any]:
        """What the map file records: how far all was moved, and where the cameras are now."""
        poses = self.frame_poses().cpu().numpy()
        R = poses[:, :3, :3] @ self.given[:, :3, :3].transpose(0, 2, 1)
        moved_m = np.linalg.norm(poses[:, :3, 3] - self.given[:, :3, 3], axis=1)
        moved_rad = np.linalg.norm(se3.so3_log(R), axis=1)
        D = self.rig_correction().cpu().numpy()
        rig_m, rig_deg = se3.distance(np.eye(4), D)
        return {'what': list(self.config.what), 'method': self.config.method,
                'gauge': 'no motion and no scaling of all poses together',
                'pose_rms_m': float(np.sqrt((moved_m**2).mean())),
                'pose_rms_deg': float(np.rad2deg(np.sqrt((moved_rad**2).mean()))),
                'rig_m': rig_m, 'rig_deg': rig_deg, 'T_thermal_given_thermal': D.tolist(),
                **self._lens_facts(scene),
                'thermal_delay_s': float(self.delay_s),
                **({'edge_correlation': float(self.edge_correlation)}
                   if self.config.method == EDGES else {}),
                'frames': {scene.frames[i].name: poses[k].tolist()
                           for k, i in enumerate(scene.train)} if POSES in self.config.what
                else {}}

    def _lens_facts(self, scene: Scene) -> dict[str, Any]:
        """Of each lens: factor of its focal length, shift of its centre (in focal lengths)."""
        facts: dict[str, Any] = {'thermal_focal_factor': 1.0, 'thermal_centre_shift': [0.0, 0.0]}
        for name in self.modalities:
            log_focal, dx, dy = self.lens_of(name)[:3].tolist()
            facts |= {f'{name}_focal_factor': float(np.exp(log_focal)),
                      f'{name}_centre_shift': [dx, dy]}
            if name in self.refined_lenses:
                record = next(scene.frames[i].records[name] for i in scene.train
                              if name in scene.frames[i].records)
                facts[f'{name}_distortion'] = list(adjusted_camera(
                    record.camera, self.lens_of(name).cpu().numpy()).distortion)
        return facts

    def _constant(self, name: str, values: NDArray[Any]) -> None:
        """A buffer that goes along to a device, and is in no checkpoint."""
        self.register_buffer(name, torch.from_numpy(values), persistent=False)

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
    for what in (RIG, TIME):
        if what in config.what and not both:
            raise InputError(f'{what} cannot be refined', where='refine',
                             expected='colour and thermal images', got=', '.join(modalities),
                             hint='With one camera alone its poses say it all: refine poses.')
    if INTRINSICS in config.what and not config.lenses_of(modalities):
        raise InputError('there is no such lens to refine', where='refine.lenses',
                         expected=' or '.join(modalities), got=config.lenses)
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

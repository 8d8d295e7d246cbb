# SPDX-License-Identifier: Apache-2.0
"""Loss of one batch of rays: rendered, passed through the cameras, compared with the pixels."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor

from thermal_nerf_loc.field.device import has_bfloat16, Random
from thermal_nerf_loc.field.device_renderer import half_precision
from thermal_nerf_loc.field.volume_rendering import (BranchOptions, render, Rendering, Samples,
                                                     uses_kernels)
from thermal_nerf_loc.mapping.camera_poses.camera_optimizer import CameraOptimizer, FixedCameras
from thermal_nerf_loc.mapping.training import losses
from thermal_nerf_loc.mapping.training.camera_response import (
    CameraResponse, zero_offset, ZeroOffset)
from thermal_nerf_loc.mapping.training.config import METRIC, TrainConfig
from thermal_nerf_loc.mapping.training.losses import DepthFit
from thermal_nerf_loc.mapping.training.ray_sampler import DeviceBatch, PixelSource, RayBatch
from thermal_nerf_loc.mapping.training.schedule import SchedulePosition
from thermal_nerf_loc.mapping.training.strategies import Learner
from thermal_nerf_loc.sensing.frame import RGB, THERMAL
from thermal_nerf_loc.sensing.thermal import TemperatureRange

Array32 = NDArray[np.float32]

_RESIDUALS_FROM = 0.5  # of a phase: the map has its surfaces, residuals are the cameras' pattern
_RESIDUAL_LIMIT = 0.2  # contrasts; larger ones are edges that the map has elsewhere
_DEPTH_REACH = 0.25  # scene scales: depth errors beyond cost no more


class Objective:
    """Loss of each modality, with what is learned beside the fields: responses, depth scales."""

    def __init__(self, config: TrainConfig, sources: Mapping[str, PixelSource],
                 device: torch.device,
                 cameras: CameraOptimizer | FixedCameras = FixedCameras()) -> None:
        """`cameras` give the rays; their responses add nothing yet."""
        self.config, self.device, self.cameras = config, device, cameras
        self.balance = losses.Balance({THERMAL: config.thermal_weight},
                                      {name: source.variance for name, source in sources.items()})
        self.camera_responses = nn.ModuleDict(
            {name: CameraResponse(name, source.images, source.size, not source.radiometric)
             for name, source in sources.items()})
        self.camera_responses.to(device)
        self.depth_fits = nn.ModuleDict({} if config.depth_kind == METRIC else {
            name: DepthFit(source.images, config.depth_kind) for name, source in sources.items()})
        self.depth_fits.to(device)
        self._radiometric = {name: source.radiometric for name, source in sources.items()}
        self._has_depth = {name: source.has_depth for name, source in sources.items()}
        self._psnr: dict[str, Tensor] = {}  # of the batches, smoothed; on the device

    @property
    def psnr(self) -> dict[str, float]:
        """Of the batches, smoothed; reading it waits for the device."""
        return {name: float(value) for name, value in self._psnr.items()}

    @psnr.setter
    def psnr(self, values: Mapping[str, float]) -> None:
        self._psnr = {name: torch.tensor(value, device=self.device)
                      for name, value in values.items()}

    def loss(self, learner: Learner, modality: str, drawn: RayBatch | DeviceBatch,
             position: SchedulePosition, rng: Random) -> Tensor:
        """Render a batch, update the density grid, compare with the pixels."""
        config, batch = self.config, drawn.on(self.device)
        samples, rendering = self._render(learner, modality, batch, position, rng)
        learner.grid.observe(rendering.points, rendering.density)
        rendered = rendering.values
        if config.camera_response:
            response = self._camera_response(modality)
            rendered = response(rendered, batch)
            if position.step >= _RESIDUALS_FROM * position.steps:
                response.add_residuals(batch.truth - rendered.detach(), batch,
                                       _RESIDUAL_LIMIT * self.balance.contrast[modality])
        self._note_psnr(modality, losses.photometric(rendered.detach(), batch.truth, 'l2'))
        loss = self._image_loss(modality, rendered, batch.truth) * self.balance.weight(modality)
        if modality in learner.detached:  # its weights do not change the density
            return loss
        return loss + self._geometry_loss(learner, modality, samples, rendering, batch, position)

    def flat_fields(self, temperatures: TemperatureRange | None) -> dict[str, Array32]:
        """What each thermal camera adds to its pixels, in the unit of its images."""
        unit = temperatures.span_celsius if temperatures else 1.0
        responses = {name: self._camera_response(name) for name in self.camera_responses}
        return {name: response.flat_field(unit) for name, response in responses.items()
                if not response.is_gain_only}

    def thermal_zero(self, stamps_ns: NDArray[np.int64], temperatures: TemperatureRange,
                     ) -> ZeroOffset | None:
        """By how much the map is too cold, where shutter events between its images give it."""
        if not (self.config.camera_response and self._radiometric[THERMAL]):
            return None
        offsets = self._camera_response(THERMAL).offsets(temperatures.span_celsius)
        return zero_offset(stamps_ns, offsets)

    def _camera_response(self, modality: str) -> CameraResponse:
        response = self.camera_responses[modality]
        assert isinstance(response, CameraResponse)
        return response

    def _geometry_loss(self, learner: Learner, modality: str, samples: Samples,
                       rendering: Rendering, batch: DeviceBatch, position: SchedulePosition,
                       ) -> Tensor:
        """Distortion of the weights along rays, and their distance from known depth."""
        config, scale = self.config, learner.field.space.scale_m
        ramp = min(1.0, position.step / config.schedule.uniform_until(position.steps))
        loss = config.distortion * ramp * losses.distortion(
            rendering.weights, samples, scale, uses_kernels(learner.field, rendering.weights))
        if config.depth_weight > 0.0 and self._has_depth[modality]:
            depth_m, confidence = batch.depth_m, batch.confidence
            weight = config.depth_weight
            if self.depth_fits:  # to the map's surfaces, as they appear
                fit = self.depth_fits[modality]
                assert isinstance(fit, DepthFit)
                depth_m, confidence = fit.metres(rendering.weights, samples, batch)
                weight *= ramp
            else:  # lets go where images hold the surfaces
                weight *= config.schedule.depth_share(*position)
            loss = loss + weight * losses.depth_error(rendering.weights, samples, depth_m,
                                                      confidence, _DEPTH_REACH * scale)
        return loss

    def _render(self, learner: Learner, modality: str, batch: DeviceBatch,
                position: SchedulePosition, rng: Random) -> tuple[Samples, Rendering]:
        """Place samples by the density grid, evaluate the field."""
        schedule = self.config.schedule
        origins, directions = self.cameras.rays(modality, batch)
        # rays of unknown depth are to find their surfaces, as if no depth were known at all
        exploring = torch.where(batch.confidence > 0.0, schedule.exploring(*position),
                                schedule.exploring(*position, known=False))
        samples = learner.grid.place(origins, directions, schedule.samples(*position), exploring,
                                     rng)
        options = BranchOptions(schedule.direction_share(*position), modality in learner.detached,
                                self.config.near_gradient * learner.field.space.scale_m)
        with half_precision(self.device, self.config.bfloat16 and has_bfloat16(self.device)):
            rendering = render(learner.field, modality, origins, directions, samples, options)
        return samples, rendering

    def _image_loss(self, modality: str, rendered: Tensor, truth: Tensor) -> Tensor:
        """Squares or Huber for colour; for temperatures bounded at high edges."""
        if modality == RGB or self.config.thermal_knee == 0.0:
            return losses.photometric(rendered, truth, self.config.loss)
        return losses.bounded(rendered, truth, self.config.thermal_knee,
                              self.balance.contrast[modality])

    def _note_psnr(self, modality: str, squares: Tensor) -> None:
        now = -10.0 * torch.log10(squares.clamp(min=1e-12))
        self._psnr[modality] = torch.lerp(self._psnr.get(modality, now), now, 0.05)

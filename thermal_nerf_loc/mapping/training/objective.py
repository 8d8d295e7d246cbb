# SPDX-License-Identifier: Apache-2.0
"""What one batch of rays costs: image differences as the cameras would see them, and tidy rays."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor

from thermal_nerf_loc.field.cpu_renderer import has_bfloat16
from thermal_nerf_loc.field.volume_rendering import (BranchView, render, Rendering, Samples,
                                                     uses_kernels)
from thermal_nerf_loc.mapping.camera_poses.camera_optimizer import CameraOptimizer, FixedCameras
from thermal_nerf_loc.mapping.training import losses
from thermal_nerf_loc.mapping.training.camera_response import CameraResponse
from thermal_nerf_loc.mapping.training.config import METRIC, TrainConfig
from thermal_nerf_loc.mapping.training.losses import DepthFit
from thermal_nerf_loc.mapping.training.ray_sampler import PixelSource, RayBatch
from thermal_nerf_loc.mapping.training.strategies import Learner
from thermal_nerf_loc.sensing.frame import RGB, THERMAL
from thermal_nerf_loc.sensing.thermal import TemperatureRange

Array32 = NDArray[np.float32]
Moment = tuple[float, float]  # steps that the schedule has run, and of how many

_STANDS = 0.5  # of a training: what the map misses from then on tells of the cameras
_MOST_MISSED = 0.2  # contrasts; beyond it is an edge that the map has elsewhere


class Objective:
    """The loss of each modality, with what is learned beside the fields: cameras and balance."""

    def __init__(self, config: TrainConfig, sources: Mapping[str, PixelSource],
                 device: torch.device,
                 corrections: CameraOptimizer | FixedCameras = FixedCameras()) -> None:
        """Cameras that add nothing yet."""
        self.config, self.device, self.corrections = config, device, corrections
        self.balance = losses.Balance(
            config.balance, {'thermal': config.thermal_weight},
            {name: source.variance for name, source in sources.items()})
        self.formations = nn.ModuleDict(
            {name: CameraResponse(name, source.images, source.size, not source.radiometric)
             for name, source in sources.items()})
        self.formations.to(device)
        self.depth_fits = nn.ModuleDict({} if config.depth_kind == METRIC else {
            name: DepthFit(source.images, config.depth_kind) for name, source in sources.items()})
        self.psnr: dict[str, float] = {}  # of the batches, smoothed

    def loss(self, learner: Learner, modality: str, batch: RayBatch, moment: Moment,
             rng: np.random.Generator) -> Tensor:
        """Render a batch, teach the density grid, compare."""
        config, batch = self.config, batch.on(self.device)
        samples, rendering = self._render(learner, modality, batch, moment, rng)
        learner.grid.observe(rendering.points, rendering.density)
        seen = (self.formations[modality](rendering.values, batch) if config.formation
                else rendering.values)
        if config.formation and moment[0] >= _STANDS * moment[1]:
            self._formation(modality).add_residuals(
                batch.truth - seen.detach(), batch, _MOST_MISSED * self.balance.spread[modality])
        squares = losses.photometric(seen.detach(), batch.truth, 'l2')
        self._note_psnr(modality, squares)
        loss = (self._image_loss(modality, seen, batch.truth)
                * self.balance.weight(modality, squares))
        if modality in learner.detached:  # its weights move nothing
            return loss
        return loss + self._geometry(learner, modality, samples, rendering, batch, moment)

    def flat_fields(self, temperatures: TemperatureRange | None) -> dict[str, Array32]:
        """What each thermal camera adds to its pixels, in the unit of its images."""
        unit = temperatures.span_celsius if temperatures else 1.0
        return {name: formation.flat_field(unit) for name, formation in self.formations.items()
                if isinstance(formation, CameraResponse) and not formation.is_gain_only}

    def offsets(self, temperatures: TemperatureRange) -> NDArray[np.float64]:
        """Each thermal image's own offset from all of them, deg C."""
        return self._formation(THERMAL).offsets(temperatures.span_celsius)

    def _formation(self, modality: str) -> CameraResponse:
        formation = self.formations[modality]
        assert isinstance(formation, CameraResponse)
        return formation

    def _geometry(self, learner: Learner, modality: str, samples: Samples, rendering: Rendering,
                  batch: RayBatch, moment: Moment) -> Tensor:
        """Weight that lies together, and where depth was measured, if it was."""
        config, scale, (done, total) = self.config, learner.field.space.scale_m, moment
        ramp = min(1.0, done / config.schedule.uniform_until(total))
        loss = config.distortion * ramp * losses.distortion(
            rendering.weights, samples, scale, uses_kernels(learner.field, rendering.weights))
        if config.depth_weight > 0.0 and bool(batch.confidence.any()):
            depth_m, confidence, weight = batch.depth_m, batch.confidence, config.depth_weight
            if self.depth_fits:  # to surfaces, once they stand
                fit = self.depth_fits[modality]
                assert isinstance(fit, DepthFit)
                depth_m, confidence = fit.metres(rendering.weights, samples, batch)
                weight *= ramp
            loss = loss + weight * losses.depth_error(rendering.weights, samples, depth_m,
                                                      confidence, 0.25 * scale)
        return loss

    def _render(self, learner: Learner, modality: str, batch: RayBatch, moment: Moment,
                rng: np.random.Generator) -> tuple[Samples, Rendering]:
        """Place samples by the grid, ask the field."""
        schedule, device = self.config.schedule, self.device
        origins, directions = self.corrections.rays(modality, batch)
        samples = Samples.from_numpy(*learner.grid.sample(
            origins.detach().numpy(), directions.detach().numpy(), schedule.samples(*moment),
            schedule.exploring(*moment), rng))
        view = BranchView(schedule.direction_share(*moment), modality in learner.detached,
                    self.config.near_gradient * learner.field.space.scale_m)
        samples = Samples(samples.distance_m.to(device), samples.width_m.to(device))
        half = self.config.bfloat16 and has_bfloat16(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
            rendering = render(learner.field, modality, origins.to(device),
                               directions.to(device), samples, view)
        return samples, rendering

    def _image_loss(self, modality: str, seen: Tensor, truth: Tensor) -> Tensor:
        """Colours by squares or Huber, heat so that its edges do not rule."""
        if modality == RGB or self.config.thermal_knee == 0.0:
            return losses.photometric(seen, truth, self.config.loss)
        return losses.bounded(seen, truth, self.config.thermal_knee,
                              self.balance.spread[modality])

    def _note_psnr(self, modality: str, squares: Tensor) -> None:
        now = -10.0 * float(np.log10(max(float(squares), 1e-12)))
        self.psnr[modality] = 0.95 * self.psnr.get(modality, now) + 0.05 * now

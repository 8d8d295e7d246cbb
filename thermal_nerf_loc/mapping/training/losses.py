# SPDX-License-Identifier: Apache-2.0
"""
What training minimises: image differences, weights of the modalities, distortion, depth.

Losses of the depth terms and of images are functions; `Balance` weighs the modalities, `DepthFit`
fits relative depth (of monocular networks) to the surfaces of the map in training.
"""

from collections.abc import Mapping
import math
from typing import Any

import numpy as np
import torch
from torch import nn, Tensor
from torch.nn import functional

from thermal_nerf_loc.field.volume_rendering import expected_distance, Samples
from thermal_nerf_loc.mapping.training.config import INVERSE
from thermal_nerf_loc.mapping.training.ray_sampler import DeviceBatch, RayBatch

_NOMINAL_VARIANCE = 0.04  # of field values in a colourful room
_LEAST_VARIANCE = 4e-4  # below it is mostly noise
_FIT_DECAY = 0.98  # of the sums of a depth fit, a step
_FIT_SPREAD_SHARE = 0.1  # a spread of this share of the distance halves a ray's weight
_FIT_LEAST_WEIGHT = 20.0  # that an image's sums must hold


def photometric(rendered: Tensor, truth: Tensor, kind: str) -> Tensor:
    """Mean squared error, or Huber (against moving things) with a knee at 0.1."""
    if kind == 'huber':
        return 2.0 * functional.huber_loss(rendered, truth, delta=0.1)
    return functional.mse_loss(rendered, truth)


def bounded(rendered: Tensor, truth: Tensor, knee: float, contrast: float) -> Tensor:
    """
    Squares of small errors, linear beyond `knee` contrasts: (2 / knee) huber(e).

    Thermal images have few edges, but high ones: in a room of 20 deg C a pipe has 80. Squared, the
    error of a pixel on its rim outweighs those of all walls. An edge that is half a pixel off then
    costs less when it is blurred by fog, so edges blur. The slope beyond the knee is that
    of a square at one contrast (standard deviation of the images), whatever the knee.
    """
    return 2.0 / knee * functional.huber_loss(rendered, truth, delta=knee * contrast)


def distortion(weights: Tensor, samples: Samples, scale_m: float, kernels: bool = False,
               ) -> Tensor:
    """
    Spread of the weight along each ray (mip-NeRF 360), in O(samples) by prefix sums.

    Distances are bounded as s = t / (t + scale), so that far fog costs no more than near fog:
    sum_ij w_i w_j |s_i - s_j| + 1/3 sum_i w_i^2 ds_i. `kernels`: compute it by the CPU kernel.
    """
    if kernels:
        loss: Tensor = _CpuDistortion.apply(weights, samples, scale_m)  # type: ignore[no-untyped-call]
        return loss
    t = samples.distance_m
    s = t / (t + scale_m)
    ds = samples.width_m * scale_m / (t + scale_m)**2
    mass = torch.cumsum(weights, dim=1) - weights
    moment = torch.cumsum(weights * s, dim=1) - weights * s
    between = 2.0 * (weights * (s * mass - moment)).sum(dim=1)
    within = (weights**2 * ds).sum(dim=1) / 3.0
    return (between + within).mean()


def depth_error(weights: Tensor, samples: Samples, depth_m: Tensor, confidence: Tensor,
                reach_m: float) -> Tensor:
    """
    Mean distance of the weight from a measured surface, constant beyond `reach_m`.

    Rays with unknown depth have confidence 0; the mean is over all others, so that depths of low
    confidence move little even where there are no better ones.
    """
    error = (samples.distance_m - depth_m[:, None]).abs().clamp(max=reach_m) / reach_m
    known = (confidence > 0.0).sum().clamp(min=1)
    return ((weights * error).sum(dim=1) * confidence).sum() / known


class _CpuDistortion(torch.autograd.Function):
    """Autograd of the kernel, which computes value and gradient at once."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, samples: Samples, scale_m: float) -> Tensor:
        """Mean over the rays."""
        from thermal_nerf_loc.field.kernels import compositing
        losses, gradient = torch.empty(len(weights)), torch.empty_like(weights)
        compositing.distortion(weights.detach().contiguous().numpy(), samples.distance_m.numpy(),
                               samples.width_m.numpy(), np.float32(scale_m), losses.numpy(),
                               gradient.numpy())
        ctx.save_for_backward(gradient)
        return losses.mean()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Gradient of the mean."""
        gradient, = ctx.saved_tensors
        return gradient * (gradients[0] / len(gradient)), None, None


class Balance:
    """
    Weights of the modalities' losses: a fixed one of each, over the variance of its images.

    Relative to the variance, the shapes of a dull scene count as much as those of a bright one,
    and the terms on geometry mean the same in both.
    """

    def __init__(self, weights: Mapping[str, float], variance: Mapping[str, float]) -> None:
        """`weights` default to 1; `variance` of each modality's images, in field values."""
        self.contrast = {name: math.sqrt(max(value, _LEAST_VARIANCE))
                         for name, value in variance.items()}
        self._weight = {name: weights.get(name, 1.0) * (_NOMINAL_VARIANCE / contrast**2)
                        for name, contrast in self.contrast.items()}

    def weight(self, modality: str) -> float:
        """Factor of the loss of a modality."""
        return self._weight[modality]


class DepthFit(nn.Module):
    """
    Scale and shift of relative depth, of each image of one modality.

    A monocular network gives z (`affine`) or 1 / z (`inverse`) up to a scale and a shift, which
    differ between images. With y the map's present z, or 1 / z, least squares in y = a x + b over
    recent rays (sums decay) give both; an image whose rays give no slope above zero is not used.
    """

    sums: Tensor

    def __init__(self, images: int, kind: str) -> None:
        """Begin without rays."""
        super().__init__()
        self.kind = kind
        # weights w, and w times x, y, x^2, x y
        self.register_buffer('sums', torch.zeros(images, 5, dtype=torch.float64))

    def metres(self, weights: Tensor, samples: Samples, drawn: RayBatch | DeviceBatch,
               ) -> tuple[Tensor, Tensor]:
        """Depth along each ray in metres, and its confidence."""
        batch = drawn.on(weights.device)
        forward = batch.directions_cam[:, 2]
        x = batch.depth_m * forward
        far, spread = expected_distance(weights.detach(), samples.distance_m)
        weight = batch.confidence / (1.0 + (spread / (_FIT_SPREAD_SHARE * far))**2)
        y = far * forward
        self._observe(batch.image, weight, x, 1.0 / y if self.kind == INVERSE else y)
        slope, shift, known = (part[batch.image] for part in self.fitted())
        y = slope * x + shift
        z = 1.0 / y if self.kind == INVERSE else y
        good = known & (y > 0.0)
        return torch.where(good, z / forward, 0.0), torch.where(good, batch.confidence, 0.0)

    def fitted(self) -> tuple[Tensor, Tensor, Tensor]:
        """Slope and shift of each image, and whether they are known."""
        w, wx, wy, wxx, wxy = self.sums.unbind(dim=1)
        total = w.clamp(min=1e-9)
        variance = wxx / total - (wx / total)**2
        slope = (wxy / total - wx * wy / total**2) / variance.clamp(min=1e-12)
        shift = (wy - slope * wx) / total
        known = (w > _FIT_LEAST_WEIGHT) & (slope > 0.0) & (variance > 1e-12)
        return slope.float(), shift.float(), known

    def _observe(self, image: Tensor, weight: Tensor, x: Tensor, y: Tensor) -> None:
        w, x, y = (part.detach().double() for part in (weight, x, y))
        good = torch.isfinite(x) & torch.isfinite(y)
        w = torch.where(good, w, 0.0)
        x, y = torch.where(good, x, 0.0), torch.where(good, y, 0.0)
        self.sums *= _FIT_DECAY
        self.sums.index_add_(0, image, torch.stack(
            [w, w * x, w * y, w * x * x, w * x * y], dim=1))

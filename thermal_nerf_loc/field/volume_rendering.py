# SPDX-License-Identifier: Apache-2.0
"""
Volume rendering along rays, differentiable (training, iNeRF).

    alpha_k = 1 - exp(-sigma_k dt_k),  w_k = alpha_k prod_{j<k} (1 - alpha_j),  value = sum w_k v_k

The last sample is opaque: light that no surface stopped ends at the far side of the contracted
space, so that no ray leaves the scene and dark walls cannot be explained by a black background.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor
from torch.nn import functional

from thermal_nerf_loc.field.hash_encoding import NUMBA
from thermal_nerf_loc.field.native import training as fused
from thermal_nerf_loc.field.radiance_field import RadianceField

_OPAQUE = 1e3  # optical depth of the far end
NEGLIGIBLE_WEIGHT = 1e-3  # samples of less weight do not count for values and distances


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Samples along rays: distances and interval lengths (rays, samples), metres."""

    distance_m: Tensor
    width_m: Tensor

    @classmethod
    def from_numpy(cls, distance_m: NDArray[np.float32], width_m: NDArray[np.float32],
                   ) -> 'Samples':
        """Wrap what `DensityGrid.sample` returns."""
        return cls(torch.from_numpy(distance_m), torch.from_numpy(width_m))


@dataclass(frozen=True, slots=True, eq=False)
class Rendering:
    """Values of rays; `weights`, `points` and `density` are for losses and the density grid."""

    values: Tensor  # (rays, channels)
    weights: Tensor  # (rays, samples)
    points: Tensor  # (rays * samples, 3)
    density: Tensor  # (rays * samples,) per metre


@dataclass(frozen=True, slots=True)
class BranchOptions:
    """How a branch is rendered in training."""

    direction_share: float = 1.0  # factor of the viewing direction; 0 hides it from the branch
    stop_gradient: bool = False  # the branch learns, density and features do not
    gradient_distance_m: float = 0.0  # below it gradients shrink with distance squared


def render(field: RadianceField, modality: str, origins: Tensor, directions: Tensor,
           samples: Samples, options: BranchOptions = BranchOptions()) -> Rendering:
    """Render rays (n, 3) from given samples; differentiable in field, origins and directions."""
    shape = samples.distance_m.shape
    if fused.serves(field, origins):
        points = fused.sample_points(origins, directions, samples.distance_m)
        rendered, weights, density = fused.render_fused(
            field, modality, points, directions, samples.distance_m, samples.width_m,
            fused.FusedOptions(options.direction_share, options.stop_gradient,
                               options.gradient_distance_m))
        return Rendering(rendered, weights, points, density)
    points = origins[:, None] + samples.distance_m[..., None] * directions[:, None]
    points = points.reshape(-1, 3)
    density, features = field.density(points)
    sigma = density
    if options.stop_gradient:
        sigma, features = sigma.detach(), features.detach()
    values = field.values(modality, features, directions * options.direction_share).view(*shape,
                                                                                         -1)
    sigma = sigma.view(shape)
    share = torch.ones_like(samples.distance_m)
    if options.gradient_distance_m > 0.0:
        share = (samples.distance_m / options.gradient_distance_m).clamp(max=1.0)**2
    if uses_kernels(field, sigma):
        rendered, weights = _CpuCompositing.apply(sigma, values, samples.width_m, share)  # type: ignore[no-untyped-call]
    else:
        sigma, values = _ScaleGradient.apply(sigma, values, share)  # type: ignore[no-untyped-call]
        weights = composite(sigma, samples.width_m)
        rendered = (weights[..., None] * values).sum(dim=1)
    return Rendering(rendered, weights, points, density)


def uses_kernels(field: RadianceField, values: Tensor) -> bool:
    """Whether the CPU kernels are used; else plain torch is."""
    return field.encoding.backend == NUMBA and values.dtype == torch.float32


def composite(sigma: Tensor, width_m: Tensor) -> Tensor:
    """Weights of the samples of each ray (rays, samples); they sum to one."""
    depth = sigma * width_m
    depth = torch.cat([depth[:, :-1], depth[:, -1:] + _OPAQUE], dim=1)
    before = functional.pad(torch.cumsum(depth[:, :-1], dim=1), (1, 0))
    return torch.exp(-before) * (1.0 - torch.exp(-depth))


def expected_distance(weights: Tensor, distance_m: Tensor) -> tuple[Tensor, Tensor]:
    """
    Mean and standard deviation of the weight along each ray.

    Samples of negligible weight are left out: a thousandth of the light that reaches the far end
    must not move a wall.
    """
    weights = torch.where(weights > NEGLIGIBLE_WEIGHT, weights, 0.0)
    weights = weights / weights.sum(dim=1, keepdim=True)
    mean = (weights * distance_m).sum(dim=1)
    variance = (weights * (distance_m - mean[:, None])**2).sum(dim=1)
    return mean, variance.clamp(min=0.0).sqrt()


class _CpuCompositing(torch.autograd.Function):
    """Autograd of `kernels.compositing`."""

    @staticmethod
    def forward(ctx: Any, sigma: Tensor, values: Tensor, width_m: Tensor, share: Tensor,
                ) -> tuple[Tensor, Tensor]:
        """Values of rays (rays, channels), and the weights (rays, samples)."""
        from thermal_nerf_loc.field.kernels import compositing
        sigma, values = sigma.contiguous(), values.contiguous()
        weights = torch.empty_like(sigma)
        rendered = torch.empty(len(sigma), values.shape[2])
        compositing.composite(*(x.detach().numpy() for x in (sigma, width_m, values, weights,
                                                             rendered)))
        ctx.save_for_backward(values, width_m, share, weights)
        return rendered, weights

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Gradients of densities and values, damped by `share`."""
        from thermal_nerf_loc.field.kernels import compositing
        values, width_m, share, weights = ctx.saved_tensors
        for_sigma, for_values = torch.empty_like(weights), torch.empty_like(values)
        compositing.composite_gradient(*(x.detach().contiguous().numpy() for x in (
            width_m, values, weights, share, *gradients)), for_sigma.numpy(), for_values.numpy())
        return for_sigma, for_values, None, None


class _ScaleGradient(torch.autograd.Function):
    """Damp gradients near the camera, where many rays meet (Philip and Deschaintre, 2023)."""

    @staticmethod
    def forward(ctx: Any, sigma: Tensor, values: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        """Leave both as they are."""
        ctx.save_for_backward(share)
        return sigma.view_as(sigma), values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        """Scale both."""
        share, = ctx.saved_tensors
        return gradients[0] * share, gradients[1] * share[..., None], None

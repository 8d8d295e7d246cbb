# SPDX-License-Identifier: Apache-2.0
"""
The RGB-X radiance field: one density, and one branch for each modality that reads it.

    density:  hash(x) -> 64 -> (log density, 15 features)
    branch:   (features, directions) -> 32 [-> 32] -> channels
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn, Tensor

from thermal_nerf_loc.common.config import setting
from thermal_nerf_loc.field.contraction import ContractedSpace
from thermal_nerf_loc.field.hash_encoding import HashEncoding, NUMBA, TINY_CUDA
from thermal_nerf_loc.field.kernels import tiny_cuda_networks
from thermal_nerf_loc.field.kernels.grid_levels import EncodingConfig

DIRECTION_FEATURES = 9  # real spherical harmonics up to degree 2


@dataclass(frozen=True, slots=True)
class FieldConfig:
    """Shape of the networks."""

    encoding: EncodingConfig = setting(EncodingConfig(), 'hash grid')
    density_width: int = setting(64, 'hidden units of the density network', 8, 256)
    features: int = setting(15, 'features that the branches read', 1, 63)
    rgb_width: int = setting(32, 'hidden units of the colour branch (two layers)', 8, 256)
    x_width: int = setting(32, 'hidden units of every other branch (one layer)', 8, 256)
    x_view_dependent: bool = setting(False, 'let thermal and other branches read the direction')
    density_bias: float = setting(-1.0, 'log density of an untrained field, per scene scale',
                                  -10.0, 5.0)


class RadianceField(nn.Module):
    """Density and values of world points; `channels` maps a modality to its channel count."""

    def __init__(self, config: FieldConfig, space: ContractedSpace,
                 channels: Mapping[str, int]) -> None:
        """Build the networks; seed torch before for reproducible weights."""
        super().__init__()
        self.config, self.space, self.channels = config, space, dict(channels)
        self.encoding = HashEncoding(config.encoding)
        width = config.density_width
        self.density_net = nn.Sequential(nn.Linear(self.encoding.width, width), nn.ReLU(),
                                         nn.Linear(width, 1 + config.features))
        self.branches = nn.ModuleDict({name: self._branch(name, count)
                                       for name, count in channels.items()})

    def density(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """World points (n, 3) to density (n,) per metre and features (n, 15)."""
        raw = self._apply_network(self.density_net, self.encoding(self._to_unit(points))).float()
        sigma = _TruncatedExp.apply(raw[:, 0] + self.config.density_bias)  # type: ignore[no-untyped-call]
        return sigma / self.space.scale_m, raw[:, 1:]

    def values(self, modality: str, features: Tensor, directions: Tensor) -> Tensor:
        """Values of samples (rays * samples) with these features; one direction a ray."""
        if self.sees_direction(modality):
            samples = len(features) // max(len(directions), 1)
            harmonics = spherical_harmonics(directions).repeat_interleave(samples, dim=0)
            features = torch.cat([features, harmonics], dim=-1)
        return torch.sigmoid(self._apply_network(self.branches[modality], features).float())

    def sees_direction(self, modality: str) -> bool:
        """Whether a branch reads the direction: colour does, others only by `x_view_dependent`."""
        return modality == 'rgb' or self.config.x_view_dependent

    def _to_unit(self, points: Tensor) -> Tensor:
        """Contracted points; by a kernel where no gradient is needed."""
        if points.requires_grad or self.encoding.backend != NUMBA:
            return self.space.to_unit(points)
        from thermal_nerf_loc.field.kernels import ray_sampling
        unit = torch.empty_like(points)
        ray_sampling.contract_all(points.numpy(), *self.space.kernel_arguments, unit.numpy())
        return unit

    def _apply_network(self, network: nn.Module, rows: Tensor) -> Tensor:
        """
        Outputs of a network; fused and in half floats where tiny-cuda-nn reads the grid.

        Only under autocast: it says that half precision is wanted.
        """
        if self.encoding.backend == TINY_CUDA and torch.is_autocast_enabled(rows.device.type):
            assert isinstance(network, nn.Sequential)
            fused = tiny_cuda_networks.apply(network, rows)
            if fused is not None:
                return fused
        out: Tensor = network(rows)
        return out

    def _branch(self, name: str, channels: int) -> nn.Sequential:
        inputs = self.config.features + DIRECTION_FEATURES * self.sees_direction(name)
        width = self.config.rgb_width if name == 'rgb' else self.config.x_width
        layers: list[nn.Module] = [nn.Linear(inputs, width), nn.ReLU()]
        if name == 'rgb':
            layers += [nn.Linear(width, width), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(width, channels))


def spherical_harmonics(d: Tensor) -> Tensor:
    """Real spherical harmonics to degree 2, scaled to about unit size: (n, 3) -> (n, 9)."""
    x, y, z = d.unbind(-1)
    return torch.stack([torch.ones_like(x), x, y, z, x * y, y * z, z * x, x * x - y * y,
                        3.0 * z * z - 1.0], dim=-1)


class _TruncatedExp(torch.autograd.Function):
    """exp with a clamped argument whose gradient does not vanish (as in instant-ngp)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """exp(x), at most exp(11)."""
        y = torch.exp(x.clamp(-15.0, 11.0))
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """The clamped exponential is its own derivative."""
        y, = ctx.saved_tensors
        gradient: Tensor = gradients[0] * y
        return gradient

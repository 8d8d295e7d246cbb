# SPDX-License-Identifier: Apache-2.0
"""Multiresolution hash encoding: numba on the CPU, plain torch anywhere else."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn, Tensor

from thermal_nerf_loc.config import setting

_PRIMES = (1, 2654435761, 805459861)


@dataclass(frozen=True, slots=True)
class EncodingConfig:
    """Size of the hash grid."""

    levels: int = setting(8, 'resolution levels', 1, 32)
    features: int = setting(4, 'features a level', 1, 8)
    log2_rows: int = setting(17, 'log2 of the table rows a level', 8, 24)
    coarsest: int = setting(16, 'cells along an axis on the coarsest level', 2, 1024)
    finest: int = setting(512, 'cells along an axis on the finest level', 2, 65536)


class HashEncoding(nn.Module):
    """Points in [0, 1]^3 (n, 3) to features (n, levels * features)."""

    def __init__(self, config: EncodingConfig) -> None:
        """Lay out the levels; all tables lie in one parameter."""
        super().__init__()
        self.config = config
        growth = np.log(config.finest / config.coarsest) / max(config.levels - 1, 1)
        resolution = config.coarsest * np.exp(np.arange(config.levels) * growth)
        self.resolutions = np.floor(resolution + 1e-6).astype(np.int64)
        corners = (self.resolutions + 1)**3
        self.dense = corners <= 2**config.log2_rows
        rows = np.minimum(corners, 2**config.log2_rows)
        self.offsets = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
        self.table = nn.Parameter(
            (torch.rand(int(self.offsets[-1]), config.features) * 2 - 1) * 1e-4)
        self.active_levels = float(config.levels)  # coarse to fine: finer levels read zero
        self.reference = False  # True: the torch path even on the CPU

    @property
    def width(self) -> int:
        """Number of features a point gets."""
        return self.config.levels * self.config.features

    def forward(self, points: Tensor) -> Tensor:
        """Encode points; differentiable in the table and in the points."""
        if points.device.type == 'cpu' and not self.reference:
            encoded: Tensor = _CpuEncoding.apply(points.contiguous(), self.table, self)  # type: ignore[no-untyped-call]
        else:
            encoded = self._forward_torch(points)
        if self.active_levels >= self.config.levels:
            return encoded
        return encoded * self.level_mask().to(encoded).repeat_interleave(self.config.features)

    def level_mask(self) -> Tensor:
        """Weight of each level under the coarse-to-fine mask."""
        return (self.active_levels - torch.arange(self.config.levels)).clamp(0.0, 1.0)

    def layout(self) -> tuple[Any, ...]:
        """What the CPU kernels need to know of the levels."""
        used = min(int(np.ceil(self.active_levels)), self.config.levels)
        return self.offsets, self.resolutions, self.dense, used

    def _forward_torch(self, points: Tensor) -> Tensor:
        """Reference in plain torch operations, for any device and for double precision."""
        corner = torch.tensor([[c & 1, (c >> 1) & 1, (c >> 2) & 1] for c in range(8)],
                              device=points.device)
        outputs = []
        for level, resolution in enumerate(self.resolutions.tolist()):
            scaled = points.clamp(0.0, 1.0) * resolution
            cell = scaled.detach().long().clamp(max=resolution - 1)
            inside = (scaled - cell)[:, None]  # (n, 1, 3)
            weight = torch.where(corner.bool(), inside, 1.0 - inside).prod(dim=-1)
            rows = self._rows(cell[:, None] + corner, level, resolution)
            outputs.append((weight[..., None] * self.table[rows]).sum(dim=1))
        return torch.cat(outputs, dim=-1)

    def _rows(self, xyz: Tensor, level: int, resolution: int) -> Tensor:
        first, last = int(self.offsets[level]), int(self.offsets[level + 1])
        if self.dense[level]:
            stride = torch.tensor([1, resolution + 1, (resolution + 1)**2], device=xyz.device)
            return first + (xyz * stride).sum(dim=-1)
        mixed = (xyz * torch.tensor(_PRIMES, device=xyz.device)) & 0xffffffff
        return first + ((mixed[..., 0] ^ mixed[..., 1] ^ mixed[..., 2]) & (last - first - 1))


class _CpuEncoding(torch.autograd.Function):
    """Ties the numba kernels into autograd; gradients of gradients are out."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, table: Tensor, grid: HashEncoding) -> Tensor:
        """Read the grid."""
        from thermal_nerf_loc.field.kernels import hash_grid
        out = torch.empty(points.shape[0], grid.width)
        hash_grid.compiled(grid.config.features).encode(
            points.detach().numpy(), table.detach().numpy(), *grid.layout(), out.numpy())
        ctx.save_for_backward(points)
        ctx.grid, ctx.layout = grid, grid.layout()
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None]:
        """
        Scatter into the table, and give the points' slopes where they are asked for.

        The table's gradient goes straight into `table.grad`: a fresh one of 13 MB for each call
        would cost as much as half the scatter.
        """
        from thermal_nerf_loc.field.kernels import hash_grid
        points, = ctx.saved_tensors
        table: Tensor = ctx.grid.table
        kernels = hash_grid.compiled(table.shape[1])
        gradient = gradients[0].contiguous().numpy()
        for_points = None
        if ctx.needs_input_grad[1]:
            if table.grad is None:
                table.grad = torch.zeros_like(table)
            kernels.table_gradient(points.detach().numpy(), gradient, *ctx.layout,
                                   table.grad.numpy())
        if ctx.needs_input_grad[0]:
            for_points = torch.empty_like(points)
            kernels.point_gradient(points.detach().numpy(), table.detach().numpy(), gradient,
                                   *ctx.layout, for_points.numpy())
        return for_points, None, None

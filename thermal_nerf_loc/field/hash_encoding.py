# SPDX-License-Identifier: Apache-2.0
"""Multiresolution hash encoding: numba on the CPU, tiny-cuda-nn or plain torch on a GPU."""

import math
from typing import Any

import numpy as np
import torch
from torch import nn, Tensor

from thermal_nerf_loc.common.errors import RunError
from thermal_nerf_loc.field.kernels import tiny_cuda, torch_reference
from thermal_nerf_loc.field.kernels.grid_levels import EncodingConfig, lay_out

NUMBA, TINY_CUDA = 'numba', 'tiny-cuda-nn'


class HashEncoding(nn.Module):
    """Points in [0, 1]^3 (n, 3) to features (n, levels * features)."""

    def __init__(self, config: EncodingConfig) -> None:
        """Lay out the levels; all tables lie in one parameter."""
        super().__init__()
        self.config = config
        self.levels = lay_out(config)
        self.table = nn.Parameter(
            (torch.rand(int(self.levels.offsets[-1]), config.features) * 2 - 1) * 1e-4)
        self.active_levels = float(config.levels)  # coarse to fine: finer levels read zero
        self.reference = False  # True: plain torch on any device

    @property
    def width(self) -> int:
        """Number of features a point gets."""
        return self.config.levels * self.config.features

    @property
    def backend(self) -> str:
        """Name of the implementation that reads the grid on its present device."""
        device = self.table.device.type
        if not self.reference and device == 'cpu':
            return NUMBA
        if not self.reference and device == 'cuda' and tiny_cuda.serves(self.config):
            return TINY_CUDA
        return 'torch' if device == 'cpu' else f'torch on {device}'

    def forward(self, points: Tensor) -> Tensor:
        """Encode points; differentiable in the table and in the points."""
        backend = self.backend
        if backend == NUMBA:
            encoded: Tensor = _CpuEncoding.apply(points.contiguous(), self.table, self)  # type: ignore[no-untyped-call]
        elif backend == TINY_CUDA:
            encoded = tiny_cuda.encode(points, self.table, self.config, self.levels)
        else:
            encoded = torch_reference.read_grid(points, self.table, self.levels)
        if self.active_levels >= self.config.levels:
            return encoded
        return encoded * self.level_mask().to(encoded).repeat_interleave(self.config.features)

    def level_mask(self) -> Tensor:
        """Weight of each level under the coarse-to-fine mask."""
        levels = torch.arange(self.config.levels, device=self.table.device)
        return (self.active_levels - levels).clamp(0.0, 1.0)

    def layout(self) -> tuple[Any, ...]:
        """Arguments of the CPU kernels: the levels, and how many of them to read."""
        return *self.levels, min(int(np.ceil(self.active_levels)), self.config.levels)


class _CpuEncoding(torch.autograd.Function):
    """Autograd of the numba kernels; not twice differentiable."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, table: Tensor, grid: HashEncoding) -> Tensor:
        """Read the grid; a point that is NaN would be looked up far outside the table."""
        from thermal_nerf_loc.field.kernels import hash_grid
        if not math.isfinite(float(points.sum())):
            raise RunError('a point at which the map is to be read is not finite',
                           hint='Check the poses and the cameras.')
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
        Scatter into the table, and compute the points' gradient where it is needed.

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

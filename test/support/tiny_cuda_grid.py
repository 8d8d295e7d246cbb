# SPDX-License-Identifier: Apache-2.0
"""
tiny-cuda-nn's hash grid, transcribed from its `encodings/grid.h` and `common_device.h` to numpy.

Names and order are those of the source (kernel_grid, kernel_grid_backward, grid_index, ...), over
all points at once; nothing of this package is used. `tinycudann` below stands in for its bindings.
"""

import types
from typing import Any

import numpy as np
import torch

F32, U32 = np.float32, np.uint32
FACTORS = (U32(1), U32(2654435761), U32(805459861))
BATCH_SIZE_GRANULARITY = 256


def grid_scale(level: int, log2_per_level_scale: Any, base_resolution: int) -> Any:
    """exp2f(level * log2_per_level_scale) * base_resolution - 1.0f."""
    return F32(np.exp2(F32(F32(level) * log2_per_level_scale)) * F32(base_resolution)) - F32(1)


def grid_resolution(scale: Any) -> int:
    """(uint32_t)ceilf(scale) + 1."""
    return int(np.ceil(scale)) + 1


def coherent_prime_hash(pos_grid: Any) -> Any:
    """Exclusive or of the coordinates times one and two primes, in 32 bits."""
    result = np.zeros(len(pos_grid), U32)
    for dim in range(3):
        result ^= pos_grid[:, dim] * FACTORS[dim]
    return result


def grid_index(hashmap_size: int, resolution: int, pos_grid: Any) -> Any:
    """Dense while the stride fits, else hashed; modulo the size either way."""
    stride, index = U32(1), np.zeros(len(pos_grid), U32)
    if resolution <= 0x659:
        for dim in range(3):
            index += pos_grid[:, dim] * stride
            stride = stride * U32(resolution)
    else:
        stride = U32(0xFFFFFFFF)
    if hashmap_size < stride:
        index = coherent_prime_hash(pos_grid)
    return index % U32(hashmap_size)


class GridEncoding:
    """As create_grid_encoding: offsets from the configuration, forward and backward pass."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Lay out the levels."""
        self.base_resolution = config['base_resolution']
        self.log2_per_level_scale = np.log2(F32(config['per_level_scale']))
        self.n_levels, self.width = config['n_levels'], config['n_features_per_level']
        self.offset_table = [0]
        for level in range(self.n_levels):
            resolution = grid_resolution(self._scale(level))
            params_in_level = -(-resolution**3 // 8) * 8
            params_in_level = min(params_in_level, 1 << config['log2_hashmap_size'])
            self.offset_table.append(self.offset_table[-1] + params_in_level)

    @property
    def n_params(self) -> int:
        """Floats in the parameter vector."""
        return self.offset_table[-1] * self.width

    def forward(self, positions: Any, params: Any) -> tuple[Any, Any]:
        """Encoded positions (n, features) and dy_dx (n, features, 3)."""
        grid = params.reshape(-1, self.width)
        out = np.zeros((len(positions), self.n_levels, self.width), F32)
        dy_dx = np.zeros((*out.shape, 3), F32)
        for level in range(self.n_levels):
            scale = self._scale(level)
            pos, pos_grid = self._pos_fract(positions, scale)
            for idx in range(8):
                bits = np.array([idx >> dim & 1 for dim in range(3)], U32)
                value = grid[self._rows(level, pos_grid + bits)]
                weights = np.where(bits == 1, pos, 1 - pos)
                out[:, level] += weights.prod(axis=1)[:, None] * value
                for dim in range(3):
                    weight = scale * np.delete(weights, dim, axis=1).prod(axis=1)
                    sign = 1 if bits[dim] else -1
                    dy_dx[:, level, :, dim] += sign * weight[:, None] * value
        return out.reshape(len(positions), -1), dy_dx.reshape(len(positions), -1, 3)

    def backward(self, positions: Any, dL_dy: Any) -> Any:
        """Gradient of the parameter vector."""
        gradient = np.zeros((self.offset_table[-1], self.width), F32)
        dL_dy = dL_dy.reshape(len(positions), self.n_levels, self.width)
        for level in range(self.n_levels):
            pos, pos_grid = self._pos_fract(positions, self._scale(level))
            for idx in range(8):
                bits = np.array([idx >> dim & 1 for dim in range(3)], U32)
                weight = np.where(bits == 1, pos, 1 - pos).prod(axis=1)
                np.add.at(gradient, self._rows(level, pos_grid + bits),
                          weight[:, None] * dL_dy[:, level])
        return gradient.reshape(-1)

    def _scale(self, level: int) -> Any:
        return grid_scale(level, self.log2_per_level_scale, self.base_resolution)

    @staticmethod
    def _pos_fract(positions: Any, scale: Any) -> tuple[Any, Any]:
        # fmaf(scale, input, 0.5f): one rounding
        pos = (positions.astype(np.float64) * np.float64(scale) + 0.5).astype(F32)
        whole = np.floor(pos)
        return pos - whole, whole.astype(np.int32).astype(U32)

    def _rows(self, level: int, pos_grid: Any) -> Any:
        first, last = self.offset_table[level:level + 2]
        return first + grid_index(last - first, grid_resolution(self._scale(level)),
                                  pos_grid).astype(np.int64)


class _ModuleFunction(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, native: GridEncoding, x: Any, params: Any) -> Any:
        assert len(x) % BATCH_SIZE_GRANULARITY == 0 and x.is_contiguous()
        assert params.dtype == torch.float32 and params.shape == (native.n_params,)
        out, dy_dx = native.forward(x.detach().numpy(), params.detach().numpy())
        ctx.native, ctx.dy_dx = native, dy_dx
        ctx.save_for_backward(x)
        return torch.from_numpy(out)

    @staticmethod
    def backward(ctx: Any, dL_dy: Any) -> Any:
        assert dL_dy.is_contiguous() and dL_dy.dtype == torch.float32
        x, = ctx.saved_tensors
        for_input = torch.from_numpy(np.einsum('nf,nfd->nd', dL_dy.numpy(), ctx.dy_dx))
        for_params = torch.from_numpy(ctx.native.backward(x.detach().numpy(), dL_dy.numpy()))
        return (None, for_input if ctx.needs_input_grad[1] else None,
                for_params if ctx.needs_input_grad[2] else None)


class Encoding(torch.nn.Module):
    """As `bindings/torch/tinycudann/modules.py`: pads the batch, owns a parameter vector."""

    def __init__(self, n_input_dims: int, encoding_config: dict[str, Any], seed: int = 1337,
                 dtype: Any = None) -> None:
        """Refuse arguments that the real module would treat differently."""
        super().__init__()
        assert n_input_dims == 3 and dtype == torch.float32
        assert encoding_config['otype'] == 'HashGrid'
        assert encoding_config['n_features_per_level'] in (1, 2, 4, 8)
        self.native_tcnn_module = GridEncoding(encoding_config)
        self.params = torch.nn.Parameter(torch.zeros(self.native_tcnn_module.n_params))

    def forward(self, x: Any) -> Any:
        """Features of x (n, 3)."""
        missing = -len(x) % BATCH_SIZE_GRANULARITY
        padded = torch.nn.functional.pad(x, [0, 0, 0, missing]) if missing else x
        output = _ModuleFunction.apply(
            self.native_tcnn_module, padded.to(torch.float).contiguous(),
            self.params.to(torch.float32).contiguous())
        return output[:len(x)]


def module() -> types.ModuleType:
    """A module to stand for `tinycudann`."""
    made = types.ModuleType('tinycudann')
    made.Encoding = Encoding  # type: ignore[attr-defined]
    return made

# SPDX-License-Identifier: Apache-2.0
"""Calls of `rendering.cpp`: one branch of a field, its weights packed as the kernels read them."""

from ctypes import byref
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from thermal_nerf_loc.common.threads import kernel_threads
from thermal_nerf_loc.field.density_grid import DensityGrid
from thermal_nerf_loc.field.native.library import (
    address, Grid, Layer, library, Networks, rays_of)
from thermal_nerf_loc.field.radiance_field import RadianceField
from thermal_nerf_loc.field.volume_rendering import NEGLIGIBLE_WEIGHT

Array32 = NDArray[np.float32]

_FEATURES = (2, 4, 8)  # of a level: widths that the kernel is compiled for
_PADDING = 16  # outputs of a layer are padded to multiples of the widest register


def serves(field: RadianceField) -> bool:
    """Whether the library is here and has kernels for a field of this shape."""
    return field.config.encoding.features in _FEATURES and library() is not None


class FusedBranch:
    """Density network and one branch of a field, packed; later training does not reach it."""

    def __init__(self, field: RadianceField, modality: str) -> None:
        """Copy the networks; the table of the hash grid is shared."""
        self._channels = field.channels[modality]
        self._packed = packed = _Packed()
        config, encoding = field.config, field.encoding
        self._grid = Grid(packed.address(encoding.table.detach().numpy()),
                          *(packed.address(np.ascontiguousarray(part))
                            for part in encoding.levels),
                          config.encoding.levels, config.encoding.features)
        density = [packed.layer(*weights) for weights in _weights(field.density_net)]
        first, *others = _weights(field.branches[modality])
        inside, direction = first[0][:, :config.features], first[0][:, config.features:]
        branch = [packed.layer(inside, first[1]),
                  *(packed.layer(*weights) for weights in others[:-1]),
                  packed.last_layer(*others[-1])]
        self._networks = Networks(
            (2 * Layer)(*density), (3 * Layer)(*branch), packed.layer(direction, first[1]),
            len(branch), config.density_bias, 1.0 / field.space.scale_m, NEGLIGIBLE_WEIGHT)

    def render(self, grid: DensityGrid, origins: Array32, directions: Array32, samples: int,
               exploring: float) -> tuple[Array32, Array32, Array32]:
        """Values, distance and spread of rays (n, 3)."""
        origins, directions = (np.ascontiguousarray(a, np.float32) for a in (origins, directions))
        rays = len(origins)
        assert origins.shape == directions.shape == (rays, 3) and samples > 0
        values = np.empty((rays, self._channels), np.float32)
        distance, spread = np.empty(rays, np.float32), np.empty(rays, np.float32)
        found = library()
        assert found is not None
        found.native_render(
            byref(grid.kernel_cells()), byref(self._grid), byref(self._networks),
            byref(rays_of(origins, directions, samples)), exploring, kernel_threads(),
            *(address(out) for out in (values, distance, spread)))
        return values, distance, spread


def _weights(network: nn.Module) -> list[tuple[Array32, Array32]]:
    """Weight (outputs, inputs) and bias of each layer."""
    return [(layer.weight.detach().float().numpy(), layer.bias.detach().float().numpy().copy())
            for layer in network.modules() if isinstance(layer, nn.Linear)]


class _Packed:
    """Structures for ctypes, and the arrays that they point to."""

    def __init__(self) -> None:
        self.held: list[Any] = []

    def address(self, array: NDArray[Any]) -> int:
        """Where a contiguous array begins; it is held."""
        self.held.append(array)
        return address(array)

    def layer(self, weight: Array32, bias: Array32) -> Layer:
        """A layer by inputs, from torch's weights (outputs, inputs)."""
        outputs, inputs = weight.shape
        padded = -(-outputs // _PADDING) * _PADDING
        packed = _aligned((inputs, padded))
        packed[:, :outputs] = weight.T
        start = _aligned((padded,))
        start[:outputs] = bias
        return Layer(self.address(packed), self.address(start), inputs, outputs, padded)

    def last_layer(self, weight: Array32, bias: Array32) -> Layer:
        """A layer of few outputs, by outputs."""
        outputs, inputs = weight.shape
        padded = -(-inputs // _PADDING) * _PADDING
        packed = _aligned((outputs, padded))
        packed[:, :inputs] = weight
        return Layer(self.address(packed), self.address(np.ascontiguousarray(bias)), inputs,
                     outputs, padded)


def _aligned(shape: tuple[int, ...]) -> Array32:
    """Zeros that begin with a cache line."""
    size = 4 * int(np.prod(shape))
    raw = np.zeros(size + 64, np.uint8)
    first = -raw.ctypes.data % 64
    return raw[first:first + size].view(np.float32).reshape(shape)

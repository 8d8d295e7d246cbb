# SPDX-License-Identifier: Apache-2.0
"""Calls of `rendering.cpp`: one branch of a field, its weights packed as the kernels read them."""

from collections.abc import Sequence
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
Weights = tuple[Array32, Array32]  # of a layer, (outputs, inputs), and its biases

_FEATURES = (2, 4, 8)  # of a level: widths that the kernel is compiled for
_PADDING = 16  # outputs of a layer are padded to multiples of the widest register


def serves(field: RadianceField) -> bool:
    """Whether the library is here and has kernels for a field of this shape."""
    return field.config.encoding.features in _FEATURES and library() is not None


class FusedBranch:
    """
    Density network and one branch of a field, packed; later training does not reach it.

    Several modalities are one branch, of all their channels: the samples along a ray are placed
    and their density is evaluated only once.
    """

    def __init__(self, field: RadianceField, *modalities: str) -> None:
        """Copy the networks; the table of the hash grid is shared."""
        self._channels = sum(field.channels[name] for name in modalities)
        self._packed = packed = _Packed()
        config, encoding = field.config, field.encoding
        self._grid = Grid(packed.address(encoding.table.detach().numpy()),
                          *(packed.address(np.ascontiguousarray(part))
                            for part in encoding.levels),
                          config.encoding.levels, config.encoding.features)
        density = [packed.layer(*weights) for weights in _weights(field.density_net)]
        first, *others = _joined([_weights(field.branches[name]) for name in modalities])
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


def _weights(network: nn.Module) -> list[Weights]:
    """Weight (outputs, inputs) and bias of each layer."""
    return [(layer.weight.detach().float().numpy(), layer.bias.detach().float().numpy().copy())
            for layer in network.modules() if isinstance(layer, nn.Linear)]


def _joined(branches: Sequence[Sequence[Weights]]) -> list[Weights]:
    """
    Layers of one branch with the outputs of several, which read the same inputs.

    A branch of fewer layers gets identities before its last one: hidden units are not negative,
    so that they pass. Inputs are features, then directions; who reads no directions gets zeros.
    """
    if len(branches) == 1:
        return list(branches[0])
    deepest = max(len(layers) for layers in branches)
    columns = max(layers[0][0].shape[1] for layers in branches)
    padded = []
    for layers in branches:
        weight, bias = layers[0]
        first = np.pad(weight, ((0, 0), (0, columns - weight.shape[1]))), bias
        width = len(layers[-2][1])
        same = np.eye(width, dtype=np.float32), np.zeros(width, np.float32)
        padded.append([first, *layers[1:-1], *[same] * (deepest - len(layers)), layers[-1]])
    rows = list(zip(*padded, strict=True))
    first = np.concatenate([weight for weight, _ in rows[0]]), np.concatenate(
        [bias for _, bias in rows[0]])
    return [first, *((_block_diagonal([weight for weight, _ in row]),
                      np.concatenate([bias for _, bias in row])) for row in rows[1:])]


def _block_diagonal(blocks: Sequence[Array32]) -> Array32:
    """Matrix with the blocks on its diagonal."""
    out = np.zeros((sum(len(block) for block in blocks),
                    sum(block.shape[1] for block in blocks)), np.float32)
    row = column = 0
    for block in blocks:
        out[row:row + len(block), column:column + block.shape[1]] = block
        row, column = row + len(block), column + block.shape[1]
    return out


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

# SPDX-License-Identifier: Apache-2.0
"""
Calls of `training.cpp`: rays of a batch rendered in one pass, and back in another.

Between the two passes what the samples were is kept in a workspace, which the next batch takes
over once the gradients are there: memory that is new to a process costs as much as the networks.
"""

import ctypes
from ctypes import byref, c_float, c_int32, c_int64, c_void_p
from dataclasses import dataclass
import math
from typing import Any

import numpy as np
import torch
from torch import nn, Tensor

from thermal_nerf_loc.common.errors import RunError
from thermal_nerf_loc.common.threads import kernel_threads
from thermal_nerf_loc.field.hash_encoding import NUMBA
from thermal_nerf_loc.field.native.library import Grid, library
from thermal_nerf_loc.field.radiance_field import DIRECTION_FEATURES, RadianceField

_FEATURES = (2, 4, 8)  # of a level: widths that the kernels are compiled for
_KEPT = 4  # workspaces at most
_DENSITY = 4  # parameters of the density network: two layers


class _TorchLayer(ctypes.Structure):
    _fields_ = [('weight', c_void_p), ('bias', c_void_p), ('weight_gradient', c_void_p),
                ('bias_gradient', c_void_p), ('inputs', c_int32), ('outputs', c_int32),
                ('stride', c_int32)]


class _TrainedField(ctypes.Structure):
    _fields_ = [('grid', Grid), ('level_share', c_void_p), ('table_gradient', c_void_p),
                ('center', 3 * c_float), ('inverse_half', 3 * c_float),
                ('density', 2 * _TorchLayer), ('branch', 3 * _TorchLayer), ('layers', c_int32),
                ('harmonics', c_int32), ('density_bias', c_float), ('inverse_scale', c_float)]


class _RayBatch(ctypes.Structure):
    _fields_ = [('points', c_void_p), ('directions', c_void_p), ('distances', c_void_p),
                ('widths', c_void_p), ('workspace', c_void_p), ('rays', c_int64),
                ('samples', c_int32), ('threads', c_int32), ('direction_share', c_float),
                ('gradient_distance', c_float)]


class _Rendered(ctypes.Structure):
    _fields_ = [('values', c_void_p), ('weights', c_void_p), ('density', c_void_p)]


class _Pulls(ctypes.Structure):
    _fields_ = [('values', c_void_p), ('weights', c_void_p), ('density', c_void_p),
                ('points', c_void_p), ('directions', c_void_p), ('stop', c_int32)]


@dataclass(frozen=True, slots=True)
class FusedOptions:
    """How a branch is rendered; see `volume_rendering.BranchOptions`."""

    direction_share: float
    stop_gradient: bool
    gradient_distance_m: float


def serves(field: RadianceField, points: Tensor) -> bool:
    """Whether the library is here, and has kernels for a field of this shape."""
    return (points.dtype == torch.float32 and field.encoding.backend == NUMBA
            and field.config.encoding.features in _FEATURES
            and field.encoding.table.dtype == torch.float32 and library() is not None)


def render_fused(field: RadianceField, modality: str, points: Tensor, directions: Tensor,
                 distance_m: Tensor, width_m: Tensor, options: FusedOptions,
                 ) -> tuple[Tensor, Tensor, Tensor]:
    """Values, weights and density of rays from their samples' points (rays * samples, 3)."""
    call = _Call(field, modality, distance_m.contiguous(), width_m.contiguous(), options)
    rendered: tuple[Tensor, Tensor, Tensor] = _FusedRendering.apply(  # type: ignore[no-untyped-call]
        call, points.contiguous(), directions.contiguous(), field.encoding.table,
        *call.parameters)
    return rendered


def sample_points(origins: Tensor, directions: Tensor, distance_m: Tensor) -> Tensor:
    """Points (rays * samples, 3) along rays (n, 3); differentiable in both."""
    found = library()
    if origins.requires_grad or directions.requires_grad or found is None:
        points = origins[:, None] + distance_m[..., None] * directions[:, None]
        return points.reshape(-1, 3)
    rays, samples = distance_m.shape
    points = torch.empty(rays * samples, 3)
    held = [part.contiguous() for part in (origins, directions, distance_m)]
    found.training_points(*(part.data_ptr() for part in held), rays, samples, points.data_ptr())
    return points


def density_of(field: RadianceField, points: Tensor) -> Tensor:
    """Density (n,) per metre at world points (n, 3), without gradients."""
    points, modality = points.contiguous(), next(iter(field.channels))
    ones = torch.ones(len(points), 1)
    call = _Call(field, modality, ones, ones, FusedOptions(1.0, False, 0.0))
    density = torch.empty(len(points))
    structures = call.structures(points, points)
    found = library()
    assert found is not None
    found.training_density(*(byref(part) for part in structures), density.data_ptr())
    return density


class _Call:
    """One batch: the structures that both passes get, and the arrays that they point to."""

    def __init__(self, field: RadianceField, modality: str, distance_m: Tensor, width_m: Tensor,
                 options: FusedOptions) -> None:
        self.field, self.options = field, options
        self.distance_m, self.width_m = distance_m, width_m
        self.channels = field.channels[modality]
        self.layers = [layer for network in (field.density_net, field.branches[modality])
                       for layer in network.modules() if isinstance(layer, nn.Linear)]
        self.parameters = [p for layer in self.layers for p in (layer.weight, layer.bias)]
        self.harmonics = DIRECTION_FEATURES * field.sees_direction(modality)
        encoding, space = field.encoding, field.space
        # as many levels as are read, in arrays that live as long as this call
        self.levels = [np.ascontiguousarray(part) for part in encoding.levels]
        self.level_share = encoding.level_mask().float().numpy()
        self.read_levels = int(encoding.layout()[-1])
        self.space = space.kernel_arguments
        self.workspace: Tensor | None = None

    def structures(self, points: Tensor, directions: Tensor, table_gradient: int = 0,
                   gradients: list[Tensor] | None = None) -> tuple[_TrainedField, _RayBatch]:
        """The field and the batch of rays, for ctypes."""
        config, encoding = self.field.config, self.field.encoding
        grid = Grid(encoding.table.data_ptr(), *(part.ctypes.data for part in self.levels),
                    self.read_levels, config.encoding.features)
        layers = [_TorchLayer(layer.weight.data_ptr(), layer.bias.data_ptr(),
                              *((0, 0) if gradients is None else
                                (part.data_ptr() for part in gradients[2 * i:2 * i + 2])),
                              layer.in_features, layer.out_features, layer.weight.stride(0))
                  for i, layer in enumerate(self.layers)]
        field = _TrainedField(
            grid, self.level_share.ctypes.data, table_gradient,
            *((3 * c_float)(*part.tolist()) for part in self.space),
            (2 * _TorchLayer)(*layers[:2]), (3 * _TorchLayer)(*layers[2:]), len(layers) - 2,
            self.harmonics, config.density_bias, 1.0 / self.field.space.scale_m)
        rays, samples = self.distance_m.shape
        batch = _RayBatch(points.data_ptr(), directions.data_ptr(), self.distance_m.data_ptr(),
                          self.width_m.data_ptr(), 0, rays, samples, kernel_threads(),
                          self.options.direction_share, self.options.gradient_distance_m)
        if self.workspace is not None:
            batch.workspace = self.workspace.data_ptr()
        return field, batch


class _FusedRendering(torch.autograd.Function):
    """Autograd of the kernels; not twice differentiable."""

    @staticmethod
    def forward(ctx: Any, call: _Call, points: Tensor, directions: Tensor, table: Tensor,
                *parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values (rays, channels), weights (rays, samples), density (rays * samples,)."""
        if not math.isfinite(float(points.sum())):
            raise RunError('a point at which the map is to be read is not finite',
                           hint='Check the poses and the cameras.')
        rays, samples = call.distance_m.shape
        values, weights = torch.empty(rays, call.channels), torch.empty(rays, samples)
        density = torch.empty(rays * samples)
        field, batch = call.structures(points, directions)
        found = library()
        assert found is not None
        call.workspace = _borrow(found.training_workspace(byref(field), byref(batch)))
        batch.workspace = call.workspace.data_ptr()
        found.training_forward(byref(field), byref(batch), byref(
            _Rendered(*(out.data_ptr() for out in (values, weights, density)))))
        ctx.set_materialize_grads(False)
        if any(ctx.needs_input_grad):
            ctx.call = call
            ctx.save_for_backward(points, directions, values, weights, density)
        else:
            _give_back(call)
        return values, weights, density

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """
        Gradients of points, directions and networks.

        The table's goes straight into `table.grad`: a fresh one of 13 MB for each call would cost
        as much as half the scatter.
        """
        call: _Call = ctx.call
        points, directions, values, weights, density = ctx.saved_tensors
        if call.workspace is None:
            raise RuntimeError('the gradients of these rays were computed before, and what the '
                               'samples were was not kept')
        for_values, for_weights, for_density = (
            None if part is None else part.contiguous() for part in gradients)
        if for_values is None:
            for_values = torch.zeros_like(values)
        moved = [torch.zeros_like(points), torch.zeros_like(directions)] if any(
            ctx.needs_input_grad[1:3]) else None
        learned = ([torch.zeros_like(p) for p in call.parameters]
                   if any(ctx.needs_input_grad[4:]) else None)
        deep = for_density is not None or not call.options.stop_gradient
        table_gradient = 0
        if ctx.needs_input_grad[3] and deep:
            table = call.field.encoding.table
            if table.grad is None:
                table.grad = torch.zeros_like(table)
            table_gradient = table.grad.data_ptr()
        field, batch = call.structures(points, directions, table_gradient, learned)
        seen = _Rendered(*(out.data_ptr() for out in (values, weights, density)))
        pulls = _Pulls(*(0 if part is None else part.data_ptr()
                         for part in (for_values, for_weights, for_density)),
                       *((0, 0) if moved is None else (part.data_ptr() for part in moved)),
                       call.options.stop_gradient)
        found = library()
        assert found is not None
        found.training_backward(byref(field), byref(batch), byref(seen), byref(pulls))
        _give_back(call)
        of_layers: list[Tensor | None] = [None] * len(call.parameters)
        if learned is not None:
            of_layers = [*learned]
        if not deep:  # nothing reached the density network
            of_layers[:_DENSITY] = [None] * _DENSITY
        return None, *(moved or (None, None)), None, *of_layers


_workspaces: list[Tensor] = []  # that no batch uses


def _borrow(floats: int) -> Tensor:
    """A workspace of at least so many floats."""
    for i, kept in enumerate(_workspaces):
        if len(kept) >= floats:
            return _workspaces.pop(i)
    return torch.zeros(floats)


def _give_back(call: _Call) -> None:
    """Let another batch have the workspace of this one."""
    if call.workspace is not None:
        _workspaces.append(call.workspace)
        call.workspace = None
    del _workspaces[:-_KEPT]

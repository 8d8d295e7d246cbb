# SPDX-License-Identifier: Apache-2.0
"""
The networks on an NVIDIA GPU as fused kernels of tiny-cuda-nn (`FullyFusedMLP`), in half floats.

The layers of torch stay the parameters, so that maps, checkpoints and the optimiser know nothing
of it: in each call their weights are packed into tiny-cuda-nn's one flat vector, by operations
that pass gradients. Its networks have no biases. So the input gets a column of ones, whose weights
are the first layer's biases; a hidden unit that is always one carries those of the layers in the
middle; the last ones are added behind.

Half floats end at 6e-8 and at 65504. Gradients of a loss that is a mean over rays are smaller, so
they are multiplied on the way in and divided on the way out (tiny-cuda-nn does so once more by
itself); a gradient that overflows all the same is left out.
"""

from collections.abc import Sequence
from typing import Any
import warnings

import torch
from torch import nn, Tensor
from torch.nn import functional

from thermal_nerf_loc.field.kernels.tiny_cuda import bindings

_WIDTHS = (16, 32, 64, 128)  # that it is compiled for
_ALIGNMENT = 16  # of inputs and outputs
_GRADIENT_SCALE = 128.0
_AGREEMENT = 0.05  # of the outputs' size; half floats have three digits, weights are sums of 64

Shape = tuple[int, int, int, int]  # inputs with the ones, hidden width, hidden layers, outputs
_BUILT: dict[tuple[Shape, torch.device], Any] = {}  # modules without own weights; None: no use


def shape_of(layers: Sequence[nn.Linear]) -> Shape | None:
    """The fused network that holds these layers; None where there is none."""
    hidden = {layer.out_features for layer in layers[:-1]}
    if len(layers) < 2 or len(hidden) != 1:
        return None
    needed = hidden.pop() + (len(layers) > 2)  # a unit that is always one
    width = next((width for width in _WIDTHS if width >= needed), None)
    if width is None:
        return None
    return layers[0].in_features + 1, width, len(layers) - 1, layers[-1].out_features


def apply(network: nn.Sequential, rows: Tensor) -> Tensor | None:
    """Outputs (n, outputs) as floats; None where tiny-cuda-nn does not serve this network."""
    layers = [layer for layer in network if isinstance(layer, nn.Linear)]
    shape = shape_of(layers)
    if shape is None or bindings() is None:
        return None
    key = shape, rows.device
    if key not in _BUILT:
        _BUILT[key] = _build(shape, network, layers, rows.device)
    module = _BUILT[key]
    return None if module is None else _run(module, shape, layers, rows)


def pack(layers: Sequence[nn.Linear], shape: Shape) -> Tensor:
    """Weights (all but the last biases) as tiny-cuda-nn lays them out: by layer, rows first."""
    inputs, width, _, _ = shape
    parts = []
    for i, layer in enumerate(layers):
        columns = inputs + -inputs % _ALIGNMENT if i == 0 else width
        last = i + 1 == len(layers)
        rows = layer.out_features + -layer.out_features % _ALIGNMENT if last else width
        weight = layer.weight
        if not last:  # beside the weights the biases, in the column of what is one
            weight = torch.cat([weight, layer.bias[:, None]], dim=1)
        if not last and len(layers) > 2:  # the unit that stays one
            stays = torch.zeros_like(weight[:1])
            stays[:, -1].fill_(1.0)
            weight = torch.cat([weight, stays])
        parts.append(functional.pad(weight, (0, columns - weight.shape[1],
                                             0, rows - weight.shape[0])).reshape(-1))
    return torch.cat(parts)


def _run(module: Any, shape: Shape, layers: Sequence[nn.Linear], rows: Tensor) -> Tensor:
    """Pack, evaluate, add the last biases."""
    with torch.autocast(rows.device.type, enabled=False):
        weights = _Scale.apply(pack(layers, shape), 1.0 / _GRADIENT_SCALE)  # type: ignore[no-untyped-call]
        given = functional.pad(rows.float(), (0, 1), value=1.0)
        given = _Scale.apply(given, 1.0 / _GRADIENT_SCALE)  # type: ignore[no-untyped-call]
        out = torch.func.functional_call(module, {'params': weights}, (given,)).float()
        scaled: Tensor = _Scale.apply(out, _GRADIENT_SCALE)  # type: ignore[no-untyped-call]
        return scaled + layers[-1].bias


@torch.no_grad()
def _build(shape: Shape, network: nn.Sequential, layers: Sequence[nn.Linear],
           device: torch.device) -> Any:
    """Make the module for a device, and compare it once with torch; None where they differ."""
    inputs, width, hidden, outputs = shape
    try:
        with torch.device(device):
            module = bindings().Network(inputs, outputs, {  # type: ignore[union-attr]
                'otype': 'FullyFusedMLP', 'activation': 'ReLU', 'output_activation': 'None',
                'n_neurons': width, 'n_hidden_layers': hidden})
    except (RuntimeError, AttributeError) as error:  # built without networks, or an old GPU
        return _unused(f'has no fused networks here ({error})')
    if module.params.numel() != pack(layers, shape).numel():
        return _unused('lays its networks out in another way than this package')
    random = torch.Generator().manual_seed(0)
    rows = torch.rand(256, inputs - 1, generator=random).to(device)
    with torch.autocast(device.type, enabled=False):
        expected = network(rows).float()
    off = (_run(module, shape, layers, rows) - expected).abs().max()
    if not float(off) <= _AGREEMENT * float(expected.abs().max()) + 1e-3:
        return _unused('computes other networks than this package')
    return module


def _unused(reason: str) -> None:
    warnings.warn(f'tiny-cuda-nn {reason}: torch runs the networks, slower', stacklevel=4)


class _Scale(torch.autograd.Function):
    """Identity whose gradient is scaled, and zero where it overflowed."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, factor: float) -> Tensor:
        """Leave the values as they are."""
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Scale."""
        return torch.nan_to_num(gradients[0] * ctx.factor, 0.0, 0.0, 0.0), None

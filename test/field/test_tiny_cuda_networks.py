# SPDX-License-Identifier: Apache-2.0
"""Fused networks: a transcription of tiny-cuda-nn's, against the layers of torch."""

from collections.abc import Iterator
from itertools import pairwise
import sys
import types
from typing import Any

import pytest
import tiny_cuda_network
import torch
from torch import nn

from thermal_nerf_loc.field.kernels import tiny_cuda, tiny_cuda_networks

DENSITY, COLOUR, HEAT = [32, 64, 16], [24, 32, 32, 3], [15, 32, 1]  # widths of the layers


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module for `import tinycudann`."""
    made = types.ModuleType('tinycudann')
    made.Network = tiny_cuda_network.Network  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, 'tinycudann', made)
    monkeypatch.setattr(tiny_cuda_networks, '_BUILT', {})
    tiny_cuda.bindings.cache_clear()
    yield made
    tiny_cuda.bindings.cache_clear()


def network(widths: list[int]) -> nn.Sequential:
    """Layers as `RadianceField` has them."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@pytest.mark.parametrize('widths', [DENSITY, COLOUR, HEAT, [7, 100, 100, 100, 5]])
def test_values_and_gradients_are_those_of_the_layers(widths: list[int]) -> None:
    """As far as half floats go; gradients as small as those of a mean over a batch."""
    layers, rows = network(widths), torch.rand(300, widths[0], requires_grad=True)
    pull = torch.randn(300, widths[-1]) * 1e-5
    found = {}
    for fused in (False, True):
        layers.zero_grad()
        rows.grad = None
        out = tiny_cuda_networks.apply(layers, rows) if fused else layers(rows)
        assert out is not None and out.dtype == torch.float32
        out.backward(pull)
        found[fused] = [out.detach(), rows.grad, *(p.grad for p in layers.parameters())]
    for ours, theirs in zip(found[True], found[False]):
        off = (ours - theirs).norm() / theirs.norm()  # few units switch on or off by the rounding
        assert float(off) < 0.05


def test_what_does_not_fit_is_left_to_torch(stand_in: Any) -> None:
    """Layers wider than any kernel, a build without networks, and another arithmetic."""
    assert tiny_cuda_networks.apply(network([5, 300, 2]), torch.rand(4, 5)) is None
    del stand_in.Network
    with pytest.warns(UserWarning, match='no fused networks'):
        assert tiny_cuda_networks.apply(network(HEAT), torch.rand(4, 15)) is None

    class Other(tiny_cuda_network.Network):
        def evaluate(self, x: Any, params: Any) -> Any:
            return 1.3 * super().evaluate(x, params)

    stand_in.Network = Other
    with pytest.warns(UserWarning, match='computes other networks'):
        assert tiny_cuda_networks.apply(network(DENSITY), torch.rand(4, 32)) is None


def test_an_overflow_is_left_out() -> None:
    """A gradient beyond half floats is zero, not infinite."""
    layers, rows = network(HEAT), torch.rand(300, 15)
    out = tiny_cuda_networks.apply(layers, rows)
    assert out is not None
    (1e6 * out).sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in layers.parameters())

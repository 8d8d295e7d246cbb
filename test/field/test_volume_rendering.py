# SPDX-License-Identifier: Apache-2.0
"""Compositing and distortion: the CPU kernels, with their gradients, against autograd."""

import numpy as np
import pytest
import torch

from thermal_nerf_loc.field.contraction import ContractedSpace
from thermal_nerf_loc.field.kernels.ray_sampling import contract_all
from thermal_nerf_loc.field.volume_rendering import (_CpuCompositing, _ScaleGradient, composite,
                                                     Samples)
from thermal_nerf_loc.mapping.training.losses import distortion

RAYS, SAMPLES = 40, 13


def drawn(channels, seed=0):
    rng = np.random.default_rng(seed)
    sigma = torch.tensor(rng.exponential(2.0, (RAYS, SAMPLES)), dtype=torch.float32)
    sigma[0], sigma[1, 3] = 0.0, 1e6  # empty space, and a wall
    width = torch.tensor(rng.uniform(0.01, 0.5, (RAYS, SAMPLES)), dtype=torch.float32)
    values = torch.tensor(rng.random((RAYS, SAMPLES, channels)), dtype=torch.float32)
    share = torch.tensor(rng.random((RAYS, SAMPLES)), dtype=torch.float32)
    return sigma, width, values, share


def by_torch(sigma, values, width, share):
    sigma, values = _ScaleGradient.apply(sigma, values, share)
    weights = composite(sigma, width)
    return (weights[..., None] * values).sum(dim=1), weights


@pytest.mark.parametrize('channels', [1, 3])
def test_kernels_see_what_torch_sees(channels):
    sigma, width, values, share = drawn(channels)
    ours = _CpuCompositing.apply(sigma, values, width, share)
    theirs = by_torch(sigma, values, width, share)
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours[1].sum(dim=1), torch.ones(RAYS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('channels', [1, 3])
def test_gradients_are_those_of_autograd(channels):
    sigma, width, values, share = drawn(channels)
    rng = np.random.default_rng(1)
    pull = torch.tensor(rng.normal(size=(RAYS, channels)), dtype=torch.float32)
    drag = torch.tensor(rng.normal(size=(RAYS, SAMPLES)), dtype=torch.float32)
    found = []
    for way in (_CpuCompositing.apply, by_torch):
        s, v = sigma.clone().requires_grad_(), values.clone().requires_grad_()
        seen, weights = way(s, v, width, share)
        ((seen * pull).sum() + (weights * drag).sum()).backward()
        found.append((s.grad, v.grad))
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_distortion_and_its_slopes():
    sigma, width, _, _ = drawn(1)
    distance = torch.cumsum(width, dim=1) + 0.3
    samples, found = Samples(distance, width), []
    for kernels in (True, False):
        weights = composite(sigma, width).requires_grad_()
        loss = distortion(weights, samples, 2.0, kernels)
        loss.backward()
        found.append((loss.detach(), weights.grad))
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_one_lump_has_no_distortion_between_samples():
    weights = torch.zeros(1, SAMPLES)
    weights[0, 4] = 1.0
    distance = torch.linspace(1.0, 2.0, SAMPLES)[None]
    width = torch.full((1, SAMPLES), 0.1)
    t, scale = float(distance[0, 4]), 2.0
    expected = 0.1 * scale / (t + scale)**2 / 3.0
    for kernels in (True, False):
        assert float(distortion(weights, Samples(distance, width), scale, kernels)) == (
            pytest.approx(expected, rel=1e-5))


def test_the_kernel_contracts_as_torch_does():
    """Inside, on the border of, and far outside of the inner box."""
    space = ContractedSpace((1.0, -2.0, 0.5), (2.0, 1.0, 0.7))
    points = torch.tensor(np.random.default_rng(3).normal(0.0, 5.0, (500, 3)), dtype=torch.float32)
    points[0], points[1] = torch.tensor([3.0, -2.0, 0.5]), torch.tensor([1e6, 0.0, -1e6])
    unit = torch.empty_like(points)
    contract_all(points.numpy(), *space.kernel_arguments, unit.numpy())
    torch.testing.assert_close(unit, space.to_unit(points), rtol=1e-5, atol=1e-6)

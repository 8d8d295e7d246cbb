# SPDX-License-Identifier: Apache-2.0
"""Rendering for training by the compiled kernels: values and gradients of the torch reference."""

from dataclasses import replace

import numpy as np
import pytest
from small_fields import made, ROOM, SHAPES
import torch

from thermal_nerf_loc.common.errors import RunError
from thermal_nerf_loc.field.kernels.grid_levels import EncodingConfig
from thermal_nerf_loc.field.native import training
from thermal_nerf_loc.field.native.library import library
from thermal_nerf_loc.field.volume_rendering import BranchOptions, render, Samples

pytestmark = pytest.mark.skipif(library() is None, reason='the compiled kernels are not built')


def results(field, modality, origins, directions, samples, options, reference):
    """Outputs, and gradients of a loss of all of them, of everything that learns."""
    field.encoding.reference = reference
    field.zero_grad(set_to_none=True)
    origins, directions = (part.clone().requires_grad_() for part in (origins, directions))
    seen = render(field, modality, origins, directions, samples, options)
    seen.points.retain_grad()
    rng = torch.Generator().manual_seed(7)
    parts = [seen.values, seen.weights, seen.density]
    sum((part * torch.randn(part.shape, generator=rng)).sum() / factor
        for part, factor in zip(parts, (1.0, 1.0, 50.0))).backward()
    gradients = {name: p.grad for name, p in field.named_parameters()}
    return [*(part.detach() for part in parts), seen.points.detach()], {
        **gradients, 'origins': origins.grad, 'directions': directions.grad,
        'points': seen.points.grad}


def compare(field, modality, *rest):
    """Both ways agree."""
    ours, ours_back = results(field, modality, *rest, False)
    theirs, theirs_back = results(field, modality, *rest, True)
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=1e-5)
    for name, b in theirs_back.items():
        a = ours_back[name]
        if b is None or not b.any():
            assert a is None or not a.any(), name
            continue
        assert float((a - b).abs().max()) <= 1e-4 * float(b.abs().max()), name


@pytest.mark.parametrize('modality', ['rgb', 'thermal'])
@pytest.mark.parametrize('shape', SHAPES)
def test_values_and_gradients_of_any_shape(shape, modality):
    compare(*with_modality(made(*SHAPES[shape]), modality), BranchOptions())


@pytest.mark.parametrize('modality', ['rgb', 'thermal'])
@pytest.mark.parametrize('options', [
    BranchOptions(direction_share=0.0), BranchOptions(direction_share=0.4),
    BranchOptions(stop_gradient=True), BranchOptions(gradient_distance_m=2.5),
    BranchOptions(0.7, True, 2.5)], ids=str)
def test_options_of_the_branch(options, modality):
    compare(*with_modality(made(*SHAPES['room'], seed=1), modality), options)


@pytest.mark.parametrize('levels', [1.0, 2.3, 3.999])
def test_coarse_to_fine(levels):
    field, *rest = made(*SHAPES['room'], seed=2)
    field.encoding.active_levels = levels
    compare(field, 'rgb', *rest, BranchOptions())
    unread = int(field.encoding.levels.offsets[int(np.ceil(levels))])
    assert not field.encoding.table.grad[unread:].any()


def with_modality(parts, modality):
    """Arguments of `compare`."""
    field, *rest = parts
    return field, modality, *rest


def test_only_what_learns_gets_a_gradient():
    """Camera poses against a finished map, and a map with fixed cameras."""
    field, origins, directions, samples = made(*SHAPES['room'])
    whole = results(field, 'rgb', origins, directions, samples, BranchOptions(), False)[1]
    field.zero_grad(set_to_none=True)
    seen = render(field, 'rgb', origins, directions, samples)
    seen.values.sum().backward()
    assert field.encoding.table.grad.any() and whole['origins'].any()
    field.zero_grad(set_to_none=True)
    field.requires_grad_(False)
    moving = origins.clone().requires_grad_()
    render(field, 'rgb', moving, directions, samples).values.sum().backward()
    assert moving.grad.any()
    assert all(p.grad is None for p in field.parameters())


def test_the_table_adds_up_both_modalities():
    """As autograd does: two batches, one backward pass."""
    field, origins, directions, samples = made(*SHAPES['room'])
    tables = []
    for reference in (False, True):
        field.encoding.reference = reference
        field.zero_grad(set_to_none=True)
        loss = sum(render(field, name, origins, directions, samples).values.square().sum()
                   for name in ('rgb', 'thermal'))
        loss.backward()
        tables.append(field.encoding.table.grad.clone())
    assert float((tables[0] - tables[1]).abs().max()) <= 1e-4 * float(tables[1].abs().max())


def test_threads_change_nothing(monkeypatch):
    """Sums are taken in one order; more threads than levels share the rows of one, rounded."""
    parts, found = made(*SHAPES['many rays']), []
    for threads in (1, 2, 7):
        monkeypatch.setattr(training, 'kernel_threads', lambda threads=threads: threads)
        found.append(results(parts[0], 'rgb', *parts[1:], BranchOptions(), False))
    for values, gradients in found[1:]:
        for a, b in zip(values, found[0][0]):
            assert torch.equal(a, b)
        for name, gradient in gradients.items():
            if gradient is not None:
                tolerance = 1e-6 if name == 'encoding.table' else 0.0
                torch.testing.assert_close(gradient, found[0][1][name], rtol=0.0, atol=tolerance)


def test_density_alone():
    field, origins, directions, samples = made(*SHAPES['many rays'])
    points = training.sample_points(origins, directions, samples.distance_m)
    expected = origins[:, None] + samples.distance_m[..., None] * directions[:, None]
    torch.testing.assert_close(points, expected.reshape(-1, 3), rtol=1e-6, atol=1e-6)
    field.encoding.reference = True
    torch.testing.assert_close(training.density_of(field, points[:1001]),
                               field.density(points[:1001])[0].detach(), rtol=2e-5, atol=1e-6)


def test_no_rays_and_points_that_are_not_finite():
    field, origins, directions, samples = made(*SHAPES['room'])
    none = render(field, 'rgb', origins[:0], directions[:0],
                  Samples(samples.distance_m[:0], samples.width_m[:0]))
    none.values.sum().backward()
    assert none.values.shape == (0, 3)
    origins[3, 1] = float('nan')
    with pytest.raises(RunError, match='not finite'):
        render(field, 'rgb', origins, directions, samples)


def test_widths_without_kernels_take_the_other_way():
    field, *_ = made(replace(ROOM, encoding=EncodingConfig(4, 1, 10, 4, 20)), 3, 4)
    assert not training.serves(field, torch.zeros(1, 3))
    assert training.serves(made(ROOM, 3, 4)[0], torch.zeros(1, 3))

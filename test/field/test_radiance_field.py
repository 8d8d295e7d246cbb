# SPDX-License-Identifier: Apache-2.0
"""The field's parts against finite differences, closed forms and their own torch reference."""

import numpy as np
import pytest
import torch

from thermal_nerf_loc.field.contraction import ContractedSpace, space_around_cameras
from thermal_nerf_loc.field.cpu_renderer import StagedBranch
from thermal_nerf_loc.field.density_grid import DensityGrid, DepthFusion, SamplingConfig
from thermal_nerf_loc.field.device import processor_has_bfloat16
from thermal_nerf_loc.field.device_renderer import render_torch
from thermal_nerf_loc.field.kernels import torch_reference as torch_reference
from thermal_nerf_loc.field.kernels.grid_levels import EncodingConfig
from thermal_nerf_loc.field.radiance_field import FieldConfig, RadianceField
from thermal_nerf_loc.field.volume_rendering import (BranchOptions, composite, expected_distance,
                                                     render, Samples)

SPACE = ContractedSpace((0.5, -0.2, 1.0), (2.0, 1.5, 1.0))
SMALL = EncodingConfig(levels=4, log2_rows=10, coarsest=4, finest=64)


def field_with_surfaces(seed: int = 0) -> RadianceField:
    """A random field with weights large enough to make light and dark places."""
    torch.manual_seed(seed)
    field = RadianceField(FieldConfig(encoding=SMALL), SPACE, {'rgb': 3, 'thermal': 1})
    with torch.no_grad():
        field.encoding.table.normal_(0.0, 1.0)
    return field


def random_rays(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rays from around the middle of the space."""
    rng = np.random.default_rng(seed)
    origins = (rng.normal(size=(count, 3)) * 0.5 + SPACE.center_m).astype(np.float32)
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return origins, directions.astype(np.float32)


def test_contraction_keeps_the_box_and_reaches_infinity() -> None:
    """Inside linear, outside bounded and continuous, inverse exact, slopes by autograd."""
    inside = torch.tensor(SPACE.center_m) + torch.tensor([[1.0, -1.0, 0.5]])
    expected = torch.tensor([[1.0 / 2.0, -1.0 / 1.5, 0.5]]) * 0.25 + 0.5
    torch.testing.assert_close(SPACE.to_unit(inside), expected)
    far = torch.randn(200, 3) * torch.logspace(-1, 5, 200)[:, None]
    unit = SPACE.to_unit(far)
    assert ((unit > 0.0) & (unit < 1.0)).all()
    near = far[:120]
    torch.testing.assert_close(SPACE.from_unit(SPACE.to_unit(near.double())), near.double())
    points = torch.randn(5, 3, dtype=torch.float64) * 3.0
    assert torch.autograd.gradcheck(SPACE.to_unit, points.requires_grad_())


def test_space_around_cameras_holds_them() -> None:
    """Every camera lies inside the box, with room around; one camera alone still works."""
    positions = np.random.default_rng(0).normal(size=(5, 3)) * (3.0, 1.0, 0.1)
    low, high = space_around_cameras(positions).bounds
    assert (positions > low + 0.5).all() and (positions < high - 0.5).all()
    assert space_around_cameras(positions[:1]).scale_m > 0.0


def test_weights_of_a_constant_fog() -> None:
    """Transmittance of constant density is exp(-sigma t); the far end takes what is left."""
    width = torch.full((1, 50), 0.1)
    weights = composite(torch.full((1, 50), 0.7), width)
    edges = torch.exp(-0.7 * 0.1 * torch.arange(50))
    expected = edges * (1.0 - np.exp(-0.07))
    expected[-1] = edges[-1]
    torch.testing.assert_close(weights[0], expected.float(), rtol=1e-4, atol=1e-6)
    assert float(weights.sum()) == pytest.approx(1.0, abs=1e-5)


def test_expected_distance_of_two_walls() -> None:
    """Mean and standard deviation of a two-point distribution."""
    mean, spread = expected_distance(torch.tensor([[0.25, 0.75]]), torch.tensor([[1.0, 3.0]]))
    assert float(mean) == pytest.approx(2.5)
    assert float(spread) == pytest.approx(np.sqrt(0.25 * 2.25 + 0.75 * 0.25))


@pytest.mark.parametrize('modality', ['rgb', 'thermal'])
@pytest.mark.parametrize(('bfloat16', 'looser'), [(False, 1.0), (True, 10.0)])
def test_staged_rendering_equals_torch_rendering(modality: str, bfloat16: bool,
                                                 looser: float) -> None:
    """Values, distances and spreads by numba and torch's networks against torch operations."""
    field = field_with_surfaces()
    grid = DensityGrid(SamplingConfig(grid_cells=16, bins=32), SPACE)
    origins, directions = random_rays(300)
    fast = StagedBranch(field, modality, bfloat16).render(grid, origins, directions, 24, 0.1)
    slow = render_torch(field, grid, modality, origins, directions, 24, 0.1)
    for ours, theirs, tolerance in zip(fast, slow[:3], (3e-3, 2e-3, 2e-2), strict=True):
        limit = looser * tolerance * np.maximum(1.0, np.abs(theirs).max())
        assert np.abs(ours - theirs).max() < limit


def test_no_bfloat16_where_torch_is_told_to_use_less(monkeypatch) -> None:
    """With ATEN_CPU_CAPABILITY=avx2 torch would emulate it, whatever the processor has."""
    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: 'AVX2')
    assert not processor_has_bfloat16()


def test_samples_are_sorted_and_find_the_dense_place() -> None:
    """The proposal covers the ray, and most late samples fall where the grid is dense."""
    grid = DensityGrid(SamplingConfig(grid_cells=32), SPACE)
    origins = np.tile(np.array([[0.5, -0.2, 1.0]], np.float32), (4, 1))
    directions = np.tile(np.array([[1.0, 0.0, 0.0]], np.float32), (4, 1))
    wall = torch.tensor(origins[:1] + np.float32(1.2) * directions[:1])
    rng = np.random.default_rng(0)
    uniform, widths = grid.sample(origins, directions, 64, 1.0, rng)
    assert (np.diff(uniform, axis=1) > 0.0).all() and (widths > 0.0).all()
    assert uniform[:, 0].max() < 1.0 and uniform[:, -1].min() > 20.0
    grid.values[:] = 0.0
    grid.observe(wall, torch.tensor([500.0]))
    focused, _ = grid.sample(origins, directions, 64, 0.1, rng)
    assert (np.abs(focused - 1.2) < 0.3).mean() > 0.8


def test_stopped_gradient_leaves_the_density_alone() -> None:
    """The `separate` strategy: X trains its branch and nothing else."""
    field = field_with_surfaces()
    origins, directions = (torch.from_numpy(a) for a in random_rays(20))
    samples = Samples(torch.linspace(0.2, 4.0, 16).expand(20, 16), torch.full((20, 16), 0.25))
    seen = render(field, 'thermal', origins, directions, samples,
                  BranchOptions(stop_gradient=True))
    seen.values.sum().backward()
    assert all(p.grad is None for p in field.density_net.parameters())
    assert field.encoding.table.grad is None
    assert all(p.grad is not None for p in field.branches['thermal'].parameters())


def test_pose_gradients_reach_the_rays() -> None:
    """iNeRF needs d(value)/d(origin); the CPU path agrees with the torch reference."""
    field = field_with_surfaces()
    origins, directions = (torch.from_numpy(a) for a in random_rays(20))
    samples = Samples(torch.linspace(0.2, 4.0, 16).expand(20, 16), torch.full((20, 16), 0.25))
    gradients = []
    for reference in (False, True):
        field.encoding.reference = reference
        o, d = origins.clone().requires_grad_(), directions.clone().requires_grad_()
        render(field, 'rgb', o, d, samples).values.square().sum().backward()
        gradients.append((o.grad, d.grad))
    for ours, theirs in zip(*gradients, strict=True):
        assert float(theirs.abs().max()) > 0.0
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('exploring', [0.0, 0.1, 1.0])
def test_proposal_kernel_equals_the_torch_reference(exploring: float) -> None:
    """The same distances and widths from the same grid and the same jitter."""
    config = SamplingConfig(grid_cells=24, bins=48)
    grid = DensityGrid(config, SPACE)
    rng = np.random.default_rng(0)
    grid.values[:] = rng.exponential(2.0, grid.values.shape) * (rng.random(
        grid.values.shape) < 0.2)
    origins, directions = random_rays(200)
    ours = grid.sample(origins, directions, 12, exploring, np.random.default_rng(1))
    jitter = np.random.default_rng(1).random((200, 12), dtype=np.float32)
    scale = SPACE.scale_m
    theirs = torch_reference.propose(
        torch.from_numpy(origins), torch.from_numpy(directions), torch.from_numpy(grid.values),
        SPACE, config.near * SPACE.least_m, 2.0 * scale, config.far * scale, 48, exploring,
        torch.from_numpy(jitter))
    for a, b in zip(ours, theirs, strict=True):
        near = b.numpy() < 20.0  # single precision, disparity and far away do not go together
        off = np.abs(a[near] / b.numpy()[near] - 1.0)
        assert np.quantile(off, 0.99) < 1e-3 and off.max() < 0.05
        assert near.mean() > 0.3


def test_splat_kernel_equals_the_torch_reference() -> None:
    """One sample a cell: up at once, down slowly, other cells untouched."""
    grid = DensityGrid(SamplingConfig(grid_cells=16), SPACE)
    rng = np.random.default_rng(0)
    grid.values[:] = rng.random(grid.values.shape)
    points = torch.from_numpy(rng.normal(size=(300, 3)).astype(np.float32) * 2.0)
    theirs = torch.from_numpy(grid.values.copy())
    cells = torch_reference.cell_index(points, theirs, SPACE)
    _, once = np.unique(cells.numpy(), return_index=True)
    density = torch.rand(len(once))
    torch_reference.splat(points[once], density, theirs, SPACE, 0.1)
    before = grid.values.copy()
    grid.observe(points[once], density, decay=0.1)
    np.testing.assert_allclose(grid.values, theirs.numpy(), rtol=1e-6)
    assert (grid.values != before).sum() == len(once)


def test_held_cells_stay_until_they_are_released() -> None:
    """What depth has put there outlives a field that knows nothing yet; other cells follow it."""
    grid = DensityGrid(SamplingConfig(grid_cells=16), SPACE)
    fused = DepthFusion(grid.config, SPACE)
    origins = np.tile(np.float32(SPACE.center_m), (50, 1))
    directions = np.tile(np.float32([1.0, 0.0, 0.0]), (50, 1))
    fused.add(origins, directions, np.full(50, 1.2, np.float32), np.ones(50, np.float32))
    grid.hold(fused)
    wall = torch.from_numpy(origins[:1] + 1.2 * directions[:1])
    before, elsewhere = torch.from_numpy(origins[:1] + 0.4 * directions[:1]), wall - 1.7
    points, density = torch.cat([wall, before, elsewhere]), torch.full((3,), 0.5)
    cells = torch_reference.cell_index(points, torch.from_numpy(grid.values), SPACE).numpy()
    held = grid.values[cells]
    assert held[0] > 3.0 and held[1] < 0.01 and 0.01 < held[2] < 0.1
    grid.observe(points, density, decay=1.0)
    np.testing.assert_array_equal(grid.values[cells], [held[0], held[1], 0.5])
    grid.release()
    grid.observe(points, density, decay=1.0)
    np.testing.assert_array_equal(grid.values[cells], 0.5)


def test_samples_go_to_the_surfaces_of_fused_depth() -> None:
    """Without any training: nine of ten lie near the wall of a room whose depth is known."""
    grid = DensityGrid(SamplingConfig(grid_cells=64), SPACE)
    origins, directions = random_rays(20_000)
    reach = np.abs((np.sign(directions) * SPACE.half_extent_m + SPACE.center_m - origins)
                   / directions)
    inside = (np.abs(origins - SPACE.center_m) < SPACE.half_extent_m).all(axis=1)
    origins, directions = origins[inside], directions[inside]
    distances = reach.min(axis=1)[inside].astype(np.float32)
    fused = DepthFusion(grid.config, SPACE)
    noise = 1.0 + 0.01 * np.random.default_rng(1).standard_normal(len(distances))
    fused.add(origins, directions, (distances * noise).astype(np.float32),
              np.ones(len(distances), np.float32))
    grid.hold(fused)
    found, _ = grid.sample(origins[:500], directions[:500], 16, 0.0, np.random.default_rng(0))
    off = np.abs(found - distances[:500, None])
    assert (off < 0.3).mean() > 0.9


def test_depth_fusion_equals_its_numpy_reference() -> None:
    """The same counts of rays that pass and that end, whatever their confidence."""
    config = SamplingConfig(grid_cells=16, bins=32)
    rng = np.random.default_rng(3)
    origins, directions = random_rays(60)
    distances = rng.uniform(0.3, 6.0, 60).astype(np.float32)
    confidence = rng.random(60).astype(np.float32)
    fused = DepthFusion(config, SPACE)
    fused.add(origins, directions, distances, confidence)
    free, surface = (np.zeros(16**3) for _ in range(2))
    grid = torch.zeros(16**3)
    scale = SPACE.scale_m
    s = torch.linspace(0.0, 1.0, 33).double().numpy()
    near, middle, far = config.near * SPACE.least_m, 2.0 * scale, config.far * scale
    with np.errstate(divide='ignore'):
        edges = np.where(s < 0.5, near + 2.0 * s * (middle - near),
                         1.0 / ((2.0 - 2.0 * s) / middle + (2.0 * s - 1.0) / far))

    def cell_of(i: int, t: float) -> int:
        point = torch.from_numpy((origins[i] + np.float32(t) * directions[i])[None])
        return int(torch_reference.cell_index(point, grid, SPACE)[0])

    middles, widths = 0.5 * (edges[1:] + edges[:-1]), np.diff(edges)
    for i, distance in enumerate(distances):
        passed = np.flatnonzero(middles + 1.5 * widths < 0.97 * distance)
        b = 0 if not len(passed) else passed[-1] + 1
        cells = [cell_of(i, middles[k]) for k in range(b)]
        for k, cell in enumerate(cells):
            free[cell] += confidence[i] * (k == 0 or cell != cells[k - 1])
        first, behind = cell_of(i, distance), cell_of(i, distance + widths[min(b, 31)])
        surface[first] += confidence[i]
        surface[behind] += 0.5 * confidence[i] * (behind != first)
    for ours, theirs in ((fused.free, free), (fused.surface, surface)):
        assert (np.abs(ours - theirs) > 1e-3).sum() <= 3  # rounding at the border of cells
        assert theirs.sum() > 20.0

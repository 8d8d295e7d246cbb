# SPDX-License-Identifier: Apache-2.0
"""
The path of a GPU on torch's CPU device: against the compiled path, and what it may not do.

On the device `meta`, which has shapes but no values, whatever would read a value back or mix
devices raises; what would send an array is patched to.
"""

from typing import Any

from device_guard import forbid_transfers
import numpy as np
import pytest
import torch

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.field import device_renderer
from thermal_nerf_loc.field.contraction import ContractedSpace
from thermal_nerf_loc.field.cpu_renderer import CpuRenderer
from thermal_nerf_loc.field.density_grid import DensityGrid, DepthFusion, SamplingConfig
from thermal_nerf_loc.field.device import (
    DeviceRandom, find_device, OutOfMemory, random_state, restore_random)
from thermal_nerf_loc.field.device_grid import DeviceGrid, on_device, on_processor
from thermal_nerf_loc.field.device_renderer import DeviceRenderer
from thermal_nerf_loc.field.kernels.grid_levels import EncodingConfig
from thermal_nerf_loc.field.radiance_field import FieldConfig, RadianceField

SPACE = ContractedSpace((0.5, -0.2, 1.0), (2.0, 1.5, 1.0))
SMALL = EncodingConfig(levels=4, log2_rows=10, coarsest=4, finest=64)
CPU = torch.device('cpu')


@pytest.fixture
def grid() -> DensityGrid:
    """A density grid with some dense cells."""
    made = DensityGrid(SamplingConfig(grid_cells=16), SPACE)
    rng = np.random.default_rng(0)
    made.values[:] = rng.exponential(2.0, made.values.shape) * (rng.random(
        made.values.shape) < 0.2)
    return made


@pytest.fixture
def field() -> RadianceField:
    """A field whose table is no longer flat."""
    torch.manual_seed(0)
    made = RadianceField(FieldConfig(SMALL, density_width=16), SPACE, {'rgb': 3, 'thermal': 1})
    with torch.no_grad():
        made.encoding.table.mul_(3e3)
    return made.requires_grad_(False)


def rays(count: int = 60) -> tuple[Any, Any]:
    """Random rays (n, 3) from inside the box."""
    rng = np.random.default_rng(1)
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return (rng.uniform(-0.5, 0.5, (count, 3)).astype(np.float32),
            directions.astype(np.float32))


def test_samples_lie_where_the_kernel_puts_them(grid: DensityGrid) -> None:
    """With a share of uniform samples of each ray's own, some of them 1."""
    origins, directions = rays()
    exploring = np.random.default_rng(2).choice([0.1, 0.5, 1.0], len(origins)).astype(np.float32)
    ours = DeviceGrid(grid, CPU).sample(origins, directions, 12, exploring)
    theirs = grid.sample(origins, directions, 12, exploring)
    for one, other in zip(ours, theirs):  # far out the last digits of a disparity are metres
        off = np.abs(one / other - 1.0)
        assert np.median(off) < 1e-5 and off.max() < 5e-3


def test_what_is_seen_is_kept_as_by_the_kernel(grid: DensityGrid) -> None:
    """One sample a cell: blended alike, held cells left alone; back on the CPU it is the same."""
    fused = DepthFusion(grid.config, SPACE)
    fused.add(*rays(), np.full(60, 0.8, np.float32), np.ones(60, np.float32))
    there = on_device(grid, CPU)
    for one in (grid, there):
        one.hold(fused)
    np.testing.assert_array_equal(there.values, grid.values)
    np.testing.assert_array_equal(there.held, grid.held)
    points = torch.from_numpy(rays(3)[0]).contiguous()
    density = torch.tensor([9.0, 0.0, 4.0])
    for one in (grid, there):
        one.observe(points, density, 0.3)
        one.release()
        one.observe(points, density, 0.3)
    np.testing.assert_allclose(there.values, grid.values, rtol=1e-5, atol=1e-7)
    back = on_processor(there)
    assert not isinstance(back, DeviceGrid) and back.values.flags.writeable
    assert on_processor(back) is back and on_device(there, CPU) is there
    with pytest.raises(ValueError, match='read-only'):
        there.values[:] = 0.0


def test_refresh_finds_the_field(grid: DensityGrid, field: RadianceField) -> None:
    """All cells visited often: the device's grid and the kernel's agree where both looked."""
    field.encoding.reference = True
    there = DeviceGrid(grid, CPU)
    before = there.values.copy()
    random = DeviceRandom(CPU, 3)
    for _ in range(4):
        there.refresh(field, 0.5, random)
    assert (there.values != before).mean() > 0.5
    assert np.isfinite(there.values).all()


@pytest.mark.parametrize('modality', ['rgb', 'thermal'])
def test_renders_what_the_processor_renders(grid: DensityGrid, field: RadianceField,
                                            modality: str) -> None:
    """Values, distances and spreads, from the same samples to a part in 1e5."""
    origins, directions = rays(300)
    ours = DeviceRenderer(field, grid, modality).render(origins, directions, 16, 0.05)
    theirs = CpuRenderer(field, grid, modality).render(origins, directions, 16, 0.05)
    assert ours is not None
    np.testing.assert_allclose(ours[0], theirs[0], atol=2e-3)  # negligible samples are left out
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-4)
    assert [part.shape for part in ours] == [part.shape for part in theirs]


def test_a_full_gpu_renders_smaller_parts_then_gives_up(
        grid: DensityGrid, field: RadianceField, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are said; the answer is whole, and in the end the caller is told to render itself."""
    room = 5000
    render = device_renderer.render_torch

    def limited(*args: Any, **options: Any) -> Any:
        if len(args[3]) > room:
            raise OutOfMemory('CUDA out of memory')
        return render(*args, **options)

    monkeypatch.setattr(device_renderer, 'render_torch', limited)
    renderer = DeviceRenderer(field, grid, 'thermal')
    renderer.most_rays = 16384
    origins, directions = rays(6000)
    with pytest.warns(UserWarning, match='out of memory.*in parts of 4096'):
        values = renderer.render(origins, directions, 4, 0.05)
    assert values is not None and len(values[0]) == 6000
    room = 0
    renderer.most_rays = 1024
    with pytest.warns(UserWarning, match='the processor renders'):
        assert renderer.render(origins, directions, 4, 0.05) is None
    assert renderer.is_exhausted


def test_nothing_waits_for_the_device(grid: DensityGrid, field: RadianceField,
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """Placing, observing and refreshing read no value back and send none."""
    meta = torch.device('meta')
    there, random = DeviceGrid(grid, meta), DeviceRandom(meta, 0)
    field.to(meta)
    with torch.device(meta):
        origins, directions = torch.empty(50, 3), torch.empty(50, 3)
        exploring = torch.empty(50)
    SPACE.to_unit(origins)  # the space's constants are sent once
    forbid_transfers(monkeypatch)
    samples = there.place(origins, directions, 12, exploring, random)
    points = (origins[:, None] + samples.distance_m[..., None] * directions[:, None])
    density, _ = field.density(points.reshape(-1, 3))
    there.observe(points.reshape(-1, 3), density)
    there.refresh(field, 0.1, random)
    assert samples.width_m.shape == (50, 12)


def test_random_numbers_go_on_where_they_were_kept() -> None:
    """A checkpoint holds the state of either kind of generator."""
    for random, draw in ((DeviceRandom(CPU, 5), lambda r: r.uniform(4).numpy()),
                         (np.random.default_rng(5), lambda r: r.random(4))):
        kept = random_state(random)
        first = draw(random)
        restore_random(random, kept)
        np.testing.assert_array_equal(draw(random), first)


def test_a_missing_gpu_is_named() -> None:
    """`--device cuda` without one, and a device that is none."""
    assert find_device('cpu') == CPU
    with pytest.raises(InputError, match='unknown device'):
        find_device('gpu')
    if not torch.cuda.is_available():
        assert find_device('auto') == CPU
        with pytest.raises(InputError, match='no CUDA device'):
            find_device('cuda')

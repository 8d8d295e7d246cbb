# SPDX-License-Identifier: Apache-2.0
"""One hash grid on every backend: numba, plain torch, and tiny-cuda-nn (or its transcription)."""

from collections.abc import Iterator
from pathlib import Path
import sys
import types

import pytest
import tiny_cuda_grid
import torch
from torch import Tensor

from thermal_nerf_loc.common.errors import RunError
from thermal_nerf_loc.field.contraction import ContractedSpace
from thermal_nerf_loc.field.density_grid import SamplingConfig
from thermal_nerf_loc.field.hash_encoding import HashEncoding
from thermal_nerf_loc.field.kernels import tiny_cuda, torch_reference
from thermal_nerf_loc.field.kernels.grid_levels import EncodingConfig
from thermal_nerf_loc.field.radiance_field import FieldConfig, RadianceField
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
from thermal_nerf_loc.mapping.training.config import TrainConfig
from thermal_nerf_loc.mapping.training.trainer import train
from thermal_nerf_loc.simulation.record import simulate_dataset, SimulationConfig

SMALL = EncodingConfig(levels=4, log2_rows=10, coarsest=4, finest=64)
# the default; one cell and a step of two; no hashing; one level; more than 1625 points an axis
SHAPES = [EncodingConfig(),
          EncodingConfig(levels=5, features=2, log2_rows=9, coarsest=2, finest=32),
          EncodingConfig(levels=3, features=2, log2_rows=16, coarsest=5, finest=23),
          EncodingConfig(levels=1, features=4, log2_rows=8, coarsest=4, finest=9),
          EncodingConfig(levels=3, features=4, log2_rows=10, coarsest=3, finest=4000)]
WIDTHS = [EncodingConfig(levels=3, features=features, log2_rows=9, coarsest=3, finest=40)
          for features in (1, 8)]


def random_grid(config: EncodingConfig, seed: int = 0) -> HashEncoding:
    """Make a grid whose features are of the order of one."""
    torch.manual_seed(seed)
    grid = HashEncoding(config)
    with torch.no_grad():
        grid.table.normal_()
    return grid


def points_with_borders(count: int) -> Tensor:
    """Random points, corners and faces of the cube, and points within a cell of its end."""
    points = torch.rand(count, 3)
    points[0], points[1] = 0.0, 1.0
    points[2:20, 0], points[20:40, 1], points[40:60, 2] = 0.0, 1.0, 1.0
    points[60:90] = 1.0 - 0.02 * torch.rand(30, 3)
    return points


def passes(grid: HashEncoding, points: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features, gradient of the table, gradient of the points."""
    grid.table.grad = None
    x = points.clone().requires_grad_()
    out = grid(x)
    (out * upstream).sum().backward()
    assert grid.table.grad is not None and x.grad is not None
    return out.detach().cpu(), grid.table.grad.cpu().clone(), x.grad.cpu()


def assert_passes_equal(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...],
                        scale: float) -> None:
    """Equal within single precision; a point's slopes grow with the finest level's scale."""
    for a, b, limit in zip(ours, theirs, (1.0, 1.0, scale), strict=True):
        tolerance = limit * (1e-4 + 1e-6 * scale)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=tolerance)


@pytest.mark.parametrize('active', [1.0, 0.5])
@pytest.mark.parametrize('config', SHAPES)
def test_cpu_kernels_equal_the_torch_reference(config: EncodingConfig, active: float) -> None:
    """Values and both gradients, dense and hashed levels, borders, and with levels masked."""
    grid = random_grid(config)
    grid.active_levels = active * config.levels
    points = points_with_borders(600)
    upstream = torch.randn(600, grid.width)
    results = []
    for grid.reference in (False, True):
        results.append(passes(grid, points, upstream))
    assert_passes_equal(*results, scale=float(grid.levels.scales.max()))
    if active < 1.0:
        first = int(grid.levels.offsets[-2])
        assert config.levels == 1 or not results[0][1][first:].any()


@pytest.mark.parametrize('config', SHAPES + WIDTHS)
def test_torch_reference_equals_tiny_cuda_nn(config: EncodingConfig,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """The same table, values and gradients as a transcription of tiny-cuda-nn's own source."""
    stand_in(monkeypatch, tiny_cuda_grid.module())
    grid = random_grid(config)
    points = points_with_borders(300)
    upstream = torch.randn(300, grid.width)
    grid.reference = True
    ours = passes(grid, points, upstream)
    monkeypatch.setattr(HashEncoding, 'backend', 'tiny-cuda-nn')
    theirs = passes(grid, points, upstream)
    assert_passes_equal(ours, theirs, scale=float(grid.levels.scales.max()))


def test_table_is_laid_out_as_tiny_cuda_nn_does() -> None:
    """Figures by hand: 16 points to 512 on 8 levels, growth (511.5 / 16)^(1/7)."""
    levels = HashEncoding(EncodingConfig()).levels
    assert levels.resolutions.tolist() == [16, 27, 44, 71, 116, 191, 312, 512]
    assert levels.dense.tolist() == [True] * 3 + [False] * 5
    rows = [16**3, 19688, 85184] + [2**17] * 5  # 27^3 = 19683, rounded up to eights
    assert (levels.offsets[1:] - levels.offsets[:-1]).tolist() == rows


def test_last_cell_reaches_into_the_next_line() -> None:
    """At x = 1 a dense level reads half of its last point, and half of the next line's first."""
    grid = random_grid(EncodingConfig(levels=1, features=2, log2_rows=9, coarsest=8, finest=8))
    table = grid.table.detach()
    for grid.reference in (False, True):
        face, corner = grid(torch.tensor([[1.0, 0.5 / 7.0, 0.5 / 7.0], [1.0, 1.0, 1.0]])).detach()
        # positions 7.5, 1, 1: row 7 + 8 (1 + 8), and its neighbour
        torch.testing.assert_close(face, table[79:81].mean(dim=0), rtol=0.0, atol=1e-5)
        rows = [(x + 8 * (y + 8 * z)) % 512 for x in (7, 8) for y in (7, 8) for z in (7, 8)]
        torch.testing.assert_close(corner, table[rows].mean(dim=0), rtol=0.0, atol=1e-5)


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
def test_points_that_are_none_do_not_reach_the_kernels(value: float) -> None:
    """Not a number would be looked up outside the table."""
    points = torch.rand(50, 3)
    points[7, 1] = value
    with pytest.raises(RunError, match='not finite'):
        random_grid(SMALL)(points)


def test_points_outside_the_cube_read_its_border() -> None:
    """On every backend, and no memory beyond the table is touched."""
    grid = random_grid(SMALL)
    points = torch.randn(200, 3) * 100.0
    for grid.reference in (False, True):
        torch.testing.assert_close(grid(points), grid(points.clamp(0.0, 1.0)))


def test_slopes_equal_finite_differences() -> None:
    """In double precision, of the points and of the table, dense and hashed."""
    config = EncodingConfig(levels=3, features=2, log2_rows=8, coarsest=3, finest=20)
    grid = random_grid(config).double()
    assert set(grid.levels.dense) == {True, False}
    points = torch.rand(6, 3, dtype=torch.float64).requires_grad_()
    table = grid.table.detach()
    assert torch.autograd.gradcheck(
        lambda x: torch_reference.read_grid(x, table, grid.levels), points)
    assert torch.autograd.gradcheck(lambda rows: torch_reference.read_grid(
        points.detach(), rows, grid.levels), grid.table, fast_mode=True)


def test_coarse_to_fine_mask_silences_fine_levels() -> None:
    """With 1.5 levels active, the first is whole, the second half, the rest zero."""
    grid = HashEncoding(SMALL)
    with torch.no_grad():
        grid.table.fill_(1.0)
    grid.active_levels = 1.5
    out = grid(torch.rand(10, 3)).view(10, 4, 4)
    torch.testing.assert_close(out[:, 0], torch.ones(10, 4))
    torch.testing.assert_close(out[:, 1], torch.full((10, 4), 0.5))
    assert not out[:, 2:].any()


@pytest.mark.parametrize('bfloat16', [False, True])
def test_a_field_learns_alike_through_tiny_cuda_nn(bfloat16: bool,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    """Our parameter gets the gradient, nothing else is registered, under autocast too."""
    stand_in(monkeypatch, tiny_cuda_grid.module())
    torch.manual_seed(0)
    field = RadianceField(FieldConfig(encoding=SMALL), ContractedSpace((0., 0., 0.), (1., 1., 1.)),
                          {'rgb': 3})
    names = list(field.state_dict())
    points = torch.randn(100, 3)
    results = []
    for backend in ('numba', 'tiny-cuda-nn'):
        monkeypatch.setattr(HashEncoding, 'backend', backend)
        field.zero_grad()
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=bfloat16):
            density, _ = field.density(points)
        density.log().sum().backward()
        assert field.encoding.table.grad is not None
        results.append((density.detach(), field.encoding.table.grad.clone()))
    assert list(field.state_dict()) == names
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_training_is_the_same_on_every_backend(tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first ray to the finished map: the same losses and weights, told by name."""
    stand_in(monkeypatch, tiny_cuda_grid.module())
    simulate_dataset(tmp_path / 'room', SimulationConfig(frames=9, size=(32, 24)))
    scene = load_scene(tmp_path / 'room')
    config = TrainConfig(steps=3, rays=64, bfloat16=False, field=FieldConfig(encoding=SMALL),
                         sampling=SamplingConfig(grid_cells=16, bins=16))
    losses, tables = [], []
    for backend in ('numba', 'torch', 'tiny-cuda-nn'):
        monkeypatch.setattr(HashEncoding, 'backend', backend)
        result = train(scene, config)
        assert result.backend == backend
        losses.append(result.final_loss)
        tables.append(result.map.learners[0].field.encoding.table)
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-3)
    moved = tables[0].abs() > 2e-4  # tables begin within 1e-4
    assert moved.float().mean() > 0.3
    for table in tables[1:]:  # Adam turns rounding into a step where gradients all but vanish
        assert ((table - tables[0]).abs()[moved] < 1e-5).float().mean() > 0.95


def test_another_order_of_rows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should a release of tiny-cuda-nn change its hash, no map is read wrongly."""
    stand_in(monkeypatch, tiny_cuda_grid.module())
    primes = (tiny_cuda_grid.FACTORS[0], *tiny_cuda_grid.FACTORS[:0:-1])
    monkeypatch.setattr(tiny_cuda_grid, 'FACTORS', primes)
    grid = HashEncoding(SMALL)
    with pytest.raises(RunError, match='another order'):
        tiny_cuda.encode(torch.rand(5, 3), grid.table, SMALL, grid.levels)


def test_backends_have_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numba here, plain torch where asked for, and tiny-cuda-nn only for rows that it knows."""
    grid = HashEncoding(SMALL)
    assert grid.backend == 'numba'
    grid.reference = True
    assert grid.backend == 'torch'
    assert HashEncoding(SMALL).to('meta').backend == 'torch on meta'
    stand_in(monkeypatch, tiny_cuda_grid.module())
    assert tiny_cuda.serves(SMALL)
    assert not tiny_cuda.serves(EncodingConfig(features=3))


def test_bindings_that_do_not_load_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not installed is no news; installed for another torch is."""
    stand_in(monkeypatch, None)
    assert not tiny_cuda.serves(SMALL)

    class Broken:
        """An import that fails as tinycudann's does without a GPU it was built for."""

        def find_spec(self, name: str, *_: object) -> None:
            """Fail as its module would."""
            if name == 'tinycudann':
                raise OSError('Unknown compute capability')

    monkeypatch.delitem(sys.modules, 'tinycudann')
    monkeypatch.setattr(sys, 'meta_path', [Broken(), *sys.meta_path])
    tiny_cuda.bindings.cache_clear()
    with pytest.warns(UserWarning, match='does not load .Unknown compute capability'):
        assert not tiny_cuda.serves(SMALL)


@pytest.mark.gpu
@pytest.mark.parametrize('config', SHAPES)
@pytest.mark.parametrize('backend', ['torch on cuda', 'tiny-cuda-nn'])
def test_gpu_reads_the_same_grid_as_the_cpu(config: EncodingConfig, backend: str) -> None:
    """The real thing: values and both gradients of one table, on the GPU and here."""
    if backend == 'tiny-cuda-nn':
        pytest.importorskip('tinycudann')
    grid = random_grid(config)
    points = points_with_borders(600)
    upstream = torch.randn(600, grid.width)
    here = passes(grid, points, upstream)
    grid.cuda()
    grid.reference = backend != 'tiny-cuda-nn'
    assert grid.backend == backend
    there = passes(grid, points.cuda(), upstream.cuda())
    assert_passes_equal(here, there, scale=float(grid.levels.scales.max()))


def stand_in(monkeypatch: pytest.MonkeyPatch, module: types.ModuleType | None) -> None:
    """Let `module` be what `import tinycudann` finds; None: it is not installed."""
    monkeypatch.setitem(sys.modules, 'tinycudann', module)
    tiny_cuda.bindings.cache_clear()
    monkeypatch.setattr(tiny_cuda, '_BUILT', {})


@pytest.fixture(autouse=True)
def forget_the_stand_in() -> Iterator[None]:
    """The next test looks for the real module again."""
    yield
    tiny_cuda.bindings.cache_clear()

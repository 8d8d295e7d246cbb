# SPDX-License-Identifier: Apache-2.0
"""Rendering by the compiled kernels equals the torch reference; what serves without them."""

from concurrent.futures import ThreadPoolExecutor
import shutil
import warnings

import numpy as np
import pytest
from small_fields import made, SHAPES, SPACE
import torch

from thermal_nerf_loc.field.cpu_renderer import CpuRenderer, StagedBranch
from thermal_nerf_loc.field.density_grid import DensityGrid, SamplingConfig
from thermal_nerf_loc.field.device_renderer import render_torch
from thermal_nerf_loc.field.kernels import torch_reference
from thermal_nerf_loc.field.native import library as native
from thermal_nerf_loc.field.native import rendering
from thermal_nerf_loc.field.native.rendering import FusedBranch

needs_library = pytest.mark.skipif(native.library() is None,
                                   reason='the compiled kernels are not built')


def scene(shape, cells=16, bins=32):
    """A field, a density grid with a dense place, and rays."""
    config, rays, samples = SHAPES[shape]
    field, origins, directions, _ = made(config, rays, samples)
    grid = DensityGrid(SamplingConfig(grid_cells=cells, bins=bins), SPACE)
    grid.values[::7] = 4.0
    return field, grid, origins.numpy(), directions.numpy(), samples


@needs_library
@pytest.mark.parametrize('modality', ['rgb', 'thermal'])
@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('exploring', [0.1, 1.0])
def test_one_pass_equals_torch(shape, modality, exploring):
    """
    Values to 1e-5, distances and spreads to 1e-4 of the farthest.

    Rarely a sample lies so close to the border of a cell that rounding puts it on the other side.
    """
    field, grid, origins, directions, samples = scene(shape)
    fused = FusedBranch(field, modality).render(grid, origins, directions, samples, exploring)
    field.encoding.reference = True
    slow = render_torch(field, grid, modality, origins, directions, samples, exploring)
    off = np.abs(fused[0] - slow[0]).max(axis=1)
    assert (off > 1e-5).mean() < 0.01 and off.max() < 1e-3
    for ours, theirs in zip(fused[1:], slow[1:3], strict=True):
        assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(slow[1]).max()


@needs_library
@pytest.mark.parametrize('shape', SHAPES)
def test_both_modalities_share_one_density(shape):
    """The channels of both in one pass are those of two passes, and so are the distances."""
    field, grid, origins, directions, samples = scene(shape)
    joint = FusedBranch(field, 'rgb', 'thermal').render(grid, origins, directions, samples, 0.1)
    apart = [FusedBranch(field, name).render(grid, origins, directions, samples, 0.1)
             for name in ('rgb', 'thermal')]
    values = np.concatenate([part[0] for part in apart], axis=1)
    np.testing.assert_allclose(joint[0], values, atol=1e-6)
    for ours, theirs in zip(joint[1:], apart[0][1:], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@needs_library
@pytest.mark.parametrize('shape', SHAPES)
def test_every_instruction_set_gives_the_same(shape, monkeypatch):
    """Each library that this processor can run, values to 1e-5."""
    field, grid, origins, directions, samples = scene(shape)
    found = {}
    for name in native.processor_sets():
        monkeypatch.setenv(native.VARIABLE, name)
        native.library.cache_clear()
        assert native.instruction_set() == name
        found[name] = FusedBranch(field, 'rgb').render(grid, origins, directions, samples, 0.1)[0]
    native.library.cache_clear()
    first, *others = found.values()
    for other in others:
        off = np.abs(other - first).max(axis=1)
        assert (off > 1e-5).mean() < 0.01 and off.max() < 1e-3


@needs_library
@pytest.mark.parametrize(('exploring', 'jittered', 'samples'), [
    (0.1, False, 16), (0.1, True, 24), (0.0, True, 5), (1.0, True, 7)])
def test_samples_lie_where_torch_places_them(exploring, jittered, samples):
    """Distances and lengths to 1e-4 of the distance; a sum rounded otherwise moves few of them."""
    _, grid, origins, directions, _ = scene('room', bins=50)  # no multiple of the vector's lanes
    rng = np.random.default_rng(1) if jittered else None
    ours = grid.sample(origins, directions, samples, exploring, rng)
    jitter = (np.random.default_rng(1).random(ours[0].shape, dtype=np.float32) if jittered
              else np.full(ours[0].shape, 0.5, np.float32))
    scale, config = SPACE.scale_m, grid.config
    theirs = torch_reference.propose(
        torch.from_numpy(origins), torch.from_numpy(directions), torch.from_numpy(grid.values),
        SPACE, config.near * SPACE.least_m, 2.0 * scale, config.far * scale, config.bins,
        exploring, torch.from_numpy(jitter))
    for own, expected in zip(ours, theirs, strict=True):
        off = np.abs(own - expected.numpy()) / np.maximum(ours[0], 1.0)
        assert (off > 1e-4).mean() < 0.02


@needs_library
def test_several_threads_render_at_a_time():
    """The pool of threads serves callers side by side."""
    field, grid, origins, directions, samples = scene('room')
    renderer = CpuRenderer(field, grid, 'rgb', fused=True)
    many = [np.tile(rays, (40, 1)) for rays in (origins, directions)]
    expected = renderer.render(*many, samples, 0.1)[0]
    with ThreadPoolExecutor(4) as pool:
        for values, *_ in pool.map(lambda _: renderer.render(*many, samples, 0.1), range(12)):
            np.testing.assert_array_equal(values, expected)


@needs_library
@pytest.mark.parametrize('bad', [np.nan, np.inf, 1e30])
def test_points_that_are_no_numbers_read_inside_the_tables(bad):
    """A pose that is NaN must not end the program."""
    field, grid, origins, directions, samples = scene('room')
    renderer = CpuRenderer(field, grid, 'rgb', fused=True)
    values = renderer.render(np.full_like(origins, bad), directions, samples, 0.1)[0]
    assert values.shape == (len(origins), 3)


@needs_library
def test_rays_of_any_layout_and_none_at_all():
    """Strided and double-precision rays are copied; no ray gives no value."""
    field, grid, origins, directions, samples = scene('room')
    renderer = CpuRenderer(field, grid, 'rgb', fused=True)
    plain = renderer.render(origins, directions, samples, 0.1)
    spread_out = np.repeat(origins, 2, axis=0)[::2].astype(np.float64)
    np.testing.assert_array_equal(
        renderer.render(spread_out, np.asfortranarray(directions), samples, 0.1)[0], plain[0])
    assert renderer.render(origins[:0], directions[:0], samples, 0.1)[0].shape == (0, 3)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A place for libraries that is looked at anew."""
    monkeypatch.setattr(native, 'FOLDER', tmp_path)
    native.library.cache_clear()
    yield tmp_path
    native.library.cache_clear()


def broken(path, how):
    """What may lie where the library should."""
    if how == 'cut off':
        whole = native.Path(native.__file__).parent / path.name
        if not whole.is_file():
            pytest.skip('the compiled kernels are not built')
        shutil.copy(whole, path)
        with path.open('r+b') as file:
            file.truncate(path.stat().st_size // 2)
    elif how == 'no library':
        path.write_bytes(b'not a library')


@pytest.mark.parametrize(('how', 'said'), [('missing', 'not built'), ('no library', 'load'),
                                           ('cut off', 'cut off')])
def test_without_a_library_numba_serves_and_one_line_says_so(folder, how, said):
    """Not built, not a library, or an interrupted copy."""
    if not native.processor_sets():
        pytest.skip('no compiled kernels on this processor')
    for name in native.SETS:
        broken(folder / f'kernels_{name}.so', how)
    with pytest.warns(UserWarning, match=said) as caught:
        assert native.library() is None
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # not said again
        field, grid, origins, directions, samples = scene('room')
        assert not rendering.serves(field)
        renderer = CpuRenderer(field, grid, 'rgb')
        assert isinstance(renderer._branch, StagedBranch)
        assert renderer.render(origins, directions, samples, 0.1)[0].shape == (len(origins), 3)


def test_it_can_be_turned_off(folder, monkeypatch):
    """By a variable, without a warning."""
    monkeypatch.setenv(native.VARIABLE, 'off')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert native.library() is None and native.instruction_set() is None

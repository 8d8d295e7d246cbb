# SPDX-License-Identifier: Apache-2.0
"""A map comes back bit by bit, or not at all: truncated, flipped, foreign and newer files."""

from dataclasses import replace
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import save_file
import torch

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.field.contraction import ContractedSpace
from thermal_nerf_loc.field.density_grid import SamplingConfig
from thermal_nerf_loc.field.kernels.grid_levels import EncodingConfig
from thermal_nerf_loc.field.radiance_field import FieldConfig
from thermal_nerf_loc.mapping.map import map_file
from thermal_nerf_loc.mapping.map.keyframes import Keyframes
from thermal_nerf_loc.mapping.map.landmarks import plain_landmarks
from thermal_nerf_loc.mapping.map.localization_map import MapInfo
from thermal_nerf_loc.mapping.map.map_file import as_kept
from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
from thermal_nerf_loc.mapping.map.uncertainty import CELLS, Uncertainty
from thermal_nerf_loc.mapping.training.strategies import learners_for
from thermal_nerf_loc.sensing.thermal import TemperatureRange

CHANNELS = {'rgb': 3, 'thermal': 1}


def small_map(strategy: str = 'rgbx') -> RadianceMap:
    """An untrained map with every part of a real one."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    field = FieldConfig(encoding=EncodingConfig(levels=2, log2_rows=8, coarsest=4, finest=16))
    learners = learners_for(strategy, field, SamplingConfig(grid_cells=16),
                            ContractedSpace((0.0, 1.0, 2.0), (1.0, 2.0, 3.0)), CHANNELS)
    for learner in learners:
        learner.grid.values[:] = as_kept(np.exp(rng.uniform(-9.0, 9.0, 16**3)).astype(np.float32))
    keyframes = Keyframes(np.tile(np.eye(4), (3, 1, 1)),
                          {'rgb': np.full((3, 30, 40, 3), 0.5, np.float32)})
    return RadianceMap(learners, TemperatureRange(10.0, 50.0),
                       MapInfo('kitchen', {'steps': 7}, 7, 1.5), keyframes)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A map file."""
    path = tmp_path / 'kitchen.map'
    small_map().save(path)
    return path


@pytest.mark.parametrize('strategy', ['rgbx', 'scratch', 'separate'])
def test_round_trip(tmp_path: Path, strategy: str) -> None:
    """What is loaded renders exactly what was saved."""
    bare = small_map(strategy)
    before = replace(bare, false_positive_tails={'rgb': (-1.5, 0.5, -0.2)},
                     uncertainty=Uncertainty(np.full((CELLS,) * 3, 0.25, np.float32), bare.space))
    before.save(tmp_path / 'm')
    after = RadianceMap.load(tmp_path / 'm')
    rng = np.random.default_rng(0)
    origins = rng.normal(size=(50, 3)).astype(np.float32)
    directions = rng.normal(size=(50, 3))
    directions = (directions / np.linalg.norm(directions, axis=1)[:, None]).astype(np.float32)
    for modality in ('rgb', 'thermal'):
        a, b = (m.render_rays(modality, origins, directions) for m in (before, after))
        np.testing.assert_array_equal(a.values, b.values)
        np.testing.assert_array_equal(a.distance_m, b.distance_m)
    assert after.modalities == ('rgb', 'thermal')
    assert after.temperature_range == TemperatureRange(10.0, 50.0)
    assert after.info == before.info and after.scene_name == 'kitchen'
    np.testing.assert_array_equal(after.uncertainty.values, before.uncertainty.values)
    assert after.false_positive_tails == before.false_positive_tails
    assert len(after.keyframes) == 3
    np.testing.assert_array_equal(after.keyframes.thumbnails['rgb'], 0.5)
    np.testing.assert_array_equal(after.bounds, before.bounds)


def test_densities_are_kept_in_16_bits() -> None:
    """To 0.4 % up to e^8 a metre, 1e-30 at least; and what was kept once stays as it is."""
    densities = np.exp(np.linspace(-8.0, 8.0, 1001)).astype(np.float32)
    kept = as_kept(densities)
    assert np.abs(kept / densities - 1.0).max() < 0.004
    np.testing.assert_array_equal(as_kept(kept), kept)
    assert 0.0 < as_kept(np.zeros(1, np.float32))[0] < 1e-29


def test_earlier_landmarks_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They were points with one descriptor each."""
    rng = np.random.default_rng(2)
    points = rng.normal(size=(5, 3)).astype(np.float32)
    look = rng.integers(0, 100, (5, 128)).astype(np.uint8)
    now = replace(small_map(), landmarks={'rgb': plain_landmarks(points, look)})
    parts = {'rgb.points': points, 'rgb.descriptors': look}
    monkeypatch.setattr(map_file.landmark_tensors, 'tensors_of', lambda _: parts)
    now.save(tmp_path / 'earlier.map')
    monkeypatch.undo()
    found = RadianceMap.load(tmp_path / 'earlier.map').landmarks['rgb']
    np.testing.assert_array_equal(found.points, points)
    np.testing.assert_array_equal(found.descriptors, look)


def test_earlier_maps_hold_densities_as_they_are(tmp_path: Path) -> None:
    """32 bits, under another name; saved again they take half the room."""
    made = small_map()
    made.save(tmp_path / 'new')
    with safe_open(tmp_path / 'new', framework='pt') as file:
        facts = json.loads(file.metadata()['map'])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    densities = torch.rand(16**3) * 1e3
    assert tensors.pop('log_grid0').numpy().nbytes == densities.numpy().nbytes // 2
    tensors['grid0'] = densities
    facts['checksum'] = map_file._checksum(tensors)
    save_file(tensors, tmp_path / 'old', {'map': json.dumps(facts)})
    old = RadianceMap.load(tmp_path / 'old')
    np.testing.assert_array_equal(old.learners[0].grid.values, densities.numpy())


def test_earlier_maps_hold_landmarks_of_fewer_parts(tmp_path: Path) -> None:
    """A point and one descriptor each; a part that no version has is refused."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(5, 3)).astype(np.float32)
    descriptors = rng.integers(0, 255, (5, 128)).astype(np.uint8)
    made = replace(small_map(), landmarks={'rgb': plain_landmarks(points, descriptors)})
    made.save(tmp_path / 'new')
    with safe_open(tmp_path / 'new', 'pt') as file:
        facts = json.loads(file.metadata()['map'])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    old = {name: tensor for name, tensor in tensors.items() if not name.startswith('landmarks.')
           or name.rpartition('.')[2] in ('points', 'descriptors')}
    assert len(old) == len(tensors) - 3
    facts['checksum'] = map_file._checksum(old)
    save_file(old, tmp_path / 'old', {'map': json.dumps(facts)})
    back = RadianceMap.load(tmp_path / 'old').landmarks['rgb']
    np.testing.assert_array_equal(back.points, points)
    odd = {**old, 'landmarks.rgb.names': torch.zeros(5)}
    facts['checksum'] = map_file._checksum(odd)
    save_file(odd, tmp_path / 'odd', {'map': json.dumps(facts)})
    with pytest.raises(InputError, match='inconsistent'):
        RadianceMap.load(tmp_path / 'odd')


def test_what_the_camera_adds_is_kept(saved: Path, tmp_path: Path) -> None:
    """As one image, for images of any size; also where an earlier map knew two numbers."""
    made = replace(small_map(), flat_fields={
        'thermal': np.linspace(-1.0, 1.0, 12, dtype=np.float32).reshape(3, 4)})
    made.save(tmp_path / 'm')
    found = RadianceMap.load(tmp_path / 'm')
    added = found.flat_field_offset('thermal', (4, 3))
    assert added is not None and added.shape == (3, 4, 1)
    np.testing.assert_allclose(added[..., 0], made.flat_fields['thermal'], atol=1e-3)
    larger = found.flat_field_offset('thermal', (40, 30))
    assert larger is not None and larger.mean() == pytest.approx(0.0, abs=1e-3)
    assert found.flat_field_offset('rgb', (4, 3)) is None
    _rewrite(saved, vignetting={'thermal': [-2.0, 1.0]})
    earlier = RadianceMap.load(saved).flat_field_offset('thermal', (64, 48))
    assert earlier is not None and earlier[0, 0, 0] == pytest.approx(-1.0, abs=0.02)
    _rewrite(saved, vignetting={'thermal': [float('nan'), 1.0]})
    with pytest.raises(InputError, match='flat field is no image'):
        RadianceMap.load(saved)


def test_thermal_comes_in_celsius() -> None:
    """The thermal branch answers within its temperature range."""
    rays = np.zeros((4, 3), np.float32), np.tile(np.float32([[0, 0, 1]]), (4, 1))
    values = small_map().render_rays('thermal', *rays).values
    assert ((values > 10.0) & (values < 50.0)).all()


def test_differentiable_rendering_agrees(saved: Path) -> None:
    """iNeRF's rendering shows the same values as the fast one."""
    radiance_map = RadianceMap.load(saved)
    origins = np.zeros((5, 3), np.float32)
    directions = np.tile(np.float32([[0, 0.6, 0.8]]), (5, 1))
    for modality in ('rgb', 'thermal'):
        fast = radiance_map.render_rays(modality, origins, directions).values
        slow = radiance_map.render_differentiable(
            modality, torch.from_numpy(origins).requires_grad_(), torch.from_numpy(directions))
        assert slow.requires_grad
        scale = 40.0 if modality == 'thermal' else 1.0
        np.testing.assert_allclose(slow.detach().numpy(), fast, atol=3e-3 * scale)


def test_flipped_bit_is_found(saved: Path) -> None:
    """One bit in the middle of the weights."""
    content = bytearray(saved.read_bytes())
    content[len(content) // 2] ^= 4
    saved.write_bytes(content)
    with pytest.raises(InputError, match='checksum'):
        RadianceMap.load(saved)


@pytest.mark.parametrize('size', [0, 5, 200, -100])
def test_truncated_file(saved: Path, size: int) -> None:
    """Cut anywhere: one clear error with the path."""
    saved.write_bytes(saved.read_bytes()[:size])
    with pytest.raises(InputError, match='truncated, corrupt or no map') as caught:
        RadianceMap.load(saved)
    assert str(saved) in str(caught.value)


def test_foreign_files(tmp_path: Path) -> None:
    """A text file, a missing file, and somebody else's safetensors."""
    text = tmp_path / 'notes.txt'
    text.write_text('my map of the kitchen')
    with pytest.raises(InputError, match='corrupt or no map'):
        RadianceMap.load(text)
    with pytest.raises(InputError, match='no such map file'):
        RadianceMap.load(tmp_path / 'absent.map')
    foreign = tmp_path / 'bert.safetensors'
    save_file({'x': torch.zeros(3)}, str(foreign), {'format': 'pt'})
    with pytest.raises(InputError, match='no radiance map'):
        RadianceMap.load(foreign)


def _rewrite(path: Path, **changes: object) -> None:
    """The same tensors under changed metadata."""
    with safe_open(str(path), framework='pt') as file:
        facts = json.loads(file.metadata()['map'])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    save_file(tensors, str(path), {'map': json.dumps({**facts, **changes})})


@pytest.mark.parametrize(('changes', 'expected'), [
    ({'version': 99}, 'another format version.*expected 2; got 99. Upgrade'),
    ({'version': 1}, 'another format version.*expected 2; got 1. Train the map again'),
    ({'learners': []}, 'inconsistent'),
    ({'learners': [{'channels': {'rgb': 7}, 'detached': []}]}, 'inconsistent'),
    ({'space': {}}, 'inconsistent'),
    ({'temperature_range': {'low_celsius': 5, 'high_celsius': 1}}, 'temperature range is empty'),
    ({'field': {'colour': 3}}, 'unknown key'),
    ({'false_confidence': {'rgb': [0.0, -1.0, 0.0]}}, 'false confidence'),
])
def test_metadata_is_not_believed(saved: Path, changes: dict[str, object], expected: str) -> None:
    """Newer versions and settings that do not fit the weights."""
    _rewrite(saved, **changes)
    with pytest.raises(InputError, match=expected):
        RadianceMap.load(saved)


def test_missing_modality_is_named(saved: Path) -> None:
    """Asking for what the map does not show lists what it does."""
    rays = np.zeros((1, 3), np.float32), np.float32([[0, 0, 1]])
    with pytest.raises(InputError, match='does not show nir; expected rgb or thermal'):
        RadianceMap.load(saved).render_rays('nir', *rays)

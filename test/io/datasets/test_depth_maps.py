# SPDX-License-Identifier: Apache-2.0
"""Depth maps that help a training: where they come from, how much they count, what is refused."""

from dataclasses import replace
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from thermal_nerf_loc.cli import main
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.evaluation.map_quality import evaluate_map
from thermal_nerf_loc.field.density_grid import SamplingConfig
from thermal_nerf_loc.field.hash_encoding import EncodingConfig
from thermal_nerf_loc.field.radiance_field import FieldConfig
from thermal_nerf_loc.field.volume_rendering import Samples
from thermal_nerf_loc.io.datasets.depth_maps import (DepthSource, MEASURED, with_depth,
                                                     write_depth_maps)
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
from thermal_nerf_loc.io.datasets.scene import load_image, Scene
from thermal_nerf_loc.io.images import write_png
from thermal_nerf_loc.mapping.training.config import TrainConfig
from thermal_nerf_loc.mapping.training.losses import depth_error, DepthFit
from thermal_nerf_loc.mapping.training.ray_sampler import PixelSource
from thermal_nerf_loc.mapping.training.trainer import train
from thermal_nerf_loc.simulation.record import simulate_dataset, SimulationConfig

SMALL = TrainConfig(
    steps=100, rays=256, field=FieldConfig(encoding=EncodingConfig(log2_rows=13, finest=64)),
    sampling=SamplingConfig(grid_cells=32, bins=48), depth_from='none')


@pytest.fixture(scope='module')
def room(tmp_path_factory):
    """A dozen small views of the simulated room."""
    out = tmp_path_factory.mktemp('data') / 'room'
    simulate_dataset(out, SimulationConfig(frames=12, size=(32, 24), thermal_size=(32, 24),
                                           supersampling=1))
    return load_scene(out)


def true_maps(scene: Scene, modality: str, factor: float = 1.0):
    """(stem, depth, confidence) of all training images."""
    for i in scene.train:
        record = scene.frames[i].records[modality]
        depth = factor * load_image(modality, record).depth_m
        yield record.path.stem, depth, np.full(depth.shape, 0.6)


def asked(scene: Scene, folder: Path, **options) -> Scene:
    return with_depth(scene, DepthSource(str(folder), **options))


def training_depths(scene: Scene, modality: str):
    images = [load_image(modality, scene.frames[i].records[modality]) for i in scene.train]
    return [(image.depth_m, image.depth_confidence) for image in images]


def test_a_written_folder_is_read_back(room, tmp_path):
    """For its own camera, with its confidence; what judges the map stays."""
    folder = tmp_path / 'maps'
    assert write_depth_maps(folder, true_maps(room, 'thermal', 0.9), 'thermal', {}) == 12
    found = asked(room, folder)
    for (depth, confidence), (truth, _) in zip(training_depths(found, 'thermal'),
                                               training_depths(room, 'thermal'), strict=True):
        np.testing.assert_allclose(depth, 0.9 * truth, atol=6e-4)
        np.testing.assert_allclose(confidence, 0.6, atol=1 / 255)
    assert all(depth is None for depth, _ in training_depths(found, 'rgb'))
    assert [found.frames[i] for i in room.test] == [room.frames[i] for i in room.test]


@pytest.mark.parametrize('suffix, unit', [('.npy', 1.0), ('.tiff', 1.0), ('.png', 0.001)])
def test_formats_have_their_units(room, tmp_path, suffix, unit):
    """Floats are metres, integers millimetres; maps may lie as the images do."""
    import tifffile
    (tmp_path / 'rgb').mkdir()
    for name, depth, _ in true_maps(room, 'rgb'):
        path = tmp_path / 'rgb' / f'{name}{suffix}'
        if suffix == '.npy':
            np.save(path, depth / unit)
        elif suffix == '.tiff':
            tifffile.imwrite(path, depth.astype(np.float32))
        else:
            write_png(path, (depth / unit).astype(np.uint16))
    for (depth, confidence), (truth, _) in zip(
            training_depths(asked(room, tmp_path), 'rgb'), training_depths(room, 'rgb')):
        np.testing.assert_allclose(depth, truth, atol=2e-3)
        assert confidence is None


def test_measured_depth_of_one_camera(room):
    found = with_depth(room, DepthSource(MEASURED, 'thermal'))
    assert all(depth is not None for depth, _ in training_depths(found, 'thermal'))
    assert all(depth is None for depth, _ in training_depths(found, 'rgb'))
    bare = replace(room, frames=tuple(replace(frame, records={
        name: replace(record, depth_path=None) for name, record in frame.records.items()})
        for frame in room.frames))
    with pytest.raises(InputError, match='no depth maps'):
        with_depth(bare, DepthSource(MEASURED))


def test_missing_maps_are_told_and_none_is_refused(room, tmp_path, caplog):
    some = [entry for i, entry in enumerate(true_maps(room, 'rgb')) if i % 3]
    write_depth_maps(tmp_path / 'some', some, 'rgb', {})
    with caplog.at_level(logging.WARNING):
        found = asked(room, tmp_path / 'some')
    assert '4 of 12 rgb training images are missing (first: train_00000)' in caplog.text
    assert sum(depth is not None for depth, _ in training_depths(found, 'rgb')) == 8
    write_depth_maps(tmp_path / 'other', [('x', np.ones((24, 32)), np.ones((24, 32)))], 'rgb', {})
    with pytest.raises(InputError, match=r'expected train_00000.png, .npy or .tiff; got depth_'):
        asked(room, tmp_path / 'other')
    with pytest.raises(InputError, match='no such folder of depth maps'):
        asked(room, tmp_path / 'nowhere')


@pytest.mark.parametrize('factor', [1000.0, 0.001])
def test_a_wrong_unit_is_refused(room, tmp_path, factor):
    """Held against how far the cameras are apart; a unit that is given is believed."""
    for name, depth, _ in true_maps(room, 'rgb', factor):
        np.save(tmp_path / f'{name}.npy', depth)
    with pytest.raises(InputError, match=r'another unit than the poses.*--depth-unit says'):
        asked(room, tmp_path)
    right = asked(room, tmp_path, unit_m=1.0 / factor)
    np.testing.assert_allclose(training_depths(right, 'rgb')[0][0],
                               training_depths(room, 'rgb')[0][0], rtol=1e-5)
    assert asked(room, tmp_path, metric=False)


def test_other_bad_maps_are_named(room, tmp_path):
    maps = list(true_maps(room, 'rgb'))
    write_depth_maps(tmp_path / 'zero', [(n, 0 * d, c) for n, d, c in maps], 'rgb', {})
    with pytest.raises(InputError, match='every pixel is 0'):
        asked(room, tmp_path / 'zero')
    write_depth_maps(tmp_path / 'small', [(n, d[::2], c[::2]) for n, d, c in maps], 'rgb', {})
    with pytest.raises(InputError, match='expected 32x24 pixels; got 32x12'):
        train(asked(room, tmp_path / 'small'), replace(SMALL, depth_from='measured'))
    write_depth_maps(tmp_path / 'rgb', maps, 'rgb', {})
    with pytest.raises(InputError, match='belong to the other camera'):
        asked(room, tmp_path / 'rgb', camera='thermal')
    np.save(tmp_path / 'rgb' / 'train_00000.confidence.npy', np.full((24, 32), 7.0))
    (tmp_path / 'rgb' / 'train_00000.confidence.png').unlink()
    with pytest.raises(InputError, match='expected 0 to 1; got 7 to 7'):
        training_depths(asked(room, tmp_path / 'rgb'), 'rgb')


def test_confidence_reaches_the_rays(room, tmp_path):
    """In 255ths, 0 where depth is unknown, and as part of what a checkpoint belongs to."""
    image = load_image('rgb', room.frames[0].records['rgb'])
    trust = np.linspace(0.0, 1.0, image.depth_m.size, dtype=np.float32).reshape(24, 32)
    depth = image.depth_m.copy()
    depth[5, 5] = 0.0

    def source(confidence):
        seen = replace(image, depth_m=depth, depth_confidence=confidence)
        return PixelSource([image.camera], [np.eye(4)], lambda i: seen, 3, True,
                           has_confidence=True)

    batch = source(trust).at(np.arange(24 * 32))
    expected = trust.copy()
    expected[5, 5] = 0.0
    np.testing.assert_allclose(batch.confidence, expected.ravel(), atol=0.51 / 255)
    assert source(trust).digest != source(1.0 - trust).digest
    assert (source(None).at(np.arange(100)).confidence == 1.0).all()


def test_the_loss_weighs_by_confidence():
    """A ray of confidence 0.1 pulls a tenth as hard, also where no other ray knows better."""
    samples = Samples(torch.tensor([[1.0, 2.0]]), torch.ones(1, 2))
    weights = torch.tensor([[0.5, 0.5]])
    whole, tenth = (float(depth_error(weights, samples, torch.tensor([2.0]),
                                      torch.tensor([trust]), 2.0)) for trust in (1.0, 0.1))
    assert whole == pytest.approx(0.25) and tenth == pytest.approx(0.025)


@pytest.mark.parametrize('kind', ['affine', 'inverse'])
def test_scale_and_shift_are_found_for_each_image(room, kind):
    """Maps up to scale and shift, held against surfaces that stand already."""
    rng = np.random.default_rng(0)
    image = load_image('rgb', room.frames[0].records['rgb'])
    z = image.depth_m
    true = {0: (2.0, 0.3), 1: (0.4, 0.05)}

    def load(i):
        slope, shift = true[i]
        x = ((1.0 / z if kind == 'inverse' else z) - shift) / slope
        return replace(image, depth_m=x)

    source = PixelSource([image.camera] * 2, [np.eye(4)] * 2, load, 3, True)
    fit = DepthFit(2, kind)
    along = torch.from_numpy((z.ravel() / image.camera.rays()[:, 2]).astype(np.float32))
    for _ in range(30):
        index = rng.integers(0, 2 * z.size, 200)
        batch = source.at(index)
        far = along[torch.from_numpy(index % z.size)]
        samples = Samples(torch.stack([far, 2 * far], dim=1), torch.ones(200, 2))
        metres, confidence = fit.metres(torch.tensor([[1.0, 0.0]]).expand(200, 2), samples, batch)
    good = confidence.numpy() > 0.0
    assert good.mean() > 0.9
    np.testing.assert_allclose(metres.numpy()[good], far.numpy()[good], rtol=2e-2)


def test_a_few_views_have_better_depth_with_help(room, tmp_path):
    """Twelve views with measured depth, held against views kept back on another path."""
    more = replace(SMALL, rays=512)
    errors = [evaluate_map(train(scene, config).map, room).depth_median_error_m
              for scene, config in ((room, more), (with_depth(room, DepthSource(MEASURED)),
                                                   replace(more, depth_from='measured')))]
    assert errors[1] < 0.5 * errors[0]


def test_the_command_takes_depth(room, tmp_path, capsys, monkeypatch):
    """By default depth of a simulation is left alone; what has no meaning alone is refused."""
    seen = []
    monkeypatch.setattr('thermal_nerf_loc.cli.maps.train.train_map',
                        lambda scene, path, config, *rest: seen.append((scene, config)) or {
                            'test': {}, 'geometry': {'source': 'none'},
                            'geometry_check': {'seconds': 0.0}})
    command = ['train', str(room.root), '--map', str(tmp_path / 'm')]
    for options, weight, camera in (
            ([], 0.1, 'none'), (['--depth-from', 'measured'], 0.1, None),
            (['--depth-from', 'measured', '--depth-weight', '0.1', '--depth-camera', 'thermal',
              '--depth-kind', 'affine'], 0.1, 'thermal')):
        assert main([*command, *options]) == 0
        scene, config = seen.pop()
        assert config.depth_weight == weight
        assert (config.depth_kind == 'affine') == (camera == 'thermal')
        for name in ('rgb', 'thermal'):
            kept = scene.frames[scene.train[0]].records[name].depth_path is not None
            assert kept == (camera in (None, name))
    assert main([*command, '--depth-from', 'points']) == 0
    scene, config = seen.pop()
    assert config.depth_from == 'points' and config.depth_weight == 0.1
    assert all(r.depth_path is None for i in scene.train for r in scene.frames[i].records.values())
    assert main([*command, '--depth-from', 'points', '--depth-unit', '0.1']) == 2
    assert 'depth maps that are not used' in capsys.readouterr().err
    assert main([*command, '--depth-camera', 'rgb']) == 2
    assert '--depth-from measured' in capsys.readouterr().err
    assert main([*command, '--depth-from', str(tmp_path / 'nowhere')]) == 2
    assert 'no such folder' in capsys.readouterr().err

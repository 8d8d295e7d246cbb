# SPDX-License-Identifier: Apache-2.0
"""Thermal images of a closed shutter stay out of training."""

from dataclasses import replace
import logging
import shutil

import numpy as np
import pytest

from thermal_nerf_loc.field.kernels.grid_levels import EncodingConfig
from thermal_nerf_loc.field.radiance_field import FieldConfig
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
from thermal_nerf_loc.mapping.training.config import RefineConfig, TrainConfig
from thermal_nerf_loc.mapping.training.pixel_sources import without_frozen
from thermal_nerf_loc.mapping.training.trainer import train
from thermal_nerf_loc.simulation.record import simulate_dataset, SimulationConfig

TINY = TrainConfig(steps=6, rays=64, checkpoint_seconds=0.0, scene_bounds_steps=0,
                   depth_from='none', field=FieldConfig(
                       encoding=EncodingConfig(levels=2, log2_rows=10, finest=32)))


@pytest.fixture
def frozen(tmp_path):
    """Eight views; the shutter was closed at the third and fourth of those to train on."""
    simulate_dataset(tmp_path / 'room', SimulationConfig(frames=8, size=(32, 24),
                                                         supersampling=1))
    scene = load_scene(tmp_path / 'room')
    files = [scene.frames[i].records['thermal'].path for i in scene.train]
    for k in (2, 3):
        shutil.copyfile(files[1], files[k])
    return scene


def test_only_repetitions_are_left_out(frozen, caplog):
    with caplog.at_level(logging.WARNING):
        found = without_frozen(frozen)
    assert '2 thermal training images repeat' in caplog.text
    held = ['thermal' in found.frames[i].records for i in found.train]
    assert held == [True, True, False, False, True, True, True, True]
    assert all('rgb' in frame.records for frame in found.frames)
    caplog.clear()
    assert all('thermal' in frame.records for frame in without_frozen(
        replace(frozen, train=frozen.train[3:])).frames)
    assert not caplog.text


@pytest.mark.parametrize('refine', [(), ('poses',)])
def test_training_leaves_them_out(frozen, refine):
    """Each image keeps its own pose where poses are learned, too; the scene comes back whole."""
    config = replace(TINY, refine=RefineConfig(refine, 'gradient', first_levels=1.0))
    result = train(frozen, config)
    assert all('thermal' in frame.records for frame in result.scene.frames)
    assert len(result.map.keyframes.thumbnails['thermal']) == 8
    for i in frozen.train:
        off = result.scene.frames[i].T_world_cam - frozen.frames[i].T_world_cam
        assert np.abs(off).max() < 0.05

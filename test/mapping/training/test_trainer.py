# SPDX-License-Identifier: Apache-2.0
"""Training on a small simulated room: it learns, it repeats itself, and every strategy works."""

from dataclasses import replace
from pathlib import Path

from device_guard import forbid_transfers
import numpy as np
import pytest
import torch

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.evaluation.map_quality import evaluate_map
from thermal_nerf_loc.field.density_grid import SamplingConfig
from thermal_nerf_loc.field.device import OutOfMemory
from thermal_nerf_loc.field.device_grid import DeviceGrid
from thermal_nerf_loc.field.kernels.grid_levels import EncodingConfig
from thermal_nerf_loc.field.radiance_field import FieldConfig
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.mapping.training.config import RefineConfig, STRATEGIES, TrainConfig
from thermal_nerf_loc.mapping.training.distributed import Processes
from thermal_nerf_loc.mapping.training.pixel_sources import load_sources
from thermal_nerf_loc.mapping.training.trainer import train, Trainer
from thermal_nerf_loc.simulation.record import simulate_dataset, SimulationConfig

SMALL = TrainConfig(
    steps=150, rays=512, field=FieldConfig(encoding=EncodingConfig(log2_rows=14, finest=128)),
    sampling=SamplingConfig(grid_cells=32, bins=48), depth_from='none')


@pytest.fixture(scope='module')
def room(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Two dozen small views of the simulated room."""
    out = tmp_path_factory.mktemp('data') / 'room'
    simulate_dataset(out, SimulationConfig(frames=24, size=(64, 48)))
    return load_scene(out)


def test_it_learns_colour_and_temperature(room: Scene) -> None:
    """Held-out views, against the best constant image."""
    result = train(room, replace(SMALL, steps=300, rays=1024))
    quality = evaluate_map(result.map, room)
    frames = [room.load(i) for i in room.test]
    rgb = np.concatenate([f.images['rgb'].values.reshape(-1, 3) for f in frames])
    flat_psnr = -10.0 * np.log10(((rgb - rgb.mean(axis=0))**2).mean())
    celsius = np.concatenate([f.images['thermal'].values.ravel() for f in frames])
    assert quality.rgb_psnr > flat_psnr + 3.0
    assert quality.thermal_mae_celsius < 0.8 * np.abs(celsius - np.median(celsius)).mean()
    assert result.steps == 300 and result.map.info.steps == 300
    assert len(result.map.keyframes) == len(room.train)


def test_the_same_seed_gives_the_same_map(room: Scene) -> None:
    """Bit by bit; another seed gives another map."""
    config = replace(SMALL, steps=12)
    maps = [train(room, replace(config, seed=seed)).map for seed in (3, 3, 4)]
    tables = [m.learners[0].field.encoding.table.numpy() for m in maps]
    np.testing.assert_array_equal(tables[0], tables[1])
    assert not np.array_equal(tables[0], tables[2])


def test_measured_depth_puts_surfaces_in_place(room: Scene) -> None:
    """A short run with depth supervision beats the best constant depth, and one without it."""
    errors = [evaluate_map(train(room, replace(SMALL, depth_from='measured',
                                               depth_weight=weight)).map, room)
              .depth_median_error_m for weight in (0.0, 0.3)]
    depth = np.concatenate([room.load(i).images['rgb'].depth_m.ravel() for i in room.test])
    assert errors[1] < 0.5 * np.median(np.abs(depth - np.median(depth)))
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize('strategy', STRATEGIES)
def test_every_strategy_trains_both_modalities(room: Scene, strategy: str) -> None:
    """Each shows colour and heat, from one field or two."""
    result = train(room, replace(SMALL, steps=20, strategy=strategy))
    assert result.map.modalities == ('rgb', 'thermal')
    assert len(result.map.learners) == (2 if strategy in ('scratch', 'finetune') else 1)
    assert np.isfinite(result.final_loss)


def test_fine_tuning_starts_from_the_finished_rgb_field(room: Scene) -> None:
    """RGB trains alone for half the steps and then rests; X moves on from a copy of its field."""
    result = train(room, replace(SMALL, steps=24, strategy='finetune'))
    alone = train(room, replace(SMALL, steps=12, modality='rgb')).map.learners[0]
    rgb, thermal = result.map.learners
    assert result.steps == 24
    for name, tensor in alone.field.state_dict().items():
        np.testing.assert_array_equal(rgb.field.state_dict()[name], tensor)
    np.testing.assert_array_equal(rgb.grid.values, alone.grid.values)
    tables = [learner.field.encoding.table.numpy() for learner in (rgb, thermal)]
    moved = np.abs(tables[1] - tables[0])
    assert moved.max() > 0.0 and (moved == 0.0).mean() > 0.1  # rows that X never saw stay RGB's


def test_inherited_field_is_the_same_but_for_its_branch(room: Scene) -> None:
    """Density, hash grid and sampler are copies: equal, and not shared."""
    config = replace(SMALL, strategy='finetune')
    sources, _ = load_sources(room, config)
    trainer = Trainer(config, sources, room)
    trainer.step(0.0)
    assert [learner.modalities for learner in trainer.active_learners] == [('rgb',)]
    trainer.begin_phase(1)
    rgb, thermal = trainer.learners
    assert [learner.modalities for learner in trainer.active_learners] == [('thermal',)]
    assert set(thermal.field.branches) == {'thermal'}
    points = torch.rand(200, 3) * 2.0
    for a, b in zip(rgb.field.density(points), thermal.field.density(points), strict=True):
        assert torch.equal(a, b)
    assert thermal.field.encoding.table.data_ptr() != rgb.field.encoding.table.data_ptr()
    assert np.array_equal(thermal.grid.values, rgb.grid.values)
    assert not np.shares_memory(thermal.grid.values, rgb.grid.values)


def test_a_separate_branch_never_moves_density(room: Scene) -> None:
    """Whatever thermal weighs, with distortion and measured depth: the same bits of geometry."""
    maps = [train(room, replace(SMALL, steps=20, strategy='separate', distortion=0.1,
                                depth_from='measured', depth_weight=1.0,
                                thermal_weight=weight)).map
            for weight in (0.0, 50.0)]
    fields = [m.learners[0].field.state_dict() for m in maps]
    same = {name: torch.equal(fields[0][name], fields[1][name]) for name in fields[0]}
    assert all(same[name] for name in same if not name.startswith('branches.thermal'))
    assert not any(same[name] for name in same if name.startswith('branches.thermal'))


@pytest.mark.parametrize('modality', ['rgb', 'thermal'])
def test_one_modality_alone(room: Scene, modality: str) -> None:
    """A map of just one kind of image."""
    result = train(room, replace(SMALL, steps=20, modality=modality))
    assert result.map.modalities == (modality,)
    assert (result.map.temperature_range is None) == (modality == 'rgb')


def test_early_stop(room: Scene) -> None:
    """A second's limit ends a long run after at least one step."""
    result = train(room, replace(SMALL, steps=100_000, max_seconds=1.0))
    assert 1 <= result.steps < 100_000


def test_missing_modality_and_device_are_named(room: Scene) -> None:
    """What cannot be trained is said before any work is done."""
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match='CUDA'):
            train(room, replace(SMALL, device='cuda'))
    only_rgb = Scene(Path('x'), tuple(replace(f, records={'rgb': f.records['rgb']})
                                      for f in room.frames), room.train, room.test)
    with pytest.raises(InputError, match='no thermal images'):
        train(only_rgb, replace(SMALL, modality='thermal'))


def test_a_gpu_learns_what_the_kernels_learn(room: Scene) -> None:
    """The path of a GPU on torch's CPU device: losses alike, and a map that is as good."""
    sources, _ = load_sources(room, SMALL)
    losses: dict[bool, list[float]] = {}
    for plain in (False, True):
        trainer = Trainer(SMALL, sources, room, Processes(plain=plain))
        losses[plain] = []
        for _ in range(30):
            trainer.step(0.0)
            losses[plain].append(trainer.loss)
        trainer.finish()
        assert not isinstance(trainer.learners[0].grid, DeviceGrid)
        assert trainer.learners[0].field.encoding.backend == 'numba'
    late = {plain: np.mean(values[-10:]) for plain, values in losses.items()}
    assert late[True] < 0.95 * np.mean(losses[True][:3])
    np.testing.assert_allclose(late[True], late[False], rtol=0.1)


def test_rays_drawn_on_a_device_are_those_of_the_source(room: Scene) -> None:
    """The same pixels: the same rays, values, depths, and places in the image."""
    sources, _ = load_sources(room, replace(SMALL, depth_from='measured'))
    for source in sources.values():
        index = np.random.default_rng(0).integers(0, len(source), 200)
        ours = source.on(torch.device('cpu')).at(torch.from_numpy(index))
        theirs = source.at(index).on(torch.device('cpu'))
        for name in ('origins', 'directions', 'truth', 'depth_m', 'confidence', 'image', 'across',
                     'directions_cam'):
            torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-5,
                                       atol=1e-6)


@pytest.mark.parametrize('refine', [(), ('poses', 'rig')])
def test_no_step_waits_for_the_device(room: Scene, refine: tuple[str, ...],
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward on `meta`, where reading a value or mixing devices raises."""
    config = replace(SMALL, refine=RefineConfig(what=refine, method='gradient'))
    sources, _ = load_sources(room, replace(config, depth_from='measured', depth_weight=0.1))
    monkeypatch.setattr('thermal_nerf_loc.mapping.training.trainer.adam',
                        lambda *args: torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1))
    trainer = Trainer(config, sources, room, Processes(device=torch.device('meta')))
    trainer._batch_loss().backward()  # constants are sent once
    forbid_transfers(monkeypatch)
    for learner in trainer.learners:
        learner.grid.refresh(learner.field, 0.1, trainer.rng)
    trainer._batch_loss().backward()
    assert trainer.learners[0].field.encoding.table.grad.device.type == 'meta'


def test_a_full_gpu_is_said_and_the_processor_trains(room: Scene, monkeypatch: pytest.MonkeyPatch,
                                                     ) -> None:
    """From the start again, with the same settings."""
    step = Trainer.step

    def limited(self: Trainer, seconds: float) -> None:
        if self.config.device != 'cpu':
            raise OutOfMemory('CUDA out of memory')
        step(self, seconds)

    monkeypatch.setattr(Trainer, 'step', limited)
    monkeypatch.setattr(TrainConfig, 'resolved_device', lambda self: (
        'cpu' if self.device == 'cpu' else 'auto'))
    with pytest.warns(UserWarning, match='CUDA out of memory: training; it begins again'):
        assert train(room, replace(SMALL, steps=3)).steps == 3

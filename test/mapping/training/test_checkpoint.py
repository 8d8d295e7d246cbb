# SPDX-License-Identifier: Apache-2.0
"""A killed training goes on to the same map, bit by bit; and only its own checkpoint will do."""

from collections.abc import Iterator
from dataclasses import asdict, replace
import os
from pathlib import Path
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
import torch
import yaml

from thermal_nerf_loc.cli import main
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.field.density_grid import SamplingConfig
from thermal_nerf_loc.field.kernels.grid_levels import EncodingConfig
from thermal_nerf_loc.field.radiance_field import FieldConfig
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
from thermal_nerf_loc.mapping.training.checkpoint import Checkpoint
from thermal_nerf_loc.mapping.training.config import TrainConfig
from thermal_nerf_loc.mapping.training.trainer import train
from thermal_nerf_loc.simulation.record import simulate_dataset, SimulationConfig

EVERY_STEP = 1e-9
TINY = TrainConfig(
    steps=32, rays=256, checkpoint_seconds=EVERY_STEP,
    field=FieldConfig(encoding=EncodingConfig(levels=4, log2_rows=12, finest=64)),
    sampling=SamplingConfig(grid_cells=16, bins=32), depth_from='none')


@pytest.fixture(scope='module')
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A few small views of the simulated room."""
    out = tmp_path_factory.mktemp('data') / 'room'
    simulate_dataset(out, SimulationConfig(frames=8, size=(32, 24)))
    return load_scene(out)


def stop_at_report(done: float, total: float, message: str = '') -> None:
    """Progress of a user who loses patience."""
    raise KeyboardInterrupt


def interrupted(scene: Scene, config: TrainConfig, path: Path) -> Checkpoint:
    """What a training leaves that ends after 20 steps, in the middle of everything."""
    with pytest.raises(KeyboardInterrupt):
        train(scene, config, stop_at_report, Checkpoint(path))
    return Checkpoint(path, resume=True)


def bits_of(radiance_map: RadianceMap) -> Iterator[tuple[str, torch.Tensor]]:
    """Every weight and every density of a map."""
    for i, learner in enumerate(radiance_map.learners):
        yield from ((f'{i}.{k}', v) for k, v in learner.field.state_dict().items())
        yield f'{i}.grid', torch.from_numpy(learner.grid.values)


def assert_same_map(a: RadianceMap, b: RadianceMap) -> None:
    """Bit by bit."""
    of_a, of_b = dict(bits_of(a)), dict(bits_of(b))
    assert of_a.keys() == of_b.keys()
    assert all(torch.equal(of_a[name], of_b[name]) for name in of_a)


@pytest.mark.parametrize('strategy', ['rgbx', 'finetune'])
def test_interrupted_training_ends_with_the_same_map(scene: Scene, tmp_path: Path,
                                                     strategy: str) -> None:
    """Fields, optimiser, grids and random numbers all go on, in any phase."""
    config = replace(TINY, strategy=strategy)
    whole = train(scene, config)
    resumed = train(scene, config, checkpoint=interrupted(scene, config, tmp_path / 'c'))
    assert resumed.steps == whole.steps == 32
    assert_same_map(resumed.map, whole.map)
    assert resumed.final_loss == whole.final_loss


def test_depth_is_still_held_after_an_interruption(scene: Scene, tmp_path: Path) -> None:
    """Within the steps in which the density grid holds what depth has put there."""
    config = replace(TINY, steps=260, depth_from='measured')  # held for 26 steps
    whole = train(scene, config)
    resumed = train(scene, config, checkpoint=interrupted(scene, config, tmp_path / 'c'))
    assert_same_map(resumed.map, whole.map)
    assert whole.support is not None and whole.support.share.max() == 1.0


# A process that compiles the kernels itself may round otherwise, in the last bit, than one that
# reads them from disk: of two processes on a new machine the first does so.
@pytest.mark.flaky(reruns=2)
def test_killed_process_is_resumed(scene: Scene, tmp_path: Path) -> None:
    """SIGKILL after the first checkpoint; `train --resume` ends as an uninterrupted run does."""
    config = replace(TINY, steps=300, checkpoint_seconds=0.05)
    (tmp_path / 'c.yaml').write_text(yaml.safe_dump(asdict(config)))
    path, left = tmp_path / 'room.map', tmp_path / 'room.map.checkpoint'
    arguments = ['train', str(scene.root), '--map', str(path), '--config',
                 str(tmp_path / 'c.yaml')]
    process = subprocess.Popen([sys.executable, '-m', 'thermal_nerf_loc.cli', *arguments],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120.0
    while not left.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, 'ended before it could be killed'
    assert left.exists() and not path.exists()
    assert main([*arguments, '--resume']) == 0
    assert not left.exists()
    assert_same_map(RadianceMap.load(path), train(scene, config).map)


@pytest.mark.parametrize(('changes', 'named'), [
    ({'seed': 1}, 'config.seed'),
    ({'field': FieldConfig(encoding=EncodingConfig(levels=3, log2_rows=12, finest=64))},
     'config.field.encoding.levels'),
])
def test_checkpoint_of_other_settings_is_refused(scene: Scene, tmp_path: Path,
                                                 changes: dict[str, Any], named: str) -> None:
    """What differs is named."""
    left = interrupted(scene, TINY, tmp_path / 'c')
    with pytest.raises(InputError, match=f'belongs to another training.*other {named}'):
        train(scene, replace(TINY, **changes), checkpoint=left)


def test_checkpoint_of_other_images_is_refused(scene: Scene, tmp_path: Path) -> None:
    """The pixels count, not the folder's name; how often is written does not count."""
    left = interrupted(scene, TINY, tmp_path / 'c')
    fewer = Scene(scene.root, scene.frames, scene.train[1:], scene.test)
    with pytest.raises(InputError, match=r'other images\.rgb, images\.thermal'):
        train(fewer, TINY, checkpoint=left)
    assert train(scene, replace(TINY, checkpoint_seconds=0.0), checkpoint=left).steps == 32


@pytest.mark.parametrize('damage', ['cut', 'flip', 'text', 'map', 'absent'])
def test_damaged_checkpoint_is_refused(scene: Scene, tmp_path: Path, damage: str) -> None:
    """Cut short, one bit flipped, no safetensors at all, a map, and none."""
    left = interrupted(scene, replace(TINY, steps=21), tmp_path / 'c')
    content = bytearray(left.path.read_bytes())
    flipped = content.copy()
    flipped[len(content) // 2] ^= 16
    if damage == 'map':
        train(scene, replace(TINY, steps=1)).map.save(left.path)
    elif damage == 'absent':
        left.remove()
    else:
        left.path.write_bytes({'cut': content[:-9], 'flip': flipped, 'text': b'hello'}[damage])
    with pytest.raises(InputError) as caught:
        train(scene, replace(TINY, steps=21), checkpoint=left)
    assert {'cut': 'truncated', 'flip': 'checksum', 'text': 'truncated', 'map': 'no checkpoint',
            'absent': 'no checkpoint to resume from'}[damage] in str(caught.value)
    assert str(left.path) in str(caught.value)


def test_starting_anew_over_a_checkpoint_warns(scene: Scene, tmp_path: Path) -> None:
    """Nobody loses an hour's training in silence."""
    left = interrupted(scene, TINY, tmp_path / 'c')
    with pytest.warns(UserWarning, match='--resume would have continued it'):
        train(scene, replace(TINY, steps=1), checkpoint=Checkpoint(left.path))


@pytest.mark.parametrize('place', ['folder', 'missing'])
def test_a_map_that_cannot_be_written_stops_before_training(
        scene: Scene, tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder in its place, or none around it: exit code 2 at once, not after an hour."""
    (tmp_path / 'folder').mkdir()
    path = tmp_path / 'folder' if place == 'folder' else tmp_path / 'no' / 'm.map'
    assert main(['train', str(scene.root), '--map', str(path), '--steps', '1000000']) == 2
    assert {'folder': 'a folder stands there', 'missing': 'folder does not exist'}[place] \
        in capsys.readouterr().err
    assert not (tmp_path / 'no').exists()

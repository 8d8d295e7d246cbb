# SPDX-License-Identifier: Apache-2.0
"""Two processes under torchrun train what one does; both end with the same map, bit by bit."""

from dataclasses import asdict, replace
import json
from pathlib import Path
import subprocess
import sys

import pytest
import yaml

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.evaluation.map_quality import evaluate_map
from thermal_nerf_loc.field.density_grid import SamplingConfig
from thermal_nerf_loc.field.kernels.grid_levels import EncodingConfig
from thermal_nerf_loc.field.radiance_field import FieldConfig
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
from thermal_nerf_loc.mapping.training import distributed
from thermal_nerf_loc.mapping.training.checkpoint import Checkpoint
from thermal_nerf_loc.mapping.training.config import TrainConfig
from thermal_nerf_loc.mapping.training.trainer import train
from thermal_nerf_loc.simulation.record import simulate_dataset, SimulationConfig

SMALL = TrainConfig(
    steps=300, rays=2048,
    depth_from='measured', depth_weight=0.05,  # less luck in how surfaces condense
    field=FieldConfig(encoding=EncodingConfig(log2_rows=14, finest=128)),
    sampling=SamplingConfig(grid_cells=32, bins=48))
SHOW_BITS = """
import hashlib, os, sys
from pathlib import Path
from thermal_nerf_loc.common.config import load_yaml
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
from thermal_nerf_loc.mapping.training.checkpoint import Checkpoint
from thermal_nerf_loc.mapping.training.config import TrainConfig
from thermal_nerf_loc.mapping.training.trainer import train
folder = Path(sys.argv[2])
result = train(load_scene(Path(sys.argv[1])), load_yaml(TrainConfig, folder / 'c.yaml'),
               checkpoint=Checkpoint(folder / 'm.checkpoint'))
digest = hashlib.sha256()
for learner in result.map.learners:
    for tensor in learner.field.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    digest.update(learner.grid.values.tobytes())
digest.update(result.map.flat_fields['thermal'].tobytes())
(folder / os.environ['RANK']).write_text(digest.hexdigest())
"""


@pytest.fixture(scope='module')
def room(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Two dozen small views of the simulated room."""
    out = tmp_path_factory.mktemp('data') / 'room'
    simulate_dataset(out, SimulationConfig(frames=24, size=(64, 48)))
    return load_scene(out)


def torchrun(*command: str) -> None:
    """Run Python twice, side by side."""
    subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone',
                    '--nproc-per-node', '2', *command], check=True, timeout=240)


@pytest.mark.slow
def test_two_processes_train_as_well_as_one(room: Scene, tmp_path: Path) -> None:
    """The same rays a step in all, drawn by two: what was seen is shown as well within 0.5 dB."""
    (tmp_path / 'c.yaml').write_text(yaml.safe_dump(asdict(SMALL)))
    torchrun('-m', 'thermal_nerf_loc.cli', 'train', str(room.root), '--map',
             str(tmp_path / 'm.map'), '--config', str(tmp_path / 'c.yaml'),
             '--json', str(tmp_path / 'figures.json'))
    figures = json.loads((tmp_path / 'figures.json').read_text())
    assert figures['steps'] == SMALL.steps
    together, alone = (evaluate_map(radiance_map, room, 'train') for radiance_map in
                       (RadianceMap.load(tmp_path / 'm.map'), train(room, SMALL).map))
    assert (together.rgb_psnr + together.thermal_psnr
            > alone.rgb_psnr + alone.thermal_psnr - 2 * 0.5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['c.yaml', 'figures.json', 'm.map']


@pytest.mark.slow
def test_two_processes_stop_in_time_together(room: Scene, tmp_path: Path) -> None:
    """Both leave the same time for what follows: were one to stop before, the other would hang."""
    config = replace(SMALL, steps=100_000, max_seconds=12.0)
    (tmp_path / 'c.yaml').write_text(yaml.safe_dump(asdict(config)))
    torchrun('-m', 'thermal_nerf_loc.cli', 'train', str(room.root), '--map',
             str(tmp_path / 'm.map'), '--config', str(tmp_path / 'c.yaml'),
             '--json', str(tmp_path / 'figures.json'))
    assert 0 < json.loads((tmp_path / 'figures.json').read_text())['steps'] < 100_000
    assert RadianceMap.load(tmp_path / 'm.map').panoramas is not None


@pytest.mark.slow
def test_processes_hold_the_same_weights(room: Scene, tmp_path: Path) -> None:
    """After the last step; and what they leave on the way is for two processes only."""
    config = replace(SMALL, steps=20, rays=256, checkpoint_seconds=1e-9)
    (tmp_path / 'c.yaml').write_text(yaml.safe_dump(asdict(config)))
    torchrun('--no-python', sys.executable, '-c', SHOW_BITS, str(room.root), str(tmp_path))
    assert (tmp_path / '0').read_text() == (tmp_path / '1').read_text()
    with pytest.raises(InputError, match='other processes'):
        train(room, config, checkpoint=Checkpoint(tmp_path / 'm.checkpoint', resume=True))


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL would hang or fail in a riddle."""
    for name, value in (('WORLD_SIZE', '64'), ('RANK', '0'), ('LOCAL_RANK', '0'),
                        ('LOCAL_WORLD_SIZE', '64')):
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match='more processes than GPUs'), distributed.joined('cuda'):
        pass

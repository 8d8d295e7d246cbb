# SPDX-License-Identifier: Apache-2.0
"""`train` where little is given."""

import json

from thermal_nerf_loc import cli
from thermal_nerf_loc.simulation.record import simulate_dataset, SimulationConfig


def test_a_map_of_one_image_is_trained_and_nothing_is_claimed(tmp_path, capsys):
    """No depth, no held-out image: said, and the map is there."""
    data = tmp_path / 'one'
    simulate_dataset(data, SimulationConfig(frames=2, size=(32, 24), thermal_size=(32, 24)))
    file = data / 'transforms.json'
    content = json.loads(file.read_text())
    content.pop('train_filenames', None)
    content.pop('test_filenames', None)
    content['frames'] = content['frames'][:1]
    file.write_text(json.dumps(content))
    figures = tmp_path / 'figures.json'
    assert cli.main(['train', str(data), '--map', str(tmp_path / 'one.map'), '--steps', '5',
                     '--json', str(figures)]) == 0
    said = capsys.readouterr()
    assert 'no images were held out' in said.out + said.err
    assert json.loads(figures.read_text())['test'] == {}
    assert (tmp_path / 'one.map').is_file()

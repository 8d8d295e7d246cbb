# SPDX-License-Identifier: Apache-2.0
"""The guide from two cameras to a pose: what can run here runs, in its order, on a small drive."""

import json
from pathlib import Path
import re
import shlex

import pytest
import yaml

from thermal_nerf_loc.cli import main
from thermal_nerf_loc.tracking.node_config import read_parameter_file

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / 'docs/guide/boson-realsense.md'


def commands():
    """Lines of this package's program, in order."""
    text = PAGE.read_text(encoding='utf-8').replace('\\\n', ' ')
    blocks = re.findall(r'^```bash\n(.*?)^```$', text, re.M | re.S)
    return [shlex.split(line, comments=True)[1:] for block in blocks
            for line in block.splitlines() if line.startswith('thermal-nerf-loc ')]


def test_the_page_leads_from_a_bag_to_a_grid():
    assert [words[0] for words in commands()] == ['import-bag', 'train', 'eval-map', 'localize',
                                                  'export']


def test_files_of_the_page_are_what_programs_read(tmp_path):
    (block,) = re.findall(r'^```yaml\n(.*?)^```$', PAGE.read_text(encoding='utf-8'), re.M | re.S)
    (tmp_path / 'robot.yaml').write_text(block, encoding='utf-8')
    assert read_parameter_file(tmp_path / 'robot.yaml').thermal_scale.camera == 'flir-boson'
    boson = yaml.safe_load((ROOT / 'config/boson.yaml').read_text())['/**']['ros__parameters']
    assert boson['pixel_format'] == 'mono16'  # the name of V4L2's Y16 in usb_cam


def test_foxglove_shows_topics_that_there_are():
    layout = json.loads((ROOT / 'config/foxglove_layout.json').read_text())

    def leaves(node):
        if isinstance(node, str):
            return {node}
        return leaves(node['first']) | leaves(node['second'])

    assert leaves(layout['layout']) == set(layout['configById'])
    sources = ''.join(path.read_text(encoding='utf-8')
                      for path in (ROOT / 'thermal_nerf_loc/ros').glob('*.py'))
    for topic in re.findall(r'"/localizer/([\w/]+)', json.dumps(layout)):
        assert f"'~/{topic}'" in sources, topic


@pytest.mark.slow
def test_the_commands_run(tmp_path, monkeypatch, capsys):
    """On a recorded drive of the simulated room; the training is cut to a few steps."""
    monkeypatch.chdir(tmp_path)
    assert main(['simulate', 'made', '--frames', '8', '--size', '64x48', '--bag', '--seconds',
                 '12']) == 0
    Path('made/bag').rename('drive')
    for words in commands():
        few = {'train': ['--steps', '40', '--depth-from', 'none'],
               'localize': ['--frames', '1'],
               'export': ['--resolution', '0.2']}.get(words[0], [])
        if words[0] == 'train':  # images as small as these hold no points
            del words[words.index('--refine'):words.index('--refine') + 2]
        assert main([*words, *few]) in (0, 1), (words, capsys.readouterr().err)
    assert Path('map.yaml').is_file() or 'no surface' in capsys.readouterr().err

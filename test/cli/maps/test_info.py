# SPDX-License-Identifier: Apache-2.0
"""What a data set and a map say of themselves, with the geo-anchor."""

import json
from pathlib import Path

import numpy as np
import pytest

from thermal_nerf_loc.cli import main
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
from thermal_nerf_loc.io.datasets.scene_writer import SceneWriter
from thermal_nerf_loc.mapping.map.localization_map import MapInfo
from thermal_nerf_loc.mapping.map.map_file import _info_facts, _info_from
from thermal_nerf_loc.sensing.frame import Frame, SensorImage, THERMAL

ANCHOR = {'latitude_deg': 23.0639918, 'longitude_deg': 113.3354227, 'height_m': 133.04}


def write_set(out: Path, anchor: dict) -> Path:
    camera = Camera.from_fov(16, 12, 60.0)
    with SceneWriter(out, {THERMAL: camera}, np.eye(4), remarks={'geo_anchor': anchor}) as writer:
        for index in range(3):
            image = SensorImage(camera, np.full((12, 16, 1), 20.0, np.float32), 0, np.eye(4))
            writer.add(Frame(0, {THERMAL: image}, np.eye(4), f'{index}'),
                       'test' if index == 2 else 'train')
    return out


def test_a_data_set_tells_its_anchor(tmp_path: Path):
    data, told = write_set(tmp_path / 'd', ANCHOR), tmp_path / 'f.json'
    assert main(['info', str(data), '--json', str(told)]) == 0
    found = json.loads(told.read_text())
    assert found['geo_anchor'] == ANCHOR
    assert (found['modalities'], found['frames']) == ('thermal', 3)
    assert '113.3354227 deg east' in found['geo_anchor_is']


def test_map_files_keep_the_anchor_and_earlier_ones_load():
    info = MapInfo('field', {}, 1, 1.0, geo_anchor=ANCHOR)
    facts = json.loads(json.dumps(_info_facts(info)))
    assert _info_from(facts).geo_anchor == ANCHOR
    del facts['geo_anchor']
    assert _info_from(facts).geo_anchor == {}


@pytest.mark.parametrize('anchor', [{'latitude_deg': 1.0}, {**ANCHOR, 'latitude_deg': 91.0},
                                    {**ANCHOR, 'height_m': 'high'}])
def test_a_broken_anchor_is_refused(tmp_path: Path, anchor: dict):
    with pytest.raises(InputError, match='geo_anchor is no position'):
        load_scene(write_set(tmp_path / 'd', anchor))

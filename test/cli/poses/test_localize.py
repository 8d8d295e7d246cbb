# SPDX-License-Identifier: Apache-2.0
"""`localize M --rgb .. --thermal .. --camera .. --guess ..`: a single frame, in a known room."""

import json

from localization_room import (
    make_poses, PaintedRoom, perturbed, RGB_CAMERA, T_CAM_THERMAL, take_frame, THERMAL_CAMERA)
import numpy as np
import pytest
import yaml

from thermal_nerf_loc.cli import main
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.datasets.camera_file import load_frame
from thermal_nerf_loc.io.datasets.intrinsics import keys_from_camera
from thermal_nerf_loc.io.images import write_png
from thermal_nerf_loc.io.trajectory import format_pose, parse_pose
from thermal_nerf_loc.localization.alternatives.particles import ParticleSearch
from thermal_nerf_loc.localization.global_search.candidates import Candidate
from thermal_nerf_loc.mapping.map.panoramas import find_panoramas, PanoramaConfig
from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
from thermal_nerf_loc.sensing.frame import RGB, THERMAL

ROOM = PaintedRoom()
T_TRUE = make_poses(1, seed=11)[0]
CAMERAS = {
    'rgb': keys_from_camera(RGB_CAMERA),
    'thermal': {**keys_from_camera(THERMAL_CAMERA), 'celsius_per_count': 0.01,
                'celsius_offset': -273.15, 'transform_rgb_thermal': T_CAM_THERMAL.tolist()}}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Images and cameras on disk; whatever map file is named shows the room."""
    frame = take_frame(ROOM, T_TRUE)
    colour, celsius = frame.images[RGB].values, frame.images[THERMAL].values
    write_png(tmp_path / 'a.png', np.uint8(np.clip(np.rint(255 * colour), 0, 255)))
    write_png(tmp_path / 't.png', np.uint16(np.rint((celsius[..., 0] + 273.15) / 0.01)))
    write_png(tmp_path / 'black.png', np.zeros((120, 160, 3), np.uint8))
    (tmp_path / 'camera.yaml').write_text(yaml.safe_dump(CAMERAS))
    monkeypatch.setattr(RadianceMap, 'load', classmethod(lambda cls, path, device='cpu': ROOM))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, *words):
    """Exit code, figures (where there are any) and what was complained about."""
    code = main(['localize', 'room.map', *words, '--json', 'out.json'])
    with open('out.json' if code == 0 else '/dev/null', encoding='utf-8') as file:
        figures = json.loads(file.read() or '{}')
    return code, figures, ' '.join(capsys.readouterr().err.split())


GUESS = format_pose(perturbed(T_TRUE, 5.0, 0.05, seed=3))


@pytest.mark.parametrize('images', [('--rgb', 'a.png', '--thermal', 't.png'),
                                    ('--thermal', 't.png')])
def test_single_images_are_localized(folder, capsys, images):
    code, figures, _ = run(capsys, *images, '--camera', 'camera.yaml', '--guess', GUESS)
    assert code == 0
    metres, degrees = se3.distance(figures['T_world_cam'], T_TRUE)
    assert metres < 0.03
    assert degrees < 0.5
    assert figures['verdict'] == 'ok'
    assert figures['confidence'] > 0.5
    assert 0.0 < figures['sigma_m'] < 0.1
    assert np.shape(figures['covariance']) == (6, 6)
    assert np.abs(parse_pose(figures['pose']) - figures['T_world_cam']).max() < 1e-4


def test_single_images_are_found_without_a_guess(folder, capsys, monkeypatch):
    monkeypatch.setattr(ROOM, 'viewpoints', make_poses(8, seed=5))
    monkeypatch.setattr(ROOM, 'panoramas', None)
    (folder / 'c.yaml').write_text('global_search: {candidates: 6, panoramas: {hypotheses: 16}}')
    code, figures, said = run(capsys, '--rgb', 'a.png', '--thermal', 't.png', '--camera',
                              'camera.yaml', '--config', 'c.yaml')
    assert code == 0
    assert 'render panoramas' in said
    assert se3.distance(figures['T_world_cam'], T_TRUE)[0] < 0.03
    assert (figures['verdict'], figures['rivals']) == ('ok', [])


def test_others_may_propose_where_images_were_taken(folder, capsys, monkeypatch):
    """Particles are asked; what they are worth is tested elsewhere."""
    monkeypatch.setattr(ROOM, 'viewpoints', make_poses(8, seed=5))
    monkeypatch.setattr(ROOM, 'panoramas', find_panoramas(ROOM, make_poses(8, seed=5),
                                                          PanoramaConfig(spacing=0.48, rays=200)))
    asked = []
    monkeypatch.setattr(ParticleSearch, 'candidates', lambda self, frame, count: asked.append(
        count) or [Candidate(T_TRUE, 0.0)])
    code, figures, _ = run(capsys, '--rgb', 'a.png', '--camera', 'camera.yaml', '--candidates',
                           'particles')
    assert (code, figures['verdict'], asked) == (0, 'ok', [16])


def test_black_image_is_lost_with_its_reason(folder, capsys):
    code, figures, _ = run(capsys, '--rgb', 'black.png', '--camera', 'camera.yaml', '--guess',
                           GUESS)
    assert (code, figures['verdict'], figures['confidence']) == (0, 'lost', 0.0)
    assert 'black' in figures['reason']


@pytest.mark.parametrize('words, complaint', [
    ((), 'nothing to localize'),
    (('data', '--rgb', 'a.png'), 'cannot be localized together'),
    (('data', '--candidates', 'particles'), 'only where there is no start'),
    (('--rgb', 'a.png', '--guess', GUESS, '--candidates', 'regression'), 'Add --init global'),
    (('--camera', 'camera.yaml', '--guess', GUESS), 'no image'),
    (('--rgb', 'a.png', '--guess', GUESS), '--camera missing'),
    (('--rgb', 'a.png', '--camera', 'camera.yaml', '--guess', GUESS, '--init', 'global'),
     'needs no --guess'),
    (('--rgb', 'a.png', '--camera', 'camera.yaml'), 'cannot be searched'),
    (('--rgb', 'a.png', '--camera', 'camera.yaml', '--guess', GUESS, '--frames', '3'),
     '--frames belongs to a data set'),
    (('--rgb', 'a.png', '--camera', 'camera.yaml', '--guess', GUESS, '--modality', 'thermal'),
     'no image of that modality'),
    (('--rgb', 'none.png', '--camera', 'camera.yaml', '--guess', GUESS), 'does not exist'),
    (('--rgb', 'a.png', '--camera', 'none.yaml', '--guess', GUESS), 'does not exist'),
    (('--thermal', 'a.png', '--camera', 'camera.yaml', '--guess', GUESS), 'false colours'),
    (('--rgb', 't.png', '--camera', 'camera.yaml', '--guess', GUESS), 'expected 160x120'),
    (('--rgb', 'a.png', '--camera', 'camera.yaml', '--guess', '1 2 3'), 'is no pose'),
    (('--rgb', 'a.png', '--camera', 'camera.yaml', '--guess', '1 2 3 0 0 0 5'), 'unit length'),
    (('--rgb', 'a.png', '--camera', 'camera.yaml', '--guess', '99 2 3 0 0 0 1'),
     'outside the map')])
def test_bad_input_is_named(folder, capsys, words, complaint):
    code, _, said = run(capsys, *words)
    assert code == 2
    assert complaint in said


def test_map_without_the_modality(folder, capsys, monkeypatch):
    class ThermalOnly(PaintedRoom):
        modalities = (THERMAL,)
    monkeypatch.setattr(RadianceMap, 'load',
                        classmethod(lambda cls, path, device='cpu': ThermalOnly()))
    code, _, said = run(capsys, '--rgb', 'a.png', '--camera', 'camera.yaml', '--guess', GUESS)
    assert code == 2
    assert 'map has no rgb' in said


def test_cameras_of_a_file(folder):
    frame = load_frame(folder / 'camera.yaml', {RGB: folder / 'a.png', THERMAL: folder / 't.png'})
    assert frame.images[RGB].camera == RGB_CAMERA
    assert frame.images[THERMAL].camera == THERMAL_CAMERA
    assert np.allclose(frame.images[THERMAL].T_cam_sensor, T_CAM_THERMAL)
    truth = take_frame(ROOM, T_TRUE).images[THERMAL].values
    assert np.abs(frame.images[THERMAL].values - truth).max() < 0.006


@pytest.mark.parametrize('content, complaint', [
    ('[1, 2]', 'no camera file'), ('', 'nothing'), ('rgb: [', 'no YAML'), ('rgb: 3', 'no keys'),
    ('rgb: {w: 160, h: 120, fx: 100}', "unknown key 'fx'"),
    ('depth: {}', "unknown key 'depth'"), ('rgb: {w: 160, h: 120}', 'no intrinsics'),
    ('thermal: {fl_x: 100}', 'no rgb camera')])
def test_bad_camera_file_is_named(folder, content, complaint):
    (folder / 'bad.yaml').write_text(content)
    with pytest.raises(InputError, match=complaint):
        load_frame(folder / 'bad.yaml', {RGB: folder / 'a.png'})


def test_poses_as_people_write_them(tmp_path):
    T = se3.exp([0.1, -2.0, 3.0, 0.3, 0.2, -1.0])
    for name, text in (('a.txt', '# stamp first\n12.5 ' + format_pose(T) + '\n'),
                       ('b.txt', format_pose(T)), ('c.json', json.dumps(T.tolist()))):
        (tmp_path / name).write_text(text)
        assert np.abs(parse_pose(str(tmp_path / name)) - T).max() < 3e-5
    for name, text in (('d.txt', '1 2 3\n'), ('e.json', '[[1, 2], [3'), ('f.txt', ''),
                       ('g.txt', '1 2 3 0 0 0 1\n1 2 3 0 0 0 1\n'), ('h.json', '[[1, 2]]')):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError):
            parse_pose(str(tmp_path / name))

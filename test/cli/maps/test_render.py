# SPDX-License-Identifier: Apache-2.0
"""`render`: whole films or none, single pictures, and mistakes that are explained."""

import json
import re

import cv2
import numpy as np
import pytest
from viewed_world import install

from thermal_nerf_loc.cli import main
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.io.trajectory import Trajectory, write_tum
from thermal_nerf_loc.io.video import movie
from thermal_nerf_loc.visualization.camera_path import T_BASE_CAM
from thermal_nerf_loc.visualization.panels import render_kinds

SMALL = ['--size', '40x30', '--fps', '5', '--seconds', '1']


@pytest.mark.parametrize('name', ['film.mp4', 'film.webm'])
def test_a_film_is_written_whole(tmp_path, monkeypatch, name):
    install(monkeypatch)
    out, figures = tmp_path / 'new' / name, tmp_path / 'f.json'
    assert main(['render', 'm', '--out', str(out), '--path', 'orbit', '--json', str(figures),
                 *SMALL]) == 0
    facts = json.loads(figures.read_text())
    reader = cv2.VideoCapture(str(out))
    assert reader.get(cv2.CAP_PROP_FPS) == 5.0
    frames = []
    while (got := reader.read())[0]:
        frames.append(got[1])
    assert len(frames) == facts['frames'] == 5
    assert frames[0].shape == (facts['height'], facts['width'], 3)
    assert np.abs(frames[0].astype(int) - frames[2]).mean() > 5.0, 'the camera moves'
    assert [path.name for path in out.parent.iterdir()] == [name]


def test_a_folder_gets_a_picture_for_each_moment_of_a_drive(tmp_path, monkeypatch):
    world = install(monkeypatch)
    base = world.keyframes.poses @ np.linalg.inv(T_BASE_CAM)
    write_tum(tmp_path / 'drive.tum', Trajectory(np.arange(12) * 10**8, base))
    out = tmp_path / 'film'
    words = ['render', 'm', '--out', str(out), '--path', str(tmp_path / 'drive.tum'), '--size',
             '40x30', '--fps', '10', '--what', 'colour']
    assert main(words) == 0
    assert sorted(p.name for p in out.iterdir()) == [f'{k:05d}.png' for k in range(11)]
    first = cv2.imread(str(out / '00000.png'))[24:54, :40, ::-1]
    expected = render_kinds(world, Camera.from_fov(40, 30, 70.0), world.keyframes.poses[0],
                            ('colour',))
    np.testing.assert_array_equal(first, np.rint(expected['colour'] * 255).astype(np.uint8))
    assert main(words) == 2, 'the folder is full'


def test_one_picture(tmp_path, monkeypatch, capsys):
    install(monkeypatch)
    out = tmp_path / 'one.png'
    assert main(['render', 'm', '--out', str(out), '--pose', '2 2 1.5 -0.5 0.5 -0.5 0.5',
                 '--celsius', '15,45', '--size', '40x30']) == 0
    assert cv2.imread(str(out)).shape == (62, 256, 3)
    assert '15.00 to 45.00' in capsys.readouterr().out


@pytest.mark.parametrize('words, told', [
    (['--out', 'a.avi'], 'no kind of video'), (['--out', 'a.png'], 'no kind of video'),
    (['--out', 'a.mp4', '--pose', '0 0 0 0 0 0 1'], 'one picture is a PNG'),
    (['--out', 'a.mp4', '--path', 'spiral'], 'no such path.*keyframes, orbit or a TUM file'),
    (['--out', 'a.mp4', '--fps', '0'], '--fps'), (['--out', 'a.mp4', '--fov', '200'], '--fov'),
    (['--out', 'a.mp4', '--what', 'heat'], 'heat: cannot show that'),
    (['--out', 'a.mp4', '--celsius', '40,15'], 'LOW,HIGH'),
    (['--out', 'a.mp4', '--axes', 'base'], 'belongs to a TUM file'),
    (['--out', 'a.mp4', '--seconds', '99999'], 'too long'), (['--out', 'test'], 'not empty')])
def test_mistakes_are_told(tmp_path, monkeypatch, capsys, words, told):
    install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'test').mkdir()
    (tmp_path / 'test' / 'file').touch()
    assert main(['render', 'm', *words]) == 2
    error = capsys.readouterr().err
    assert 'error:' in error and 'Traceback' not in error
    assert re.search(told, error), error
    assert sorted(p.name for p in tmp_path.iterdir()) == ['test']


def test_nothing_is_left_of_a_film_that_was_not_finished(tmp_path):
    def stopped(name):
        with movie(tmp_path / name, (40, 30), 5.0) as write:
            write(np.zeros((30, 40, 3), np.uint8))
            raise KeyboardInterrupt
    for name in ('a.mp4', 'folder'):
        with pytest.raises(KeyboardInterrupt):
            stopped(name)
    assert list(tmp_path.iterdir()) == []

# SPDX-License-Identifier: Apache-2.0
"""`render`: where the camera goes, what colours mean, and whole films or none."""

import json
import re

import cv2
import numpy as np
import pytest
from viewed_world import install, UP, ViewedWorld

from thermal_nerf_loc.cli import main
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.io.trajectory import Trajectory, write_tum
from thermal_nerf_loc.io.video import movie
from thermal_nerf_loc.visualization.camera_path import (
    cameras_facing, orbit_path, sample_trajectory, spline_path, T_BASE_CAM, up_direction)
from thermal_nerf_loc.visualization.colour_map import ColourScale, draw_bar, fitted_scale
from thermal_nerf_loc.visualization.panels import Panels, render_kinds, scales_for, shown_kinds

SMALL = ['--size', '40x30', '--fps', '5', '--seconds', '1']


def wild_poses(count, seed=0):
    rng = np.random.default_rng(seed)
    return se3.exp(rng.normal(size=(count, 6)) * (2.0, 2.0, 2.0, 0.8, 0.8, 0.8))


def test_the_way_goes_through_every_keyframe_evenly_and_without_corners():
    keyframes = wild_poses(7)
    way = spline_path(keyframes, 4000)
    np.testing.assert_allclose(way[[0, -1]], keyframes[[0, -1]], atol=1e-9)
    for T in keyframes:
        off = np.linalg.norm(way[:, :3, 3] - T[:3, 3], axis=1)
        metres, degrees = se3.distance(T, way[np.argmin(off)])
        assert metres < 0.01 and degrees < 0.5
    R = way[:, :3, :3]
    np.testing.assert_allclose(np.swapaxes(R, 1, 2) @ R, np.tile(np.eye(3), (4000, 1, 1)),
                               atol=1e-9)
    size = np.linalg.norm(np.ptp(keyframes[:, :3, 3], axis=0))
    steps = np.linalg.norm(np.diff(way[:, :3, 3], axis=0), axis=1)
    turns = np.linalg.norm(se3.so3_log(np.swapaxes(R[:-1], 1, 2) @ R[1:]), axis=1)
    pace = np.hypot(steps, size / np.pi * turns)
    assert pace.max() < 1.1 * pace.min()
    ahead = np.diff(way[:, :3, 3], axis=0)[steps > 0.2 * steps.mean()]
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    assert np.einsum('ij,ij->i', ahead[:-1], ahead[1:]).min() > 0.99
    spin = se3.so3_log(np.swapaxes(R[:-1], 1, 2) @ R[1:])
    assert np.linalg.norm(np.diff(spin, axis=0), axis=1).max() < 0.1 * turns.max()


def test_few_or_equal_keyframes_are_a_way_too():
    one = wild_poses(1)
    np.testing.assert_allclose(spline_path(np.repeat(one, 3, axis=0), 4),
                               np.repeat(one, 4, axis=0))
    two = wild_poses(2)
    middle = spline_path(two, 5)[2]
    np.testing.assert_allclose(middle[:3, 3], two[:, :3, 3].mean(axis=0), atol=1e-3)
    twice = spline_path(np.concatenate([two, two[1:]]), 9)
    np.testing.assert_allclose(twice, spline_path(two, 9))


def test_the_circle_looks_at_what_all_cameras_look_at():
    target = np.array([2.0, -1.0, 0.5])
    angle = np.linspace(0.2, 4.0, 9)[:, None]
    eyes = target + np.concatenate([3 * np.cos(angle), 3 * np.sin(angle), 0 * angle + 1], axis=1)
    circle = orbit_path(cameras_facing(eyes, target - eyes, UP), 16)
    to_target = target - circle[:, :3, 3]
    np.testing.assert_allclose(np.linalg.norm(to_target[:, :2], axis=1), 3.0, atol=0.02)
    to_target /= np.linalg.norm(to_target, axis=1, keepdims=True)
    assert np.einsum('ij,ij->i', to_target, circle[:, :3, 2]).min() > 0.999
    assert (circle[:, :3, 1] @ UP < -0.8).all()  # image down is the world's down
    assert se3.distance(circle[0], circle[8])[1] > 90.0


def test_in_a_room_the_circle_lies_among_the_cameras():
    keyframes = ViewedWorld().keyframes.poses
    circle = orbit_path(keyframes, 12)
    off = np.linalg.norm((circle - keyframes.mean(axis=0))[:, :2, 3], axis=1)
    np.testing.assert_allclose(off, 0.8 * 0.3, rtol=0.05)
    np.testing.assert_allclose(circle[:, :3, 1], np.tile(-UP, (12, 1)), atol=1e-9)
    here = orbit_path(np.tile(keyframes[:1], (3, 1, 1)), 4)  # never moved: it turns on the spot
    np.testing.assert_allclose(here[:, :3, 3], np.tile(keyframes[0, :3, 3], (4, 1)), atol=0.5)
    assert np.isfinite(here).all()


def test_up_is_what_cameras_hold_up():
    tilted = cameras_facing(np.zeros((4, 3)), np.array([[1.0, 0, -.3], [0, 1, -.3], [-1, 0, -.3],
                                                    [0, -1, -.3]]), np.array([0.02, 0.05, 1.0]))
    np.testing.assert_array_equal(up_direction(tilted), UP)
    slanted = np.array([1.0, 1.0, 1.0]) / np.sqrt(3.0)
    around = cameras_facing(np.zeros((2, 3)), np.array([[1.0, -1, 0], [-1.0, 1, 0]]), slanted)
    np.testing.assert_allclose(up_direction(around), slanted)


def test_a_trajectory_is_gone_along_in_its_own_time():
    poses = se3.from_parts(np.eye(3), np.array([[0.0, 0, 0], [1.0, 0, 0], [2.0, 0, 0]]))
    way = sample_trajectory(Trajectory(np.array([0, 10**9, 4 * 10**9]), poses), 5)
    np.testing.assert_allclose(way[:, 0, 3], [0.0, 1.0, 4 / 3, 5 / 3, 2.0])
    ahead, left = (T_BASE_CAM[:3, :3].T @ axis for axis in ((1.0, 0, 0), (0, 1.0, 0)))
    np.testing.assert_array_equal(ahead, [0, 0, 1])  # the base's x is the camera's z
    np.testing.assert_array_equal(left, [-1, 0, 0])


def test_colours_stand_for_values():
    scale = ColourScale('inferno', 20.0, 30.0, '°C')
    cold, warm, hot, none = scale.paint(np.array([-40.0, 25.0, 99.0, np.nan])).astype(int)
    assert cold.sum() < warm.sum() < hot.sum()
    assert none.tolist() == [184, 184, 184]
    fitted = fitted_scale('inferno', '°C', [np.r_[np.linspace(20, 30, 1000), 900.0, np.nan]])
    assert 19.9 < fitted.low < 20.2 and 29.8 < fitted.high < 30.2
    upright, lying = draw_bar(scale, (64, 120)), draw_bar(scale, (200, 52), upright=False)
    assert upright.shape == (120, 64, 3) and lying.shape == (52, 200, 3)
    assert upright[110, 15].sum() < upright[60, 15].sum() < upright[8, 15].sum()
    assert (upright[:, 30:] < 128).any(), 'numbers'


def test_a_picture_shows_what_rays_see():
    world, camera = ViewedWorld(), Camera.from_fov(40, 30, 70.0)
    T = world.keyframes.poses[3]
    images = render_kinds(world, camera, T, ('depth', 'temperature', 'colour'))
    assert list(images) == ['depth', 'temperature', 'colour']
    ray = camera.unproject(np.array([[30.5, 7.5]]))
    seen = world.render_rays('thermal', T[None, :3, 3], ray @ T[:3, :3].T)
    assert images['temperature'][7, 30] == pytest.approx(seen.values[0, 0], abs=1e-3)
    assert images['depth'][7, 30] == pytest.approx(seen.distance_m[0] * ray[0, 2], abs=1e-4)
    scales = scales_for(world, camera, world.keyframes.poses, ('temperature', 'depth'))
    assert scales['temperature'].unit == '°C' and 15.0 < scales['temperature'].low < 30.0
    panels = Panels(('colour', 'temperature'), camera.size, scales)
    frame = panels.compose(images)
    assert frame.shape[::-1][1:] == panels.size and not any(side % 2 for side in panels.size)
    np.testing.assert_array_equal(frame[24:54, :40],
                                  np.rint(images['colour'] * 255).astype(np.uint8))
    np.testing.assert_array_equal(frame[24:54, 48:88],
                                  scales['temperature'].paint(images['temperature']))


def test_only_what_the_map_has_can_be_shown():
    heat = ViewedWorld(modalities=('thermal',))
    assert shown_kinds(heat) == ('temperature', 'depth')
    assert 'depth' in render_kinds(heat, Camera.from_fov(4, 3, 70.0), np.eye(4), ('depth',))
    for asked, told in ((['colour'], 'map has no colour.*trained without rgb'),
                        (['sound'], 'cannot show'), (['depth', 'depth'], 'twice')):
        with pytest.raises(InputError, match=told):
            shown_kinds(heat, asked)


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

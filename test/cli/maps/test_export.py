# SPDX-License-Identifier: Apache-2.0
"""`export`: points and triangles that lie on the surfaces, read back by a parser of its own."""

import json
import struct

import numpy as np
import pytest
from viewed_world import install

from thermal_nerf_loc.cli import main
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.visualization import surface_export
from thermal_nerf_loc.visualization.mesh import write_ply

LETTERS = {'float': 'f', 'uchar': 'B', 'int': 'i'}


def read_ply(path):
    """Parse as the format's description has it, row by row; nothing shared with the writer."""
    head, body = path.read_bytes().split(b'end_header\n', 1)
    lines = head.decode('ascii').splitlines()
    assert lines[:2] == ['ply', 'format binary_little_endian 1.0']
    elements, comments = [], []
    for line in lines[2:]:
        words = line.split()
        if words[0] == 'comment':
            comments.append(line)
        elif words[0] == 'element':
            elements.append((words[1], int(words[2]), []))
        else:
            assert words[0] == 'property'
            elements[-1][2].append(words[1:])
    out, at = {}, 0
    for name, count, properties in elements:
        rows = []
        for _ in range(count):
            row = {}
            for words in properties:
                if words[0] == 'list':
                    (length,) = struct.unpack_from('<' + LETTERS[words[1]], body, at)
                    kind, at = f'<{length}{LETTERS[words[2]]}', at + struct.calcsize(
                        LETTERS[words[1]])
                    row[words[3]] = struct.unpack_from(kind, body, at)
                else:
                    kind = '<' + LETTERS[words[0]]
                    (row[words[1]],) = struct.unpack_from(kind, body, at)
                at += struct.calcsize(kind)
            rows.append(row)
        out[name] = {words[-1]: np.array([row[words[-1]] for row in rows])
                     for words in properties}
    assert at == len(body), 'bytes left over'
    return out, comments


def positions(table):
    return np.stack([table[name] for name in 'xyz'], axis=1)


@pytest.fixture
def world(monkeypatch):
    monkeypatch.setattr(surface_export, 'SURFACE_CAMERA', Camera.from_fov(48, 36, 70.0))
    monkeypatch.setattr(surface_export.surface_points, '__defaults__',
                        (*surface_export.surface_points.__defaults__[:-1],
                         surface_export.SURFACE_CAMERA))
    return install(monkeypatch)


def test_points_have_place_direction_colour_and_temperature(tmp_path, world):
    out, figures = tmp_path / 'room.ply', tmp_path / 'f.json'
    assert main(['export', 'm', str(out), '--spacing', '0.1', '--json', str(figures)]) == 0
    tables, comments = read_ply(out)
    table, facts = tables['vertex'], json.loads(figures.read_text())
    assert list(tables) == ['vertex'] and len(table['x']) == facts['points'] > 1000
    p = positions(table)
    assert np.abs(world.world.clearance_m(p)).max() < 1e-3
    # A ray at a point, from where a camera was, finds the same.
    normals = np.stack([table[f'n{name}'] for name in 'xyz'], axis=1)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1.0, atol=1e-5)
    eye = world.bounds.mean(axis=0)
    look = p - eye
    look /= np.linalg.norm(look, axis=1, keepdims=True)
    assert (np.einsum('ij,ij->i', normals, look) < 0.2).mean() > 0.98, 'they face the cameras'
    heat = world.render_rays('thermal', np.tile(eye, (len(p), 1)), look).values[:, 0]
    assert np.median(np.abs(heat - table['temperature'])) < 0.01
    light = world.render_rays('rgb', np.tile(eye, (len(p), 1)), look).values
    shown = np.stack([table[name] for name in ('red', 'green', 'blue')], axis=1)
    assert np.median(np.abs(shown / 255.0 - light)) < 0.01
    assert any('as seen' in comment for comment in comments)


def test_colours_can_stand_for_heat(tmp_path, world):
    out = tmp_path / 'room.ply'
    assert main(['export', 'm', str(out), '--spacing', '0.2', '--colours', 'temperature']) == 0
    tables, comments = read_ply(out)
    table = tables['vertex']
    hot = table['temperature'] > np.quantile(table['temperature'], 0.98)
    cold = table['temperature'] < np.quantile(table['temperature'], 0.5)
    assert table['red'][hot].mean() > table['red'][cold].mean() + 50.0
    assert any('deg C' in comment for comment in comments)


def test_a_mesh_lies_on_the_surfaces_and_faces_the_cameras(tmp_path, world):
    out = tmp_path / 'room.ply'
    assert main(['export', 'm', str(out), '--what', 'mesh', '--spacing', '0.12']) == 0
    tables, _ = read_ply(out)
    p, faces = positions(tables['vertex']), tables['face']['vertex_indices']
    assert faces.shape[1] == 3 and faces.min() == 0 and faces.max() < len(p)
    off = np.abs(world.world.clearance_m(p))
    assert np.median(off) < 0.02 and np.quantile(off, 0.95) < 0.12
    a, b, c = (p[faces[:, k]] for k in range(3))
    normals, middle = np.cross(b - a, c - a), (a + b + c) / 3.0
    area = np.linalg.norm(normals, axis=1)
    cameras_facing = np.einsum('ij,ij->i', normals, world.bounds.mean(axis=0) - middle) > 0.0
    assert area[cameras_facing].sum() > 0.9 * area.sum()
    assert area.sum() / 2.0 > 15.0  # m2: most of the walls
    assert 15.0 < tables['vertex']['temperature'].min() < 30.0
    assert 'nx' not in tables['vertex']


def test_a_map_without_a_modality_says_so(tmp_path, monkeypatch, capsys):
    install(monkeypatch, modalities=('rgb',))
    out = tmp_path / 'room.ply'
    assert main(['export', 'm', str(out), '--colours', 'temperature']) == 2
    assert 'map has no temperature; expected colour' in capsys.readouterr().err
    assert not out.exists()
    monkeypatch.undo()
    install(monkeypatch, modalities=('thermal',))
    assert main(['export', 'm', str(out), '--spacing', '0.3']) == 0
    table = read_ply(out)[0]['vertex']
    assert 'temperature' in table and np.ptp(table['red']) > 100, 'false colours'


@pytest.mark.parametrize('words, told', [
    (['room.obj'], 'ends in .ply'), (['a.ply', '--spacing', '0'], '--spacing'),
    (['no/such/folder/a.ply'], 'folder does not exist')])
def test_mistakes_are_told(tmp_path, monkeypatch, capsys, words, told):
    install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    assert main(['export', 'm', *words]) == 2
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_bare_ply(tmp_path):
    p = np.array([[1.0, 2.0, 3.0]], np.float32)
    write_ply(tmp_path / 'a.ply', p, np.array([[1, 2, 255]], np.uint8), comments=['a\nb'])
    tables, comments = read_ply(tmp_path / 'a.ply')
    assert {name: values.tolist() for name, values in tables['vertex'].items()} == {
        'x': [1.0], 'y': [2.0], 'z': [3.0], 'red': [1], 'green': [2], 'blue': [255]}
    assert comments == ['comment a b']

# SPDX-License-Identifier: Apache-2.0
"""Folders of images become data sets: poses, pairs, metres, and what is refused."""

import json
from pathlib import Path
import struct
import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import cv2
import numpy as np
import pytest
from textured_corner import CAMERA, poses as corner_poses, TAG_M, write_photographs

from thermal_nerf_loc.cli import main
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.similarity import umeyama
from thermal_nerf_loc.importers.images.fiducials import nearest_point
from thermal_nerf_loc.importers.images.folders import list_images, pair_images
from thermal_nerf_loc.importers.images.importer import ImageImportConfig, import_images
from thermal_nerf_loc.importers.images.metric_scale import (
    arbitrary, Distance, from_distances, from_positions)
from thermal_nerf_loc.importers.images.poses import read_poses
from thermal_nerf_loc.importers.images.structure_from_motion import choose_pairs
from thermal_nerf_loc.io.datasets.colmap_model import (camera_from_colmap, camera_to_colmap,
                                                       read_model)
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
from thermal_nerf_loc.io.trajectory import Trajectory, write_tum

COUNT = 7
COLMAP_CAMERAS = {
    'SIMPLE_PINHOLE': (300.0, 158.0, 121.0), 'PINHOLE': (300.0, 310.0, 158.0, 121.0),
    'SIMPLE_RADIAL': (300.0, 158.0, 121.0, -0.08), 'RADIAL': (300.0, 158.0, 121.0, -0.08, 0.03),
    'OPENCV': (300.0, 310.0, 158.0, 121.0, -0.08, 0.03, 0.002, -0.003),
    'FULL_OPENCV': (300.0, 310.0, 158.0, 121.0, -0.08, 0.03, 0.002, -0.003, 0.01, 0.02, -0.01,
                    0.004),
    'OPENCV_FISHEYE': (300.0, 310.0, 158.0, 121.0, -0.05, 0.01, 0.002, -0.001),
    'SIMPLE_RADIAL_FISHEYE': (300.0, 158.0, 121.0, -0.05),
    'RADIAL_FISHEYE': (300.0, 158.0, 121.0, -0.05, 0.01)}
CAMERA_FILE = """
rgb: {w: 320, h: 240, fl_x: 251.15, cx: 160.0, cy: 120.0}
thermal:
  w: 32
  h: 24
  fl_x: 25.0
  transform_rgb_thermal: [[1, 0, 0, 0.05], [0, 1, 0, 0.0], [0, 0, 1, 0.0], [0, 0, 0, 1]]
"""


@pytest.fixture(scope='module')
def photographs(tmp_path_factory) -> Path:
    """A folder with rgb/, thermal/ (counts of 0.01 K) and cameras.yaml."""
    root = tmp_path_factory.mktemp('photographs')
    write_photographs(root / 'rgb', COUNT)
    (root / 'thermal').mkdir()
    for index in range(COUNT):
        counts = np.full((24, 32), 29315 + index, np.uint16)
        cv2.imwrite(str(root / f'thermal/{index:02d}.png'), counts)
    (root / 'cameras.yaml').write_text(CAMERA_FILE)
    return root


def write_model(folder: Path, T_world_cam: np.ndarray, names: list[str], binary: bool = False,
                points: int = 3) -> Path:
    """A COLMAP model of these poses, as its documentation lays it out."""
    folder.mkdir(parents=True)
    params = (CAMERA.fx, CAMERA.fy, CAMERA.cx, CAMERA.cy)
    rows = []
    for number, (T, name) in enumerate(zip(T_world_cam, names), start=1):
        T_cam_world = np.linalg.inv(T)
        x, y, z, w = se3.quaternion_from_matrix(T_cam_world[:3, :3])
        rows.append((number, (w, x, y, z, *T_cam_world[:3, 3]), name))
    if binary:
        (folder / 'cameras.bin').write_bytes(
            struct.pack('<QiiQQ4d', 1, 4, 1, 320, 240, *params))
        (folder / 'images.bin').write_bytes(struct.pack('<Q', len(rows)) + b''.join(
            struct.pack('<I7dI', n, *pose, 4) + name.encode() + b'\0'
            + struct.pack('<Q', 1) + struct.pack('<ddQ', 1.0, 2.0, 1) for n, pose, name in rows))
        (folder / 'points3D.bin').write_bytes(struct.pack('<Q', points) + b''.join(
            struct.pack('<Q3d3BdQII', n, 0.1 * n, 0.0, 2.5, 1, 2, 3, 0.5, 1, 1, 0)
            for n in range(points)))
        return folder
    (folder / 'cameras.txt').write_text('# cameras\n4 PINHOLE 320 240 '
                                        + ' '.join(map(repr, params)) + '\n')
    (folder / 'images.txt').write_text('# images\n' + ''.join(
        f'{n} {" ".join(repr(float(v)) for v in pose)} 4 {name}\n'
        + ('1.0 2.0 1\n' if n % 2 else '\n') for n, pose, name in rows))
    (folder / 'points3D.txt').write_text('# points\n' + ''.join(
        f'{n} {0.1 * n} 0.0 2.5 1 2 3 0.5 1 0\n' for n in range(points)))
    return folder


def names(count: int = COUNT) -> list[str]:
    return [f'{index:02d}.png' for index in range(count)]


def complaint(capfd, *arguments: object) -> str:
    """The one line that a refused command says."""
    assert main(['import-images', *map(str, arguments)]) == 2
    said = capfd.readouterr().err.strip().splitlines()
    assert said[-1].startswith('error: ')
    assert 'Traceback' not in '\n'.join(said)
    return said[-1]


# Cameras and models

@pytest.mark.parametrize('model', COLMAP_CAMERAS)
def test_lenses_project_as_colmap_does(model: str):
    pycolmap = pytest.importorskip('pycolmap', reason='needs pycolmap: pip install .[sfm]')
    params = COLMAP_CAMERAS[model]
    theirs = pycolmap.Camera(model=model, width=320, height=240, params=list(params))
    ours = camera_from_colmap(model, 320, 240, params)
    points = np.random.default_rng(0).uniform((-0.6, -0.5, 1.0), (0.6, 0.5, 2.0), (200, 3))
    uv, _ = ours.project(points)
    np.testing.assert_allclose(uv, np.array(theirs.img_from_cam(points)), atol=1e-9)
    name, back = camera_to_colmap(ours)  # and there and back again
    again = pycolmap.Camera(model=name, width=320, height=240, params=list(back))
    np.testing.assert_allclose(np.array(again.img_from_cam(points)), uv, atol=1e-9)


def test_a_lens_that_is_not_supported_is_refused():
    with pytest.raises(InputError, match='FOV are not supported'):
        camera_from_colmap('FOV', 320, 240, (300.0, 300.0, 160.0, 120.0, 0.9))
    with pytest.raises(InputError, match='not known'):
        camera_from_colmap('PINHOLE', 320, 240, (300.0, 160.0, 120.0))


@pytest.mark.parametrize('binary', [False, True])
def test_models_are_read(tmp_path: Path, binary: bool):
    T = corner_poses(4)
    model = read_model(write_model(tmp_path / 'm', T, ['a b.png', *names(3)], binary))
    assert list(model.images) == ['a b.png', *names(3)]
    np.testing.assert_allclose(np.stack([i.T_world_cam for i in model.images.values()]), T,
                               atol=1e-12)
    assert model.cameras[4] == CAMERA
    np.testing.assert_allclose(model.points, [[0, 0, 2.5], [0.1, 0, 2.5], [0.2, 0, 2.5]])
    assert model.errors_px.tolist() == [0.5] * 3


@pytest.mark.parametrize('file, content, told', [
    ('images.bin', b'\x05' + bytes(20), 'is no whole COLMAP file'),
    ('cameras.bin', struct.pack('<QiiQQ', 1, 1, 77, 320, 240), 'number 77'),
    ('images.bin', struct.pack('<Q', 0), 'has no image'),
    ('images.bin', struct.pack('<QI7dI', 1, 1, 1, 0, 0, 0, 0, 0, 0, 9) + b'a\0' + bytes(8),
     'camera that is not in the model'),
    ('images.bin', struct.pack('<QI7dI', 1, 1, 5, 0, 0, 0, 0, 0, 0, 4) + b'a\0' + bytes(8),
     'no rigid motion'),
])
def test_a_broken_model_is_refused(tmp_path: Path, file: str, content: bytes, told: str):
    folder = write_model(tmp_path / 'm', corner_poses(2), names(2), binary=True)
    (folder / file).write_bytes(content)
    with pytest.raises(InputError, match=told):
        read_model(folder)


# From folders to a data set

def check_set(out: Path, T: np.ndarray) -> None:
    scene = load_scene(out)
    assert scene.modalities == ('rgb', 'thermal')
    assert [f.name for f in scene.frames] == [f'rgb/{name}' for name in names()]
    np.testing.assert_allclose(np.stack([f.T_world_cam for f in scene.frames]), T, atol=1e-9)
    assert scene.test == (4,)
    frame = scene.load(2)
    np.testing.assert_allclose(frame.images['thermal'].values, 20.02, atol=1e-3)
    assert frame.images['thermal'].T_cam_sensor[0, 3] == 0.05


@pytest.mark.parametrize('binary', [False, True])
def test_poses_of_a_colmap_model(photographs: Path, tmp_path: Path, binary: bool):
    T = corner_poses(COUNT)
    model = write_model(tmp_path / 'm', T, [f'some/where/{n}' for n in names()], binary)
    done = import_images(photographs, tmp_path / 'out', ImageImportConfig(
        poses=model, cameras=photographs / 'cameras.yaml'))
    check_set(tmp_path / 'out', T)
    assert done.figures['reprojection_error_px'] == 0.5
    assert done.figures['metric'] is None
    assert done.figures['paired_by'] == 'equal names'
    assert any('COLMAP model has an arbitrary one' in note for note in done.notes)
    assert not load_scene(tmp_path / 'out').notices


@pytest.mark.parametrize('by_stamp', [True, False])
def test_poses_of_a_tum_file(photographs: Path, tmp_path: Path, by_stamp: bool):
    """By stamps that are file names (00 to 06 s), interpolated; else one by one."""
    T = corner_poses(COUNT)
    times = np.arange(COUNT) if by_stamp else 1000.0 + np.arange(COUNT)
    write_tum(tmp_path / 'p.tum', Trajectory((times * 1e9).astype(np.int64), T))
    done = import_images(photographs, tmp_path / 'out', ImageImportConfig(
        poses=tmp_path / 'p.tum', cameras=photographs / 'cameras.yaml'))
    check_set(tmp_path / 'out', T)
    assert ('stamps' in done.figures['poses']) == by_stamp
    assert done.figures['metric'] is True
    assert load_scene(tmp_path / 'out').frames[1].stamp_ns == int(times[1] * 1e9)


def test_poses_too_far_apart_in_time_are_not_interpolated(tmp_path: Path):
    """Poses at 0, 1 and 4 s; an image at 0.5 s lies in a gap of 1 s, one at 2 s in one of 3 s."""
    times = np.array([0, 1, 4])
    write_tum(tmp_path / 'p.tum', Trajectory(times * 10**9, corner_poses(3)))
    names = ['0.5.png', '2.png']
    for max_gap_ns, posed in ((10**9, ['0.5.png']), (3 * 10**9, names)):
        found = read_poses(tmp_path / 'p.tum', names, max_gap_ns)
        assert list(found.poses) == posed


def test_images_without_a_pose_are_named_and_left_out(photographs: Path, tmp_path: Path, capfd):
    model = write_model(tmp_path / 'm', corner_poses(5), names(5))
    figures = tmp_path / 'f.json'
    assert main(['import-images', str(photographs), str(tmp_path / 'out'), '--poses', str(model),
                 '--cameras', str(photographs / 'cameras.yaml'), '--json', str(figures)]) == 0
    assert '2 images could not be placed and are left out: 05.png, 06.png' in capfd.readouterr(
        ).err.replace('\n', ' ')
    found = json.loads(figures.read_text())
    assert found['left_out'] == ['05.png', '06.png']
    assert (found['registered'], found['train_frames'], found['test_frames']) == (5, 4, 1)


def test_an_arbitrary_scale_is_kept_in_the_data_set(photographs: Path, tmp_path: Path,
                                                    monkeypatch):
    """Also: upright, seen things 3 units away, and a rig of which only the turn can be used."""
    from thermal_nerf_loc.importers.images import importer
    from thermal_nerf_loc.importers.images.structure_from_motion import Reconstruction
    rolled = se3.from_parts(se3.so3_exp([0.9, 0.2, -0.4]), [5.0, 1.0, 2.0])
    T = rolled @ corner_poses(COUNT)
    model = read_model(write_model(tmp_path / 'm', T, names(), points=0))
    ahead = np.concatenate([se3.transform(pose, [[0.0, 0.0, 1.5]]) for pose in T])
    monkeypatch.setattr(importer, 'require_pycolmap', lambda: None)
    monkeypatch.setattr(importer, 'reconstruct', lambda *_: Reconstruction(
        type(model)(model.cameras, model.images, ahead, np.full(COUNT, 0.25)), 2, 'told'))
    done = import_images(photographs, tmp_path / 'out',
                         ImageImportConfig(cameras=photographs / 'cameras.yaml'))
    assert done.figures['metric'] is False
    assert done.figures['scale'] == pytest.approx(2.0, rel=0.1)
    assert any('ARBITRARY' in note for note in done.notes)
    assert any('fell apart into 2' in note for note in done.notes)
    assert any('only its direction' in note for note in done.notes)
    scene = load_scene(tmp_path / 'out')
    assert 'arbitrary' in scene.notices[0]
    stacked = np.stack([frame.T_world_cam for frame in scene.frames])
    up = -stacked[:, :3, 1].mean(axis=0)
    np.testing.assert_allclose(up / np.linalg.norm(up), [0, 0, 1], atol=1e-9)
    np.testing.assert_allclose(stacked[:, :3, 3].mean(axis=0), 0.0, atol=1e-9)
    assert not scene.frames[0].records['thermal'].T_cam_sensor[:3, 3].any()


def test_photographs_alone_give_their_poses(photographs: Path, tmp_path: Path):
    """The real thing: features, matches, bundle adjustment; the tag tells metres."""
    pytest.importorskip('pycolmap', reason='needs pycolmap: pip install .[sfm]')
    told = []
    done = import_images(photographs, tmp_path / 'out', ImageImportConfig(
        cameras=photographs / 'cameras.yaml', tag_size_m=TAG_M),
        lambda done, total, message='': told.append(done / total))
    assert done.figures['registered'] == COUNT
    assert done.figures['reprojection_error_px'] < 1.0
    assert done.figures['metric'] is True
    assert told == sorted(told) and told[-1] == 1.0
    T = np.stack([f.T_world_cam for f in load_scene(tmp_path / 'out').frames])
    fit = umeyama(T[:, :3, 3], corner_poses(COUNT)[:, :3, 3], with_scale=True)
    assert fit.scale == pytest.approx(1.0, abs=0.02)
    for moved, true in zip(fit.apply(T), corner_poses(COUNT)):
        metres, degrees = se3.distance(moved, true)
        assert metres < 0.02
        assert degrees < 0.5


def test_images_without_overlap_are_refused(tmp_path: Path, capfd):
    pytest.importorskip('pycolmap', reason='needs pycolmap: pip install .[sfm]')
    (tmp_path / 'd').mkdir()
    for index in range(3):
        noise = np.random.default_rng(index).integers(0, 255, (60, 80, 3)).astype(np.uint8)
        cv2.imwrite(str(tmp_path / f'd/{index}.png'), noise)
    assert 'no overlap was found' in complaint(capfd, tmp_path / 'd', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('module, code, told', [
    (SimpleNamespace(__version__='0.6.1'), 2, 'too old; expected 4.0 or newer; got 0.6.1'),
    (MagicMock(extract_features=MagicMock(side_effect=RuntimeError('Check failed:\n x'))), 1,
     'COLMAP gave up; got Check failed: x')])
def test_what_pycolmap_cannot_do_is_one_line(photographs: Path, tmp_path: Path, capfd,
                                             monkeypatch, module, code: int, told: str):
    monkeypatch.setitem(sys.modules, 'pycolmap', module)
    assert main(['import-images', str(photographs), str(tmp_path / 'out'), '--cameras',
                 str(photographs / 'cameras.yaml')]) == code
    assert told in capfd.readouterr().err
    assert not (tmp_path / 'out').exists()


# Metres

def similar() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Poses by name in a world of their own, and the true ones; 1 unit is 2.5 m."""
    true = corner_poses(COUNT)
    mine = se3.exp([3.0, 1.0, -2.0, 0.4, -0.8, 0.3]) @ true
    mine[:, :3, 3] /= 2.5
    return dict(zip(names(), mine)), true


def write_positions(file: Path, positions: np.ndarray) -> Path:
    """Lines `name x y z`, the names without their ending, and one that nobody knows."""
    file.write_text('# name x y z\nother, 1, 2, 3\n' + ''.join(
        f'{Path(name).stem} {x:.12f} {y:.12f} {z:.12f}\n'
        for name, (x, y, z) in zip(names(), positions)))
    return file


def test_known_positions_scale_and_orient(tmp_path: Path):
    poses, true = similar()
    file = write_positions(tmp_path / 'p.txt', true[:, :3, 3])
    found = from_positions(poses, file)
    assert found.is_metric is True
    np.testing.assert_allclose(found.similarity.apply(np.stack(list(poses.values()))), true,
                               atol=1e-9)
    assert found.figures['positions_used'] == COUNT
    assert found.figures['positions_rms_m'] == pytest.approx(0.0, abs=1e-9)
    file.write_text(file.read_text() + '03 1 2 3\n')
    with pytest.raises(InputError, match='two positions'):
        from_positions(poses, file)


def test_residuals_name_the_worst(tmp_path: Path):
    poses, true = similar()
    wrong = true[:, :3, 3].copy()
    wrong[3] += (0.0, 0.6, 0.0)
    found = from_positions(poses, write_positions(tmp_path / 'p.txt', wrong))
    assert found.figures['positions_worst'] == '03.png'
    assert 0.1 < found.figures['positions_rms_m'] < found.figures['positions_max_m'] < 0.6
    assert any('03.png' in note for note in found.notes)


@pytest.mark.parametrize('lines, told', [
    ('00 0 0 0\n01 1 0 0\n', 'too few'), ('00 0 0\n', 'no camera position'),
    ('00 0 0 x\n', 'no camera position'),
    (''.join(f'0{k} {k} 0 0\n' for k in range(4)), 'do not orient'), ('', 'too few')])
def test_positions_that_do_not_do(tmp_path: Path, lines: str, told: str):
    (tmp_path / 'p.txt').write_text(lines)
    with pytest.raises(InputError, match=told):
        from_positions(similar()[0], tmp_path / 'p.txt')


def test_measured_distances_scale():
    poses, true = similar()
    lengths = [float(np.linalg.norm(true[0, :3, 3] - true[k, :3, 3])) for k in (3, 6)]
    one = from_distances(poses, [Distance('00.png', '06', lengths[1])], upright=True)
    assert one.similarity.scale == pytest.approx(2.5)
    both = from_distances(poses, [Distance('00.png', '03', 1.02 * lengths[0]),
                                  Distance('00', '06', lengths[1])], upright=False)
    assert 2.5 < both.similarity.scale < 1.02 * 2.5
    assert both.figures['distance_max_error_m'] > 0.005
    np.testing.assert_array_equal(both.similarity.T, np.eye(4))
    for bad, told in ((Distance('00', '44', 1.0), 'has no pose'),
                      (Distance('00', '01', -1.0), 'out of range'),
                      (Distance('00', '00.png', 1.0), 'one place')):
        with pytest.raises(InputError, match=told):
            from_distances(poses, [bad], upright=False)


def test_a_tag_tells_the_scale(photographs: Path, tmp_path: Path):
    T = corner_poses(COUNT)
    T[:, :3, 3] /= 3.0
    model = write_model(tmp_path / 'm', T, names())
    config = {'poses': model, 'cameras': photographs / 'cameras.yaml'}
    done = import_images(photographs, tmp_path / 'out',
                         ImageImportConfig(tag_size_m=TAG_M, **config))
    assert done.figures['scale'] == pytest.approx(3.0, rel=0.01)
    assert done.figures['tag_edges'] == 4
    assert done.figures['tag_spread'] < 0.03
    with pytest.raises(InputError, match='no tag gives the scale'):
        import_images(photographs, tmp_path / 'none', ImageImportConfig(
            tag_size_m=TAG_M, tag_family='aruco-4x4', **config))
    moved = T.copy()  # poses that do not fit the images
    moved[::2] = moved[::2] @ se3.exp([0, 0, 0, 0, 0.1, 0])
    broken = write_model(tmp_path / 'b', moved, names())
    with pytest.raises(InputError, match='corners disagree'):
        import_images(photographs, tmp_path / 'none', ImageImportConfig(
            poses=broken, cameras=config['cameras'], tag_size_m=TAG_M))


def test_rays_meet_where_they_meet():
    point, origins = np.array([0.3, -0.2, 2.0]), np.eye(3)
    rays = point - origins
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    np.testing.assert_allclose(nearest_point(origins, rays), point, atol=1e-12)


def test_without_points_the_unit_stays():
    found = arbitrary(similar()[0], np.zeros((0, 3)), CAMERA)
    assert found.similarity.scale == 1.0


# Pairs

@pytest.mark.parametrize('rgb, thermal, partner, told', [
    (['a.jpg', 'b.jpg'], ['b.tiff', 'a.tiff'], {'a.jpg': 'a.tiff', 'b.jpg': 'b.tiff'}, 'equal'),
    (['frame_1_rgb.png', 'frame_2_rgb.png'], ['frame_2_ir.png', 'frame_1_ir.png'],
     {'frame_1_rgb.png': 'frame_1_ir.png', 'frame_2_rgb.png': 'frame_2_ir.png'}, 'differ'),
    (['1.png', '2.png', '3.png'], ['2.png', '3.png'], {'2.png': '2.png', '3.png': '3.png'},
     'equal'),
    (['x1.png', 'x2.png'], ['9.png', '10.png'], {'x1.png': '9.png', 'x2.png': '10.png'},
     'order')])
def test_pairs(rgb, thermal, partner, told):
    found = pair_images(rgb, thermal)
    assert found.partner == partner
    assert told in found.paired_by


@pytest.mark.parametrize('rgb, thermal, rule, parts', [
    (['x1.png', 'x2.png', 'x3.png'], ['9.png', '10.png'], 'auto', ('3 RGB', 'x1.png', '9.png')),
    (['a.png', 'b.png'], ['c.png', 'd.png'], 'name', ('equal names',)),
    (['a.png', 'b.png'], ['c.png'], 'order', ('2 RGB', '1 thermal')),
    (['a.png', 'b.png'], ['a.png', 'a.tiff'], 'auto', ('a.png and a.tiff', '--pair order'))])
def test_unsure_pairs_are_refused_with_examples(rgb, thermal, rule, parts):
    with pytest.raises(InputError) as caught:
        pair_images(rgb, thermal, rule)
    assert all(part in str(caught.value) for part in parts)


def test_files_without_a_partner_are_named():
    found = pair_images(['1.png', '2.png', '3.png'], ['2.png', '3.png', '4.png'])
    assert (found.rgb_unpaired, found.thermal_unpaired) == (('1.png',), ('4.png',))


def test_numbers_in_names_count(tmp_path: Path):
    for name in ('f10.png', 'f9.png', 'F1.png', '2.jpg', 'notes.txt', '.hidden.png'):
        (tmp_path / name).touch()
    assert list_images(tmp_path) == ['2.jpg', 'F1.png', 'f9.png', 'f10.png']


def test_which_images_are_compared():
    assert len(choose_pairs(40, 'all')) == 780
    near = choose_pairs(400, 'neighbours')
    assert (0, 10) in near and (0, 390) in near and (1, 12) not in near
    assert len(set(near)) == len(near) < 6000


# What is refused

def test_bad_folders_are_refused(tmp_path: Path, photographs: Path, capfd, monkeypatch):
    out, poses = tmp_path / 'out', ('--poses', tmp_path / 'm')
    write_model(tmp_path / 'm', corner_poses(COUNT), names())
    (tmp_path / 'empty').mkdir()
    assert 'folder has no image' in complaint(capfd, tmp_path / 'empty', out, *poses)
    assert 'does not exist' in complaint(capfd, tmp_path / 'nowhere', out, *poses)
    one = tmp_path / 'one'
    one.mkdir()
    (one / '00.png').write_bytes((photographs / 'rgb/00.png').read_bytes())
    assert 'one image is not enough' in complaint(capfd, one, out, *poses)
    (one / '01.png').write_bytes((photographs / 'rgb/01.png').read_bytes()[:500])
    assert '01.png: PNG is cut short' in complaint(capfd, one, out, *poses)
    cv2.imwrite(str(one / '01.png'), np.zeros((10, 20, 3), np.uint8))
    assert 'not all of one size' in complaint(capfd, one, out, *poses)
    for folder in ('ir', 'thermal'):
        (tmp_path / 'two' / folder).mkdir(parents=True)
    assert 'ir, thermal' in complaint(capfd, tmp_path / 'two', out, *poses)
    assert 'thermal camera has no lens' in complaint(capfd, photographs, out, *poses)
    monkeypatch.setitem(sys.modules, 'pycolmap', None)
    assert 'does not exist' in complaint(capfd, tmp_path / 'nowhere', out)
    told = complaint(capfd, photographs, out)
    assert 'import here' in told and "pip install 'pycolmap>=4.0'" in told and '--poses' in told
    assert not out.exists()


@pytest.mark.parametrize('options, told', [
    (['--tag-size', '0.1', '--distance', '00', '01', '1'], 'given twice'),
    (['--tag-size', '-1'], 'out of range'), (['--tag-family', 'qr'], 'tag_family'),
    (['--lens', 'FOV'], 'lens'), (['--distance', '00', '01', 'far'], 'no number'),
    (['--hold-out', '1'], 'hold_out'), (['--celsius-offset', '2'], 'half a thermal scale'),
    (['--poses', 'nowhere'], 'does not exist'), (['--pair', 'by-ear'], '--pair')])
def test_nonsense_is_refused(photographs: Path, tmp_path: Path, capfd, options: list[str],
                             told: str):
    cameras = ('--cameras', photographs / 'cameras.yaml')
    model = write_model(tmp_path / 'm', corner_poses(COUNT), names())
    poses = () if '--poses' in options else ('--poses', model)
    assert told in complaint(capfd, photographs, tmp_path / 'out', *cameras, *poses, *options)


def test_a_lens_of_another_size_is_refused(photographs: Path, tmp_path: Path):
    (tmp_path / 'c.yaml').write_text(CAMERA_FILE.replace('w: 320', 'w: 640'))
    model = write_model(tmp_path / 'm', corner_poses(COUNT), names())
    with pytest.raises(InputError, match='size of their camera'):
        import_images(photographs, tmp_path / 'out',
                      ImageImportConfig(poses=model, cameras=tmp_path / 'c.yaml'))


def test_several_cameras_are_refused(photographs: Path, tmp_path: Path):
    model = write_model(tmp_path / 'm', corner_poses(COUNT), names())
    with (model / 'cameras.txt').open('a') as file:
        file.write('5 PINHOLE 320 240 260 260 160 120\n')
    text = (model / 'images.txt').read_text().replace(' 4 03.png', ' 5 03.png')
    (model / 'images.txt').write_text(text)
    with pytest.raises(InputError, match='several cameras'):
        import_images(photographs, tmp_path / 'out', ImageImportConfig(
            poses=model, cameras=photographs / 'cameras.yaml'))

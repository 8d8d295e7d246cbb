# SPDX-License-Identifier: Apache-2.0
"""Recordings of phones become data sets: poses, lenses, LiDAR depth, thermal images by time."""

import json
from pathlib import Path
import sys
from types import SimpleNamespace
from typing import Any
import zipfile
import zlib

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from textured_corner import CAMERA, photograph, poses as corner_poses, textures

from thermal_nerf_loc.cli import main
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.importers.images.importer import ImageImportConfig, import_images
from thermal_nerf_loc.importers.phones.record3d import open_record3d
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene

COUNT = 6
GL = np.diag([1.0, -1.0, -1.0, 1.0])
# ARKit: y is up. A point (x, y, z) there lies at (z, x, y) here.
ARKIT = np.array([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0],
                  [0.0, 0.0, 0.0, 1.0]])
DEPTH = np.linspace(1.0, 4.0, 64 * 48, dtype=np.float32).reshape(48, 64)
WALL, FLOOR = textures()
POSES = corner_poses(COUNT)
JPEGS = [bytes(cv2.imencode('.jpg', photograph(T, WALL, FLOOR)[..., ::-1].clip(0, 255).astype(
    np.uint8))[1]) for T in POSES]
STAMPS = 1000.0 + 0.5 * np.arange(COUNT)
STORED = SimpleNamespace(decompress=zlib.decompress, compress=zlib.compress)


def metadata(**changes: Any) -> dict[str, Any]:
    """As the app writes them: K by columns, of half the images' resolution, poses in ARKit's."""
    arkit = [ARKIT @ T @ GL for T in POSES]
    lists = [[*Rotation.from_matrix(T[:3, :3]).as_quat(), *T[:3, 3]] for T in arkit]
    return {'w': 160, 'h': 120, 'dw': 64, 'dh': 48, 'fps': 60,
            'K': [CAMERA.fx / 2, 0, 0, 0, CAMERA.fy / 2, 0, CAMERA.cx / 2, CAMERA.cy / 2, 1],
            'poses': lists, 'frameTimestamps': STAMPS.tolist(), **changes}


def write_r3d(path: Path, packer: Any = STORED, depth: np.ndarray = DEPTH,
              **changes: Any) -> Path:
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('metadata', json.dumps(metadata(**changes)))
        for k, jpeg in enumerate(JPEGS):
            archive.writestr(f'rgbd/{k}.jpg', jpeg)
            archive.writestr(f'rgbd/{k}.depth', packer.compress(depth.tobytes()))
            sure = np.full((48, 64), 2, np.uint8)
            sure[:4] = 0
            archive.writestr(f'rgbd/{k}.conf', packer.compress(sure.tobytes()))
    return path


@pytest.fixture(autouse=True)
def unpacker(monkeypatch: pytest.MonkeyPatch):
    """Stands for lzfse, which need not be installed."""
    monkeypatch.setitem(sys.modules, 'lzfse', STORED)


def check_scene(out: Path, depth: bool = True) -> Any:
    scene = load_scene(out)
    assert len(scene.frames) == COUNT
    for frame, T in zip(scene.frames, POSES):
        np.testing.assert_allclose(frame.T_world_cam, T, atol=1e-6)
        assert frame.records['rgb'].camera.fx == pytest.approx(CAMERA.fx)
    image = scene.load(0).images['rgb']
    assert (image.depth_m is not None) == depth
    if image.depth_m is not None:
        assert image.depth_m[200, 160] == pytest.approx(DEPTH[40, 32], abs=2e-3)
    return scene


def test_record3d_becomes_a_data_set(tmp_path: Path):
    done = import_images(write_r3d(tmp_path / 'a.r3d'), tmp_path / 'out', ImageImportConfig())
    scene = check_scene(tmp_path / 'out')
    image = scene.load(0).images['rgb']
    assert (image.depth_m[:15] == 0.0).all()  # of low confidence
    assert done.figures['depth_frames'] == COUNT
    assert scene.frames[1].stamp_ns == 1_000_500_000_000
    assert not any('arbitrary' in notice for notice in scene.notices)


def test_each_image_keeps_its_own_lens(tmp_path: Path):
    each = [[0.5 * CAMERA.fx * (1.0 + 0.01 * k), 0.5 * CAMERA.fy, 80.0, 60.0]
            for k in range(COUNT)]
    import_images(write_r3d(tmp_path / 'a.r3d', perFrameIntrinsicCoeffs=each), tmp_path / 'out',
                  ImageImportConfig())
    found = [f.records['rgb'].camera.fx for f in load_scene(tmp_path / 'out').frames]
    np.testing.assert_allclose(found, CAMERA.fx * (1.0 + 0.01 * np.arange(COUNT)))


def test_real_lzfse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, 'lzfse')
    lzfse = pytest.importorskip('lzfse', reason='needs lzfse: pip install .[phone]')
    import_images(write_r3d(tmp_path / 'a.r3d', lzfse), tmp_path / 'out', ImageImportConfig())
    check_scene(tmp_path / 'out')


def test_without_lzfse_depth_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ('lzfse', 'liblzfse'):
        monkeypatch.setitem(sys.modules, name, None)
    done = import_images(write_r3d(tmp_path / 'a.r3d'), tmp_path / 'out', ImageImportConfig())
    check_scene(tmp_path / 'out', depth=False)
    assert any('lzfse' in note for note in done.notes)


def polycam(root: Path) -> Path:
    for name in ('images', 'cameras', 'depth'):
        (root / 'keyframes' / name).mkdir(parents=True)
    for k, (jpeg, T) in enumerate(zip(JPEGS, POSES)):
        stem = str(round(1e6 * STAMPS[k]))
        arkit = ARKIT @ T @ GL
        values = {f't_{row}{column}': arkit[row, column] for row in range(3)
                  for column in range(4)}
        values |= {'fx': CAMERA.fx, 'fy': CAMERA.fy, 'cx': CAMERA.cx, 'cy': CAMERA.cy,
                   'width': CAMERA.width, 'height': CAMERA.height, 'blur_score': 100.0}
        folder = root / 'keyframes'
        (folder / 'images' / f'{stem}.jpg').write_bytes(jpeg)
        (folder / 'cameras' / f'{stem}.json').write_text(json.dumps(values))
        cv2.imwrite(str(folder / 'depth' / f'{stem}.png'), (1000.0 * DEPTH).astype(np.uint16))
    return root


def test_polycam_becomes_a_data_set(tmp_path: Path):
    import_images(polycam(tmp_path / 'scan'), tmp_path / 'out', ImageImportConfig())
    check_scene(tmp_path / 'out')


@pytest.mark.parametrize('source', ['record3d', 'nerfstudio'])
def test_thermal_images_join_by_time(tmp_path: Path, source: str):
    """The thermal camera's clock is 3 s ahead; its images lie between the phone's."""
    path = write_r3d(tmp_path / 'a.r3d')
    if source == 'nerfstudio':
        import_images(path, tmp_path / 'set', ImageImportConfig())
        path = tmp_path / 'set/transforms.json'
    (tmp_path / 'heat').mkdir()
    for stamp in STAMPS[:-1] + 0.02 + 3.0:
        cv2.imwrite(str(tmp_path / f'heat/{stamp:.6f}.png'), np.full((24, 32), 29_600, np.uint16))
    (tmp_path / 'c.yaml').write_text(
        'thermal: {w: 32, h: 24, fl_x: 30.0, celsius_per_count: 0.01, celsius_offset: -273.15,\n'
        '  transform_rgb_thermal: [[1, 0, 0, 0.05], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]}\n'
        'thermal_time_offset_s: -3.0\n')
    done = import_images(path, tmp_path / 'out', ImageImportConfig(
        thermal=tmp_path / 'heat', cameras=tmp_path / 'c.yaml'))
    assert done.figures['thermal_frames'] == COUNT - 1
    frame = load_scene(tmp_path / 'out').load(1)
    # 0.02 of 0.5 s of the way on, then 5 cm to the side
    expected = POSES[1] @ np.linalg.matrix_power(np.eye(4), 1)
    moved = frame.T_world_cam @ frame.images['thermal'].T_cam_sensor
    way = POSES[2][:3, 3] - POSES[1][:3, 3]
    np.testing.assert_allclose(moved[:3, 3], expected[:3, 3] + 0.04 * way
                               + 0.05 * moved[:3, 0], atol=2e-3)
    assert frame.images['thermal'].values.mean() == pytest.approx(22.85, abs=0.01)


def test_clocks_that_share_no_time_are_refused(tmp_path: Path):
    (tmp_path / 'heat').mkdir()
    cv2.imwrite(str(tmp_path / 'heat/5.0.png'), np.full((24, 32), 29_600, np.uint16))
    (tmp_path / 'c.yaml').write_text('thermal: {w: 32, h: 24, fl_x: 30.0}')
    with pytest.raises(InputError, match=r'share no time.*thermal_time_offset_s'):
        import_images(write_r3d(tmp_path / 'a.r3d'), tmp_path / 'out', ImageImportConfig(
            thermal=tmp_path / 'heat', cameras=tmp_path / 'c.yaml'))


def r3d_faults(folder: Path) -> list[bytes]:
    good = write_r3d(folder / 'good.r3d').read_bytes()
    changed = [{'poses': []}, {'poses': None}, {'w': 0}, {'h': 'x'}, {'w': 10**9}, {'K': [1, 2]},
               {'K': [0.0] * 9}, {'poses': [[0.0] * 7] * COUNT}, {'poses': [[1, 2]] * COUNT},
               {'frameTimestamps': ['a'] * COUNT}, {'dw': 7}, {'w': 500},
               {'frameTimestamps': [1.0] * COUNT, 'fps': 0, 'K': None}]
    files = [write_r3d(folder / 'changed.r3d', **values).read_bytes() for values in changed]
    wrong = [b'', b'no zip', good[:50], good[:len(good) // 2], good[:-30]]
    with zipfile.ZipFile(folder / 'empty.r3d', 'w') as archive:
        archive.writestr('metadata', json.dumps(metadata()))
    with zipfile.ZipFile(folder / 'text.r3d', 'w') as archive:
        archive.writestr('metadata', '{"w": ')
    damaged = bytearray(good)
    damaged[len(good) // 3:len(good) // 3 + 2000] = bytes(2000)
    return [*files, *wrong, (folder / 'empty.r3d').read_bytes(),
            (folder / 'text.r3d').read_bytes(), bytes(damaged),
            write_r3d(folder / 'short.r3d', depth=DEPTH[:7]).read_bytes(),
            write_r3d(folder / 'packed.r3d', SimpleNamespace(compress=lambda b: b[:50])
                      ).read_bytes()]


def test_broken_recordings_are_one_error(tmp_path: Path):
    files = r3d_faults(tmp_path)
    assert len(files) >= 20
    for index, data in enumerate(files):
        path = tmp_path / f'broken{index}.r3d'
        path.write_bytes(data)
        with pytest.raises(InputError) as caught:
            import_images(path, tmp_path / f'out{index}', ImageImportConfig())
        assert path.name in str(caught.value), index
        assert not (tmp_path / f'out{index}').exists()


def test_a_missing_recording_is_named(tmp_path: Path, capsys: pytest.CaptureFixture):
    with pytest.raises(InputError, match='does not exist'):
        open_record3d(tmp_path / 'no.r3d')
    assert main(['import-images', str(tmp_path / 'no.r3d'), str(tmp_path / 'out')]) == 2
    assert 'does not exist' in capsys.readouterr().err


def test_a_broken_camera_of_polycam_is_named(tmp_path: Path):
    root = polycam(tmp_path / 'scan')
    first = sorted((root / 'keyframes/cameras').iterdir())[0]
    for content in ('{}', '[1]', '{"t_00": 1', json.dumps({'fx': 'a'})):
        first.write_text(content)
        with pytest.raises(InputError, match=first.name):
            import_images(root, tmp_path / 'out', ImageImportConfig())

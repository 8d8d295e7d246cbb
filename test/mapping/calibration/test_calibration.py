# SPDX-License-Identifier: Apache-2.0
"""Lens, rig and time offset are found again in simulated recordings of known truth."""

import functools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from textured_corner import CAMERA, photograph, textures
import yaml

from thermal_nerf_loc.cli import main
from thermal_nerf_loc.common.errors import RunError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera, CameraModel
from thermal_nerf_loc.importers.images.importer import ImageImportConfig, import_images
from thermal_nerf_loc.io.bags.reader import BagReader
from thermal_nerf_loc.io.bags.writer import BagWriter
from thermal_nerf_loc.io.datasets.camera_file import read_rig
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
from thermal_nerf_loc.io.trajectory import Trajectory, write_tum
from thermal_nerf_loc.mapping.calibration.board import (
    ASYMMETRIC, Board, CHESSBOARD, CIRCLES, find_board, fit_lens)
from thermal_nerf_loc.mapping.calibration.time_offset import correlate, TurnRates

RGB_LENS = Camera(400, 300, 330.0, 330.0, 204.0, 147.0, CameraModel.OPENCV,
                  (-0.05, 0.02, 0.0, 0.0))
HEAT_LENS = Camera(320, 256, 292.0, 292.0, 163.5, 125.0, CameraModel.OPENCV,
                   (-0.22, 0.08, 0.0, 0.0))
T_RGB_HEAT = se3.from_parts(se3.so3_exp([0.01, -0.03, 0.02]), [0.06, -0.01, 0.005])
BOARD = Board(CHESSBOARD, 7, 5, 0.05)


def board_poses(count: int) -> list[np.ndarray]:
    """Boards in front of the RGB camera, tilted, near and far, over all of the image."""
    rng = np.random.default_rng(5)
    middle = BOARD.points().mean(axis=0)
    out = []
    for k in range(count):
        T = se3.from_parts(se3.so3_exp([*rng.uniform(-0.45, 0.45, 2), rng.uniform(-0.3, 0.3)]),
                           [(k % 4 - 1.5) * 0.06, (k // 4 % 3 - 1) * 0.05, rng.uniform(0.5, 0.75)])
        T[:3, 3] -= T[:3, :3] @ middle
        out.append(T)
    return out


@functools.cache
def fine_rays(camera: Camera) -> np.ndarray:
    return camera.resized(2 * camera.width, 2 * camera.height).rays()


def picture(camera: Camera, T_cam_board: np.ndarray, board: Board, warm: bool) -> np.ndarray:
    """What a camera sees of a board, 0 to 1; the mean of 2 x 2 rays a pixel."""
    rays = fine_rays(camera) @ T_cam_board[:3, :3]
    origin = -T_cam_board[:3, :3].T @ T_cam_board[:3, 3]
    hit = (origin - origin[2] / rays[:, 2:] * rays)[:, :2] / board.spacing_m
    x, y = hit.T
    if board.kind == CHESSBOARD:
        inside = (x > -1) & (x < board.columns) & (y > -1) & (y < board.rows)
        dark = inside & ((np.floor(x) + np.floor(y)) % 2 == 0)
    else:
        points = board.points()[:, :2] / board.spacing_m
        nearest = np.min([(x - u)**2 + (y - v)**2 for u, v in points], axis=0)
        dark = nearest < (0.3 if board.kind == CIRCLES else 0.5)**2
    image = np.where(dark, 0.0, 1.0).reshape(2 * camera.height, 2 * camera.width)
    image = cv2.GaussianBlur(image, (0, 0), 2.0)  # a pixel: heat spreads
    image = cv2.resize(image, camera.size, interpolation=cv2.INTER_AREA)
    return 1.0 - image if warm else image


def counts(image: np.ndarray, seed: int) -> np.ndarray:
    """Two kelvin of contrast over a drift, with noise of 30 mK, in 0.01 K."""
    rng = np.random.default_rng(seed)
    drift = np.linspace(0.0, 80.0, image.shape[1])
    return np.rint(29_500 + 200.0 * image + drift + rng.normal(0, 3, image.shape)
                   ).astype(np.uint16)


@pytest.fixture(scope='module')
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of both cameras' images of a heated chessboard."""
    root = tmp_path_factory.mktemp('boards')
    (root / 'rgb').mkdir()
    (root / 'thermal').mkdir()
    for k, T in enumerate(board_poses(14)):
        cv2.imwrite(str(root / f'rgb/{k:02d}.png'),
                    np.rint(40 + 180 * picture(RGB_LENS, T, BOARD, False)).astype(np.uint8))
        cv2.imwrite(str(root / f'thermal/{k:02d}.png'), counts(
            picture(HEAT_LENS, se3.inverse(T_RGB_HEAT) @ T, BOARD, True), k))
    return root


def test_a_heated_board_gives_lenses_and_rig(recording: Path, tmp_path: Path,
                                             capsys: pytest.CaptureFixture):
    out, picture_of = tmp_path / 'rig.yaml', tmp_path / 'residuals.png'
    assert main(['calibrate-thermal', str(recording), str(out), '--board', 'chessboard', '--size',
                 '7x5', '--spacing', '0.05', '--report', str(picture_of), '--json',
                 str(tmp_path / 'f.json')]) == 0
    rig, figures = read_rig(out), json.loads((tmp_path / 'f.json').read_text())
    for name, truth in (('rgb', RGB_LENS), ('thermal', HEAT_LENS)):
        found = rig[name].camera
        assert found is not None
        assert found.fx == pytest.approx(truth.fx, rel=1e-2)
        assert (found.cx, found.cy) == pytest.approx((truth.cx, truth.cy), abs=1.5)
        assert found.distortion[0] == pytest.approx(truth.distortion[0], abs=0.03)
        assert figures[f'{name}_rms_px'] < 0.3
    assert rig['thermal'].T_rgb_sensor is not None
    metres, degrees = se3.distance(rig['thermal'].T_rgb_sensor, T_RGB_HEAT)
    assert metres < 6e-3
    assert degrees < 0.3
    assert cv2.imread(str(picture_of)).shape[1] > 1000
    words = figures['static_transform'].split()
    assert words[:4] == ['ros2', 'run', 'tf2_ros', 'static_transform_publisher']
    assert float(words[words.index('--x') + 1]) == pytest.approx(0.06, abs=3e-3)
    assert 'static_transform' in capsys.readouterr().out


@pytest.mark.parametrize('board', [Board(CIRCLES, 6, 5, 0.05), Board(ASYMMETRIC, 4, 7, 0.03)])
@pytest.mark.parametrize('warm', [False, True])
def test_circles_are_found(board: Board, warm: bool):
    middle = board.points().mean(axis=0)
    T = se3.from_parts(se3.so3_exp([0.2, -0.15, 0.05]), [0.0, 0.0, 0.6])
    T[:3, 3] -= T[:3, :3] @ middle
    image = np.rint(40 + 170 * picture(HEAT_LENS, T, board, warm)).astype(np.uint8)
    found = find_board(image, board)
    assert found is not None
    uv, _ = HEAT_LENS.project(se3.transform(T, board.points()))
    off = min(np.linalg.norm(found - other, axis=1).max() for other in (uv, uv[::-1]))
    assert off < 0.6


def test_too_few_boards_say_what_to_do(tmp_path: Path):
    with pytest.raises(RunError, match=r'too few images.*--size'):
        fit_lens({'a': np.zeros((35, 2))}, (320, 256), BOARD)


def test_rates_are_correlated():
    times = np.arange(0.0, 20.0, 0.04)
    rate = np.abs(np.sin(1.7 * times) + 0.6 * np.sin(4.1 * times + 1.0))
    later = TurnRates(times - 0.137, rate + 0.05)
    found = correlate(TurnRates(times, rate), later, 1.0)
    assert found.seconds == pytest.approx(0.137, abs=2e-3)
    still = TurnRates(times, np.random.default_rng(0).uniform(0.0, 1.0, len(times)))
    with pytest.raises(RunError, match='do not turn alike'):
        correlate(TurnRates(times, rate), still, 1.0)


def test_a_turned_rig_gives_the_time_offset(tmp_path: Path):
    """Thermal stamps are 80 ms too early; images at 15 and 12 per second."""
    wall, floor = textures()
    def seen(t: float) -> np.ndarray:
        turn = 0.25 * np.sin(1.9 * t) + 0.1 * np.sin(4.3 * t)
        T = se3.from_parts(se3.so3_exp([-0.1 + 0.3 * turn, turn, 0.0]), [0.0, 0.0, 0.3])
        return photograph(T, wall, floor, CAMERA.resized(160, 120)).clip(0, 255)
    lens = CAMERA.resized(160, 120)
    with BagWriter(tmp_path / 'bag', 'mcap') as bag:
        for name, rate, offset in (('rgb', 15, 0), ('thermal', 12, -80_000_000)):
            for k in range(6 * rate):
                stamp = 10**18 + round(k / rate * 1e9) + offset
                image = seen(k / rate)
                if name == 'rgb':
                    bag.image('/rgb/image_raw', stamp, 'rgb', image.astype(np.uint8), 'rgb8')
                else:
                    heat = np.rint(29_000 + 4.0 * image[..., 1]).astype(np.uint16)
                    bag.image('/thermal/image_raw', stamp, 'thermal', heat, '16UC1')
                bag.camera_info(f'/{name}/camera_info', stamp, name, lens)
    assert main(['calibrate-thermal', str(tmp_path / 'bag'), str(tmp_path / 'rig.yaml')]) == 0
    written = yaml.safe_load((tmp_path / 'rig.yaml').read_text())
    assert written['thermal_time_offset_s'] == pytest.approx(0.08, abs=0.012)
    with BagReader(tmp_path / 'bag') as reader:
        assert len(reader.topics) == 4


@pytest.mark.slow
def test_a_data_set_gives_the_lens(tmp_path: Path):
    """A focal length that is 4 % off, among posed views of a textured corner that turn freely."""
    wall, floor = textures()
    rng = np.random.default_rng(2)  # on an arc a focal length could pass for a depth
    poses = np.stack([se3.from_parts(
        se3.so3_exp(rng.uniform([-0.35, -0.2, -0.2], [0.05, 0.2, 0.2])),
        rng.uniform([-0.9, -0.5, -0.4], [0.9, 0.3, 0.6])) for _ in range(12)])
    (tmp_path / 'd/thermal').mkdir(parents=True)
    for k, T in enumerate(poses):
        image = np.rint(29_315 + 4.0 * photograph(T, wall, floor)[..., 1]).astype(np.uint16)
        cv2.imwrite(str(tmp_path / f'd/thermal/{k:02d}.png'), image)
    (tmp_path / 'c.yaml').write_text(
        f'thermal: {{w: 320, h: 240, fl_x: {1.04 * CAMERA.fx}, cx: 160.0, cy: 120.0}}')
    write_tum(tmp_path / 'p.tum', Trajectory(np.arange(12) * 10**9, poses))
    import_images(tmp_path / 'd', tmp_path / 'set', ImageImportConfig(
        poses=tmp_path / 'p.tum', cameras=tmp_path / 'c.yaml'))
    assert main(['calibrate-thermal', str(tmp_path / 'set'), str(tmp_path / 'rig.yaml'), '--into',
                 str(tmp_path / 'set/calibrated.json')]) == 0
    found = read_rig(tmp_path / 'rig.yaml')['thermal'].camera
    assert found is not None
    assert found.fx == pytest.approx(CAMERA.fx, rel=0.01)
    scene = load_scene(tmp_path / 'set/calibrated.json')
    assert scene.frames[0].records['thermal'].camera.fx == pytest.approx(found.fx)


@pytest.mark.parametrize('arguments, told', [
    (['--board', 'chessboard'], '--size CxR and --spacing'),
    (['--board', 'circles', '--size', '2x9', '--spacing', '0.1'], 'is no board'),
    ([], 'source is not known')])
def test_bad_input_is_one_error(tmp_path: Path, capsys: pytest.CaptureFixture,
                                arguments: list[str], told: str):
    (tmp_path / 'empty').mkdir()
    assert main(['calibrate-thermal', str(tmp_path / 'empty'), str(tmp_path / 'a.yaml'),
                 *arguments]) == 2
    assert told in capsys.readouterr().err.replace('\n', ' ')

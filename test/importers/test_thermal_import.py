# SPDX-License-Identifier: Apache-2.0
"""Thermal images alone become data sets: series, frozen images, contrast, poses, geo-anchor."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from textured_corner import CAMERA, photograph, poses as corner_poses, textures
import tifffile

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.geodesy import ecef, GeoAnchor, geodetic
from thermal_nerf_loc.geometry.similarity import umeyama
from thermal_nerf_loc.importers.bags.importer import import_bag, ImportConfig
from thermal_nerf_loc.importers.bags.pose_choice import PoseOptions
from thermal_nerf_loc.importers.images.importer import ImageImportConfig, import_images
from thermal_nerf_loc.importers.images.metric_scale import from_geotags
from thermal_nerf_loc.importers.images.thermal_series import open_series
from thermal_nerf_loc.io.bags.reader import BagWriter
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
from thermal_nerf_loc.io.geotags import GeoTag, GPS, write_geodetic
from thermal_nerf_loc.io.image_series import is_series, read_series
from thermal_nerf_loc.io.trajectory import Trajectory, write_tum
from thermal_nerf_loc.sensing.contrast import learn_pattern, stretched

RNG = np.random.default_rng(0)
CAMERA_FILE = """
thermal: {w: 320, h: 240, fl_x: 251.15, cx: 160.0, cy: 120.0}
"""


def heat(count: int, pattern: np.ndarray | float = 0.0) -> list[np.ndarray]:
    """Counts of 0.01 K of a textured corner, 20 to 30 deg C, with noise and a fixed pattern."""
    wall, floor = textures()
    rng = np.random.default_rng(count)  # the same whichever tests ran before
    return [np.rint(29315 + 4.0 * photograph(T, wall, floor)[..., 1] + pattern
                    + rng.normal(0.0, 3.0, (240, 320))).astype(np.uint16)
            for T in corner_poses(count)]


# Series

def unpacked(source: Path, tmp_path: Path, **options: float) -> tuple:
    scratch = tmp_path / 'scratch'
    scratch.mkdir(exist_ok=True)
    found = open_series(source, scratch, options.get('every_s', 0.2),
                        int(options.get('max_images', 100)))
    return found, [found.counts(name) for name in found.names]


def test_a_stack_is_unpacked_without_frozen_images(tmp_path: Path):
    images = [RNG.integers(0, 65535, (24, 32), np.uint16, True) for _ in range(5)]
    tifffile.imwrite(tmp_path / 'a.tif', np.stack([*images[:3], images[2], *images[3:]]))
    found, counts = unpacked(tmp_path / 'a.tif', tmp_path)
    assert (found.received, found.frozen, found.blurred) == (6, 1, 0)
    np.testing.assert_array_equal(np.stack(counts), np.stack(images))
    assert not found.stamps_ns
    tifffile.imwrite(tmp_path / 'one.tif', images[0])
    assert not is_series(tmp_path / 'one.tif')


def video(path: Path, frames: list[np.ndarray], code: str, fps: float = 10.0) -> Path:
    deep = frames[0].dtype == np.uint16
    options = [cv2.VIDEOWRITER_PROP_DEPTH, cv2.CV_16U, cv2.VIDEOWRITER_PROP_IS_COLOR, 0]
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*code), fps,
                             (width, height), options if deep else [])
    if not writer.isOpened():
        pytest.skip(f'this OpenCV cannot write {code}')
    for frame in frames:
        writer.write(frame if deep else np.dstack([frame] * 3) if frame.ndim == 2 else frame)
    writer.release()
    return path


def test_raw_video_keeps_its_counts(tmp_path: Path):
    frames = [RNG.integers(0, 65535, (48, 64), np.uint16, True) for _ in range(5)]
    path = video(tmp_path / 'a.mkv', frames, 'FFV1', 2.0)
    found, counts = unpacked(path, tmp_path)
    np.testing.assert_array_equal(np.stack(counts), np.stack(frames))
    assert list(found.stamps_ns.values())[:3] == [0, 500_000_000, 1_000_000_000]


def test_of_a_grey_video_the_sharpest_of_each_step_are_kept(tmp_path: Path):
    sharp = [heat(6)[k] for k in range(6)]
    frames = []
    for image in sharp:
        grey = stretched(image)
        frames += [cv2.GaussianBlur(grey, (0, 0), 4.0), grey, cv2.GaussianBlur(grey, (0, 0), 4.0)]
    path = video(tmp_path / 'a.mp4', frames, 'mp4v', 30.0)
    found, counts = unpacked(path, tmp_path, every_s=0.1)
    assert (len(counts), found.blurred) == (6, 12)
    assert counts[0].dtype == np.uint8
    assert found.names[1] == 'frame000004.png'


def test_what_is_no_series_is_refused(tmp_path: Path):
    colours = [RNG.integers(0, 255, (48, 64, 3)).astype(np.uint8) for _ in range(3)]
    with pytest.raises(InputError, match='false colours'):
        list(read_series(video(tmp_path / 'c.mp4', colours, 'mp4v')))
    (tmp_path / 'b.mkv').write_bytes(b'no video')
    with pytest.raises(InputError, match=r'no video that can be read.*ffmpeg'):
        list(read_series(tmp_path / 'b.mkv'))


# Contrast

def test_the_common_pattern_is_learned():
    columns = np.broadcast_to(RNG.normal(0.0, 40.0, 320), (240, 320))
    found = learn_pattern(heat(12, columns))
    assert found.image is not None
    fine = found.image - cv2.GaussianBlur(found.image, (0, 0), 8.0)
    assert np.corrcoef(fine.ravel(), columns.ravel())[0, 1] > 0.9
    assert learn_pattern(heat(12)).rms < found.rms
    assert learn_pattern(heat(3)).image is None


# Geodesy

def test_the_earth_is_where_it_is():
    np.testing.assert_allclose(ecef([[0.0, 0.0, 0.0], [90.0, 0.0, 0.0]]),
                               [[6378137.0, 0.0, 0.0], [0.0, 0.0, 6356752.314]], atol=1e-2)
    anchor = GeoAnchor(45.0, 7.0, 300.0)
    east, north, up = anchor.enu([[45.0, 7.001, 300.0], [45.001, 7.0, 300.0], [45.0, 7.0, 310.0]])
    np.testing.assert_allclose(east, [78.85, 0.0, 0.0], atol=0.05)
    np.testing.assert_allclose(north, [0.0, 111.13, 0.0], atol=0.05)
    np.testing.assert_allclose(up, [0.0, 0.0, 10.0], atol=1e-6)


def test_positions_go_to_the_earth_and_back(tmp_path: Path):
    known = np.array([[45.001, 7.002, 310.0], [-33.9, 151.2, 20.0], [0.0, 0.0, 5.0],
                      [78.2, 15.6, 900.0], [89.9, -170.0, 0.0]])
    np.testing.assert_allclose(geodetic(ecef(known)), known, atol=1e-6)
    anchor = GeoAnchor(45.0, 7.0, 300.0)
    np.testing.assert_allclose(anchor.geodetic(anchor.enu(known[:1])), known[:1], atol=1e-9)
    T = np.eye(4)[None].repeat(2, axis=0)
    T[1, :3, 3] = anchor.enu(known[:1])[0]
    write_geodetic(tmp_path / 'g.csv', Trajectory(np.array([5, 10**9 + 5]), T), anchor)
    lines = (tmp_path / 'g.csv').read_text().splitlines()
    assert lines[0] == 'stamp_s,latitude_deg,longitude_deg,height_m'
    assert lines[2] == '1.000000005,45.001000000,7.002000000,310.0000'


def test_tags_scale_and_anchor_unless_they_are_too_coarse():
    T = corner_poses(7)
    T[:, :3, 3] *= 20.0
    known = {f'{k}': pose for k, pose in enumerate(T)}
    metres = np.array([111_132.9, 78_847.0])  # of a degree at 45 deg
    def tags(noise_m: float) -> dict[str, GeoTag]:
        rng = np.random.default_rng(1)
        return {name: GeoTag(45.0 + (y + rng.normal(0, noise_m)) / metres[0],
                             7.0 + (x + rng.normal(0, noise_m)) / metres[1], z, GPS)
                for name, (x, y, z) in ((n, 3.0 * pose[:3, 3]) for n, pose in known.items())}
    metric, note = from_geotags(known, tags(0.0))
    assert metric is not None and not note
    assert metric.similarity.scale == pytest.approx(3.0, rel=2e-3)
    assert metric.geo_anchor is not None and metric.geo_anchor.latitude_deg == tags(0.0)['0'][0]
    none, note = from_geotags(known, tags(200.0))
    assert none is None and 'not used' in note


# From folder to data set

def write_heat(folder: Path, images: list[np.ndarray]) -> None:
    folder.mkdir(parents=True)
    for index, image in enumerate(images):
        cv2.imwrite(str(folder / f'{index:02d}.png'), image)


def test_given_poses_make_a_thermal_set(tmp_path: Path):
    write_heat(tmp_path / 'd/thermal', heat(4))
    (tmp_path / 'c.yaml').write_text(CAMERA_FILE)
    write_tum(tmp_path / 'p.tum', Trajectory(np.arange(4) * 10**9, corner_poses(4)))
    done = import_images(tmp_path / 'd', tmp_path / 'out', ImageImportConfig(
        poses=tmp_path / 'p.tum', cameras=tmp_path / 'c.yaml'))
    scene = load_scene(tmp_path / 'out')
    assert scene.modalities == ('thermal',)
    assert (done.figures['registered'], done.figures['rgb']) == (4, None)
    np.testing.assert_allclose(np.stack([f.T_world_cam for f in scene.frames]), corner_poses(4),
                               atol=1e-9)


@pytest.mark.slow
def test_heat_alone_gives_poses(tmp_path: Path):
    """Column noise, no lens, a frozen image: within 1 % and two degrees, as the lens is found."""
    pytest.importorskip('pycolmap', reason='needs pycolmap: pip install .[sfm]')
    stripes = np.random.default_rng(1).normal(0.0, 20.0, 320)
    images = heat(9, np.broadcast_to(stripes, (240, 320)))
    write_heat(tmp_path / 'd/thermal', [*images[:4], images[3], *images[4:]])
    done = import_images(tmp_path / 'd', tmp_path / 'out', ImageImportConfig())
    assert (done.figures['registered'], done.figures['frozen']) == (9, 1)
    T = np.stack([f.T_world_cam for f in load_scene(tmp_path / 'out').frames])
    fit = umeyama(T[:, :3, 3], corner_poses(9)[:, :3, 3], with_scale=True)
    for moved, true in zip(fit.apply(T), corner_poses(9)):
        metres, degrees = se3.distance(moved, true)
        assert metres < 0.03
        assert degrees < 2.0
    assert abs(done.figures['focal_px'] / CAMERA.fx - 1.0) < 0.05


def write_bag(path: Path, count: int) -> Path:
    """A thermal topic and its lens, twice a second; no poses."""
    with BagWriter(path, 'mcap') as bag:
        for index, image in enumerate(heat(count)):
            stamp = 10**18 + index * 500_000_000
            bag.image('/thermal/image_raw', stamp, 'thermal_optical', image, '16UC1')
            bag.camera_info('/thermal/camera_info', stamp, 'thermal_optical', CAMERA)
    return path


def test_a_bag_without_poses_says_how_to_get_them(tmp_path: Path):
    bag = write_bag(tmp_path / 'bag', 2)
    with pytest.raises(InputError, match=r'no poses.*--poses-from-images'):
        import_bag(bag, tmp_path / 'out')
    with pytest.raises(InputError, match='one place only'):
        PoseOptions(topic='/odom', from_images=True)


@pytest.mark.slow
def test_a_thermal_topic_alone_gives_poses(tmp_path: Path):
    pytest.importorskip('pycolmap', reason='needs pycolmap: pip install .[sfm]')
    done = import_bag(write_bag(tmp_path / 'bag', 9), tmp_path / 'out',
                      ImportConfig(poses=PoseOptions(from_images=True)))
    scene = load_scene(tmp_path / 'out')
    assert scene.modalities == ('thermal',) and 'arbitrary' in scene.notices[0]
    assert len(scene.frames) >= 8
    assert 'structure from motion' in done.figures['poses']
    T = np.stack([frame.T_world_cam for frame in scene.frames])
    true = corner_poses(9)[[(frame.stamp_ns - 10**18) // 500_000_000 for frame in scene.frames]]
    fit = umeyama(T[:, :3, 3], true[:, :3, 3], with_scale=True)
    for moved, pose in zip(fit.apply(T), true):
        metres, degrees = se3.distance(moved, pose)
        assert metres < 0.03
        assert degrees < 1.0

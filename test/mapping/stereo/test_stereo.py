# SPDX-License-Identifier: Apache-2.0
"""Stereo from images to depth, against the depth of analytic and simulated worlds."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera, CameraModel
from thermal_nerf_loc.io.atomic_files import on_disk
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
from thermal_nerf_loc.io.datasets.scene import load_image
from thermal_nerf_loc.mapping.stereo import stereo
from thermal_nerf_loc.mapping.stereo.stereo import stereo_depth
from thermal_nerf_loc.sensing.frame import SensorImage
from thermal_nerf_loc.simulation.record import simulate_dataset, SimulationConfig

WIDE = Camera.from_fov(80, 60, 80.0)
BARREL = replace(WIDE, model=CameraModel.OPENCV, distortion=(-0.2, 0.04, 0.001, 0.0))
FISHEYE = Camera(80, 80, 25.4, 25.4, 40.0, 40.0, CameraModel.OPENCV_FISHEYE, (0.,) * 4)
_TEXTURE = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(600, 600)).astype(np.float32),
                            (0, 0), 2.0)


def photograph(T, camera):
    """A textured wall 2 m ahead, with a box 0.5 m before it; image and depth along z."""
    rays = camera.rays() @ T[:3, :3].T
    away = rays[:, 2] < 0.05
    depth, values = np.full(len(rays), np.inf), np.zeros(len(rays), np.float32)
    for z, half in ((2.0, 6.0), (1.5, 0.4)):
        t = np.where(away, np.inf, (z - T[2, 3]) / np.where(away, 1.0, rays[:, 2]))
        hit = T[:3, 3] + np.where(np.isfinite(t), t, 0.0)[:, None] * rays
        shown = (np.abs(hit[:, :2]).max(axis=1) < half) & (t < depth) & ~away
        at = (hit[:, :2] * 60.0 + 300.0 + 77.0 * (z - 2.0)).astype(np.float32)
        seen = cv2.remap(_TEXTURE, at[:, 0], at[:, 1], cv2.INTER_LINEAR,
                         borderMode=cv2.BORDER_REFLECT).ravel()
        depth, values = np.where(shown, t, depth), np.where(shown, seen, values)
    z = np.where(np.isfinite(depth), depth, 0.0) * camera.rays()[:, 2]
    shape = camera.height, camera.width
    return 10.0 * values.reshape(*shape, 1), z.reshape(shape)


def places(count=10, turn_only=False):
    """Views beside each other, that look at the box."""
    shifts = 0.0 if turn_only else 1.0
    return [se3.from_parts(se3.so3_exp([0.03 * (k % 3), 0.1 * (4.5 - k) / 4.5, 0.02 * k]),
                           shifts * np.array([0.1 * (k - 4.5), 0.08 * (k % 3), 0.03 * (k % 2)]))
            for k in range(count)]


def found_and_true(camera, poses, **options):
    """Stereo of photographs, and their depths."""
    shots = [photograph(T, camera) for T in poses]
    found = stereo_depth(
        'rgb', [camera] * len(poses), poses,
        lambda k: SensorImage(camera, shots[k][0].astype(np.float32), k), **options)
    return found, [depth for _, depth in shots]


def errors(found, true, cameras):
    """Relative errors and confidence of all depths that are known, and their share."""
    off, sure, count = [], [], 0
    for k, camera in enumerate(cameras):
        depth, confidence = found.at_image(k, camera)
        known = (confidence > 0.0) & (true[k] > 0.0)
        off.append(np.abs(depth[known] / true[k][known] - 1.0))
        sure.append(confidence[known])
        count += known.size
    off, sure = np.concatenate(off), np.concatenate(sure)
    return off, sure, len(off) / count


@pytest.mark.parametrize('camera, least, median', [
    (WIDE, 0.7, 0.006), (BARREL, 0.7, 0.006), (FISHEYE, 0.15, 0.02)])
def test_a_wall_and_a_box_by_any_lens(camera, least, median):
    """Pinhole, distorted, and a fisheye of 180 degrees, whose 80 pixels are coarse."""
    found, true = found_and_true(camera, places())
    off, sure, share = errors(found, true, [camera] * 10)
    assert share > least
    assert np.median(off) < median
    assert (off < 0.05).mean() > (0.8 if camera is FISHEYE else 0.95)
    assert off[sure > 0.9].mean() < off[sure < 0.7].mean()
    assert found.disagreement < 0.02 and 0.0 < found.share < 1.0


def test_the_same_from_disk_and_in_little_time():
    """Temporary files change nothing; with no time left the views are small, and still right."""
    messages = []
    memory, _ = found_and_true(WIDE, places())
    disk, true = found_and_true(WIDE, places(), allocate=on_disk)
    assert isinstance(disk.depth_m, np.memmap)
    np.testing.assert_array_equal(memory.depth_m, disk.depth_m)
    big = Camera.from_fov(160, 120, 80.0)
    small, true = found_and_true(big, places(), max_seconds=0.0,
                                 progress=lambda done, total, message: messages.append(message))
    assert small.views.cameras[0].width == 96
    assert any('96 px wide to save time' in message for message in messages)
    off, _, share = errors(small, true, [big] * 10)
    assert share > 0.6 and np.median(off) < 0.01


def test_images_of_different_sizes():
    """Two lenses in one set."""
    cameras = [WIDE if k % 2 else Camera.from_fov(64, 64, 70.0) for k in range(10)]
    shots = [photograph(T, camera) for T, camera in zip(places(), cameras, strict=True)]
    found = stereo_depth('thermal', cameras, places(), lambda k: SensorImage(
        cameras[k], shots[k][0].astype(np.float32), k))
    off, _, share = errors(found, [depth for _, depth in shots], cameras)
    assert share > 0.6 and np.median(off) < 0.008


@pytest.mark.parametrize('what', ['one', 'turns', 'masks', 'flat', 'tiny'])
def test_where_nothing_can_match_nothing_is_claimed(what):
    """One image, cameras that only turn, masks over everything, no texture, 8 x 8 pixels."""
    camera = WIDE.resized(8, 8) if what == 'tiny' else WIDE
    poses = places(1 if what == 'one' else 6, turn_only=what == 'turns')
    values = [photograph(T, camera)[0].astype(np.float32) for T in poses]
    if what == 'flat':
        values = [np.full_like(image, 21.5) for image in values]
    valid = np.zeros((camera.height, camera.width), bool) if what == 'masks' else None
    found = stereo_depth('thermal', [camera] * len(poses), poses,
                         lambda k: SensorImage(camera, values[k], k, valid=valid))
    assert np.isfinite(found.depth_m).all() and np.isfinite(found.confidence).all()
    assert found.share < (0.5 if what == 'tiny' else 0.02)
    assert found.at_image(0, camera)[0].shape == (camera.height, camera.width)


@pytest.mark.parametrize('name', ['rgb', 'thermal'])
def test_a_simulated_room(tmp_path_factory, name):
    """Twelve views of 80 x 60, with the noise and the drift of real cameras."""
    folder = tmp_path_factory.mktemp('stereo') / 'room'
    simulate_dataset(folder, SimulationConfig(frames=12, size=(80, 60), thermal_size=(80, 60),
                                              laps=0.3, held_out_share=0.1))
    scene = load_scene(folder)
    records = [scene.frames[i].records[name] for i in scene.train]
    poses = [scene.frames[i].T_world_cam @ record.T_cam_sensor
             for i, record in zip(scene.train, records, strict=True)]
    found = stereo_depth(name, [record.camera for record in records], poses,
                         lambda k: load_image(name, records[k].without_depth()))
    true = [scene.load(i).images[name].depth_m for i in scene.train]
    off, sure, share = errors(found, true, [record.camera for record in records])
    assert share > 0.25
    assert np.median(off) < 0.02
    assert (off < 0.05).mean() > 0.75
    assert off[sure > np.median(sure)].mean() < off[sure < np.median(sure)].mean()


def test_width_falls_with_the_square_root_of_the_time():
    """A quarter of the time halves the width; never wider than now, nor below 96."""
    assert stereo._affordable_width(320, 0.25) == 160
    assert stereo._affordable_width(320, 9.0) == 320
    assert stereo._affordable_width(320, 0.0) == 96
    assert stereo._affordable_width(80, 0.0) == 80

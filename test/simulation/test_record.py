# SPDX-License-Identifier: Apache-2.0
"""What is written can be read back, and shows the world from where it says."""

from dataclasses import replace
import json

import numpy as np
import pytest

from thermal_nerf_loc.cli import main
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import CameraModel
from thermal_nerf_loc.io.bags.reader import BagReader
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
from thermal_nerf_loc.sensing.frame import RGB, THERMAL
from thermal_nerf_loc.simulation.layouts import make_world
from thermal_nerf_loc.simulation.record import (
    held_out_frames, make_rig, RADIOMETRY, render_depth, render_image, simulate_bag,
    simulate_dataset, SimulationConfig, START_NS)
from thermal_nerf_loc.simulation.sensors import RgbSensor, ThermalSensor

TINY = SimulationConfig(frames=6, size=(48, 36), clean=True, distorted=True)
BAG = replace(TINY, seconds=1.0, thermal_hz=20.0, rgb_hz=10.0)


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp('simulated') / 'room'
    ticks = []
    simulate_dataset(root, TINY, lambda done, total, message='': ticks.append((done, total)))
    assert ticks[-1] == (7, 7)
    return root


def test_a_clean_data_set_is_the_world(dataset):
    scene, world = load_scene(dataset), make_world('room')
    assert (len(scene.train), len(scene.test)) == (6, 1)
    assert scene.modalities == (RGB, THERMAL)
    for index in range(7):
        frame = scene.load(index)
        for modality, tolerance in ((RGB, 0.51 / 255), (THERMAL, 0.0051)):
            image = frame.images[modality]
            T = frame.T_world_cam @ image.T_cam_sensor
            exact = render_image(world, modality, image.camera, T, 2)
            assert np.abs(image.values - exact).max() < tolerance + 1e-4
            depth = render_depth(world, image.camera, T)
            assert np.median(np.abs(image.depth_m - depth)) < 0.6e-3
    rgb, thermal = (frame.images[m] for m in (RGB, THERMAL))
    assert thermal.radiometric
    assert rgb.camera.model is CameraModel.OPENCV
    assert thermal.camera.size == (36, 27)
    shift, turn_deg = se3.distance(np.eye(4), thermal.T_cam_sensor)
    assert 0.03 < shift < 0.06
    assert thermal.T_cam_sensor[0, 3] > 0.04  # to the right of the RGB camera
    assert 0.5 < turn_deg < 2.0


def test_the_split_lies_on_two_paths(dataset):
    scene = load_scene(dataset)
    train = {scene.frames[i].name for i in scene.split('train')}
    test = {scene.frames[i].name for i in scene.split('test')}
    assert all('train' in name for name in train)
    assert all('test' in name for name in test)


def test_the_same_seed_writes_the_same_bytes(tmp_path):
    settings = replace(TINY, frames=2, clean=False)
    for name, chosen in (('a', settings), ('b', settings), ('c', replace(settings, seed=1))):
        simulate_dataset(tmp_path / name, chosen)
    contents = [{f.relative_to(tmp_path / name): f.read_bytes()
                 for f in sorted((tmp_path / name).rglob('*')) if f.is_file()}
                for name in 'abc']
    assert contents[0] == contents[1]
    assert contents[0].keys() == contents[2].keys()
    assert contents[0] != contents[2]


def test_noise_reaches_the_files_and_darkness_too(tmp_path):
    noisy = replace(TINY, frames=2, clean=False)
    simulate_dataset(tmp_path / 'noisy', noisy)
    simulate_dataset(tmp_path / 'dark', replace(noisy, rgb=RgbSensor(darkness=1.0)))
    simulate_dataset(tmp_path / 'clean', replace(noisy, clean=True))
    noisy, dark, clean = (load_scene(tmp_path / name).load(0).images
                          for name in ('noisy', 'dark', 'clean'))
    assert 0.05 < np.abs(noisy[THERMAL].values - clean[THERMAL].values).mean() < 2.0
    assert np.abs(noisy[RGB].values - clean[RGB].values).mean() > 0.005
    assert dark[RGB].values.mean() < 0.01
    np.testing.assert_array_equal(dark[THERMAL].values, noisy[THERMAL].values)


def read(path):
    with BagReader(path) as bag:
        topics = bag.topics
        messages = [(m.topic, m.stamp_ns, m.message) for m in bag.messages()]
    return topics, messages


def pose_of(m):
    p, q = (m.translation, m.rotation) if hasattr(m, 'translation') else (m.position,
                                                                         m.orientation)
    return se3.from_quaternion((p.x, p.y, p.z), (q.x, q.y, q.z, q.w))


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_a_bag_holds_what_a_robot_would_record(tmp_path, storage):
    simulate_bag(tmp_path / 'bag', replace(BAG, storage=storage))
    topics, messages = read(tmp_path / 'bag')
    counts = {topic: sum(t == topic for t, _, _ in messages) for topic in topics}
    assert counts == {
        '/rgb/image_raw': 11, '/rgb/image_raw/compressed': 11, '/rgb/camera_info': 11,
        '/thermal/image_raw': 21, '/thermal/image_raw/compressed': 21,
        '/thermal/camera_info': 21, '/odom': 51, '/tf': 51, '/tf_static': 1,
        '/ground_truth/pose': 51}
    stamps = [stamp for _, stamp, _ in messages]
    assert stamps == sorted(stamps)
    assert (stamps[0], stamps[-1]) == (START_NS, START_NS + 1_000_000_000)


def test_images_in_a_bag_show_the_world_from_the_true_pose(tmp_path):
    simulate_bag(tmp_path / 'bag', BAG)
    _, messages = read(tmp_path / 'bag')
    truth = {stamp: pose_of(m.pose) for topic, stamp, m in messages
             if topic == '/ground_truth/pose'}
    static = next(m for topic, _, m in messages if topic == '/tf_static')
    T_base = {t.child_frame_id: pose_of(t.transform) for t in static.transforms}
    assert {t.header.frame_id for t in static.transforms} == {'base_link'}
    world, checked = make_world('room'), 0
    cameras = load_cameras(tmp_path)
    for topic, stamp, m in messages:
        if topic not in ('/rgb/image_raw', '/thermal/image_raw') or stamp not in truth:
            continue
        modality = topic.split('/')[1]
        T = truth[stamp] @ T_base[m.header.frame_id]
        exact = render_image(world, modality, cameras[modality], T, 2)
        if modality == RGB:
            assert m.encoding == 'rgb8'
            pixels = m.data.reshape(m.height, m.width, 3) / 255.0
            tolerance = 0.51 / 255
        else:
            assert m.encoding == '16UC1'
            pixels = RADIOMETRY.to_celsius(m.data.view('<u2').reshape(m.height, m.width, 1))
            tolerance = 0.0051
        # poses went through a quaternion: a pixel on an edge may see the other side of it
        assert np.quantile(np.abs(pixels - exact), 0.999) < tolerance + 1e-4
        checked += 1
    assert checked > 10


def load_cameras(tmp_path):
    simulate_dataset(tmp_path / 'rig', replace(TINY, frames=2))
    return {m: i.camera for m, i in load_scene(tmp_path / 'rig').load(0).images.items()}


def test_odometry_in_a_bag_starts_at_the_origin_and_tells_tf_the_same(tmp_path):
    simulate_bag(tmp_path / 'bag', replace(BAG, clean=False))
    _, messages = read(tmp_path / 'bag')
    odometry = {stamp: m for topic, stamp, m in messages if topic == '/odom'}
    tf = {stamp: m.transforms[0] for topic, stamp, m in messages if topic == '/tf'}
    assert odometry.keys() == tf.keys()
    np.testing.assert_allclose(pose_of(odometry[START_NS].pose.pose), np.eye(4), atol=1e-12)
    for stamp, m in odometry.items():
        assert (m.header.frame_id, m.child_frame_id) == ('odom', 'base_link')
        assert (tf[stamp].header.frame_id, tf[stamp].child_frame_id) == ('odom', 'base_link')
        np.testing.assert_allclose(pose_of(m.pose.pose), pose_of(tf[stamp].transform), atol=1e-12)


def test_shutter_events_freeze_the_recorded_images(tmp_path):
    settings = replace(BAG, size=(32, 24), clean=False, seconds=4.0, rgb_hz=1.0, odometry_hz=1.0,
                       supersampling=1,
                       thermal=ThermalSensor(nuc_period_s=2.1, nuc_shortest_s=0.5))
    simulate_bag(tmp_path / 'bag', settings)
    _, messages = read(tmp_path / 'bag')
    images = [bytes(m.data) for topic, _, m in messages if topic == '/thermal/image_raw']
    same = [a == b for a, b in zip(images[1:], images[:-1], strict=True)]
    assert 8 <= sum(same) <= 45
    assert not same[0]


def test_the_command_writes_both_and_tells_its_figures(tmp_path, capsys):
    out = tmp_path / 'hall'
    code = main(['simulate', str(out), '--scene', 'hall', '--frames', '3', '--size', '32x24',
                 '--thermal-size', '20x16', '--bag', '--seconds', '0.3', '--storage', 'sqlite3',
                 '--trajectory', 'planar', '--darkness', '0.5', '--json',
                 str(tmp_path / 'figures.json')])
    assert code == 0, capsys.readouterr().err
    figures = json.loads((tmp_path / 'figures.json').read_text())
    assert (figures['train_frames'], figures['test_frames']) == (3, 1)
    scene = load_scene(out)
    assert scene.load(0).images[THERMAL].camera.size == (20, 16)
    assert '/thermal/image_raw' in read(out / 'bag')[0]


@pytest.mark.parametrize('arguments, reason', [
    (['--scene', 'kitchen'], 'one of room, hall, machine_room'),
    (['--frames', '1'], '2 to 100000'),
    (['--size', '160'], 'no image size'),
    (['--size', '4x4'], 'image size is impossible'),
    (['--darkness', '1.5'], '0 to 1'),
    (['--trajectory', 'walk'], 'invalid choice'),
])
def test_the_command_refuses_nonsense(tmp_path, capsys, arguments, reason):
    assert main(['simulate', str(tmp_path / 'out'), *arguments]) == 2
    assert reason in ' '.join(capsys.readouterr().err.split())
    assert not (tmp_path / 'out').exists()


def test_nothing_is_overwritten(dataset):
    before = (dataset / 'transforms.json').read_bytes()
    with pytest.raises(InputError, match='exists already'):
        simulate_dataset(dataset, TINY)
    assert (dataset / 'transforms.json').read_bytes() == before


def test_the_thermal_camera_is_mounted_as_set():
    settings = SimulationConfig(thermal_offset_m=(0.1, -0.02, 0.03),
                                thermal_tilt_deg=(0.0, 0.0, 90.0))
    T = make_rig(settings).T_rgb_thermal
    np.testing.assert_allclose(T[:3, 3], [0.1, -0.02, 0.03], atol=1e-12)
    np.testing.assert_allclose(T[:3, :3], [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-12)
    with pytest.raises(InputError, match=r'thermal_offset_m: .*three numbers'):
        SimulationConfig(thermal_offset_m=(0.1, 0.0))


def test_the_share_of_held_out_frames_is_as_set():
    assert held_out_frames(SimulationConfig(frames=10)) == 2
    assert held_out_frames(SimulationConfig(frames=10, held_out_share=0.5)) == 5

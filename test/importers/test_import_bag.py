# SPDX-License-Identifier: Apache-2.0
"""Bags become data sets: every image at the pose of its own moment, whatever the bag is."""

import itertools
import json
from pathlib import Path
import shutil

import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionMode
from small_drive import (
    as_ros1, cut, repacked, RGB, rgb_number, split, stamps, START_NS, T_map_camera,
    T_RGB_THERMAL, THERMAL, thermal_number, write_drive)

from thermal_nerf_loc.cli import main
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.importers.bags.importer import import_bag, ImportConfig
from thermal_nerf_loc.importers.bags.keyframe_selection import (
    choose_windows, KeyframeRule, sharpness)
from thermal_nerf_loc.importers.bags.pose_choice import PoseOptions
from thermal_nerf_loc.io.bags.reader import BagReader
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
from thermal_nerf_loc.io.trajectory import Trajectory, write_tum

EVERY = KeyframeRule(min_m=0.0, min_deg=0.0)  # every image


@pytest.fixture(scope='module')
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drive(tmp_path_factory.mktemp('bags') / 'drive')


def check(data: Path, at_least: int = 10, both: bool = True) -> list[int]:
    """Hold every image of a data set against the truth; returns the numbers of RGB images."""
    scene, numbers = load_scene(data), []
    for index in scene.split('all'):
        frame = scene.load(index)
        for modality, number in (('rgb', rgb_number), ('thermal', thermal_number)):
            if modality not in frame.images:
                assert not both
                continue
            image = frame.images[modality]
            i = number(image.values)
            assert image.stamp_ns == stamps(modality)[i]
            T = frame.T_world_cam @ image.T_cam_sensor
            metres, degrees = se3.distance(T, T_map_camera(image.stamp_ns, modality))
            assert metres < 1e-6 and degrees < 1e-5
            assert image.camera.size == (RGB if modality == 'rgb' else THERMAL).size
            if modality == 'rgb':
                numbers.append(i)
    assert len(numbers) >= at_least
    assert numbers == sorted(set(numbers))
    return numbers


@pytest.mark.parametrize('poses, storage', [('tf', 'mcap'), ('odometry', 'sqlite3'),
                                            ('pose', 'mcap')])
def test_every_image_has_the_pose_of_its_own_moment(tmp_path: Path, poses: str, storage: str):
    drive = write_drive(tmp_path / 'drive', storage, poses=poses)
    done = import_bag(drive, tmp_path / 'out', ImportConfig(keyframes=EVERY))
    numbers = check(tmp_path / 'out', 25, both=False)
    assert done.loss == ''
    assert done.figures['train_frames'] + done.figures['test_frames'] == len(numbers)
    assert ('drifts' in ' '.join(done.notes)) == (poses == 'odometry')
    scene = load_scene(tmp_path / 'out')
    assert 3 <= len(scene.test) <= 4
    assert scene.frames[0].records['rgb'].camera == RGB


def test_the_common_mounting_is_that_of_tf(bag: Path, tmp_path: Path):
    import_bag(bag, tmp_path / 'out')
    content = json.loads((tmp_path / 'out' / 'transforms.json').read_text())
    np.testing.assert_allclose(content['thermal']['transform_rgb_thermal'], T_RGB_THERMAL,
                               atol=1e-9)
    assert content['thermal']['celsius_per_count'] == 0.01
    moved = [frame['thermal']['transform_rgb_thermal'] for frame in content['frames']
             if 'thermal' in frame]
    assert moved  # the stamps of the two cameras differ
    assert all(0.0 < se3.distance(np.array(T), T_RGB_THERMAL)[0] < 0.05 for T in moved)


def test_keyframes_lie_a_step_apart_and_are_the_sharp_ones(bag: Path, tmp_path: Path):
    rule = KeyframeRule(min_m=0.28, min_deg=180.0)  # 5.6 images
    import_bag(bag, tmp_path / 'out', ImportConfig(keyframes=rule))
    numbers = check(tmp_path / 'out', 5)
    assert np.diff(numbers).min() >= 4
    assert sum(number % 3 == 0 for number in numbers) >= 0.8 * len(numbers)


def test_at_most_so_many_keyframes(bag: Path, tmp_path: Path):
    done = import_bag(bag, tmp_path / 'out',
                      ImportConfig(keyframes=KeyframeRule(min_m=0.01, max_frames=12)))
    count = done.figures['train_frames'] + done.figures['test_frames']
    assert 8 <= count <= 12


@pytest.mark.parametrize('kind', ['split', 'split sqlite3', 'file', 'message', 'storage',
                                  'ros1', 'ros1 lz4', 'ros1 bz2', 'single file'])
def test_every_kind_of_bag_gives_the_same(bag: Path, tmp_path: Path, kind: str):
    out = tmp_path / ('drive.bag' if 'ros1' in kind else 'drive')
    middle = START_NS + 1_500_000_000
    if kind.startswith('split'):
        split(bag, out, middle, 'sqlite3' if 'sqlite3' in kind else 'mcap')
    elif kind.startswith('ros1'):
        formats = Writer1.CompressionFormat
        as_ros1(bag, out, {'ros1 lz4': formats.LZ4, 'ros1 bz2': formats.BZ2}.get(kind))
    elif kind == 'single file':
        out = next(bag.glob('*.mcap'))
    else:
        repacked(bag, out, CompressionMode[kind.upper()])
    import_bag(bag, tmp_path / 'a')
    done = import_bag(out, tmp_path / 'b')
    assert done.loss == ''
    files = [sorted(p.relative_to(root) for p in root.rglob('*') if p.is_file())
             for root in (tmp_path / 'a', tmp_path / 'b')]
    assert files[0] == files[1]
    assert all((tmp_path / 'a' / f).read_bytes() == (tmp_path / 'b' / f).read_bytes()
               for f in files[0])


@pytest.mark.parametrize('kind', ['mcap', 'sqlite3', 'storage', 'file', 'message', 'ros1',
                                  'ros1 lz4'])
@pytest.mark.parametrize('share', [0.55, 0.9])
def test_a_bag_that_was_cut_gives_what_is_whole(bag: Path, tmp_path: Path, capfd, kind: str,
                                                share: float):
    out = tmp_path / ('drive.bag' if 'ros1' in kind else 'drive')
    if kind.startswith('ros1'):
        file = as_ros1(bag, out, Writer1.CompressionFormat.LZ4 if 'lz4' in kind else None)
    else:
        if kind == 'mcap':
            shutil.copytree(bag, out)
        elif kind == 'sqlite3':
            write_drive(out, 'sqlite3')
        else:
            repacked(bag, out, CompressionMode[kind.upper()])
        file = next(f for f in out.iterdir() if f.name != 'metadata.yaml')
    cut(file, share)
    code = main(['import-bag', str(out), str(tmp_path / 'set'), '--min-m', '0', '--min-deg', '0',
                 '--json', str(tmp_path / 'figures.json')])
    said = ' '.join(capfd.readouterr().err.split())
    assert code == 3, said
    assert 'bag was cut short; its readable part was imported' in said
    assert 'MiB' in said and ('messages are lost' in said or 'lost is unknown' in said)
    numbers = check(tmp_path / 'set', 8, both=False)
    assert max(numbers) < 29
    assert json.loads((tmp_path / 'figures.json').read_text())['lost']
    with pytest.raises(InputError, match='bag cannot be read'), BagReader(out):
        pass


def test_a_recording_without_its_metadata_is_read(bag: Path, tmp_path: Path):
    shutil.copytree(bag, tmp_path / 'drive')
    (tmp_path / 'drive' / 'metadata.yaml').unlink()
    assert import_bag(tmp_path / 'drive', tmp_path / 'out').loss == ''
    check(tmp_path / 'out')


def test_a_part_of_a_split_bag_may_be_missing(bag: Path, tmp_path: Path):
    split(bag, tmp_path / 'drive', START_NS + 1_500_000_000)
    (tmp_path / 'drive' / 'drive_1.mcap').unlink()
    done = import_bag(tmp_path / 'drive', tmp_path / 'out')
    assert 'drive_1.mcap is missing' in done.loss
    check(tmp_path / 'out', 5)


@pytest.mark.parametrize('content', [b'', b'nothing of the kind', b'\x89MCAP0\r\n' + bytes(99)])
def test_what_holds_nothing_is_refused(tmp_path: Path, capfd, content: bytes):
    (tmp_path / 'drive.mcap').write_bytes(content)
    assert main(['import-bag', str(tmp_path / 'drive.mcap'), str(tmp_path / 'out')]) == 2
    assert 'bag cannot be read' in capfd.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_images_in_a_gap_are_left_out_and_counted(tmp_path: Path):
    drive = write_drive(tmp_path / 'drive', gap=True)
    done = import_bag(drive, tmp_path / 'out', ImportConfig(keyframes=EVERY))
    numbers = check(tmp_path / 'out', both=False)
    assert not [i for i in numbers if 16 <= i <= 29]
    (gap,) = done.figures['gaps']
    assert gap == {'start_s': pytest.approx(1.6), 'end_s': pytest.approx(2.9), 'images': 14}
    assert 'no pose from 1.60 s to 2.90 s: 14 rgb images left out' in ' '.join(done.notes)
    wide = ImportConfig(keyframes=EVERY, poses=PoseOptions(max_gap_s=2.0))
    import_bag(drive, tmp_path / 'wide', wide)
    assert len(check(tmp_path / 'wide', both=False)) > len(numbers) + 10


def test_poses_from_a_file(tmp_path: Path):
    drive = write_drive(tmp_path / 'drive', poses='none')
    at = np.arange(START_NS, START_NS + 3 * 10**9, 10**8)
    write_tum(tmp_path / 'run.tum', Trajectory(
        at, np.stack([T_map_camera(int(stamp), 'rgb') for stamp in at])))
    options = PoseOptions(file=tmp_path / 'run.tum', frame='rgb_optical')
    import_bag(drive, tmp_path / 'out', ImportConfig(poses=options))
    check(tmp_path / 'out')
    with pytest.raises(InputError, match='bag has no poses'):
        import_bag(drive, tmp_path / 'none')
    assert not (tmp_path / 'none').exists()


def test_topics_are_found_by_what_they_hold(tmp_path: Path):
    drive = write_drive(tmp_path / 'drive', topics=('front', 'back'))
    done = import_bag(drive, tmp_path / 'out')
    assert (done.figures['rgb_topic'], done.figures['thermal_topic']) == (
        '/front/image_raw', '/back/image_raw')


def test_when_unsure_it_lists_what_is_there(tmp_path: Path, capfd):
    def second(writer) -> None:
        writer.image('/lwir2/image_raw', START_NS, 'x', np.ones((4, 4), np.uint16), '16UC1')

    drive = write_drive(tmp_path / 'drive', change=second)
    assert main(['import-bag', str(drive), str(tmp_path / 'out')]) == 2
    said = ' '.join(capfd.readouterr().err.split())
    for part in ('several topics that may be the thermal camera', '--thermal-topic',
                 '/lwir2/image_raw (sensor_msgs/Image, 1)',
                 '/thermal/image_raw (sensor_msgs/Image, 27)', '/tf (tf2_msgs/TFMessage, 151)'):
        assert part in said
    assert main(['import-bag', str(drive), str(tmp_path / 'out'), '--thermal-topic',
                 '/thermal/image_raw']) == 0
    check(tmp_path / 'out')


@pytest.mark.parametrize('option', ['--rgb-topic', '--thermal-topic', '--pose-topic',
                                    '--rgb-info-topic'])
def test_a_named_topic_that_is_missing_lists_what_is_there(bag: Path, tmp_path: Path, capfd,
                                                           option: str):
    assert main(['import-bag', str(bag), str(tmp_path / 'out'), option, '/nowhere']) == 2
    said = ' '.join(capfd.readouterr().err.split())
    assert '/nowhere' in said and option in said
    assert '/rgb/image_raw (sensor_msgs/Image, 30)' in said
    assert not (tmp_path / 'out').exists()


def test_rectified_images_are_those_of_a_pinhole(bag: Path, tmp_path: Path):
    import_bag(bag, tmp_path / 'out', ImportConfig(rectify=True))
    scene = load_scene(tmp_path / 'out')
    image = scene.load(0).images['rgb']
    assert image.camera == RGB.undistorted()
    # straight against our own resampling of the image as it was
    from small_drive import rgb_pixels

    from thermal_nerf_loc.geometry.undistort import undistort_image
    i = stamps('rgb').index(image.stamp_ns)
    ours = undistort_image(rgb_pixels(i) / 255.0, RGB)
    valid = ours.valid & (image.valid if image.valid is not None else True)
    assert valid.mean() > 0.8
    assert np.abs(ours.values - image.values)[valid].max() < 2.5 / 255


def test_agc_images_are_no_temperatures(tmp_path: Path, capfd):
    drive = write_drive(tmp_path / 'drive', thermal_encoding='mono8')
    done = import_bag(drive, tmp_path / 'out')
    assert done.figures['thermal_scale'] == 'not radiometric'
    assert 'no temperatures' in ' '.join(done.notes)
    assert not load_scene(tmp_path / 'out').load(3).images['thermal'].radiometric
    assert main(['import-bag', str(drive), str(tmp_path / 'hot'), '--thermal-camera',
                 'flir-boson']) == 2
    assert '8-bit thermal image called radiometric' in capfd.readouterr().err


@pytest.mark.parametrize('options, celsius', [
    (['--thermal-camera', 'flir-boson'], 16.85),
    (['--thermal-camera', 'flir-ax5'], 886.85),
    (['--thermal-camera', 'optris-pi'], 2800.0),
    (['--celsius-per-count', '0.002', '--celsius-offset', '-40'], 18.0)])
def test_what_counts_mean(bag: Path, tmp_path: Path, options: list[str], celsius: float):
    assert main(['import-bag', str(bag), str(tmp_path / 'out'), *options]) == 0
    values = load_scene(tmp_path / 'out').load(0).images['thermal'].values
    assert np.median(values) == pytest.approx(celsius, rel=0.01)


@pytest.mark.parametrize('options, reason', [
    (['--thermal-camera', 'bosun'], "Did you mean 'flir-boson'?"),
    (['--celsius-per-count', '1'], 'half a thermal scale'),
    (['--thermal-camera', 'seek', '--not-radiometric'], 'thermal scale is given twice'),
    (['--poses', 'a', '--pose-topic', '/b'], 'poses can come from one place only'),
    (['--min-m', '-1'], 'out of range'),
    (['--world-frame', 'moon'], "tf does not lead from 'moon'"),
    (['--modality', 'smell'], 'invalid choice')])
def test_nonsense_is_refused(bag: Path, tmp_path: Path, capfd, options: list[str], reason: str):
    assert main(['import-bag', str(bag), str(tmp_path / 'out'), *options]) == 2
    assert reason in ' '.join(capfd.readouterr().err.split())


def test_one_camera_is_enough(bag: Path, tmp_path: Path):
    import_bag(bag, tmp_path / 'out', ImportConfig(modality='thermal'))
    scene = load_scene(tmp_path / 'out')
    assert scene.modalities == ('thermal',)
    image = scene.load(2)
    truth = T_map_camera(image.stamp_ns, 'thermal')
    T = image.T_world_cam @ image.images['thermal'].T_cam_sensor
    assert se3.distance(T, truth)[0] < 1e-6


def test_lens_and_mounting_from_a_file(tmp_path: Path, bag: Path):
    text = ('thermal: {w: 16, h: 12, fl_x: 20.0, celsius_per_count: 0.02, celsius_offset: -500, '
            'transform_rgb_thermal: [[1,0,0,0.5],[0,1,0,0],[0,0,1,0],[0,0,0,1]]}')
    (tmp_path / 'rig.yaml').write_text(text)
    import_bag(bag, tmp_path / 'out', ImportConfig(cameras=tmp_path / 'rig.yaml'))
    record = load_scene(tmp_path / 'out').frames[0].records['thermal']
    assert record.camera.fx == 20.0
    assert record.T_cam_sensor[0, 3] == pytest.approx(0.5, abs=0.05)
    assert record.radiometry.to_celsius(26000)[()] == pytest.approx(20.0)


def test_an_image_that_repeats_is_not_news(tmp_path: Path):
    def frozen(writer) -> None:
        for i in range(5):
            writer.image('/rgb/image_raw', START_NS - (5 - i) * 10**7, 'rgb_optical',
                         np.full((48, 64, 3), 7, np.uint8), 'rgb8')

    done = import_bag(write_drive(tmp_path / 'drive', change=frozen), tmp_path / 'out')
    assert done.figures['rgb_frozen'] == 4
    check(tmp_path / 'out')


def test_an_image_that_cannot_be_decoded_is_counted(tmp_path: Path):
    def broken(writer) -> None:
        for i in range(3):
            at = START_NS + 35 * 10**6 + i
            writer.image('/rgb/image_raw', at, 'rgb_optical',
                         np.full((9 + i, 9, 3), i, np.uint8), 'rgb8')

    done = import_bag(write_drive(tmp_path / 'drive', change=broken), tmp_path / 'out',
                      ImportConfig(keyframes=KeyframeRule(min_m=0.3, candidates=30)))
    assert done.figures['unreadable_images'] == 3
    assert 'an image cannot be read: rgb image and its camera_info differ' in ' '.join(done.notes)
    check(tmp_path / 'out', 3, both=False)


def test_standing_still_adds_no_keyframe():
    poses = np.repeat(np.eye(4)[None], 200, axis=0)
    poses[100:, 0, 3] = np.linspace(0.0, 1.0, 100)
    windows = choose_windows(poses, KeyframeRule(min_m=0.2))
    assert 5 <= len(windows) <= 6
    assert all(len(window) <= 9 for window in windows)
    assert all(a.stop <= b.start for a, b in itertools.pairwise(windows))


def test_blur_lowers_sharpness():
    import cv2
    image = np.random.default_rng(0).random((240, 320, 3)).astype(np.float32)
    assert sharpness(image) > 2.0 * sharpness(cv2.GaussianBlur(image, (0, 0), 1.0))
    assert sharpness(image * 0.5) == pytest.approx(sharpness(image), rel=1e-3)
    assert sharpness(np.zeros((8, 8))) == 0.0


@pytest.mark.slow
def test_from_a_simulated_drive_to_a_map(tmp_path: Path, capfd):
    data = str(tmp_path / 'sim')
    assert main(['simulate', data, '--frames', '2', '--size', '48x36', '--bag', '--seconds', '2',
                 '--supersampling', '1']) == 0
    assert main(['import-bag', f'{data}/bag', str(tmp_path / 'set')]) == 0
    assert main(['train', str(tmp_path / 'set'), '--map', str(tmp_path / 'room.map'), '--steps',
                 '5', '--json', str(tmp_path / 'figures.json')]) == 0, capfd.readouterr().err
    test = json.loads((tmp_path / 'figures.json').read_text())['test']
    assert test['rgb_psnr'] > 5.0
    assert test['frames'] >= 1

# SPDX-License-Identifier: Apache-2.0
"""
Bad inputs: each gives one clear error that says what, where, expected and got.

Every case breaks one thing in a folder that holds a good scene, a good bag and a good trajectory;
`test_the_good_inputs_are_good` makes sure that the break is what the error is about.
"""

from collections.abc import Callable
import json
import os
from pathlib import Path
import shutil

import numpy as np
import pytest

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.io.bags.reader import BagReader, BagWriter
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene, SceneWriter
from thermal_nerf_loc.io.images import write_png
from thermal_nerf_loc.io.trajectory import read_tum, Trajectory, write_tum
from thermal_nerf_loc.sensing.frame import Frame, SensorImage

RGB, THERMAL = Camera.from_fov(16, 12, 70), Camera.from_fov(8, 6, 50)


@pytest.fixture(scope='module')
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('good')
    rng = np.random.default_rng(2)
    with SceneWriter(root / 'scene', {'rgb': RGB, 'thermal': THERMAL}) as scene:
        for i in range(3):
            T = np.eye(4)
            T[0, 3] = i
            scene.add(Frame(i, {
                'rgb': SensorImage(RGB, rng.random((12, 16, 3), np.float32), i,
                                   depth_m=np.ones((12, 16), np.float32)),
                'thermal': SensorImage(THERMAL, 20 + rng.random((6, 8, 1), np.float32), i)}, T))
    for storage in ('mcap', 'sqlite3'):
        with BagWriter(root / storage, storage) as bag:
            for i in range(30):
                counts = rng.integers(0, 65535, (12, 16), np.uint16)
                bag.image('/thermal/image_raw', i * 10**8, 'thermal', counts, '16UC1')
    write_tum(root / 'run.tum', Trajectory(np.array([1, 2, 3]) * 10**9, np.stack([np.eye(4)] * 3)))
    return root


@pytest.fixture
def here(good: Path, tmp_path: Path) -> Path:
    return shutil.copytree(good, tmp_path / 'in')


def read_all(root: Path) -> None:
    """Load the scene and every frame of it."""
    scene = load_scene(root / 'scene')
    scene.require('rgb', 'thermal')
    for index in scene.split('all'):
        scene.load(index)


def read_bag(path: Path) -> int:
    with BagReader(path) as bag:
        return sum(1 for _ in bag.messages())


def test_the_good_inputs_are_good(good: Path):
    read_all(good)
    assert read_bag(good / 'mcap') == read_bag(good / 'sqlite3') == 30
    assert len(read_tum(good / 'run.tum')) == 3


Case = Callable[[Path], object]


def scene(change: Callable[[dict], object]) -> Case:
    """A case that edits transforms.json in place, then reads the scene."""
    def case(root: Path) -> None:
        file = root / 'scene' / 'transforms.json'
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))
        read_all(root)
    return case


def file(name: str, content: bytes | np.ndarray | None, read: Case = read_all) -> Case:
    """A case that replaces one file (an array: by a PNG; None: by nothing), then reads."""
    def case(root: Path) -> None:
        path = root / name
        if path.exists():
            path.unlink()
        if isinstance(content, np.ndarray):
            write_png(path, content)
        elif content is not None:
            path.write_bytes(content)
        read(root)
    return case


def cut(name: str, share: float, read: Case = read_all) -> Case:
    """A case that keeps the first part of a file only, then reads."""
    def case(root: Path) -> None:
        path = root / name
        data = path.read_bytes()
        path.write_bytes(data[:int(len(data) * share)])
        read(root)
    return case


def frame(index: int, **changes: object) -> Case:
    """A case that sets keys of one frame (None: takes them away)."""
    def change(content: dict) -> None:
        entry = content['frames'][index]
        entry |= changes
        for key in [key for key, value in entry.items() if value is None]:
            del entry[key]
    return scene(change)


def top(**changes: object) -> Case:
    """A case that sets top-level keys (None: takes them away)."""
    def change(content: dict) -> None:
        content |= changes
        for key in [key for key, value in content.items() if value is None]:
            del content[key]
    return scene(change)


def thermal(**changes: object) -> Case:
    """A case that sets keys of the thermal block (None: takes them away)."""
    def change(content: dict) -> None:
        block = content['thermal']
        block |= changes
        for key in [key for key, value in block.items() if value is None]:
            del block[key]
    return scene(change)


def tum(text: str) -> Case:
    """A case that writes a trajectory by hand."""
    return file('run.tum', text.encode(), lambda root: read_tum(root / 'run.tum'))


def without_images(root: Path) -> None:
    for folder in ('rgb', 'thermal'):
        shutil.rmtree(root / 'scene' / folder)
    read_all(root)


def file_for_a_folder(root: Path) -> None:
    load_scene(root / 'run.tum' / 'scene')


def listed_twice(content: dict) -> None:
    content['frames'].append(content['frames'][1])


def half_the_intrinsics(content: dict) -> None:
    """Two frames have their own focal length, the third has none."""
    for entry in content['frames'][:2]:
        entry['fl_x'] = content['fl_x']
    del content['fl_x'], content['fl_y']


def no_thermal(content: dict) -> None:
    for entry in content['frames']:
        del entry['thermal_file_path']


def bag_without_metadata(root: Path) -> None:
    (root / 'mcap' / 'metadata.yaml').unlink()
    read_bag(root / 'mcap')


def matrix(**entries: float) -> list[list[float]]:
    """Identity but for entries named like `r01`."""
    T = np.eye(4)
    for name, value in entries.items():
        T[int(name[1]), int(name[2])] = value
    return T.tolist()


def hold_out_without_pose(content: dict) -> None:
    """A frame is held out by name, and its pose is missing."""
    del content['frames'][1]['transform_matrix']
    content['test_filenames'] = [content['frames'][1]['file_path']]
    content['train_filenames'] = [content['frames'][0]['file_path']]


BAD_INPUTS: dict[str, tuple[Case, tuple[str, ...]]] = {
    # the file
    'missing scene': (
        lambda root: load_scene(root / 'nowhere'), ('in/nowhere: does not exist',)),
    'folder without transforms.json': (
        file('scene/transforms.json', None), ('scene/transforms.json: does not exist',)),
    'file where a folder is due': (
        file_for_a_folder, ('run.tum/scene: does not exist: a parent is a file',)),
    'corrupt JSON': (
        cut('scene/transforms.json', 0.5),
        ('transforms.json: is no valid JSON', 'line', 'Was it written to its end?')),
    'JSON that is a list': (
        file('scene/transforms.json', b'[1, 2]'),
        ('transforms.json: holds no JSON object', 'expected {...}', 'got a list')),
    'JSON in another encoding': (
        file('scene/transforms.json', '{"a": "\u00e9"}'.encode('latin-1')),
        ('transforms.json: is no text', 'expected UTF-8', 'got byte 0xe9 at 7')),
    'no frames': (
        top(frames=[]), ('transforms.json: scene has no frames', 'got an empty list')),
    'frames that are no list': (
        top(frames={'a': 1}), ('scene has no frames', 'expected a list', "got {'a': 1}")),
    'frame that is no object': (
        scene(lambda content: content['frames'].insert(1, 'x')),
        ('frame 1: holds no JSON object', 'got a str')),
    # poses
    'NaN pose': (
        frame(1, transform_matrix=matrix(r03=float('nan'))),
        ('frame 1 (rgb/00001.png) transform_matrix: pose holds NaN or infinity',)),
    'scaled rotation': (
        frame(1, transform_matrix=matrix(r00=1.1)),
        ('frame 1', 'pose is no rigid motion', 'expected a rotation', 'det R = 1.1')),
    'mirrored pose': (
        frame(2, transform_matrix=matrix(r22=-1.0)),
        ('frame 2', 'pose is no rigid motion', 'det R = -1')),
    'pose of wrong shape': (
        frame(0, transform_matrix=[[1, 0], [0, 1]]),
        ('frame 0', 'wrong shape', 'expected (4, 4)', 'got (2, 2)')),
    'ragged pose': (
        frame(0, transform_matrix=[[1, 0], [0]]),
        ('frame 0', 'pose is no matrix of numbers', 'expected 4x4 numbers')),
    'no pose anywhere': (
        scene(lambda content: [entry.pop('transform_matrix') for entry in content['frames']]),
        ('none of the frames has a pose', 'expected transform_matrix', 'got 3 frames')),
    'no pose where it is held out': (
        scene(hold_out_without_pose),
        ('a held-out frame has no pose', 'Nothing can be measured there')),
    'rig that is no rigid motion': (
        thermal(transform_rgb_thermal=matrix(r01=0.5)),
        ('transform_rgb_thermal: pose is no rigid motion',)),
    # cameras
    'no intrinsics': (
        top(fl_x=None, fl_y=None), ('camera has no intrinsics', 'expected fl_x', 'rgb camera')),
    'mixed intrinsics': (
        scene(half_the_intrinsics),
        ('frame 2 (rgb/00002.png) rgb camera: camera has no intrinsics',)),
    'negative focal length': (
        top(fl_x=-5.0), ('rgb camera: camera has impossible intrinsics', 'fx -5.0')),
    'focal length that is text': (
        frame(1, fl_x='wide'), ('frame 1', 'fl_x is no number', "got 'wide'")),
    'unknown camera model': (
        top(camera_model='MAGIC'),
        ('unknown camera model', 'expected one of PINHOLE', "got 'MAGIC'")),
    'wrong coefficient count': (
        top(camera_model='OPENCV', distortion_params=[0.1, 0.2]),
        ('wrong number of coefficients', 'expected distortion_params of 6 numbers', 'got 2')),
    'pinhole with distortion': (
        top(k1=0.1), ('PINHOLE camera has coefficients of another model', 'got k1 = 0.1')),
    'fisheye with tangential terms': (
        thermal(camera_model='OPENCV_FISHEYE', k1=0.1, p1=0.2),
        ('thermal camera: OPENCV_FISHEYE camera has coefficients of another model', 'p1 = 0.2')),
    'ambiguous k4': (
        top(camera_model='OPENCV', k4=0.1), ('k4 of a perspective camera is ambiguous',)),
    'size that is no whole number': (
        top(w=16.5), ('w is no image size', 'expected a whole number', 'got 16.5')),
    'thermal images without a camera': (
        top(thermal=None), ('thermal images have no camera', 'block "thermal"')),
    # images
    'wrong image size': (
        top(w=20), ('rgb/00000.png: rgb image does not fit its camera',
                    'expected 20x12 pixels', 'got 16x12')),
    'wrong depth size': (
        file('scene/depth/00001.png', np.ones((3, 4), np.uint16)),
        ('depth/00001.png: depth image does not fit its camera', 'got 4x3')),
    '8-bit depth': (
        file('scene/depth/00001.png', np.ones((12, 16), np.uint8)),
        ('depth/00001.png: is no depth image', 'expected one channel of 16 bits')),
    'truncated PNG': (
        cut('scene/rgb/00001.png', 0.6), ('rgb/00001.png: PNG is cut short', 'expected an IEND')),
    'empty image file': (
        file('scene/rgb/00001.png', b''), ('rgb/00001.png: is an empty file',)),
    'text named .png': (
        file('scene/rgb/00001.png', b'not found'),
        ('rgb/00001.png: is no image that can be read', 'expected PNG, JPEG or TIFF',
         "begins b'not foun'")),
    'all images missing': (
        without_images, ('transforms.json: none of the images is there', 'got 3 frames',
                         'rgb/00000.png')),
    'frame without an image': (
        frame(1, file_path=None, thermal_file_path=None),
        ('frame 1: frame names no image', 'expected file_path or thermal_file_path')),
    'path that is no text': (
        frame(1, file_path=7), ('frame 1', 'path is no text', 'got 7')),
    'stamp in seconds': (
        frame(1, stamp_ns=1.5), ('stamp_ns is no time stamp', 'whole nanoseconds', 'got 1.5')),
    # thermal
    '8-bit thermal called radiometric': (
        file('scene/thermal/00000.png', np.ones((6, 8), np.uint8)),
        ('thermal/00000.png: 8-bit thermal image called radiometric', 'expected 16-bit counts')),
    'thermal in false colours': (
        file('scene/thermal/00001.png',
             np.arange(144, dtype=np.uint8).reshape(6, 8, 3) * np.uint8([1, 0, 1])),
        ('thermal/00001.png: thermal image is in false colours', 'expected one channel')),
    'half a temperature scale': (
        thermal(celsius_offset=None),
        ('thermal: thermal block has half a temperature scale', 'got celsius_per_count')),
    'temperature scale of zero': (
        thermal(celsius_per_count=0.0), ('thermal: thermal scale is zero',)),
    'no thermal where thermal is asked': (
        scene(no_thermal), ('scene: scene has no thermal images', 'got rgb')),
    # splits
    'image listed twice': (
        scene(listed_twice), ('the same image is listed twice', 'got rgb/00001.png')),
    'split that names nothing': (
        top(test_filenames=['rgb/99999.png']),
        ('test_filenames: split names frames that the scene does not have',
         "1 unknown, first 'rgb/99999.png'")),
    'split that is no list': (
        top(train_filenames='all'), ('train_filenames: split is no list', "got 'all'")),
    'frame on both sides of the split': (
        top(test_filenames=['rgb/00001.png']),
        ('a frame is both for training and held out', 'got rgb/00001.png')),
    # bags
    'missing bag': (
        lambda root: read_bag(root / 'nobag'), ('in/nobag: bag does not exist', 'rosbag2')),
    'folder that is no bag': (
        bag_without_metadata,
        ('in/mcap: is no rosbag2 folder', 'expected metadata.yaml', 'got mcap.mcap', 'reindex')),
    'bag of ROS 1 without its header': (
        file('old.bag', b'#ROSBAG V2.0\n', lambda root: read_bag(root / 'old.bag')),
        ('old.bag: bag cannot be read', 'Header could not be read')),
    'file that is no bag': (
        file('old.bag', b'nothing', lambda root: read_bag(root / 'old.bag')),
        ('old.bag: is no bag', 'expected a rosbag2 folder, or one .mcap, .db3 or .bag file')),
    'corrupt metadata': (
        file('mcap/metadata.yaml', b'a: [', lambda root: read_bag(root / 'mcap')),
        ('in/mcap: bag cannot be read', 'metadata.yaml')),
    'truncated mcap': (
        cut('mcap/mcap.mcap', 0.5, lambda root: read_bag(root / 'mcap')),
        ('in/mcap: bag cannot be read', 'Was it recorded to its end?')),
    'truncated sqlite3': (
        cut('sqlite3/sqlite3.db3', 0.5, lambda root: read_bag(root / 'sqlite3')),
        ('in/sqlite3: bag cannot be read', 'malformed')),
    'topic that is not there': (
        lambda root: list(_messages(root / 'mcap', '/rgb/image_raw')),
        ('in/mcap: bag has no /rgb/image_raw', 'got topics /thermal/image_raw')),
    # trajectories
    'missing trajectory': (
        lambda root: read_tum(root / 'no.tum'), ('no.tum: does not exist',)),
    'TUM with 7 columns': (
        tum('1 0 0 0 0 0 0 1\n2 0 0 0 0 0 1\n'),
        ('run.tum line 2: is no TUM pose', 'expected 8 columns', 'got 7 columns')),
    'TUM with words': (
        tum('1 0 0 zero 0 0 0 1\n'), ('line 1: is no TUM pose', 'expected 8 numbers', 'zero')),
    'TUM with NaN': (
        tum('1 0 0 nan 0 0 0 1\n'), ('line 1: pose holds NaN or infinity',)),
    'TUM stamps unsorted': (
        tum('2 0 0 0 0 0 0 1\n1 0 0 0 0 0 0 1\n'),
        ('line 2: stamps do not rise', 'expected later than 2.000000000 s', 'got 1.000000000 s')),
    'TUM quaternion of length two': (
        tum('1 0 0 0 0 0 0 2\n'),
        ('line 1: quaternion is not of unit length', 'expected |q| = 1', 'got |q| = 2')),
    'TUM without poses': (
        tum('# nothing\n'), ('run.tum: holds no pose',)),
}


def _messages(path: Path, topic: str) -> list:
    with BagReader(path) as bag:
        return list(bag.messages([topic]))


@pytest.mark.parametrize('name', BAD_INPUTS)
def test_one_clear_error(name: str, here: Path, capfd: pytest.CaptureFixture):
    case, parts = BAD_INPUTS[name]
    with pytest.raises(InputError) as caught:
        case(here)
    message = str(caught.value)
    for part in parts:
        assert part in message
    assert '\n' not in message
    assert len(message.replace(str(here), '')) < 400, 'an error is read, not studied'
    assert caught.value.exit_code == 2
    assert capfd.readouterr() == ('', ''), 'only the command line prints'


@pytest.mark.skipif(os.geteuid() == 0, reason='root may read everything')
def test_unreadable_folder(here: Path):
    (here / 'scene').chmod(0)
    try:
        with pytest.raises(InputError, match='cannot be read: permission denied'):
            load_scene(here / 'scene')
    finally:
        (here / 'scene').chmod(0o755)

# SPDX-License-Identifier: Apache-2.0
"""Bags in both storages: what was written comes back, bit by bit."""

from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import Reader
from small_drive import as_ros1, cut, write_drive
import yaml

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera, CameraModel
from thermal_nerf_loc.io.bags.messages import (camera_from_info, decode_compressed, decode_image,
                                               matrix_from_pose, matrix_from_transform, stamp_ns)
from thermal_nerf_loc.io.bags.reader import BagReader, BagWriter, STORAGES

START_NS = 1_732_180_000_123_456_789
RNG = np.random.default_rng(11)
RGB = RNG.integers(0, 256, (3, 12, 16, 3), np.uint8)
COUNTS = RNG.integers(0, 65536, (3, 6, 8), np.uint16)
POSES = se3.exp(RNG.normal(size=(3, 6)))
CAMERA = Camera(8, 6, 7.5, 7.6, 4.2, 2.9, CameraModel.OPENCV, (0.1, -0.05, 0.001, -0.002, 0.01))
TWIST = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])


@pytest.fixture(scope='module', params=STORAGES)
def bag(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('bags') / 'run'
    with BagWriter(path, request.param) as writer:
        writer.transforms(START_NS, [('base_link', 'thermal_optical_frame', POSES[0])], True)
        for i in range(3):
            at = START_NS + i * 10**8
            writer.image('/rgb/image_raw', at, 'rgb_optical_frame', RGB[i], 'rgb8')
            writer.image('/thermal/image_raw', at + 1, 'thermal_optical_frame', COUNTS[i], '16UC1')
            writer.compressed_image('/thermal/image_raw/compressed', at + 1,
                                    'thermal_optical_frame', COUNTS[i], 'png')
            writer.compressed_image('/rgb/image_raw/compressed', at, 'rgb_optical_frame', RGB[i])
            writer.camera_info('/thermal/camera_info', at + 1, 'thermal_optical_frame', CAMERA)
            writer.transforms(at, [('odom', 'base_link', POSES[i])])
            writer.odometry('/odom', at, 'odom', 'base_link', POSES[i], TWIST,
                            pose_covariance=np.eye(6) * 0.01)
            writer.pose('/ground_truth/pose', at, 'map', POSES[i])
    return path


def read(bag: Path, topic: str) -> list:
    with BagReader(bag) as reader:
        return list(reader.messages([topic]))


def test_raw_images_are_pixel_exact(bag: Path):
    for topic, pixels, delay in (('/rgb/image_raw', RGB, 0), ('/thermal/image_raw', COUNTS, 1)):
        messages = read(bag, topic)
        assert len(messages) == 3
        for i, (_, recorded_ns, m) in enumerate(messages):
            assert recorded_ns == stamp_ns(m.header.stamp) == START_NS + i * 10**8 + delay
            image = decode_image(m.encoding, m.height, m.width, m.step, m.is_bigendian, m.data)
            np.testing.assert_array_equal(image, pixels[i])


def test_compressed_images(bag: Path):
    for i, (_, _, m) in enumerate(read(bag, '/thermal/image_raw/compressed')):
        np.testing.assert_array_equal(decode_compressed(m.format, m.data), COUNTS[i])
    m = read(bag, '/rgb/image_raw/compressed')[0].message
    assert m.format == 'rgb8; jpeg compressed bgr8'
    assert decode_compressed(m.format, m.data).shape == RGB[0].shape


def test_camera_info(bag: Path):
    m = read(bag, '/thermal/camera_info')[0].message
    assert m.k[2] == pytest.approx(CAMERA.cx - 0.5, abs=1e-12)
    assert camera_from_info(m) == CAMERA


def test_poses(bag: Path):
    truth = [matrix_from_pose(m.pose) for _, _, m in read(bag, '/ground_truth/pose')]
    np.testing.assert_allclose(truth, POSES, atol=1e-12)
    tf = [m.transforms[0] for _, _, m in read(bag, '/tf')]
    np.testing.assert_allclose([matrix_from_transform(t.transform) for t in tf], POSES,
                               atol=1e-12)
    assert (tf[0].header.frame_id, tf[0].child_frame_id) == ('odom', 'base_link')
    odometry = read(bag, '/odom')[2].message
    np.testing.assert_allclose(matrix_from_pose(odometry.pose.pose), POSES[2], atol=1e-12)
    speed = odometry.twist.twist
    assert [speed.linear.x, speed.linear.z, speed.angular.z] == [0.1, 0.3, 0.6]
    np.testing.assert_array_equal(odometry.pose.covariance, (np.eye(6) * 0.01).ravel())


def test_topics_counts_and_order(bag: Path):
    with BagReader(bag) as reader:
        assert reader.topics['/tf_static'] == 'tf2_msgs/msg/TFMessage'
        assert reader.counts['/tf_static'] == 1
        assert len(reader.topics) == 9
        assert reader.duration_ns == 2 * 10**8 + 1
        stamps = [m.stamp_ns for m in reader.messages()]
        assert len(stamps) == 1 + 3 * 8
        assert stamps == sorted(stamps)


def test_raw_messages_are_the_bytes_that_rosbags_reads(bag: Path):
    with BagReader(bag) as reader:
        ours = [(m.topic, m.type, m.stamp_ns, m.data) for m in reader.raw_messages()]
    with Reader(bag) as reader:
        theirs = [(c.topic, c.msgtype, at, bytes(data)) for c, at, data in reader.messages()]
    assert ours == theirs


def test_static_transforms_wait_for_late_subscribers(bag: Path):
    metadata = yaml.safe_load((bag / 'metadata.yaml').read_text())['rosbag2_bagfile_information']
    durability = {entry['topic_metadata']['name']:
                  entry['topic_metadata']['offered_qos_profiles'][0]['durability']
                  for entry in metadata['topics_with_message_count']}
    assert durability['/tf_static'] == 'transient_local'
    assert durability['/tf'] == 'volatile'


def test_storage_file_alone_can_be_read(bag: Path):
    file = next(entry for entry in bag.iterdir() if entry.suffix in ('.mcap', '.db3'))
    with BagReader(file) as reader:
        assert sum(1 for _ in reader.messages(['/odom'])) == 3


def test_nothing_is_left_of_an_interrupted_bag(tmp_path: Path):
    def record() -> None:
        with BagWriter(tmp_path / 'run') as writer:
            writer.pose('/pose', 1, 'map', np.eye(4))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record()
    assert list(tmp_path.iterdir()) == []


def test_an_existing_bag_is_not_overwritten(bag: Path):
    with pytest.raises(InputError, match='exists already and is not empty'), BagWriter(bag):
        pass


def test_one_type_for_each_topic(tmp_path: Path):
    with BagWriter(tmp_path / 'run') as writer:
        writer.pose('/a', 1, 'map', np.eye(4))
        with pytest.raises(InputError, match=r'/a: topic has another type already; expected geo'):
            writer.camera_info('/a', 2, 'map', CAMERA)


def test_required_topics_are_named_with_their_rivals(bag: Path):
    with BagReader(bag) as reader:
        reader.require('/odom', 'nav_msgs/msg/Odometry')
        with pytest.raises(InputError) as caught:
            reader.require('/cam', 'sensor_msgs/msg/Image', '--rgb-topic')
    for part in ('bag has no /cam of type', '/rgb/image_raw, /thermal/image_raw', '--rgb-topic'):
        assert part in str(caught.value)


def test_bags_of_ros_1_speak_as_those_of_ros_2(tmp_path: Path):
    drive = write_drive(tmp_path / 'drive')
    old = as_ros1(drive, tmp_path / 'drive.bag')
    with BagReader(drive) as ours, BagReader(old) as theirs:
        assert theirs.counts == ours.counts
        assert theirs.topics == ours.topics
        assert (theirs.first_ns, theirs.duration_ns) == (ours.first_ns, ours.duration_ns)
        for topic in ('/rgb/image_raw', '/rgb/camera_info', '/tf'):
            a, b = (next(iter(reader.messages([topic]))) for reader in (ours, theirs))
            assert a.stamp_ns == b.stamp_ns
            if topic == '/rgb/camera_info':
                assert camera_from_info(a.message) == camera_from_info(b.message)
            elif topic == '/tf':
                T = [matrix_from_transform(m.message.transforms[1].transform) for m in (a, b)]
                np.testing.assert_array_equal(*T)
            else:
                np.testing.assert_array_equal(a.message.data, b.message.data)
        with pytest.raises(InputError, match='cannot be played to ROS 2'):
            next(theirs.raw_messages())


@pytest.mark.parametrize('storage', STORAGES)
def test_a_bag_that_was_cut_is_read_on_demand_only(tmp_path: Path, storage: str):
    drive = write_drive(tmp_path / 'drive', storage)
    with BagReader(drive) as reader:
        before = [(m.topic, m.stamp_ns) for m in reader.messages()]
    cut(next(f for f in drive.iterdir() if f.suffix in ('.mcap', '.db3')), 0.6)
    with pytest.raises(InputError, match='bag cannot be read'), BagReader(drive):
        pass
    with BagReader(drive, salvage=True) as reader:
        after = [(m.topic, m.stamp_ns) for m in reader.messages()]
        assert 0.3 * len(before) < len(after) < 0.8 * len(before)
        assert set(after) <= set(before)
        assert f'of {len(before)} messages are lost' in reader.loss
        assert 'after' in reader.loss and 'MiB' in reader.loss


def test_every_topic_is_listed_with_type_and_count(bag: Path):
    with BagReader(bag) as reader:
        assert '/odom (nav_msgs/Odometry, 3), ' in reader.listing()

# SPDX-License-Identifier: Apache-2.0
"""The node's subscriptions make the same frames of a drive as a replay of its bag."""

from types import SimpleNamespace

import numpy as np
import pytest
from small_drive import RGB, START_NS, T_odom_base, write_drive

from thermal_nerf_loc.common.errors import UserError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.bags.reader import BagReader
from thermal_nerf_loc.io.bags.transform_tree import TransformBuffer
from thermal_nerf_loc.tracking.bag_replay import find_odometry, find_replay_cameras, Replay
from thermal_nerf_loc.tracking.frame_synchronizer import FrameSynchronizer
from thermal_nerf_loc.tracking.node_config import NodeConfig, ThermalScaleConfig

pytest.importorskip('rclpy')
pytest.importorskip('tf2_msgs')
pytestmark = pytest.mark.ros

from thermal_nerf_loc.ros.subscribers import Subscribers  # noqa: E402, I100, I202

PLANCK = ThermalScaleConfig(planck_r1=21106.77, planck_b=1501.0, planck_f=1.0, planck_o=-7340.0,
                            planck_r2=0.0125)
MODALITIES = ('rgb', 'thermal')


class FakeNode:
    """Keeps the callbacks by the topic's full name; `remapped` as by `--ros-args -r`."""

    def __init__(self, **remapped):
        self.callbacks, self.remapped = {}, remapped

    def resolve_topic_name(self, name, *, only_expand=False):
        if only_expand:
            return '/' + name.lstrip('/')
        return self.remapped.get(name.replace('/', '_'), '/' + name.lstrip('/'))

    def create_subscription(self, kind, topic, callback, qos):
        self.callbacks[self.resolve_topic_name(topic)] = callback
        return topic

    def destroy_subscription(self, subscription):
        del self.callbacks[self.resolve_topic_name(subscription)]


class Heard:
    """The node's callbacks: counts them."""

    def __init__(self):
        self.odometry, self.jumps, self.problems, self.starts = [], 0, [], []

    def on_data(self):
        pass

    def on_odometry(self, stamp_ns):
        self.odometry.append(stamp_ns)

    def on_initial_pose(self, *start):
        self.starts.append(start)

    def on_time_jump(self):
        self.jumps += 1

    def on_problem(self, error):
        self.problems.append(error)


def write_odometry(bag):
    """Odometry on the topic: twice as fast as that on tf."""
    for i in range(151):
        stamp = START_NS + i * 20_000_000
        bag.odometry('/odom', stamp, 'odom', 'base_link', T_odom_base(2 * (stamp - START_NS)),
                     np.zeros(6))


@pytest.fixture(scope='module')
def bag(tmp_path_factory):
    return write_drive(tmp_path_factory.mktemp('bag') / 'drive', change=write_odometry)


def make_synchronizer(config):
    return FrameSynchronizer(config.synchronizer, TransformBuffer(), MODALITIES,
                             config.thermal_scale.radiometry())


def live_frames(bag, config):
    """Feed every message of the bag to the subscription of its topic."""
    node, heard, frames = FakeNode(), Heard(), []
    synchronizer = make_synchronizer(config)
    subscribers = Subscribers(node, config, synchronizer, heard)
    with BagReader(bag) as reader:
        topics = [topic for topic in reader.topics if topic in node.callbacks]
        for topic, _, message in reader.messages(topics):
            node.callbacks[topic](message)
            while (frame := synchronizer.next_frame(0, newest=False)) is not None:
                frames.append(frame)
    while (frame := synchronizer.next_frame(2**62, newest=False)) is not None:
        frames.append(frame)
    assert not heard.problems
    subscribers.stop()
    assert not node.callbacks
    return frames, heard


def replayed_frames(bag, config):
    frames = []

    def step(robot_frame):
        frames.append(robot_frame)
        return SimpleNamespace(stamp_ns=robot_frame.frame.stamp_ns)

    with BagReader(bag) as reader:
        cameras = find_replay_cameras(reader, bag, MODALITIES, {})
        replay = Replay(reader, cameras, make_synchronizer(config), SimpleNamespace(step=step), [],
                        None, config.odometry, find_odometry(reader, config.odometry, None))
        list(replay.updates(config.map_frame))
    return frames


@pytest.mark.parametrize('source, speed', [('tf', 1), ('topic', 2), ('none', 0)])
def test_live_and_replayed_frames_are_the_same(bag, source, speed):
    config = NodeConfig(odometry=source, thermal_scale=PLANCK)
    live, heard = live_frames(bag, config)
    replayed = replayed_frames(bag, config)
    assert [f.frame.stamp_ns for f in live] == [f.frame.stamp_ns for f in replayed]
    assert len(live) > 20
    for ours, theirs in zip(live, replayed):
        assert set(ours.frame.images) == set(theirs.frame.images)
        for name, image in ours.frame.images.items():
            other = theirs.frame.images[name]
            np.testing.assert_array_equal(image.values, other.values)
            np.testing.assert_array_equal(image.T_cam_sensor, other.T_cam_sensor)
            assert (image.camera, image.stamp_ns) == (other.camera, other.stamp_ns)
        if source == 'none':
            assert ours.T_odom_base is theirs.T_odom_base is None
        else:
            np.testing.assert_array_equal(ours.T_odom_base, theirs.T_odom_base)
            np.testing.assert_allclose(ours.T_odom_base, T_odom_base(
                speed * (ours.frame.stamp_ns - START_NS)), atol=1e-4)
    warm = live[5].frame.images['thermal']
    assert warm.radiometric
    assert 60.0 < warm.values.mean() < 80.0  # by FLIR's formula, of about 29000 counts
    assert len(heard.odometry) == 151  # what is on tf is told, taken or not


def test_images_remapped_to_image_rect_have_the_rectified_lens():
    node, config = FakeNode(rgb_image_raw='/cam/image_rect'), NodeConfig()
    synchronizer = make_synchronizer(config)
    Subscribers(node, config, synchronizer, Heard())
    assert '/cam/image_rect' in node.callbacks
    from thermal_nerf_loc.ros.message_conversion import camera_to_info
    for modality in MODALITIES:
        node.callbacks[f'/{modality}/camera_info'](camera_to_info(RGB, 'optical', 0))
    lenses = {name: stream.camera for name, stream in synchronizer._streams.items()}
    assert lenses['thermal'] == RGB
    assert lenses['rgb'].distortion == ()


def test_an_initial_pose_comes_with_odometry_of_its_stamp(bag):
    from geometry_msgs.msg import PoseWithCovarianceStamped

    from thermal_nerf_loc.ros.message_conversion import matrix_to_pose, stamp_from_ns
    node, heard, config = FakeNode(), Heard(), NodeConfig()
    Subscribers(node, config, make_synchronizer(config), heard)
    with BagReader(bag) as reader:
        for topic, _, message in reader.messages(['/tf', '/tf_static']):
            node.callbacks[topic](message)
    T, stamp_ns = se3.exp([1.0, 2.0, 0.0, 0.0, 0.0, 0.3]), START_NS + 10**9
    message = PoseWithCovarianceStamped()
    message.header.frame_id, message.header.stamp = 'map', stamp_from_ns(stamp_ns)
    message.pose.pose = matrix_to_pose(T)
    node.callbacks['/initialpose'](message)
    message.header.frame_id = 'odom'
    node.callbacks['/initialpose'](message)
    ((T_map_base, T_odom, covariance),) = heard.starts
    np.testing.assert_allclose(T_map_base, T, atol=1e-9)
    np.testing.assert_allclose(T_odom, T_odom_base(10**9), atol=1e-9)
    assert covariance is None
    assert 'another frame' in str(heard.problems[0])


def test_a_variance_of_zero_means_unknown():
    from thermal_nerf_loc.ros.subscribers import start_covariance
    from thermal_nerf_loc.tracking.tracker_config import TrackerConfig
    rviz = np.diag([0.25, 0.25, 0.0, 0.0, 0.0, 0.0685])
    P = start_covariance(rviz.ravel(), TrackerConfig())
    assert np.diag(P)[[0, 1, 5]].tolist() == [0.25, 0.25, 0.0685]
    assert P[2, 2] == 1.0 and np.allclose(np.diag(P)[3:5], np.deg2rad(10.0)**2)
    assert start_covariance(np.zeros(36), TrackerConfig()) is None
    for bad in (np.nan, np.inf, 1e300):
        with pytest.raises(UserError, match='covariance'):
            start_covariance(np.full(36, bad), TrackerConfig())


class StrictBuffer(TransformBuffer):
    """Refuses negative stamps as tf2 does."""

    def lookup_transform(self, target, source, stamp_ns=None):
        if stamp_ns is not None and stamp_ns < 0:
            raise ValueError('Nanoseconds value must not be negative')
        return super().lookup_transform(target, source, stamp_ns)


def test_an_initial_pose_of_a_negative_stamp_holds_for_the_newest_odometry():
    from geometry_msgs.msg import PoseWithCovarianceStamped
    node, heard, config = FakeNode(), Heard(), NodeConfig()
    synchronizer = FrameSynchronizer(config.synchronizer, StrictBuffer(), MODALITIES)
    Subscribers(node, config, synchronizer, heard)
    synchronizer.tf.set_transform('odom', 'base_link', np.eye(4), 10**9)
    start = PoseWithCovarianceStamped()
    start.header.frame_id, start.header.stamp.sec = 'map', -5
    start.pose.pose.orientation.w = 1.0
    node.callbacks['/initialpose'](start)
    assert not heard.problems and heard.starts[0][1] is not None
    start.pose.pose.position.z = 1e300
    node.callbacks['/initialpose'](start)
    assert 'out of this world' in str(heard.problems[0]) and len(heard.starts) == 1

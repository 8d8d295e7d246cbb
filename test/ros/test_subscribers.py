# SPDX-License-Identifier: Apache-2.0
"""The node's subscriptions make the same frames of a drive as a replay of its bag."""

from types import SimpleNamespace

import numpy as np
import pytest
from small_drive import RGB, START_NS, T_odom_base, write_drive

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
        self.odometry, self.jumps, self.problems = [], 0, []

    def on_data(self):
        pass

    def on_odometry(self, stamp_ns):
        self.odometry.append(stamp_ns)

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


class StrictBuffer(TransformBuffer):
    """Refuses negative stamps as tf2 does."""

    def lookup_transform(self, target, source, stamp_ns=None):
        if stamp_ns is not None and stamp_ns < 0:
            raise ValueError('Nanoseconds value must not be negative')
        return super().lookup_transform(target, source, stamp_ns)


@pytest.mark.parametrize('stamp_ns, found_ns', [(-5 * 10**9, 2 * 10**9), (0, 2 * 10**9),
                                                (15 * 10**8, 15 * 10**8), (10**12, 2 * 10**9)])
def test_odometry_is_found_for_the_stamp_of_an_initial_pose(stamp_ns, found_ns):
    config = NodeConfig()
    synchronizer = FrameSynchronizer(config.synchronizer, StrictBuffer(), MODALITIES)
    subscribers = Subscribers(FakeNode(), config, synchronizer, Heard())
    assert subscribers.odometry_at(stamp_ns) is None
    for ns in (10**9, 2 * 10**9):
        T = np.eye(4)
        T[0, 3] = ns / 1e9
        synchronizer.tf.set_transform('odom', 'base_link', T, ns)
    assert subscribers.odometry_at(stamp_ns)[0, 3] == pytest.approx(found_ns / 1e9)


def test_floods_on_tf_are_refused_and_the_rest_is_taken():
    from tf2_msgs.msg import TFMessage

    from thermal_nerf_loc.io.bags.message_limits import MAX_FRAMES, MAX_TRANSFORMS
    from thermal_nerf_loc.ros.message_conversion import matrix_to_transform
    node, heard, config = FakeNode(), Heard(), NodeConfig()
    synchronizer = make_synchronizer(config)
    Subscribers(node, config, synchronizer, heard)

    def publish(*children):
        node.callbacks['/tf'](TFMessage(transforms=[
            matrix_to_transform(np.eye(4), 'odom', child, 10**9) for child in children]))
    publish('f' * 1000, 'base_link')
    assert 'too long a name' in str(heard.problems[0])
    assert synchronizer.tf.lookup_transform('odom', 'base_link') is not None
    publish(*(f'a{k}' for k in range(MAX_TRANSFORMS + 1)))
    assert 'too many transforms' in str(heard.problems[-1])
    for k in range(MAX_FRAMES + 100):
        publish(f'flood{k}')
    assert 'too many frames' in str(heard.problems[-1])
    assert len(synchronizer.tf.frames) <= MAX_FRAMES + 1
    assert synchronizer.tf.lookup_transform('odom', 'base_link') is not None

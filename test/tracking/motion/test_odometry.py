# SPDX-License-Identifier: Apache-2.0
"""The parameter `odometry` in a replay, and the motion between frames, against closed forms."""

from types import SimpleNamespace

import numpy as np
import pytest
from small_drive import RGB, stamps, START_NS, T_odom_base, write_drive

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.bags.reader import BagReader
from thermal_nerf_loc.io.bags.transform_tree import TransformBuffer
from thermal_nerf_loc.sensing.thermal import PlanckRadiometry
from thermal_nerf_loc.tracking.bag_replay import find_odometry, find_replay_cameras, Replay
from thermal_nerf_loc.tracking.frame_synchronizer import FrameSynchronizer, SynchronizerConfig
from thermal_nerf_loc.tracking.motion.odometry import CameraMotion, TransformInput
from thermal_nerf_loc.tracking.node_config import read_parameter_file
from thermal_nerf_loc.tracking.tracker_config import TrackerConfig

T_SLIP = se3.exp([0.3, -0.1, 0.0, 0.0, 0.0, 0.2])


def T_topic(stamp_ns):
    """Odometry on the topic: another than that on tf."""
    return T_SLIP @ T_odom_base(2 * (stamp_ns - START_NS))


def write_odometry(bag):
    for i in range(151):
        stamp = START_NS + i * 20_000_000
        bag.odometry('/odom', stamp, 'odom', 'base_link', T_topic(stamp), np.zeros(6))


@pytest.fixture(scope='module')
def bag(tmp_path_factory):
    return write_drive(tmp_path_factory.mktemp('bag') / 'drive', change=write_odometry)


def replayed(bag, source='tf', radiometry=None):
    """The frames that a replay hands to the tracker."""
    frames = []

    def step(robot_frame):
        frames.append(robot_frame)
        return SimpleNamespace(stamp_ns=robot_frame.frame.stamp_ns)

    modalities = ('rgb', 'thermal')
    synchronizer = FrameSynchronizer(SynchronizerConfig(), TransformBuffer(), modalities,
                                     radiometry)
    with BagReader(bag) as reader:
        cameras = find_replay_cameras(reader, bag, modalities, {})
        replay = Replay(reader, cameras, synchronizer, SimpleNamespace(step=step), [], None,
                        source, find_odometry(reader, source, None))
        assert len(list(replay.updates())) == len(frames) > 20
    assert not replay.problems
    return frames


@pytest.mark.parametrize('source, truth', [
    ('tf', lambda stamp_ns: T_odom_base(stamp_ns - START_NS)), ('topic', T_topic)])
def test_odometry_comes_from_where_the_parameter_says(bag, source, truth):
    for robot_frame in replayed(bag, source):
        stamp_ns = robot_frame.frame.stamp_ns
        np.testing.assert_allclose(robot_frame.T_odom_base, truth(stamp_ns), atol=1e-4)


def test_without_odometry_there_is_none(bag):
    assert all(robot_frame.T_odom_base is None for robot_frame in replayed(bag, 'none'))


def test_a_missing_or_an_unused_odometry_topic_is_an_error(tmp_path, bag):
    with BagReader(write_drive(tmp_path / 'bare')) as reader, \
            pytest.raises(InputError, match=r'bag has no /odom .*--odometry-topic'):
        find_odometry(reader, 'topic', None)
    with BagReader(bag) as reader:
        assert find_odometry(reader, 'topic', '/odom') == '/odom'
        with pytest.raises(InputError, match='expected parameter odometry: topic'):
            find_odometry(reader, 'tf', '/odom')


def test_odometry_that_jumps_back_restarts_and_says_so():
    synchronizer = FrameSynchronizer(SynchronizerConfig(), TransformBuffer(), ('rgb',))
    jumps = []
    transforms = TransformInput('topic', 'map', synchronizer, lambda: jumps.append(1))

    def odometry(ns):
        pose = SimpleNamespace(position=SimpleNamespace(x=0.0, y=0.0, z=0.0),
                               orientation=SimpleNamespace(x=0.0, y=0.0, z=0.0, w=1.0))
        stamp = SimpleNamespace(sec=ns // 10**9, nanosec=ns % 10**9)
        return SimpleNamespace(header=SimpleNamespace(stamp=stamp),
                               pose=SimpleNamespace(pose=pose))

    for ns in (5 * 10**9, 6 * 10**9, 55 * 10**8):  # half a second back is no jump
        transforms.add_odometry(odometry(ns))
    assert not jumps
    transforms.add_odometry(odometry(10**9))
    assert jumps == [1]
    np.testing.assert_allclose(synchronizer.tf.lookup_transform('odom', 'base_link', 10**9),
                               np.eye(4), atol=1e-12)


def test_a_planck_camera_is_replayed_in_degrees(bag, tmp_path):
    path = tmp_path / 'p.yaml'
    path.write_text('/**: {ros__parameters: {thermal_scale: {planck_r1: 21106.77, planck_b: 1501, '
                    'planck_f: 1.0, planck_o: -7340.0, planck_r2: 0.0125}}}')
    radiometry = read_parameter_file(path).thermal_scale.radiometry()
    assert isinstance(radiometry, PlanckRadiometry)
    for robot_frame in replayed(bag, radiometry=radiometry):
        image = robot_frame.frame.images.get('thermal')
        if image is not None:
            assert image.radiometric
            kelvin = 1501.0 / np.log(21106.77 / (0.0125 * (29000.0 - 7340.0)) + 1.0)
            assert np.abs(image.values - (kelvin - 273.15)).max() < 1.0  # 28900 to 29100 counts


def test_a_bag_with_other_topic_names_replays_without_options(bag, tmp_path):
    other = write_drive(tmp_path / 'other', topics=('front', 'back'))
    with BagReader(other) as reader:
        cameras = find_replay_cameras(reader, other, ('rgb', 'thermal'), {})
    assert {name: topics.image for name, topics in cameras.items()} == {
        'rgb': '/front/image_raw', 'thermal': '/back/image_raw'}
    assert cameras['thermal'].info == '/back/camera_info'
    for ours, theirs in zip(replayed(bag), replayed(other), strict=True):
        assert set(ours.frame.images) == set(theirs.frame.images)
        np.testing.assert_array_equal(ours.T_odom_base, theirs.T_odom_base)
        for name, image in ours.frame.images.items():
            np.testing.assert_array_equal(image.values, theirs.frame.images[name].values)


def test_the_nodes_names_go_before_what_else_may_be_a_camera(tmp_path):
    def another(bag):
        bag.image('/lepton/image_raw', START_NS, 'lepton', np.ones((4, 4), np.uint16), '16UC1')

    drive = write_drive(tmp_path / 'drive', topics=('rgb', 'back'), change=another)
    with BagReader(drive) as reader:
        both = find_replay_cameras(reader, drive, ('rgb', 'thermal'), {})
        assert list(both) == ['rgb']
        given = find_replay_cameras(reader, drive, ('rgb', 'thermal'),
                                    {'thermal': '/back/image_raw'})
        assert [topics.image for topics in given.values()] == ['/rgb/image_raw',
                                                               '/back/image_raw']


def test_a_rectified_topic_has_the_lens_of_the_rectified_image(tmp_path):
    def rectified(bag):
        for i, stamp in enumerate(stamps('rgb')):
            pixels = np.full((48, 64, 3), i, np.uint8)
            bag.image('/cam/image_rect', stamp, 'rgb_optical', pixels, 'rgb8')
            bag.camera_info('/cam/camera_info', stamp, 'rgb_optical', RGB)

    drive = write_drive(tmp_path / 'drive', change=rectified)
    synchronizer = FrameSynchronizer(SynchronizerConfig(), TransformBuffer(), ('rgb',))
    frames = []
    with BagReader(drive) as reader:
        cameras = find_replay_cameras(reader, drive, ('rgb',), {'rgb': '/cam/image_rect'})
        robot = SimpleNamespace(step=lambda f: frames.append(f) or SimpleNamespace(stamp_ns=0))
        list(Replay(reader, cameras, synchronizer, robot, []).updates())
    assert len(frames) == len(stamps('rgb'))
    assert {f.frame.images['rgb'].camera.distortion for f in frames} == {()}


def test_motion_is_odometrys_else_that_of_constant_velocity_else_unknown():
    config = TrackerConfig(odometry_sigma_m=0.0, odometry_sigma_deg=0.0, odometry_drift=0.1,
                           acceleration_m_s2=2.0, acceleration_deg_s2=30.0,
                           unknown_speed_m_s=0.5, unknown_turn_deg_s=10.0)
    T_last, step = se3.exp([1.0, 2.0, 0.0, 0.0, 0.0, 1.0]), se3.exp([0.3, 0.4, 0, 0, 0, 0])

    def sigmas(motion):
        sigma = np.sqrt(np.diag(motion.Q))
        return sigma[0], np.rad2deg(sigma[3])

    motion = CameraMotion.predicted(config, 0.5, T_last, T_last @ step, None)
    np.testing.assert_allclose(motion.delta, step, atol=1e-12)
    assert sigmas(motion) == pytest.approx((0.05, 0.0), abs=1e-9)
    np.testing.assert_allclose(motion.velocity, [0.6, 0.8, 0, 0, 0, 0], atol=1e-9)
    velocity = np.array([0.6, 0.8, 0.0, 0.0, 0.0, 0.0])
    motion = CameraMotion.predicted(config, 0.5, None, T_last, velocity)
    np.testing.assert_allclose(motion.delta, step, atol=1e-12)
    assert sigmas(motion) == pytest.approx((0.5, 7.5))  # a t^2
    motion = CameraMotion.predicted(config, 0.5, None, None, None)
    np.testing.assert_array_equal(motion.delta, np.eye(4))
    assert sigmas(motion) == pytest.approx((0.25, 5.0))  # v t


@pytest.mark.parametrize('source', ['tf', 'topic', 'none'])
@pytest.mark.parametrize('edges, root', [
    ([], 'base_link'), ([('odom', 'base_link')], 'odom'),
    ([('base_footprint', 'base_link')], 'base_footprint'),
    ([('odom', 'base_footprint'), ('base_footprint', 'base_link')], 'odom'),
    ([('map', 'odom'), ('odom', 'base_link')], 'odom'), ([('map', 'base_link')], 'base_link')])
def test_the_map_is_the_parent_of_a_frame_that_has_no_other(source, edges, root):
    from types import SimpleNamespace as Message
    synchronizer = FrameSynchronizer(SynchronizerConfig(), TransformBuffer(), ('rgb',))
    transforms = TransformInput(source, 'map', synchronizer)
    for parent, child in edges:
        stamp = Message(sec=1, nanosec=0)
        transforms.add_transform(Message(
            header=Message(frame_id=parent, stamp=stamp), child_frame_id=child,
            transform=Message(translation=Message(x=1.0, y=0.0, z=0.0),
                              rotation=Message(x=0.0, y=0.0, z=0.0, w=1.0))), False)
    found, T = transforms.root_of_base(2 * 10**9)
    steps = [edge for edge in edges if edge[0] != 'map']
    assert found == root and T[0, 3] == len(steps)

# SPDX-License-Identifier: Apache-2.0
"""A running node asked for things: services, settings, pictures, restarts. Real processes."""

import json
from pathlib import Path
import signal

import numpy as np
import pytest

pytest.importorskip('rclpy')
pytest.importorskip('tf2_msgs')
pytestmark = pytest.mark.ros

from nav_msgs.msg import Path as PathMessage  # noqa: E402, I100, I202
from rclpy.qos import DurabilityPolicy, QoSProfile  # noqa: E402
import ros_drive  # noqa: E402
from sensor_msgs.msg import Image, PointCloud2  # noqa: E402
from std_srvs.srv import Empty, Trigger  # noqa: E402

from thermal_nerf_loc.geometry import se3  # noqa: E402
from thermal_nerf_loc.io.bags import messages  # noqa: E402

pytest_plugins = ('ros_fixtures',)

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@pytest.fixture(scope='module')
def pose_file(tmp_path_factory):
    return tmp_path_factory.mktemp('state') / 'pose.json'


@pytest.fixture(scope='module')
def node_parameters(pose_file):
    return f'pose_file:={pose_file}', 'pose_save_period_s:=0.3', 'overlay_period_s:=0.3'


def test_pause_is_silence_and_resume_goes_on(tracked, node):
    answer = tracked.call(Trigger, 'pause')
    assert answer.success and 'paused' in answer.message
    assert tracked.until(lambda: tracked.status['state'] == 'paused', 5.0, node)
    mark = tracked.mark()
    tracked.wait(1.0)
    assert not tracked.tf_since(mark + 0.2)
    assert not tracked.poses_since(mark + 0.2)
    tracked.call(Empty, 'request_nomotion_update')
    assert tracked.until(lambda: tracked.poses_since(mark + 0.2), 5.0, node)
    tracked.wait(0.5)
    assert len(tracked.poses_since(mark + 0.2)) == 1
    assert tracked.call(Trigger, 'resume').success
    mark = tracked.mark()
    assert tracked.until(lambda: len(tracked.poses_since(mark)) > 5, 15.0, node)
    assert max(row[2] for row in tracked.poses_since(mark)) < 0.1


def test_a_search_can_be_asked_for(tracked, node):
    lines = len(node.output.lines)
    mark = tracked.mark()
    tracked.call(Empty, 'reinitialize_global_localization')
    assert tracked.until(lambda: node.output.has('whole map is searched', lines), 5.0, node)
    assert tracked.until(lambda: int(tracked.status.get('searches_found', 0)) > 0, 40.0, node)
    assert tracked.until(lambda: len(tracked.poses_since(mark + 0.5)) > 3, 25.0, node)
    assert np.median([row[2] for row in tracked.poses_since(mark + 0.5)]) < 0.1


def test_a_map_is_replaced_only_by_one_that_works(tracked, node):
    assert tracked.set('map', 'nowhere').successful
    refused = tracked.call(Trigger, 'reload_map')
    assert not refused.success
    assert 'the old map stays' in refused.message and 'nowhere' in refused.message
    mark = tracked.mark()
    assert tracked.until(lambda: len(tracked.poses_since(mark)) > 3, 10.0, node)
    assert tracked.set('map', 'room').successful
    answer = tracked.call(Trigger, 'reload_map')
    assert answer.success, answer.message
    mark = tracked.mark()
    assert tracked.until(lambda: len(tracked.poses_since(mark)) > 3, 20.0, node)
    assert np.median([row[2] for row in tracked.poses_since(mark)]) < 0.1


def listens(robot, modality):
    return robot.images[modality].get_subscription_count() > 0


def test_a_map_of_other_modalities_takes_over_with_its_cameras(tracked, node):
    assert listens(tracked, 'rgb')
    assert tracked.set('map', 'room.thermal').successful
    answer = tracked.call(Trigger, 'reload_map')
    assert answer.success, answer.message
    assert tracked.until(lambda: tracked.status['map'] == 'room.thermal'
                         and tracked.status['modalities'] == 'thermal', 20.0, node), tracked.status
    assert tracked.until(lambda: not listens(tracked, 'rgb'), 10.0, node)
    mark = tracked.mark()
    assert tracked.until(lambda: len(tracked.poses_since(mark)) > 3, 20.0, node), tracked.status
    assert np.median([row[2] for row in tracked.poses_since(mark)]) < 0.1
    refused = tracked.set('modality', 'rgb')
    assert not refused.successful and 'the map has no rgb' in refused.reason
    assert tracked.set('map', 'room').successful
    assert tracked.call(Trigger, 'reload_map').success
    assert tracked.until(lambda: tracked.status['modalities'] == 'rgb thermal', 20.0, node)
    assert listens(tracked, 'rgb')


def test_a_map_without_the_chosen_camera_is_refused(tracked, node):
    assert tracked.set('modality', 'rgb').successful
    assert tracked.set('map', 'room.thermal').successful
    refused = tracked.call(Trigger, 'reload_map')
    assert not refused.success
    assert 'the old map stays' in refused.message and 'the map has no rgb' in refused.message
    mark = tracked.mark()
    assert tracked.until(lambda: len(tracked.poses_since(mark)) > 3, 20.0, node)
    assert tracked.set('map', 'room').successful
    assert tracked.set('modality', 'both').successful
    assert tracked.until(lambda: tracked.status['modalities'] == 'rgb thermal', 10.0, node)


def test_settings_change_while_it_runs(tracked, node):
    assert tracked.set('modality', 'thermal').successful
    assert tracked.until(lambda: tracked.status['modalities'] == 'thermal', 10.0, node)
    assert tracked.status['carried_by'].startswith('thermal')
    assert tracked.set('modality', 'both').successful
    assert tracked.until(lambda: tracked.status['modalities'] == 'rgb thermal', 10.0, node)
    assert tracked.set('publish_tf', False).successful
    mark = tracked.mark()
    tracked.wait(0.6)
    assert not tracked.tf_since(mark + 0.3)
    assert tracked.set('publish_tf', True).successful
    assert tracked.until(lambda: tracked.tf_since(mark + 0.6), 10.0, node)


@pytest.mark.parametrize('name, value, told', [
    ('synchronizer.base_frame', 'other', 'Frames are fixed'),
    ('modality', 'sonar', 'one of both, rgb, thermal'), ('tracker.gate', 0.0, ''),
    ('thermal_transport', 'compressed', 'activated')])
def test_a_setting_is_refused_with_a_reason(robot, name, value, told):
    result = robot.set(name, value)
    assert not result.successful
    assert told in result.reason


def test_pictures_come_to_those_who_look(tracked, node):
    clouds, pictures, paths = [], [], []
    listen = tracked.node.create_subscription
    inputs = [listen(PointCloud2, '/localizer/map_points', clouds.append, LATCHED),
              listen(Image, '/localizer/debug/overlay', pictures.append, 1),
              listen(PathMessage, '/localizer/path', paths.append, LATCHED)]
    assert tracked.until(lambda: clouds and pictures and paths, 20.0, node)
    for subscription in inputs:
        tracked.node.destroy_subscription(subscription)
    cloud, picture, path = clouds[0], pictures[0], paths[-1]
    assert cloud.header.frame_id == path.header.frame_id == 'map'
    assert cloud.width > 5000
    pixels = messages.image_from_message(picture)
    assert pixels.shape[1:] == (960, 3) and pixels.std() > 20.0
    assert len(path.poses) > 3


def test_diagnostics_say_what_carries_the_pose(tracked):
    told = tracked.status
    assert told['map'] == 'room'
    assert 'rgb' in told['carried_by'] and 'thermal' in told['carried_by']
    assert 0.3 < float(told['inlier_share']) <= 1.0
    assert float(told['updates_hz']) > 0.5 and float(told['latency_p95_s']) > 0.0
    assert float(told['frame_rays']) > 100 and float(told['cores_used']) > 0.0
    assert told['effort'].endswith('%')
    assert (told['odometry'], told['publishes']) == ('tf', 'map -> odom')
    assert 'faults' not in told


def test_the_rate_and_a_cameras_stamps_are_set_while_it_runs(tracked, node):
    assert tracked.set('max_rate_hz', 2.0).successful
    assert tracked.until(lambda: int(tracked.status.get('frames_beyond_rate', 0)) > 0, 20.0, node)
    mark = tracked.mark()
    tracked.wait(3.0)
    assert len(tracked.poses_since(mark)) <= 8
    assert tracked.set('max_rate_hz', 0.0).successful
    assert tracked.set('thermal_time_offset_s', 0.001).successful
    tracked.time_offset_ns = 1_000_000
    mark = tracked.mark()
    assert tracked.until(lambda: len(tracked.poses_since(mark)) > 3, 20.0, node), tracked.status
    assert tracked.set('thermal_time_offset_s', 0.0).successful


def test_the_last_pose_outlives_the_node(tracked, node, pose_file):
    assert tracked.until(pose_file.exists, 10.0, node)
    saved = json.loads(pose_file.read_text())
    assert saved['map'] == 'room'
    node.send_signal(signal.SIGTERM)
    assert node.wait(60) == 0
    tracked.wait(0.3)
    T = se3.from_quaternion(*(json.loads(Path(pose_file).read_text())[key]
                              for key in ('position_m', 'quaternion_xyzw')))
    tracked.stand_at(T)  # it waits there for the new node
    mark = tracked.mark()
    with ros_drive.ended(ros_drive.start('diagnostics_period_s:=0.2',
                                         f'pose_file:={pose_file}', domain=node.domain)) as again:
        again.output = ros_drive.Output(again)
        assert tracked.until(lambda: len(tracked.poses_since(mark)) > 3, 40.0, again), (
            tracked.status, str(again.output))
        assert max(row[2] for row in tracked.poses_since(mark)) < 0.1

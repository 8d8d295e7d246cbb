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
from thermal_nerf_loc.ros import convert  # noqa: E402

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@pytest.fixture(scope='module')
def recorded():
    return ros_drive.record_drive()


@pytest.fixture(scope='module')
def pose_file(tmp_path_factory):
    return tmp_path_factory.mktemp('state') / 'pose.json'


@pytest.fixture(scope='module')
def node(pose_file):
    process = ros_drive.start('diagnostics_period_s:=0.2', f'pose_file:={pose_file}',
                              'pose_save_period_s:=0.3', 'overlay_period_s:=0.3')
    with ros_drive.ended(process):
        process.output = ros_drive.Output(process)
        yield process


@pytest.fixture(scope='module')
def drive(recorded, node):
    with ros_drive.Drive(recorded) as drive:
        assert drive.until(lambda: drive.status, 60.0, node)
        yield drive


@pytest.fixture
def tracking(drive, node):
    """A robot that is tracked."""
    drive.call(Trigger, 'resume')
    if drive.status.get('state') != 'tracking':
        drive.start_at(drive.here())
    assert drive.until(lambda: drive.status['state'] == 'tracking', 20.0, node), drive.status
    return drive


def test_pause_is_silence_and_resume_goes_on(tracking, node):
    answer = tracking.call(Trigger, 'pause')
    assert answer.success and 'paused' in answer.message
    assert tracking.until(lambda: tracking.status['state'] == 'paused', 5.0, node)
    mark = tracking.mark()
    tracking.wait(1.0)
    assert not tracking.tf_since(mark + 0.2)
    assert not tracking.poses_since(mark + 0.2)
    tracking.call(Empty, 'request_nomotion_update')
    assert tracking.until(lambda: tracking.poses_since(mark + 0.2), 5.0, node)
    tracking.wait(0.5)
    assert len(tracking.poses_since(mark + 0.2)) == 1
    assert tracking.call(Trigger, 'resume').success
    mark = tracking.mark()
    assert tracking.until(lambda: len(tracking.poses_since(mark)) > 5, 15.0, node)
    assert max(row[2] for row in tracking.poses_since(mark)) < 0.1


def test_a_search_can_be_asked_for(tracking, node):
    lines = len(node.output.lines)
    mark = tracking.mark()
    tracking.call(Empty, 'reinitialize_global_localization')
    assert tracking.until(lambda: node.output.has('searching within 1.5 m', lines), 5.0, node)
    assert node.output.has('search of the whole map is not offered yet', lines)
    assert tracking.until(lambda: len(tracking.poses_since(mark + 0.5)) > 3, 25.0, node)
    assert np.median([row[2] for row in tracking.poses_since(mark + 0.5)]) < 0.1


def test_a_map_is_replaced_only_by_one_that_works(tracking, node):
    assert tracking.set('map', 'nowhere').successful
    refused = tracking.call(Trigger, 'reload_map')
    assert not refused.success
    assert 'the old map stays' in refused.message and 'nowhere' in refused.message
    mark = tracking.mark()
    assert tracking.until(lambda: len(tracking.poses_since(mark)) > 3, 10.0, node)
    assert tracking.set('map', 'room').successful
    answer = tracking.call(Trigger, 'reload_map')
    assert answer.success, answer.message
    mark = tracking.mark()
    assert tracking.until(lambda: len(tracking.poses_since(mark)) > 3, 20.0, node)
    assert np.median([row[2] for row in tracking.poses_since(mark)]) < 0.1


def test_settings_change_while_it_runs(tracking, node):
    assert tracking.set('modality', 'thermal').successful
    assert tracking.until(lambda: tracking.status['modalities'] == 'thermal', 10.0, node)
    assert tracking.status['carried_by'].startswith('thermal')
    assert tracking.set('modality', 'both').successful
    assert tracking.until(lambda: tracking.status['modalities'] == 'rgb thermal', 10.0, node)
    assert tracking.set('publish_tf', False).successful
    mark = tracking.mark()
    tracking.wait(0.6)
    assert not tracking.tf_since(mark + 0.3)
    assert tracking.set('publish_tf', True).successful
    assert tracking.until(lambda: tracking.tf_since(mark + 0.6), 10.0, node)


@pytest.mark.parametrize('name, value, told', [
    ('intake.base_frame', 'other', 'Frames are fixed'),
    ('modality', 'sonar', 'one of both, rgb, thermal'), ('tracker.gate', 0.0, ''),
    ('thermal_transport', 'compressed', 'activated')])
def test_a_setting_is_refused_with_a_reason(drive, name, value, told):
    result = drive.set(name, value)
    assert not result.successful
    assert told in result.reason


def test_pictures_come_to_those_who_look(tracking, node):
    clouds, pictures, paths = [], [], []
    listen = tracking.node.create_subscription
    inputs = [listen(PointCloud2, '/localizer/map_points', clouds.append, LATCHED),
              listen(Image, '/localizer/debug/overlay', pictures.append, 1),
              listen(PathMessage, '/localizer/path', paths.append, LATCHED)]
    assert tracking.until(lambda: clouds and pictures and paths, 20.0, node)
    for subscription in inputs:
        tracking.node.destroy_subscription(subscription)
    cloud, picture, path = clouds[0], pictures[0], paths[-1]
    assert cloud.header.frame_id == path.header.frame_id == 'map'
    assert cloud.width > 5000
    pixels = convert.image_from_message(picture)
    assert pixels.shape[1:] == (960, 3) and pixels.std() > 20.0
    assert len(path.poses) > 3


def test_diagnostics_say_what_carries_the_pose(tracking):
    told = tracking.status
    assert told['map'] == 'room'
    assert 'rgb' in told['carried_by'] and 'thermal' in told['carried_by']
    assert 0.3 < float(told['inlier_share']) <= 1.0
    assert float(told['updates_hz']) > 0.5 and float(told['latency_p95_s']) > 0.0
    assert 'faults' not in told


def test_the_last_pose_outlives_the_node(tracking, node, pose_file):
    assert tracking.until(pose_file.exists, 10.0, node)
    saved = json.loads(pose_file.read_text())
    assert saved['map'] == 'room'
    node.send_signal(signal.SIGTERM)
    assert node.wait(10) == 0
    tracking.wait(0.3)
    T = se3.from_quaternion(*(json.loads(Path(pose_file).read_text())[key]
                              for key in ('position_m', 'quaternion_xyzw')))
    tracking.stand_at(T)  # it waits there for the new node
    mark = tracking.mark()
    with ros_drive.ended(ros_drive.start('diagnostics_period_s:=0.2',
                                         f'pose_file:={pose_file}')) as again:
        again.output = ros_drive.Output(again)
        assert tracking.until(lambda: len(tracking.poses_since(mark)) > 3, 40.0, again), (
            tracking.status, str(again.output))
        assert max(row[2] for row in tracking.poses_since(mark)) < 0.1

# SPDX-License-Identifier: Apache-2.0
"""
What goes wrong on robots, done to the real node: it lives on and claims no wrong pose.

One process suffers all the faults of a running robot, one after the other; those of starting and
ending have processes of their own.
"""

import signal
import time

import numpy as np
import pytest

pytest.importorskip('rclpy')
pytest.importorskip('tf2_msgs')
pytestmark = pytest.mark.ros

import ros_drive  # noqa: E402, I202

from thermal_nerf_loc.geometry import se3  # noqa: E402

pytest_plugins = ('ros_fixtures',)

WRONG_M, WRONG_DEG = 0.15, 5.0  # far beyond what noise does here


@pytest.fixture(scope='module')
def node_parameters():
    return ('map_points:=false',)


@pytest.fixture
def drive(tracked, node):
    """A robot that is tracked; afterwards the node must live and have claimed nothing wrong."""
    tracked.start_afresh(node)
    mark = tracked.mark()
    yield tracked
    tracked.reset_faults()
    assert node.poll() is None
    assert 'faults' not in tracked.status, (tracked.status, str(node.output))
    claims_nothing_wrong(tracked, mark)


def claims_nothing_wrong(drive, mark, after_ns=0):
    """Everything told since: right, or with a covariance that says how wrong it may be."""
    for _, stamp, error_m, error_deg, sigma_m in drive.poses_since(mark):
        if stamp > after_ns:
            assert error_m < max(WRONG_M, 3.0 * sigma_m), (error_m, error_deg, sigma_m)
    off = [row for row in drive.tf_since(mark) if row[1] > 2 * WRONG_M or row[2] > 2 * WRONG_DEG]
    assert not off or after_ns, off[:3]


def updates_flow(drive, node, count=4, patience_s=15.0):
    mark = drive.mark()
    return drive.until(lambda: len(drive.poses_since(mark)) >= count, patience_s, node)


def carried_by(drive, name):
    return drive.status['modalities'] == name


@pytest.mark.parametrize('silent, other', [('rgb', 'thermal'), ('thermal', 'rgb')])
def test_a_camera_stops_and_returns(drive, node, silent, other):
    drive.silent = {silent}
    assert drive.until(lambda: carried_by(drive, other), 10.0, node), drive.status
    assert updates_flow(drive, node)
    drive.silent = set()
    assert drive.until(lambda: carried_by(drive, 'rgb thermal'), 10.0, node), drive.status


def test_both_cameras_stop_and_return(drive, node):
    drive.silent = {'rgb', 'thermal'}
    assert drive.until(lambda: 'no usable image' in drive.status['reason'], 10.0, node)
    assert drive.status['state'] == 'degraded'
    assert drive.until(lambda: drive.status['state'] == 'lost', 10.0, node)
    mark = drive.mark()
    drive.wait(0.5)
    assert not drive.tf_since(mark + 0.2)  # odometry alone is not trusted for ever
    drive.silent = set()
    assert drive.until(lambda: drive.status['state'] == 'tracking', 15.0, node), drive.status
    assert updates_flow(drive, node)


def test_thermal_freezes_while_its_shutter_is_closed(drive, node):
    before = int(drive.status.get('thermal_frozen', 0))
    drive.frozen = {'thermal'}
    assert drive.until(lambda: carried_by(drive, 'rgb'), 10.0, node), drive.status
    drive.wait(1.0)
    drive.frozen = set()
    assert drive.until(lambda: carried_by(drive, 'rgb thermal'), 10.0, node), drive.status
    assert int(drive.status['thermal_frozen']) > before


def test_an_initial_pose_that_is_a_metre_off_is_never_claimed(drive, node):
    T = drive.here()
    T[:3, 3] += [0.8, -0.6, 0.0]
    mark = drive.mark()
    drive.start_at(T, sigma_m=0.3)
    drive.wait(3.0)
    claims_nothing_wrong(drive, mark + 0.3)
    drive.start_at(drive.here())
    assert updates_flow(drive, node)


def test_time_jumps_back_as_in_a_bag_that_loops(drive, node):
    drive.offset_ns -= 60 * 10**9
    mark = drive.mark()
    assert drive.until(lambda: drive.status['state'] != 'tracking', 10.0, node)
    assert node.output.has('time jumped back')
    assert not drive.tf_since(mark + 0.5)
    drive.start_at(drive.here())
    assert drive.until(lambda: drive.status['state'] == 'tracking', 15.0, node), drive.status
    assert updates_flow(drive, node)


@pytest.mark.parametrize('spoil, told', [
    ('size', 'differ in size'), ('encoding', 'encoding'), ('short', 'thermal_rejected'),
    ('nameless', 'frame_id')])
def test_images_that_make_no_sense_are_refused(drive, node, spoil, told):
    def spoiled(message):
        if spoil == 'size':
            message.height //= 2
            message.data = message.data[:message.height * message.step]
        elif spoil == 'encoding':
            message.encoding = 'smoke8'
        elif spoil == 'short':
            message.data = message.data[:100]
        else:
            message.header.frame_id = ''
        return message
    before = int(drive.status.get('thermal_rejected', 0))
    drive.mangle = {'thermal': spoiled}
    assert drive.until(lambda: int(drive.status.get('thermal_rejected', 0)) > before + 2, 10.0,
                       node), drive.status
    assert told in str(drive.status)
    assert updates_flow(drive, node)  # RGB is none the worse


def test_bad_tf_and_bad_starts_are_refused(drive, node):
    from tf2_msgs.msg import TFMessage

    from thermal_nerf_loc.ros import message_conversion
    bad = message_conversion.matrix_to_transform(np.eye(4), 'odom', 'base_link',
                                                 time.time_ns() + 10**8)
    bad.transform.rotation.w = float('nan')
    drive.tf.publish(TFMessage(transforms=[bad]))
    nowhere = np.eye(4)
    nowhere[:3, 3] = 1e6
    assert drive.until(lambda: int(drive.status.get('problems', 0)) > 0, 10.0, node)
    mark = drive.mark()
    drive.start_at(nowhere)
    drive.wait(1.0)
    # outside of the map: never believed; where a search finds the robot, all the better
    assert all(row[2] < WRONG_M for row in drive.poses_since(mark + 0.3))
    drive.start_at(drive.here())
    assert updates_flow(drive, node)


def test_a_kidnapped_robot_is_not_said_to_be_tracked_where_it_was(tracked, node):
    robot = tracked
    robot.start_afresh(node)
    mark = robot.mark()
    assert robot.kidnap() > 3 * WRONG_M  # to another place; odometry notices nothing
    kidnapped_ns = robot.newest_ns
    assert robot.until(lambda: given_up(robot, mark) or found_again(robot, mark, kidnapped_ns),
                       20.0, node), (robot.status, list(robot.updates)[-5:])
    told = robot.states_since(mark)
    assert any(state in ('degraded', 'lost') and reason for _, state, reason in told), told
    gone = robot.mark()
    seen = int(robot.status['updates'])
    assert robot.until(lambda: int(robot.status['updates']) > seen + 3, 20.0, node)
    # Half a second of images that contradict is what it takes to say so.
    claims_nothing_wrong(robot, mark, kidnapped_ns + 500_000_000)
    off = [row for row in robot.tf_since(gone + 0.3) if row[1] > 2 * WRONG_M]
    assert not off, off[:3]
    robot.reset_faults()
    assert node.poll() is None and 'faults' not in robot.status


def test_a_kidnapped_robot_is_found_again(tracked, node):
    robot = tracked
    robot.start_afresh(node)
    mark = robot.mark()
    assert robot.kidnap() > 3 * WRONG_M
    kidnapped_ns = robot.newest_ns
    assert robot.until(lambda: found_again(robot, mark, kidnapped_ns), 40.0, node), (
        robot.status, list(robot.updates)[-5:])
    robot.reset_faults()
    robot.start_afresh(node)
    assert node.poll() is None and 'faults' not in robot.status


def test_a_robot_that_nobody_placed_is_found(recorded):
    domain = ros_drive.other_domain()
    process = ros_drive.start('diagnostics_period_s:=0.2', 'map_points:=false', domain=domain)
    with ros_drive.ended(process), ros_drive.Drive(recorded, domain=domain) as drive:
        process.output = ros_drive.Output(process)
        assert drive.until(lambda: drive.status, 60.0, process)
        assert updates_flow(drive, process, patience_s=60.0), drive.status
        assert int(drive.status['searches_found']) > 0
        claims_nothing_wrong(drive, 0.0)


def given_up(robot, mark):
    return any(state == 'lost' for _, state, _ in robot.states_since(mark))


def found_again(robot, mark, since_ns):
    # Stamps alone do not tell: another test may have turned the robot's clock back.
    rows = [row for row in robot.poses_since(mark) if row[1] > since_ns][-3:]
    return (len(rows) == 3 and robot.status['state'] == 'tracking'
            and max(row[2] for row in rows) < WRONG_M)


def test_ten_times_as_many_images_are_dropped_and_counted(drive, node):
    counted = ('frames_dropped', 'rgb_superseded', 'thermal_superseded', 'images_unpaired')
    before = {name: int(drive.status.get(name, 0)) for name in ('rgb_received', 'updates',
                                                                *counted)}
    mark, drive.burst = drive.mark(), 10
    began_ns = drive.newest_ns
    assert drive.until(lambda: len(drive.poses_since(mark)) > 12, 40.0, node), drive.status
    lags_s = []
    for arrival_s, stamp, *_ in drive.poses_since(mark)[-5:]:
        # The clock of stamps is the clock of arrivals, but for a constant.
        lags_s.append(arrival_s - mark - (stamp - began_ns) / 1e9)
    played_s = drive.mark() - mark
    heard = drive.mark()
    assert drive.until(lambda: drive.diagnostics_since(heard + 0.3), 10.0, node)
    now = {name: int(drive.status.get(name, 0)) - count for name, count in before.items()}
    assert now['rgb_received'] > 2 * now['updates'], now
    assert sum(now[name] for name in counted) > now['updates'], now
    # A queue that grew would lag behind by nearly all of the time played.
    assert np.median(lags_s) < 0.5 * played_s, (lags_s, played_s)


def test_a_camera_may_change_its_resolution(drive, node):
    drive.halved = True
    mark = drive.mark()
    assert drive.until(lambda: len(drive.poses_since(mark)) > 5, 20.0, node), drive.status
    assert carried_by(drive, 'rgb thermal'), drive.status
    drive.halved = False
    assert updates_flow(drive, node)


def test_camera_info_that_is_missing_comes_late(recorded):
    domain = ros_drive.other_domain()
    process = ros_drive.start('diagnostics_period_s:=0.2', 'map_points:=false', domain=domain)
    with ros_drive.ended(process), ros_drive.Drive(recorded, domain=domain) as drive:
        process.output = ros_drive.Output(process)
        drive.without_info = {'rgb', 'thermal'}
        assert drive.until(lambda: drive.status, 60.0, process)
        drive.start_at(drive.here())
        assert drive.until(lambda: 'no camera_info yet' in str(drive.status), 15.0, process)
        assert not drive.updates
        drive.without_info = {'rgb'}
        drive.start_at(drive.here())
        assert updates_flow(drive, process, patience_s=20.0), (drive.status, str(process.output))
        assert drive.status['modalities'] == 'thermal'
        drive.without_info = set()
        assert drive.until(lambda: carried_by(drive, 'rgb thermal'), 15.0, process), drive.status
        claims_nothing_wrong(drive, 0.0)


def test_extrinsics_that_are_missing_come_late(recorded):
    domain = ros_drive.other_domain()
    process = ros_drive.start('diagnostics_period_s:=0.2', 'map_points:=false', domain=domain)
    with ros_drive.ended(process):
        process.output = ros_drive.Output(process)
        drive = ros_drive.Drive(recorded, domain=domain)
        drive.without_mount = {'rgb', 'thermal'}
        with drive:
            assert drive.until(lambda: drive.status, 60.0, process)
            drive.start_at(drive.here())
            assert drive.until(lambda: 'tf has no frame' in str(drive.status), 15.0, process)
            assert not drive.updates and not drive.map_odom
            drive.without_mount = set()
            drive.publish_mounts()
            drive.start_at(drive.here())
            assert updates_flow(drive, process, patience_s=20.0), drive.status
            claims_nothing_wrong(drive, 0.0)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_busy_node_ends_within_seconds(recorded, number):
    domain = ros_drive.other_domain()
    process = ros_drive.start('diagnostics_period_s:=0.2', 'localizer.refinement.rays:=20000',
                              domain=domain)
    with ros_drive.ended(process), ros_drive.Drive(recorded, domain=domain) as drive:
        process.output = ros_drive.Output(process)
        assert drive.until(lambda: drive.status, 60.0, process)
        drive.start_at(drive.here())
        assert drive.until(lambda: int(drive.status.get('updates', 0)) > 2, 30.0, process)
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(60) == 0, str(process.output)
        seconds = time.monotonic() - began
        assert seconds < 3.0 * ros_drive.slowness(), seconds
        assert not process.output.has('Traceback'), str(process.output)


@pytest.mark.parametrize('seconds', [0.0, 0.3, 0.6, 0.9])
def test_a_node_that_searches_in_compiled_code_ends_well(recorded, seconds):
    domain = ros_drive.other_domain()
    process = ros_drive.start('diagnostics_period_s:=0.2', map_name='room.torch', domain=domain)
    with ros_drive.ended(process), ros_drive.Drive(recorded, domain=domain) as drive:
        process.output = ros_drive.Output(process)
        assert drive.until(lambda: int(drive.status.get('thermal_received', 0)) > 2, 60.0, process)
        drive.wait(seconds)  # nobody gave a start: it searches
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)  # as a terminal and ros2 launch do
        assert process.wait(60) == 0, str(process.output)
        assert not process.output.has('terminate called'), str(process.output)
        assert not process.output.has('Traceback'), str(process.output)


@pytest.mark.parametrize('content, told', [
    (None, 'no such map file'), (b'', 'truncated, corrupt or no map'),
    (b'\x08\x00\x00\x00\x00\x00\x00\x00{}      ', 'no radiance map')])
def test_a_map_that_is_none_is_refused_at_the_start(tmp_path, content, told):
    import subprocess
    import sys
    path = tmp_path / 'a.map'
    if content is not None:
        path.write_bytes(content)
    done = subprocess.run([sys.executable, '-m', 'thermal_nerf_loc.ros.localizer_node',
                           '--ros-args', '-p', f'map:={path}'], capture_output=True, text=True,
                          timeout=60, cwd=ros_drive.ROOT, check=False)
    told_all = done.stdout + done.stderr
    assert done.returncode == 2, told_all
    assert told in told_all and 'Traceback' not in told_all


def test_two_robots_share_a_machine(recorded):
    domain = ros_drive.other_domain()
    robots = [('alpha', 'alpha/'), ('beta', 'beta/')]
    processes, drives = [], []
    try:
        for namespace, prefix in robots:
            process = ros_drive.start(
                'diagnostics_period_s:=0.2', 'map_points:=false', 'tracker.search:=false',
                f'synchronizer.odom_frame:={prefix}odom',
                f'synchronizer.base_frame:={prefix}base_link',
                namespace=namespace, domain=domain)
            process.output = ros_drive.Output(process)
            processes.append(process)
            drives.append(ros_drive.Drive(recorded, namespace, prefix, domain).__enter__())
        for drive, process in zip(drives, processes):
            assert drive.until(lambda d=drive: d.status, 60.0, process)
        drives[0].start_at(drives[0].here())
        assert updates_flow(drives[0], processes[0], patience_s=30.0), drives[0].status
        assert not drives[1].updates  # nobody told beta
        drives[1].start_at(drives[1].here())
        assert updates_flow(drives[1], processes[1], patience_s=30.0), drives[1].status
        for drive in drives:
            claims_nothing_wrong(drive, 0.0)
            assert drive.map_odom
    finally:
        for drive in drives:
            drive.__exit__()
        for process in processes:
            process.kill()
            process.wait(10)


def test_a_wrong_click_in_rviz_does_not_mute_the_robot(drive, node):
    T = drive.here()
    T[2, 3] = 0.0  # RViz clicks on the floor of its grid
    T = T @ se3.exp([0.0, 0.0, 0.0, 0.0, 0.0, np.deg2rad(60.0)])
    mark = drive.mark()
    drive.start_at(T, variances=(0.25, 0.25, 0.0, 0.0, 0.0, 0.0685))
    assert drive.until(lambda: len(drive.tf_since(mark + 0.5)) > 3, 10.0, node), drive.status
    T[0, 3] = 1e300
    lines = len(node.output.lines)
    drive.start_at(T)
    assert drive.until(lambda: node.output.has('out of this world', lines), 10.0, node)

# SPDX-License-Identifier: Apache-2.0
"""The real node and the real player as processes, over DDS."""

import functools
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import dds_domains
import numpy as np
import pytest

from thermal_nerf_loc.common.errors import RunError
from thermal_nerf_loc.common.progress import silent
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.bags import messages
from thermal_nerf_loc.io.bags.reader import BagReader
from thermal_nerf_loc.io.trajectory import read_tum
from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
from thermal_nerf_loc.sensing.thermal import PlanckRadiometry
from thermal_nerf_loc.simulation.layouts import make_world
from thermal_nerf_loc.simulation.record import simulate_bag, SimulationConfig
from thermal_nerf_loc.tracking.bag_replay import read_truth

rclpy = pytest.importorskip('rclpy')
pytest.importorskip('tf2_msgs')
pytestmark = pytest.mark.ros

NODE = str(Path(__file__).parents[1] / 'support' / 'ros_node_in_world.py')
REAL_NODE = ('-m', 'thermal_nerf_loc.ros.localizer_node')
PLAYER = ('-m', 'thermal_nerf_loc.ros.bag_player')


@pytest.fixture(scope='module', autouse=True)
def _package_is_found():
    """Let the processes import the package under test, installed or not."""
    paths = [str(Path(__file__).parents[2]), os.environ.get('PYTHONPATH', '')]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PYTHONPATH', os.pathsep.join(filter(None, paths)))
        yield


@pytest.fixture(autouse=True)
def _domain(monkeypatch):
    """Keep what a node of the last test left behind out of this one."""
    domain = dds_domains.claim()
    monkeypatch.setenv('ROS_DOMAIN_ID', str(domain))
    yield
    dds_domains.release(domain)


@pytest.fixture(scope='module')
def bag(tmp_path_factory):
    path = tmp_path_factory.mktemp('bag') / 'drive'
    simulate_bag(path, SimulationConfig(seconds=4.0, size=(96, 72), rgb_hz=10.0, thermal_hz=10.0,
                                        supersampling=1))
    return path


@pytest.fixture(scope='module')
def truth(bag):
    with BagReader(bag) as reader:
        return read_truth(reader)


def start(*command, **options):
    return subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True,
                            stderr=subprocess.STDOUT, **options)


def pose_parameter(T):
    values = (*T[:3, 3].tolist(), *se3.quaternion_from_matrix(T[:3, :3]).tolist())
    return 'initial_pose:=[' + ', '.join(map(repr, values)) + ']'


def wait_for(process, text, patience_s=60.0):
    """Read the process' output until a line holds `text`."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        line = process.stdout.readline()
        if text in line:
            return line
        if not line:
            break
    raise AssertionError(f'no {text!r} from the process')


def test_replay_through_ros(bag, tmp_path, capsys, monkeypatch):
    from thermal_nerf_loc.cli import main
    from thermal_nerf_loc.evaluation.study import drive_replay, live_replay
    monkeypatch.setattr(drive_replay, 'LiveRun',
                        functools.partial(live_replay.LiveRun, node=(NODE,)))
    world = make_world('room')
    monkeypatch.setattr(RadianceMap, 'load', lambda path, device='cpu': world)  # for the report
    before = dict(os.environ)
    code = main(['replay', 'room', str(bag), '--out', str(tmp_path), '--through-ros'])
    assert code == 0, capsys.readouterr().err
    assert dict(os.environ) == before
    told = json.loads((tmp_path / 'metrics.json').read_text())
    details = told['details']
    assert told['way'] == 'ros'
    assert told['matched'] > 100  # tf answers at the rate of odometry, 50 Hz, not of images
    assert told['ate_median_m'] < 0.03
    assert told['ate_median_deg'] < 1.0
    assert details['state'] == 'tracking'
    assert int(details['thermal_received']) > 30
    assert 'faults' not in details
    assert 'waiting for images' in (tmp_path / 'node.log').read_text()
    assert len(read_tum(tmp_path / 'trajectory.tum')) == told['matched']


def test_without_odometry_the_base_is_on_tf(bag, truth):
    """Others publish odom -> base: the map becomes the parent of odom, not a second of base."""
    from thermal_nerf_loc.evaluation.study.live_replay import LiveRun, run_live
    recording, log = run_live(LiveRun(
        Path('room'), bag, [pose_parameter(truth.poses[0]), 'odometry:=none',
                            'rgb_transport:=compressed', 'thermal_transport:=compressed'],
        ['rgb/image_raw/compressed:=/rgb/image_raw/compressed'],
        ['/rgb/image_raw/compressed', '/thermal/image_raw/compressed'], 4.0, node=(NODE,)), silent)
    assert len(recording.updates) > 5, log
    on_tf = np.isin(recording.updates.stamps_ns, recording.tf.stamps_ns)
    assert on_tf.mean() > 0.7  # not before odometry has come
    errors = [se3.distance(T, truth.at(int(t)))[0]
              for t, T in zip(recording.tf.stamps_ns, recording.tf.poses)]
    assert np.median(errors) < 0.05


@pytest.mark.parametrize('arguments, message', [
    ([], 'no map given'),
    (['-p', 'map:=x', '-p', 'synchronizer.max_skew_s:=7.0'], 'expected float, 0.0 to 1.0')])
def test_the_node_says_why_it_cannot_start(arguments, message):
    process = start(*REAL_NODE, '--ros-args', *arguments)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2, output
    assert message in output
    assert 'Traceback' not in output


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_signals_end_the_node_well(number):
    process = start(NODE, '--ros-args', '-p', 'map:=room')
    try:
        wait_for(process, 'waiting for images')
        process.send_signal(number)
        output, _ = process.communicate(timeout=20)
        assert process.returncode == 0, output
        assert 'Traceback' not in output
    finally:
        process.kill()


def test_a_lifecycle_manager_may_start_and_stop_it():
    from lifecycle_msgs.msg import State, Transition
    from lifecycle_msgs.srv import ChangeState, GetState
    process = start(NODE, '--ros-args', '-p', 'map:=room', '-p', 'autostart:=false')
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node('manager', context=context)
    executor = rclpy.executors.SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def call(kind, name, request):
        client = node.create_client(kind, f'/localizer/{name}')
        assert client.wait_for_service(30.0)
        future = client.call_async(request)
        executor.spin_until_future_complete(future, 60.0)
        return future.result()

    def change(transition):
        request = ChangeState.Request(transition=Transition(id=transition))
        assert call(ChangeState, 'change_state', request).success
        return call(GetState, 'get_state', GetState.Request()).current_state.id

    try:
        assert change(Transition.TRANSITION_CONFIGURE) == State.PRIMARY_STATE_INACTIVE
        for _ in range(2):
            assert change(Transition.TRANSITION_ACTIVATE) == State.PRIMARY_STATE_ACTIVE
            assert change(Transition.TRANSITION_DEACTIVATE) == State.PRIMARY_STATE_INACTIVE
        assert change(Transition.TRANSITION_CLEANUP) == State.PRIMARY_STATE_UNCONFIGURED
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=20)
        assert process.returncode == 0, output
    finally:
        process.kill()
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_every_message_of_a_bag_is_played(bag):
    from geometry_msgs.msg import PoseStamped
    from rclpy.qos import DurabilityPolicy, QoSProfile
    from rosgraph_msgs.msg import Clock
    from sensor_msgs.msg import Image
    from tf2_msgs.msg import TFMessage

    from thermal_nerf_loc.io.bags.messages import image_from_message
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node('listener', context=context)
    heard = {name: [] for name in ('/rgb/image_raw', '/ground_truth/pose', '/clock')}
    kinds = {'/rgb/image_raw': Image, '/ground_truth/pose': PoseStamped, '/clock': Clock}
    for topic, kind in kinds.items():
        qos = 1000 if topic != '/clock' else QoSProfile(
            depth=10, reliability=rclpy.qos.ReliabilityPolicy.BEST_EFFORT)
        node.create_subscription(kind, topic, heard[topic].append, qos)
    executor = rclpy.executors.SingleThreadedExecutor(context=context)
    executor.add_node(node)
    process = start(*PLAYER, str(bag), '--rate', '4', '--wait-for', '/rgb/image_raw',
                    '/ground_truth/pose')
    late, late_listener = [], None
    try:
        while process.poll() is None:
            executor.spin_once(timeout_sec=0.05)
            if heard['/rgb/image_raw'] and late_listener is None:
                late_listener = node.create_subscription(
                    TFMessage, '/tf_static', late.append,
                    QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL))
        assert process.returncode == 0, process.stdout.read()
    finally:
        process.kill()
        node.destroy_node()
        rclpy.shutdown(context=context)
    with BagReader(bag) as reader:
        counts = reader.counts
        first = next(iter(reader.messages(['/rgb/image_raw']))).message
    assert len(heard['/rgb/image_raw']) == counts['/rgb/image_raw']
    assert len(heard['/ground_truth/pose']) == counts['/ground_truth/pose']
    assert len(late) == 1  # /tf_static is there for whoever comes late
    np.testing.assert_array_equal(image_from_message(heard['/rgb/image_raw'][0]),
                                  image_from_message(first))
    stamps = [m.clock.sec * 10**9 + m.clock.nanosec for m in heard['/clock']]
    assert stamps == sorted(stamps)
    assert len(stamps) > 50


@pytest.mark.parametrize('arguments, code, message', [
    (['nowhere'], 2, 'does not exist'), (['BAG', '--rate', '0'], 2, 'above 0'),
    (['BAG', '--wait-for', '/nothing'], 2, 'bag has no /nothing'),
    (['BAG', '--wait-for', '/rgb/image_raw', '--patience-s', '0.2'], 1, 'no subscriber to /rgb')])
def test_the_player_says_why_it_cannot_play(bag, arguments, code, message):
    process = start(*PLAYER, *[str(bag) if a == 'BAG' else a for a in arguments])
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert message in output


def test_a_node_that_dies_is_reported_with_its_reason(bag):
    from thermal_nerf_loc.evaluation.study.live_replay import LiveRun, run_live
    run = LiveRun(Path('/nowhere/map.bin'), bag, [], [], ['/rgb/image_raw'], 4.0)
    with pytest.raises(RunError, match=r'exit code 2.*no such map file'):
        run_live(run, silent)


def test_parameters_are_the_config_fields():
    from rclpy.parameter import Parameter

    from thermal_nerf_loc.common.errors import InputError
    from thermal_nerf_loc.ros.parameters import declare_config, parameter_names
    from thermal_nerf_loc.tracking.node_config import NodeConfig
    context = rclpy.Context()
    rclpy.init(context=context)
    nodes = []
    try:
        node = rclpy.create_node('n', context=context)
        nodes.append(node)
        assert declare_config(node, NodeConfig) == NodeConfig()
        for name, default in parameter_names(NodeConfig()).items():
            value = node.get_parameter(name).value
            assert (list(value) if isinstance(default, tuple) else value) == (
                list(default) if isinstance(default, tuple) else default), name
            assert node.describe_parameter(name).description, name
        skew = node.describe_parameter('synchronizer.max_skew_s').floating_point_range[0]
        assert (skew.from_value, skew.to_value) == (0.0, 1.0)
        given = [Parameter('initial_pose', value=[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]),
                 Parameter('localizer.seed', value=99)]
        other = rclpy.create_node('o', context=context, parameter_overrides=given)
        nodes.append(other)
        config = declare_config(other, NodeConfig)
        assert config.initial_pose == (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
        assert config.localizer.seed == 99
        wrong = rclpy.create_node('w', context=context, parameter_overrides=[
            Parameter('localizer.seed', value='many')])
        nodes.append(wrong)
        with pytest.raises(InputError, match=r'localizer\.seed'):
            declare_config(wrong, NodeConfig)
    finally:
        for node in nodes:
            node.destroy_node()
        rclpy.shutdown(context=context)


def test_former_and_unknown_names_of_parameters_are_told(capfd):
    from rclpy.parameter import Parameter

    from thermal_nerf_loc.common.errors import InputError
    from thermal_nerf_loc.ros.parameters import declare_config
    from thermal_nerf_loc.tracking.node_config import NodeConfig
    context = rclpy.Context()
    rclpy.init(context=context)
    nodes = []

    def declare(**given):
        nodes.append(rclpy.create_node('n', context=context, parameter_overrides=[
            Parameter(name.replace('__', '.'), value=value) for name, value in given.items()]))
        return nodes[-1], declare_config(nodes[-1], NodeConfig)

    try:
        node, config = declare(intake__max_skew_s=0.2, tracker__gat=3.0, use_sim_time=False)
        assert config.synchronizer.max_skew_s == 0.2
        assert node.get_parameter('synchronizer.max_skew_s').value == 0.2
        assert not node.has_parameter('intake.max_skew_s')
        told = capfd.readouterr().err
        assert told.count('parameter intake.max_skew_s is now called synchronizer.max_skew_s') == 1
        assert 'there is no parameter tracker.gat; did you mean tracker.gate?' in told
        assert told.count('there is no parameter') == 1
        with pytest.raises(InputError, match=r'under two names.*intake\.max_skew_s'):
            declare(intake__max_skew_s=0.2, synchronizer__max_skew_s=0.2)
        with pytest.raises(InputError, match=r'synchronizer\.max_skew_s'):
            declare(intake__max_skew_s='much')
        _, config = declare(**{f'thermal_scale__{name}': value for name, value in (
            ('planck_r1', 16000.0), ('planck_b', 1430), ('planck_f', 1.0), ('planck_o', -1000.))})
        assert config.thermal_scale.radiometry() == PlanckRadiometry(16000.0, 1430.0, 1.0, -1000.0)
        with pytest.raises(InputError, match='given twice'):
            declare(thermal_scale__camera='seek', thermal_scale__celsius_per_count=0.5)
    finally:
        for node in nodes:
            node.destroy_node()
        rclpy.shutdown(context=context)


def test_messages_survive_the_way_to_rclpy_and_back():
    from thermal_nerf_loc.geometry.camera import Camera
    from thermal_nerf_loc.ros import message_conversion
    rng = np.random.default_rng(1)
    for encoding, pixels in (('rgb8', rng.integers(0, 255, (4, 5, 3), np.uint8)),
                             ('bgr8', rng.integers(0, 255, (4, 5, 3), np.uint8)),
                             ('16UC1', rng.integers(0, 65535, (4, 5), np.uint16)),
                             ('32FC1', rng.normal(size=(4, 5)).astype(np.float32))):
        message = message_conversion.image_to_message(pixels, encoding, 'cam', 12_345_678_901)
        np.testing.assert_array_equal(messages.image_from_message(message), pixels)
        assert messages.stamp_ns(message.header.stamp) == 12_345_678_901
    camera = Camera.from_fov(64, 48, 70.0)
    assert messages.camera_from_info(message_conversion.camera_to_info(camera, 'cam', 0)) == camera
    T = se3.exp([1.0, 2.0, 3.0, 0.5, -2.0, 1.0])
    np.testing.assert_allclose(messages.matrix_from_pose(message_conversion.matrix_to_pose(T)),
                               T, atol=1e-12)
    stamped = message_conversion.matrix_to_transform(T, 'a', 'b', 5)
    np.testing.assert_allclose(messages.matrix_from_transform(stamped.transform), T, atol=1e-12)
    assert (stamped.header.frame_id, stamped.child_frame_id) == ('a', 'b')


def test_modules_for_the_desk_load_without_ros():
    folder = Path(__file__).parents[2] / 'thermal_nerf_loc' / 'tracking'
    modules = sorted(path.stem for path in folder.glob('*.py') if path.stem != '__init__')
    assert len(modules) > 5
    program = ('import sys\n'
               'for name in ("rclpy", "tf2_msgs", "sensor_msgs"):\n    sys.modules[name] = None\n'
               + ''.join(f'import thermal_nerf_loc.tracking.{name}\n' for name in modules)
               + 'import thermal_nerf_loc.evaluation.study.drive_replay\n')
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True,
                          env=os.environ)
    assert done.returncode == 0, done.stderr

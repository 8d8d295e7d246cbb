# SPDX-License-Identifier: Apache-2.0
"""Requests that a running node's state does not allow, and hostile ones: refused and logged."""

import pytest

pytest.importorskip('rclpy')
pytest.importorskip('tf2_msgs')
pytestmark = pytest.mark.ros

from geometry_msgs.msg import PoseWithCovarianceStamped  # noqa: E402, I100, I202
from lifecycle_msgs.msg import State, Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState, GetState  # noqa: E402
import numpy as np  # noqa: E402
from rcl_interfaces.msg import Parameter, ParameterValue  # noqa: E402
from rcl_interfaces.srv import DescribeParameters, SetParameters  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image  # noqa: E402
from tf2_msgs.msg import TFMessage  # noqa: E402

from thermal_nerf_loc.ros import message_conversion  # noqa: E402

pytest_plugins = ('ros_fixtures',)


@pytest.fixture(scope='module')
def node_parameters():
    return ('map_points:=false',)


def change(robot, transition, label=''):
    """Ask for a transition; returns whether it was made, and the state afterwards."""
    request = ChangeState.Request(transition=Transition(id=transition, label=label))
    made = robot.call(ChangeState, 'change_state', request=request).success
    return made, robot.call(GetState, 'get_state').current_state.id


def test_configure_while_active_is_refused_and_tracking_goes_on(tracked, node):
    lines = len(node.output.lines)
    made, state = change(tracked, Transition.TRANSITION_CONFIGURE)
    assert (made, state) == (False, State.PRIMARY_STATE_ACTIVE)
    assert node.output.has('configure is refused', lines), str(node.output)
    assert node.output.has('autostart:=false', lines), str(node.output)
    mark = tracked.mark()
    assert tracked.until(lambda: len(tracked.poses_since(mark)) > 3, 15.0, node)


@pytest.mark.parametrize('transition, label', [
    (Transition.TRANSITION_ACTIVATE, ''), (Transition.TRANSITION_CLEANUP, ''),
    (Transition.TRANSITION_UNCONFIGURED_SHUTDOWN, ''), (Transition.TRANSITION_DESTROY, ''),
    (Transition.TRANSITION_ON_CONFIGURE_SUCCESS, ''), (255, ''), (0, 'fly'), (0, 'configure')])
def test_no_transition_of_another_state_ends_the_node(robot, node, transition, label):
    assert change(robot, transition, label) == (False, State.PRIMARY_STATE_ACTIVE)
    assert node.poll() is None


def test_changes_of_the_state_are_logged(robot, node):
    lines = len(node.output.lines)
    assert change(robot, Transition.TRANSITION_DEACTIVATE)[0]
    assert change(robot, Transition.TRANSITION_ACTIVATE)[0]
    for line in ('deactivate: active -> inactive', 'activate: inactive -> active'):
        assert node.output.has(line, lines), str(node.output)


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf'), 1e308, -1.0, 0.0])
@pytest.mark.parametrize('name', ['tracker.lost_after_s', 'diagnostics_period_s',
                                  'transform_tolerance_s', 'synchronizer.max_skew_s'])
def test_hostile_values_of_parameters_leave_the_node_alive(robot, node, name, value):
    before = robot.call(GetState, 'get_state').current_state.id
    result = robot.set(name, value)
    assert not result.successful or np.isfinite(value), result
    assert robot.call(GetState, 'get_state').current_state.id == before
    robot.set(name, DEFAULTS[name])


DEFAULTS = {'tracker.lost_after_s': 5.0, 'diagnostics_period_s': 0.2,
            'transform_tolerance_s': 0.2, 'synchronizer.max_skew_s': 0.05}


def test_hostile_requests_and_messages_leave_the_node_alive(robot, node):
    strange = [Parameter(name='', value=ParameterValue(type=3)),
               Parameter(name='tracker..', value=ParameterValue(type=9)),
               Parameter(name='map', value=ParameterValue(type=200)),
               Parameter(name='initial_pose',
                         value=ParameterValue(type=7, integer_array_value=[1]))]
    for parameter in strange:
        robot.call(SetParameters, 'set_parameters',
                   request=SetParameters.Request(parameters=[parameter]))
    robot.call(DescribeParameters, 'describe_parameters',
               request=DescribeParameters.Request(names=['', 'no.such', '~']))
    image = Image(height=2**32 - 1, width=2**32 - 1, step=2**32 - 1, encoding='rgb8', data=b'12')
    image.header.stamp.sec, image.header.stamp.nanosec = -2**31, 2**32 - 1
    info = CameraInfo(width=2**32 - 1, height=1, distortion_model='x', k=np.full(9, np.nan))
    pose = PoseWithCovarianceStamped()
    pose.header.frame_id, pose.header.stamp.sec = 'map', -5
    pose.pose.pose.orientation.w = 1.0
    transform = message_conversion.matrix_to_transform(np.eye(4), '', '', 0)
    transform.header.stamp.sec = -2**31
    odometry = message_conversion.matrix_to_transform(np.eye(4), 'odom', 'base_link', 0)
    odometry.header.stamp.sec = -2**31
    for _ in range(3):
        robot.images['thermal'].publish(image)
        robot.infos['thermal'].publish(info)
        robot.initial.publish(pose)
        robot.tf.publish(TFMessage(transforms=[transform, odometry]))
        robot.wait(0.2)
    mark = robot.mark()
    assert robot.until(lambda: robot.diagnostics_since(mark + 0.3), 20.0, node)
    robot.start_afresh(node)  # an image of the year 1901 was a jump of time


@pytest.mark.parametrize('has_post_callback', [True, False])
def test_parameters_change_also_where_ros_has_no_post_set_callback(monkeypatch,
                                                                   has_post_callback):
    import rclpy
    from rclpy.node import Node
    from rclpy.parameter import Parameter as Setting

    from thermal_nerf_loc.ros.managed_node import ManagedNode
    if not has_post_callback:  # as on Humble
        monkeypatch.delattr(Node, 'add_post_set_parameters_callback')
    from rcl_interfaces.msg import SetParametersResult
    context, applied = rclpy.Context(), []
    rclpy.init(context=context)
    node = None
    try:
        node = ManagedNode('parameters', context)
        node.declare_parameter('length', 1.0)
        node.on_parameter_changes(
            lambda parameters: SetParametersResult(successful=parameters[0].value < 2.0),
            lambda parameters: applied.append(parameters[0].value))
        assert node.set_parameters([Setting('length', value=1.5)])[0].successful
        assert not node.set_parameters([Setting('length', value=2.5)])[0].successful
        assert applied == [1.5]
        assert node.get_parameter('length').value == 1.5
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.shutdown(context=context)

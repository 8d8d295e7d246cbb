# SPDX-License-Identifier: Apache-2.0
"""
What Nav2's lifecycle manager and nav2_simple_commander do with a localizer, step by step.

The order is that of nav2_lifecycle_manager/src/lifecycle_manager.cpp (startup, pause, resume,
shutdown; a bond after each activation, formed within half its timeout) and of
nav2_simple_commander's waitUntilNav2Active (get_state until active, initialpose until amcl_pose).
Prints a line of JSON for each step: `nav2_manager.py x y z qx qy qz qw`.
"""

import itertools
import json
import sys
import time
import uuid

from bond.msg import Status
from geometry_msgs.msg import PoseWithCovarianceStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from nav2_msgs.srv import SetInitialPose
import rclpy
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_srvs.srv import Empty

NODE = 'localizer'
BOND_TIMEOUT_S, HEARTBEAT_S = 4.0, 0.1
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Manager:
    """The other side of everything."""

    def __init__(self, patience):
        self.node = rclpy.create_node('lifecycle_manager_localization')
        self.patience, self.heard = patience, []  # (s, instance, active) of the node's bond
        self.instance, self.poses = '', []
        self.status = self.node.create_publisher(Status, 'bond', 10)
        self.node.create_subscription(Status, 'bond', self._on_status, 30)
        self.node.create_timer(HEARTBEAT_S, lambda: self._beat(True))
        self.node.create_subscription(PoseWithCovarianceStamped, 'amcl_pose', self.poses.append,
                                      LATCHED)
        self.initial = self.node.create_publisher(PoseWithCovarianceStamped, 'initialpose', 10)

    def call(self, kind, name, request=None):
        client = self.node.create_client(kind, name)
        assert client.wait_for_service(20.0 * self.patience), name
        future = client.call_async(request or kind.Request())
        rclpy.spin_until_future_complete(self.node, future, timeout_sec=40.0 * self.patience)
        assert future.done(), name
        return future.result()

    def change(self, transition):
        done = self.call(ChangeState, f'{NODE}/change_state', ChangeState.Request(
            transition=Transition(id=transition)))
        label = self.call(GetState, f'{NODE}/get_state').current_state.label
        say('change', made=done.success, state=label)

    def until(self, condition, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end and not condition():
            rclpy.spin_once(self.node, timeout_sec=0.05)
        return condition()

    def form_bond(self):
        self.heard.clear()
        self.instance = str(uuid.uuid4())
        formed = self.until(lambda: any(active for *_, active in self.heard),
                            0.5 * BOND_TIMEOUT_S * self.patience)
        say('bond', formed=formed, instance=self.heard[-1][1] if self.heard else '')

    def hold_bond(self, seconds):
        self.heard.clear()
        self.until(lambda: False, seconds)
        times = [s for s, _, active in self.heard if active]
        gaps = [b - a for a, b in itertools.pairwise(times)]
        say('held', beats=len(times), worst_s=max(gaps, default=99.0))

    def break_bond(self):
        """What the destructor of a bond does; the node may have ended it already."""
        self._beat(False)
        self.until(lambda: any(not active for *_, active in self.heard), 1.0 * self.patience)
        ended = any(not active for *_, active in self.heard)
        self.instance = ''
        self.heard.clear()
        self.until(lambda: False, 1.0)
        say('broken', ended=ended, beats_afterwards=sum(active for *_, active in self.heard))

    def wait_for_initial_pose(self, pose):
        sent = 0
        while not self.poses and sent < 60 * self.patience:
            self.initial.publish(pose)
            sent += 1
            rclpy.spin_once(self.node, timeout_sec=1.0)
        say('amcl_pose', count=len(self.poses), sent=sent)

    def _beat(self, active):
        if self.instance:
            self.status.publish(Status(id=NODE, instance_id=self.instance, active=active,
                                       heartbeat_timeout=BOND_TIMEOUT_S,
                                       heartbeat_period=HEARTBEAT_S))

    def _on_status(self, message):
        if message.id == NODE and message.instance_id != self.instance:
            self.heard.append((time.monotonic(), message.instance_id, message.active))


def say(step, **facts):
    sys.stdout.write(json.dumps({'step': step, **facts}) + '\n')
    sys.stdout.flush()


def main():
    numbers = [float(word) for word in sys.argv[1:8]]
    rclpy.init()
    manager = Manager(float(sys.argv[8]))
    pose = PoseWithCovarianceStamped()
    pose.header.frame_id = 'map'
    position, orientation = pose.pose.pose.position, pose.pose.pose.orientation
    position.x, position.y, position.z = numbers[:3]
    orientation.x, orientation.y, orientation.z, orientation.w = numbers[3:]
    # startup
    manager.change(Transition.TRANSITION_CONFIGURE)
    manager.call(SetInitialPose, 'set_initial_pose', SetInitialPose.Request(pose=pose))
    manager.change(Transition.TRANSITION_ACTIVATE)
    manager.form_bond()
    say('kept', came=manager.until(lambda: bool(manager.poses), 30.0 * manager.patience))
    manager.hold_bond(2.0)
    # a behaviour tree's recovery, then nav2_simple_commander
    manager.call(Empty, 'reinitialize_global_localization')
    manager.call(Empty, 'request_nomotion_update')
    manager.poses.clear()
    pose.header.stamp = manager.node.get_clock().now().to_msg()
    manager.wait_for_initial_pose(pose)
    # pause, resume, shutdown
    manager.change(Transition.TRANSITION_DEACTIVATE)
    manager.break_bond()
    manager.change(Transition.TRANSITION_ACTIVATE)
    manager.form_bond()
    manager.change(Transition.TRANSITION_DEACTIVATE)
    manager.break_bond()
    manager.change(Transition.TRANSITION_CLEANUP)
    manager.change(Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
    rclpy.shutdown()


if __name__ == '__main__':
    main()

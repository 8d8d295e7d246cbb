# SPDX-License-Identifier: Apache-2.0
"""
The bond with a lifecycle manager: a heartbeat on `bond`, by which it learns that the node died.

This is the node's side of bond_core's protocol, as nav2_amcl has it; it needs `bond/msg/Status`
alone. bondpy would end its heartbeat for good where no manager answers within ten seconds.
"""

import importlib
from typing import Any
import uuid

from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode

from thermal_nerf_loc.ros.message_conversion import stamp_from_ns

TOPIC = 'bond'  # in the node's namespace, as Nav2's lifecycle nodes have it
_TIMEOUT_S = 4.0  # as Nav2's: after so long without a heartbeat the other side counts as dead


class Bond:
    """Beats from `start` to `stop`; without the messages of bond_core it does nothing."""

    def __init__(self, node: LifecycleNode, period_s: float) -> None:
        """Take part in the topic; the other side stays to be heard until `destroy`."""
        self._node, self._period_s = node, period_s
        self._status = _status_class() if period_s > 0.0 else None
        self._instance = ''
        self._beats: Any = None  # the timer, while this side is alive
        if self._status is not None:
            self._publisher = node.create_publisher(self._status, TOPIC, 10)
            self._subscription = node.create_subscription(self._status, TOPIC, self._on_status,
                                                          30)

    def start(self) -> None:
        """Say that the node is alive, again and again."""
        if self._status is None:
            return
        self._instance = str(uuid.uuid4())
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._beats = self._node.create_timer(self._period_s, self._beat, clock=steady)
        self._beat()

    def stop(self) -> None:
        """Say that it ends by intention."""
        if self._beats is not None:
            self._end()
            self._publish(active=False)

    def destroy(self) -> None:
        """Leave the topic."""
        self.stop()
        if self._status is not None:
            self._node.destroy_subscription(self._subscription)
            self._node.destroy_publisher(self._publisher)

    def _beat(self) -> None:
        self._publish(active=True)

    def _on_status(self, message: Any) -> None:
        """The manager's side ends: acknowledge it, and end as well."""
        is_other = message.id == self._node.get_name() and message.instance_id != self._instance
        if is_other and not message.active and self._instance:
            if self._beats is not None:
                self._end()
            self._publish(active=False)
            self._instance = ''

    def _end(self) -> None:
        self._node.destroy_timer(self._beats)
        self._beats = None

    def _publish(self, active: bool) -> None:
        assert self._status is not None
        message = self._status(id=self._node.get_name(), instance_id=self._instance, active=active,
                               heartbeat_timeout=_TIMEOUT_S, heartbeat_period=self._period_s)
        message.header.stamp = stamp_from_ns(self._node.get_clock().now().nanoseconds)
        self._publisher.publish(message)


def _status_class() -> Any | None:
    """bond/msg/Status; None where bond_core is not installed, as nothing then waits for it."""
    try:
        return importlib.import_module('bond.msg').Status
    except ImportError:
        return None

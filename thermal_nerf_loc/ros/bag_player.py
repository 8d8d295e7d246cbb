# SPDX-License-Identifier: Apache-2.0
"""
Play a rosbag2 over DDS in real time, with /clock, as a process of its own.

Messages are published as the bytes that were recorded. It waits for subscribers first, so that
nothing is lost at the start; /tf_static stays available to late ones.
"""

import argparse
from collections.abc import Callable
import importlib
from pathlib import Path
import time
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.utilities import remove_ros_args
from rosgraph_msgs.msg import Clock

from thermal_nerf_loc.common.errors import InputError, RunError, UserError
from thermal_nerf_loc.io.bags.reader import BagReader
from thermal_nerf_loc.ros.message_conversion import stamp_from_ns

_LATCHED = ('/tf_static',)
_TICK_S = 0.01  # /clock goes on in the gaps between messages
_DISCOVERY_S = 1.0  # discovery is one-sided at first: without it the first messages are lost
_IMAGES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')


class BagPlayer(Node):
    """Publishers for a bag's topics and a clock that runs with it."""

    def __init__(self, topics: dict[str, str], best_effort: bool) -> None:
        """Create a publisher for every topic whose message type is installed here."""
        super().__init__('bag_player')
        self._outputs: dict[str, Any] = {}
        for topic, kind in topics.items():
            message = _message_class(kind)
            if message is None:
                self.get_logger().warning(f'{topic} is left out: {kind} is not installed')
                continue
            images = kind in _IMAGES
            self._outputs[topic] = self.create_publisher(
                message, topic, _qos(topic, best_effort and images))
        best_effort_qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._clock_output = self.create_publisher(Clock, '/clock', best_effort_qos)

    def wait_for_subscribers(self, topics: list[str], patience_s: float) -> None:
        """Return once each of the topics has a subscriber."""
        for topic in topics:
            if topic not in self._outputs:
                raise InputError(f'bag has no {topic} to wait for',
                                 got=f'topics {", ".join(self._outputs)}')
        end = time.monotonic() + patience_s
        while missing := [t for t in topics if not self._outputs[t].get_subscription_count()]:
            if time.monotonic() > end:
                raise RunError(f'no subscriber to {", ".join(missing)} within '
                               f'{patience_s:.0f} s', hint='Is the localizer node running?')
            _check_alive()
            time.sleep(0.05)
        time.sleep(_DISCOVERY_S if topics else 0.0)

    def play(self, reader: BagReader, rate: float) -> tuple[int, float]:
        """Publish everything at its time; returns (messages, worst lateness in seconds)."""
        count, worst_s = 0, 0.0
        first_ns, start = None, time.perf_counter()
        for topic, _, stamp_ns, data in reader.raw_messages(self._outputs):
            if first_ns is None:
                first_ns, start = stamp_ns, time.perf_counter()
            origin_ns = first_ns

            def bag_time(begin: float = start, origin: int = origin_ns) -> int:
                return origin + round((time.perf_counter() - begin) * rate * 1e9)

            worst_s = max(worst_s, self._wait_until(stamp_ns, bag_time, rate))
            self._publish_clock(stamp_ns)
            self._outputs[topic].publish(data)
            count += 1
        return count, worst_s

    def _wait_until(self, stamp_ns: int, bag_time: Callable[[], int], rate: float) -> float:
        """Sleep in small steps; returns how late it is already."""
        while (left_s := (stamp_ns - bag_time()) / 1e9 / rate) > 0.0:
            _check_alive()
            if left_s > _TICK_S:
                time.sleep(_TICK_S)
                self._publish_clock(min(bag_time(), stamp_ns))
            else:
                time.sleep(left_s)
        return -left_s

    def _publish_clock(self, stamp_ns: int) -> None:
        self._clock_output.publish(Clock(clock=stamp_from_ns(stamp_ns)))


def main(args: list[str] | None = None) -> int:
    """Play one bag; 0: played, or interrupted."""
    rclpy.init(args=args)
    logger = rclpy.logging.get_logger('bag_player')
    try:
        options = _parse(remove_ros_args(args)[1:])
        with BagReader(options.bag) as reader:
            player = BagPlayer(reader.topics, options.best_effort)
            player.wait_for_subscribers(options.wait_for, options.patience_s)
            for _ in range(options.laps):
                start = time.monotonic()
                count, worst_s = player.play(reader, options.rate)
                logger.info(f'played {count} messages in {time.monotonic() - start:.1f} s, at '
                            f'worst {1e3 * worst_s:.0f} ms late')
            time.sleep(0.5)  # reliable subscribers may still ask for a message again
    except UserError as error:
        logger.fatal(str(error))
        return error.exit_code
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='bag_player', description=__doc__)
    parser.add_argument('bag', type=Path, help='rosbag2 folder, .mcap or .db3 file')
    parser.add_argument('--rate', type=float, default=1.0, help='times real time')
    parser.add_argument('--laps', type=int, default=1,
                        help='how often to play it; time jumps back in between (default: 1)')
    parser.add_argument('--wait-for', nargs='*', default=[], metavar='TOPIC',
                        help='start once these have subscribers')
    parser.add_argument('--patience-s', type=float, default=60.0, help='how long to wait for them')
    parser.add_argument('--best-effort', action='store_true',
                        help='send images best effort, as most camera drivers do')
    options = parser.parse_args(arguments)
    if not options.rate > 0.0:
        raise InputError('rate is out of range', where='--rate', expected='above 0',
                         got=options.rate)
    return options


def _check_alive() -> None:
    if not rclpy.ok():
        raise ExternalShutdownException


def _message_class(kind: str) -> Any | None:
    package, _, name = kind.split('/')
    try:
        return getattr(importlib.import_module(f'{package}.msg'), name)
    except (ImportError, AttributeError):
        return None


def _qos(topic: str, best_effort: bool) -> QoSProfile:
    return QoSProfile(
        depth=100 if not best_effort else 5,
        reliability=(ReliabilityPolicy.BEST_EFFORT if best_effort
                     else ReliabilityPolicy.RELIABLE),
        durability=(DurabilityPolicy.TRANSIENT_LOCAL if topic in _LATCHED
                    else DurabilityPolicy.VOLATILE))


if __name__ == '__main__':
    raise SystemExit(main())

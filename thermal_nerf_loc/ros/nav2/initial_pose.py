# SPDX-License-Identifier: Apache-2.0
"""
Initial poses, as nav2_amcl takes them: the topic `initialpose` and the service `set_initial_pose`.

They are taken from configuration on: one that comes while the node is inactive holds for the first
frame after its activation.
"""

from collections.abc import Callable
import importlib
from typing import Any

from geometry_msgs.msg import PoseWithCovarianceStamped
import numpy as np
from numpy.typing import ArrayLike, NDArray

from thermal_nerf_loc.common.errors import InputError, RunError, UserError
from thermal_nerf_loc.io.bags import messages
from thermal_nerf_loc.io.bags.transform_tree import frame_name
from thermal_nerf_loc.ros.managed_node import ManagedNode
from thermal_nerf_loc.tracking.node_config import NodeConfig
from thermal_nerf_loc.tracking.robot_tracker import on_floor
from thermal_nerf_loc.tracking.tracker_config import TrackerConfig

Array = NDArray[np.float64]
# With the pose of the base in the map, the stamp it holds for, and its covariance, where given.
OnInitialPose = Callable[[Array, int, Array | None], None]

TOPIC, SERVICE = 'initialpose', 'set_initial_pose'
_FARTHEST_M = 1e6  # no map is larger
_UNKNOWN_HEIGHT_M = 1.0  # standard deviation of a position of which nothing is said
_FLOOR_SIGMA_M, _FLOOR_SIGMA_DEG = 0.05, 2.0  # of height and tilt of a planar robot
_NEGATIVE = -1e-6  # least eigenvalue, as a share of the largest: rounding


class InitialPoseInput:
    """Checks initial poses at once; what makes no sense is refused with a line in the log."""

    def __init__(self, node: ManagedNode, config: NodeConfig, take: OnInitialPose,
                 on_problem: Callable[[Exception], None]) -> None:
        """Subscribe."""
        self._node, self.config = node, config
        self._take, self._on_problem = take, on_problem
        self._last: tuple[Any, ...] | None = None
        self._subscription = node.create_subscription(PoseWithCovarianceStamped, TOPIC,
                                                      self._on_message, 5)

    def take(self, message: Any) -> None:
        """Take a geometry_msgs/PoseWithCovarianceStamped, or raise an error."""
        if frame_name(message.header.frame_id) != frame_name(self.config.map_frame):
            raise InputError('initial pose is in another frame', where=TOPIC,
                             expected=self.config.map_frame, got=repr(message.header.frame_id))
        T_map_base = messages.matrix_from_pose(message.pose.pose, TOPIC)
        if not np.abs(T_map_base[:3, 3]).max() <= _FARTHEST_M:
            raise InputError('initial pose is out of this world', where=TOPIC,
                             expected=f'within {_FARTHEST_M:g} m', got=T_map_base[:3, 3].tolist())
        covariance = start_covariance(message.pose.covariance, self.config.tracker,
                                      self.config.planar)
        if self.config.planar:
            T_map_base = on_floor(T_map_base, self.config.planar_z_m)
        stamp_ns = messages.stamp_ns(message.header.stamp)
        if self._is_repeated(stamp_ns, message.pose.pose):
            return
        self._take(T_map_base, stamp_ns, covariance)

    def destroy(self) -> None:
        """Unsubscribe."""
        self._node.destroy_subscription(self._subscription)

    def _on_message(self, message: Any) -> None:
        try:
            self.take(message)
        except Exception as error:  # no message may end the node
            self._on_problem(error)

    def _is_repeated(self, stamp_ns: int, pose: Any) -> bool:
        """nav2_simple_commander sends one pose until it is answered: it does not begin anew."""
        before, self._last = self._last, (stamp_ns, str(pose))
        return stamp_ns > 0 and before == self._last


def offer_service(node: ManagedNode, names: tuple[str, ...],
                  current: Callable[[], InitialPoseInput | None],
                  on_problem: Callable[[Exception], None]) -> None:
    """Offer `set_initial_pose` where nav2_msgs is installed; its answer is empty."""
    try:
        kind = importlib.import_module('nav2_msgs.srv').SetInitialPose
    except (ImportError, AttributeError):
        return

    def answer(request: Any, response: Any) -> Any:
        try:
            taker = current()
            if taker is None:
                raise RunError(f'{SERVICE}: the node is not configured')
            taker.take(request.pose)
        except UserError as error:
            node.get_logger().error(str(error))
        except Exception as error:  # no request may end the node
            on_problem(error)
        return response

    for name in names:
        node.create_service(kind, name, answer)


def start_covariance(values: ArrayLike, config: TrackerConfig, planar: bool = False,
                     ) -> Array | None:
    """
    The covariance (6, 6) of an initial pose; None: nothing is said of it.

    A variance of zero means unknown, not certain: RViz' 2D Pose Estimate leaves those of z, roll
    and pitch at zero. Of a planar robot the floor says them.
    """
    P = np.array(values, dtype=np.float64).reshape(6, 6)
    if not np.abs(P).max() <= _FARTHEST_M**2:
        raise InputError('covariance is none', where=TOPIC, expected='36 finite numbers')
    P = 0.5 * (P + P.T)
    eigenvalues = np.linalg.eigvalsh(P)
    if eigenvalues[0] < _NEGATIVE * max(eigenvalues[-1], 1e-12):
        raise InputError('covariance is none', where=TOPIC, expected='no negative eigenvalue',
                         got=f'{eigenvalues[0]:.3g}')
    if not P.any():
        return None
    unknown = np.diag(P) == 0.0
    P[unknown, :] = P[:, unknown] = 0.0
    turned = np.deg2rad(config.initial_sigma_deg)
    P[unknown, unknown] = np.repeat((_UNKNOWN_HEIGHT_M**2, turned**2), 3)[unknown]
    if planar:
        held = [2, 3, 4]
        P[held, :] = P[:, held] = 0.0
        P[held, held] = (_FLOOR_SIGMA_M**2, *2 * [np.deg2rad(_FLOOR_SIGMA_DEG)**2])
    return P

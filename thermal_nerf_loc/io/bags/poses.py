# SPDX-License-Identifier: Apache-2.0
"""Poses of a bag's cameras at any time: by tf, odometry, stamped poses or a TUM file."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.io.bags.messages import matrix_from_pose, stamp_ns
from thermal_nerf_loc.io.bags.transform_tree import frame_name, FrameTree, PoseLog
from thermal_nerf_loc.io.trajectory import Trajectory

Array = NDArray[np.float64]

POSE_TYPES = ('geometry_msgs/msg/PoseStamped',
              'geometry_msgs/msg/PoseWithCovarianceStamped', 'nav_msgs/msg/Odometry')
ODOMETRY = 'nav_msgs/msg/Odometry'
MAX_GAP_S = 0.5  # default of the longest gap between two transforms that is interpolated
BASES = ('base_link', 'base_footprint')  # frames that poses are taken to be of by default


@dataclass(frozen=True, slots=True, eq=False)
class PoseSource:
    """`T_world_frame` of any frame at any time."""

    description: str  # where poses come from, for messages
    world: str
    body: str  # frame of the trajectory; empty where all poses come from tf
    trajectory: Trajectory | None
    tree: FrameTree
    max_gap_ns: int
    drifts: bool = False

    def at(self, frame: str, at_ns: int) -> Array | None:
        """Pose of a frame in the world; None where a gap is longer than `max_gap_ns`."""
        start = self.world if self.trajectory is None else self.body
        chain = self.tree.chain(start, frame)
        if chain is None:
            raise InputError(f'pose of {frame!r} on {start!r} is unknown',
                             expected='a chain of tf frames between the two',
                             got=f'frames {", ".join(self.tree.frames) or "none"}',
                             hint=f'If the poses are those of that camera, pass --pose-frame '
                                  f'{frame}; else describe the rig by --cameras FILE.')
        T = self.tree.along(chain, at_ns, self.max_gap_ns)
        if self.trajectory is None or T is None:
            return T
        T_world_body = self.trajectory.at(at_ns, self.max_gap_ns)
        return None if T_world_body is None else T_world_body @ T


def add_pose(log: PoseLog, message: Any, where: str) -> None:
    """Add a PoseStamped, PoseWithCovarianceStamped or Odometry."""
    log.parent = frame_name(message.header.frame_id)
    log.child = frame_name(getattr(message, 'child_frame_id', ''))
    pose = message.pose
    log.add(stamp_ns(message.header.stamp),
            matrix_from_pose(pose.pose if hasattr(pose, 'pose') else pose, where))


def body_of(log_child: str, given: str, tree: FrameTree, camera_frame: str) -> str:
    """The frame that poses are of: the one given, the one in the messages, or the robot's base."""
    if given or log_child:
        return frame_name(given or log_child)
    for name in BASES:
        if name in tree.frames:
            return name
    raise InputError('frame of the poses is unknown',
                     expected=f'tf frame {" or ".join(BASES)}, or --pose-frame NAME',
                     got=f'frames {", ".join(tree.frames) or "none"}',
                     hint=f'If they are those of the camera itself: --pose-frame {camera_frame}.')

# SPDX-License-Identifier: Apache-2.0
"""Where the cameras of a bag were: tf, odometry, stamped poses or a TUM file, at any moment."""

from array import array
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.bags.messages import matrix_from_pose, matrix_from_transform, stamp_ns
from thermal_nerf_loc.io.trajectory import Trajectory

Array = NDArray[np.float64]
Chain = list[tuple[tuple[str, str], bool]]  # (parent, child), and whether walked that way

TF_TYPES = ('tf2_msgs/msg/TFMessage', 'tf/msg/tfMessage')
POSE_TYPES = ('geometry_msgs/msg/PoseStamped',
              'geometry_msgs/msg/PoseWithCovarianceStamped', 'nav_msgs/msg/Odometry')
ODOMETRY = 'nav_msgs/msg/Odometry'
MAX_GAP_S = 0.5  # between two transforms that are interpolated, where nobody says
BASES = ('base_link', 'base_footprint')  # what poses are of, where nobody says


@dataclass(slots=True)
class PoseLog:
    """Poses as they come in, in little memory; a trajectory when all are there."""

    parent: str = ''
    child: str = ''
    stamps: 'array[int]' = field(default_factory=lambda: array('q'))
    values: 'array[float]' = field(default_factory=lambda: array('d'))  # rows of 3x4

    def add(self, stamp: int, T: Array) -> None:
        """Remember one."""
        self.stamps.append(stamp)
        self.values.extend(T[:3].ravel().tolist())

    def trajectory(self) -> Trajectory:
        """In the order of time; of several at one moment the last counts."""
        stamps = np.array(self.stamps, dtype=np.int64)
        rows = np.array(self.values, dtype=np.float64).reshape(-1, 3, 4)
        order = np.argsort(stamps, kind='stable')
        if len(order):
            order = order[np.append(np.diff(stamps[order]) > 0, True)]
        return Trajectory(stamps[order], se3.from_parts(rows[order, :, :3], rows[order, :, 3]))


class FrameTree:
    """Every transform of a bag; frames may hang on several parents, as tf trees change."""

    def __init__(self) -> None:
        """Start empty."""
        self._static: dict[tuple[str, str], Array] = {}
        self._moving: dict[tuple[str, str], PoseLog] = {}
        self._known: dict[tuple[str, str], Trajectory] = {}
        self._chains: dict[tuple[str, str], Chain | None] = {}

    def add(self, message: Any, is_static: bool) -> None:
        """Take a tf message."""
        self._chains.clear()
        for transform in message.transforms:
            edge = (_name(transform.header.frame_id), _name(transform.child_frame_id))
            T = matrix_from_transform(transform.transform, f'tf {edge[0]} -> {edge[1]}')
            if is_static:
                self._static[edge] = T
            else:
                self._moving.setdefault(edge, PoseLog(*edge)).add(
                    stamp_ns(transform.header.stamp), T)

    @property
    def frames(self) -> tuple[str, ...]:
        """Every frame's name."""
        return tuple(sorted({name for edge in (*self._static, *self._moving) for name in edge}))

    @property
    def stamps(self) -> NDArray[np.int64]:
        """Every moment at which something moved, each once."""
        moving = [np.array(log.stamps, dtype=np.int64) for log in self._moving.values()]
        return np.unique(np.concatenate([np.zeros(0, np.int64), *moving]))

    def require_chain(self, parent: str, child: str) -> Chain:
        """As `chain`; where there is no way, the frames that are missing are named."""
        found = self.chain(parent, child)
        if found is None:
            missing = [name for name in map(_name, (parent, child)) if name not in self.frames]
            raise InputError(
                f'tf has no frame {" and no frame ".join(map(repr, missing))}' if missing else
                f'tf does not connect {_name(child)!r} with {_name(parent)!r}',
                got=f'frames {", ".join(self.frames) or "none"}')
        return found

    def chain(self, parent: str, child: str) -> Chain | None:
        """Edges from one frame to another, each with whether it points that way; None: no way."""
        ends = _name(parent), _name(child)
        if ends not in self._chains:
            self._chains[ends] = self._search(*ends)
        return self._chains[ends]

    def _search(self, parent: str, child: str) -> Chain | None:
        """The shortest way, along edges and against them."""
        neighbours: dict[str, list[tuple[str, tuple[tuple[str, str], bool]]]] = {}
        for edge in (*self._static, *self._moving):
            neighbours.setdefault(edge[0], []).append((edge[1], (edge, True)))
            neighbours.setdefault(edge[1], []).append((edge[0], (edge, False)))
        ways: dict[str, Chain] = {parent: []}
        queue = deque([parent])
        while queue and child not in ways:
            here = queue.popleft()
            for there, step in neighbours.get(here, ()):
                if there not in ways:
                    ways[there] = [*ways[here], step]
                    queue.append(there)
        return ways.get(child)

    def moves(self, chain: Chain) -> bool:
        """True where some edge is not static."""
        return any(edge not in self._static for edge, _ in chain)

    def along(self, chain: Chain, at_ns: int, max_gap_ns: int) -> Array | None:
        """`T_parent_child` over a chain at a moment; None in a gap."""
        T = np.eye(4)
        for edge, forward in chain:
            step = self._static.get(edge)
            if step is None:
                step = self._trajectory(edge).at(at_ns, max_gap_ns)
                if step is None:
                    return None
            T = T @ (step if forward else se3.inverse(step))
        return T

    def _trajectory(self, edge: tuple[str, str]) -> Trajectory:
        if edge not in self._known:
            self._known[edge] = self._moving[edge].trajectory()
        return self._known[edge]


@dataclass(frozen=True, slots=True, eq=False)
class PoseSource:
    """`T_world_frame` of any frame at any moment."""

    told: str  # where poses come from, for people
    world: str
    body: str  # what the trajectory is of; empty where tf knows all
    trajectory: Trajectory | None
    tree: FrameTree
    max_gap_ns: int
    drifts: bool = False

    def at(self, frame: str, at_ns: int) -> Array | None:
        """Pose of a frame in the world; None where a gap is longer than `max_gap_ns`."""
        start = self.world if self.trajectory is None else self.body
        chain = self.tree.chain(start, frame)
        if chain is None:
            raise InputError(f'nothing tells where {frame!r} is on {start!r}',
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
    """Take a PoseStamped, PoseWithCovarianceStamped or Odometry."""
    log.parent = _name(message.header.frame_id)
    log.child = _name(getattr(message, 'child_frame_id', ''))
    pose = message.pose
    log.add(stamp_ns(message.header.stamp),
            matrix_from_pose(pose.pose if hasattr(pose, 'pose') else pose, where))


def body_of(log_child: str, given: str, tree: FrameTree, camera_frame: str) -> str:
    """The frame that poses are of: the one given, the one in the messages, or the robot's base."""
    if given or log_child:
        return _name(given or log_child)
    for name in BASES:
        if name in tree.frames:
            return name
    raise InputError('nobody says what the poses are of',
                     expected=f'tf frame {" or ".join(BASES)}, or --pose-frame NAME',
                     got=f'frames {", ".join(tree.frames) or "none"}',
                     hint=f'If they are those of the camera itself: --pose-frame {camera_frame}.')


def _name(frame: str) -> str:
    """Frame ids of ROS 1 began with a slash."""
    return str(frame).lstrip('/')

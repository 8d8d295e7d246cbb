# SPDX-License-Identifier: Apache-2.0
"""
Trees of frames (tf): timed rigid transforms, and the chain of them that connects two frames.

`T_target_source` maps coordinates: `p_target = T_target_source @ p_source`; a tf message's
transform is `T_parent_child`. Frame names, the search for a chain, the product along it and the
errors are those of `TransformTree`. Its two kinds differ in what their users need:

- `TransformBuffer` is tf2's buffer, for a running robot: a frame has the parent that was named
  last, the last seconds are kept, translations are blended linearly and rotations along the
  geodesic; the error for a time after the newest sample says that waiting may help.
- `FrameTree` holds a whole bag: a frame may have several parents, as trees change during a
  recording; poses lie on the SE(3) geodesic, exact for a steady turn; long gaps are not bridged.
"""

from abc import ABC, abstractmethod
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
import threading
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError, RunError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.bags.message_limits import MAX_SAMPLES
from thermal_nerf_loc.io.bags.messages import matrix_from_transform, stamp_ns
from thermal_nerf_loc.io.trajectory import Trajectory

Array = NDArray[np.float64]
Edge = tuple[str, str]  # parent, child
Chain = list[tuple[Edge, bool]]  # edges, each with whether it is walked from parent to child

TF_TYPES = ('tf2_msgs/msg/TFMessage', 'tf/msg/tfMessage')
CACHE_NS = 10_000_000_000  # as long as tf2's
_MOST_CHAINS = 1000  # that are remembered
_NAMED_FRAMES = 30  # in an error


class TransformUnavailable(RunError):
    """No transform (yet); `too_new` when it may still arrive for the asked time."""

    def __init__(self, what: str, *, too_new: bool = False) -> None:
        """`too_new`: the transform may still arrive, so that a caller may wait for it."""
        super().__init__(what)
        self.too_new = too_new


class TfBuffer(Protocol):
    """The calls of a tf buffer that are used here: `TransformBuffer` has them, and tf2's."""

    def set_transform(self, parent: str, child: str, T_parent_child: Array, stamp_ns: int,
                      static: bool = False) -> None:
        """Store the transform of `child` in `parent` at a time (static: at all times)."""

    def lookup_transform(self, target: str, source: str, stamp_ns: int | None = None) -> Array:
        """`T_target_source` at a time; None: the newest time at which all edges are known."""

    def clear(self) -> None:
        """Remove the moving transforms; static ones stay."""


def frame_name(frame: str) -> str:
    """A frame id as tf2 writes it; those of ROS 1 began with a slash."""
    return str(frame).lstrip('/')


class TransformTree(ABC):
    """Frames, connected by static and by moving transforms."""

    def __init__(self) -> None:
        """Start empty."""
        self._static: dict[Edge, Array] = {}
        self._chains: dict[Edge, Chain | None] = {}  # by (parent, child); until the tree changes

    @abstractmethod
    def _moving_edges(self) -> Iterable[Edge]:
        """Edges that are not static."""

    @property
    def frames(self) -> tuple[str, ...]:
        """Every frame's name."""
        return tuple(sorted({name for edge in self._edges() for name in edge}))

    def chain(self, parent: str, child: str) -> Chain | None:
        """Edges from one frame to another, each with whether it points that way; None: no way."""
        ends = frame_name(parent), frame_name(child)
        if ends not in self._chains:
            if len(self._chains) >= _MOST_CHAINS:  # of frames that there are not, mostly
                self._chains.clear()
            self._chains[ends] = self._search(*ends)
        return self._chains[ends]

    def moves(self, chain: Chain) -> bool:
        """True where some edge is not static."""
        return any(edge not in self._static for edge, _ in chain)

    def _edges(self) -> Iterable[Edge]:
        return (*self._static, *self._moving_edges())

    def _search(self, parent: str, child: str) -> Chain | None:
        """The shortest way, along edges and against them."""
        neighbours: dict[str, list[tuple[str, tuple[Edge, bool]]]] = {}
        for edge in self._edges():
            neighbours.setdefault(edge[0], []).append((edge[1], (edge, True)))
            neighbours.setdefault(edge[1], []).append((edge[0], (edge, False)))
        chains: dict[str, Chain] = {parent: []}
        queue = deque([parent])
        while queue and child not in chains:
            here = queue.popleft()
            for there, step in neighbours.get(here, ()):
                if there not in chains:
                    chains[there] = [*chains[here], step]
                    queue.append(there)
        return chains.get(child)

    def _product(self, chain: Chain, moving: Callable[[Edge], Array | None]) -> Array | None:
        """`T_parent_child` over a chain; None where `moving` has no transform of an edge."""
        T = np.eye(4)
        for edge, forward in chain:
            step = self._static.get(edge)
            step = moving(edge) if step is None else step
            if step is None:
                return None
            T = T @ (step if forward else se3.inverse(step))
        return T

    def _no_chain(self, parent: str, child: str) -> str:
        """Why there is no chain: the frames that are missing, or that nothing connects them."""
        parent, child = frame_name(parent), frame_name(child)
        missing = [name for name in (parent, child) if name not in self.frames]
        return (f'tf has no frame {" and no frame ".join(map(repr, missing))}' if missing else
                f'tf does not connect {child!r} with {parent!r}')


@dataclass(slots=True)
class _History:
    """The samples of one moving edge, in the order of time."""

    stamps_ns: list[int] = field(default_factory=list)
    poses: list[Array] = field(default_factory=list)  # T_parent_child

    def add(self, stamp_ns: int, T: Array, cache_ns: int) -> None:
        """Insert a sample by its stamp, and drop those older than `cache_ns`."""
        index = bisect_left(self.stamps_ns, stamp_ns)
        if index < len(self.stamps_ns) and self.stamps_ns[index] == stamp_ns:
            self.poses[index] = T
            return
        self.stamps_ns.insert(index, stamp_ns)
        self.poses.insert(index, T)
        stale = max(bisect_left(self.stamps_ns, self.stamps_ns[-1] - cache_ns),
                    len(self.stamps_ns) - MAX_SAMPLES)
        del self.stamps_ns[:stale], self.poses[:stale]

    def at(self, stamp_ns: int, edge: Edge) -> Array:
        """The transform at a time between the first sample and the last."""
        stamps = self.stamps_ns
        if not stamps[0] <= stamp_ns <= stamps[-1]:
            raise self._outside(stamp_ns, edge)
        after = bisect_left(stamps, stamp_ns)
        if stamps[after] == stamp_ns:
            return self.poses[after]
        share = (stamp_ns - stamps[after - 1]) / (stamps[after] - stamps[after - 1])
        return _blend(self.poses[after - 1], self.poses[after], share)

    def _outside(self, stamp_ns: int, edge: Edge) -> TransformUnavailable:
        first, last = self.stamps_ns[0], self.stamps_ns[-1]
        gap_s = (stamp_ns - last if stamp_ns > last else first - stamp_ns) / 1e9
        side = 'newer than the newest' if stamp_ns > last else 'older than the oldest'
        return TransformUnavailable(
            f'tf {edge[0]} -> {edge[1]} was asked {gap_s:.3f} s {side} it has',
            too_new=stamp_ns > last)


class TransformBuffer(TransformTree):
    """A `TfBuffer` of the last ten seconds; safe to use from several threads."""

    def __init__(self, cache_ns: int = CACHE_NS) -> None:
        """Start empty."""
        super().__init__()
        self._cache_ns = cache_ns
        self._moving: dict[Edge, _History] = {}
        self._parents: dict[str, str] = {}  # by child
        self._lock = threading.Lock()

    def set_transform(self, parent: str, child: str, T_parent_child: Array, stamp_ns: int,
                      static: bool = False) -> None:
        """Store the transform of `child` in `parent` at a time (static: at all times)."""
        edge = parent, child = frame_name(parent), frame_name(child)
        if parent == child:
            raise InputError('a frame cannot be its own parent', where=f'tf frame {child!r}')
        T = se3.check_pose(T_parent_child, where=f'tf {parent} -> {child}')
        with self._lock:
            if edge not in (self._static if static else self._moving):
                self._set_parent(edge)
            if static:
                self._static[edge] = T
            else:
                self._moving.setdefault(edge, _History()).add(stamp_ns, T, self._cache_ns)

    def lookup_transform(self, target: str, source: str, stamp_ns: int | None = None) -> Array:
        """`T_target_source` at a time; None: the newest time at which all edges are known."""
        with self._lock:
            chain = self.chain(target, source)
            if chain is None:
                raise TransformUnavailable(f'{self._no_chain(target, source)}; frames known: '
                                           f'{_listed(self.frames)}')
            if stamp_ns is None:
                stamp_ns = min((self._moving[edge].stamps_ns[-1] for edge, _ in chain
                                if edge in self._moving), default=0)
            at_ns = stamp_ns
            T = self._product(chain, lambda edge: self._moving[edge].at(at_ns, edge))
        assert T is not None  # an edge without a transform raises
        return T

    def clear(self) -> None:
        """Remove the moving transforms (time jumped back); static ones stay."""
        with self._lock:
            self._moving.clear()
            self._chains.clear()
            self._parents = {child: parent for parent, child in self._static}

    def _moving_edges(self) -> Iterable[Edge]:
        return self._moving

    def _set_parent(self, edge: Edge) -> None:
        """Give a frame its new parent; its transforms in the old one are removed."""
        parent, child = edge
        old = self._parents.get(child, parent), child
        self._static.pop(old, None)
        self._moving.pop(old, None)
        self._parents[child] = parent
        self._chains.clear()

    def _search(self, parent: str, child: str) -> Chain | None:
        for end in (parent, child):
            self._refuse_loop(end)
        return super()._search(parent, child)

    def _refuse_loop(self, frame: str) -> None:
        above = [frame]
        while (parent := self._parents.get(above[-1])) is not None:
            if parent in above:
                raise TransformUnavailable(f'tf frames form a loop: {" -> ".join(above)}')
            above.append(parent)


def _listed(frames: Sequence[str]) -> str:
    more = f' and {len(frames) - _NAMED_FRAMES} more' if len(frames) > _NAMED_FRAMES else ''
    return ', '.join(frames[:_NAMED_FRAMES]) + more or 'none'


def _blend(T_a: Array, T_b: Array, share: float) -> Array:
    """Interpolate as tf2: translation linearly, rotation at a constant rate."""
    R_a, R_b = T_a[:3, :3], T_b[:3, :3]
    R = R_a @ se3.so3_exp(share * se3.so3_log(R_a.T @ R_b))
    return se3.from_parts(R, (1.0 - share) * T_a[:3, 3] + share * T_b[:3, 3])


@dataclass(slots=True)
class PoseLog:
    """Collects stamped poses of one frame in another, compactly and in any order."""

    parent: str = ''
    child: str = ''
    stamps: 'array[int]' = field(default_factory=lambda: array('q'))
    values: 'array[float]' = field(default_factory=lambda: array('d'))  # rows of 3x4

    def add(self, stamp: int, T: Array) -> None:
        """Add a pose."""
        self.stamps.append(stamp)
        self.values.extend(T[:3].ravel().tolist())

    def trajectory(self) -> Trajectory:
        """The poses in the order of time; of several with one stamp the last is taken."""
        stamps = np.array(self.stamps, dtype=np.int64)
        rows = np.array(self.values, dtype=np.float64).reshape(-1, 3, 4)
        order = np.argsort(stamps, kind='stable')
        if len(order):
            order = order[np.append(np.diff(stamps[order]) > 0, True)]
        return Trajectory(stamps[order], se3.from_parts(rows[order, :, :3], rows[order, :, 3]))


class FrameTree(TransformTree):
    """Every transform of a bag; a frame may have several parents, as tf trees change."""

    def __init__(self) -> None:
        """Start empty."""
        super().__init__()
        self._moving: dict[Edge, PoseLog] = {}
        self._trajectories: dict[Edge, Trajectory] = {}  # of the logs, once they are looked up

    def add(self, message: Any, is_static: bool) -> None:
        """Add the transforms of a tf message."""
        for transform in message.transforms:
            edge = frame_name(transform.header.frame_id), frame_name(transform.child_frame_id)
            T = matrix_from_transform(transform.transform, f'tf {edge[0]} -> {edge[1]}')
            if edge not in (self._static if is_static else self._moving):
                self._chains.clear()
            if is_static:
                self._static[edge] = T
            else:
                self._moving.setdefault(edge, PoseLog(*edge)).add(
                    stamp_ns(transform.header.stamp), T)
                self._trajectories.pop(edge, None)

    @property
    def stamps(self) -> NDArray[np.int64]:
        """Stamps of all moving transforms, each once, rising."""
        moving = [np.array(log.stamps, dtype=np.int64) for log in self._moving.values()]
        return np.unique(np.concatenate([np.zeros(0, np.int64), *moving]))

    def require_chain(self, parent: str, child: str) -> Chain:
        """As `chain`; where there is no way, the frames that are missing are named."""
        found = self.chain(parent, child)
        if found is None:
            raise InputError(self._no_chain(parent, child),
                             got=f'frames {", ".join(self.frames) or "none"}')
        return found

    def along(self, chain: Chain, at_ns: int, max_gap_ns: int) -> Array | None:
        """`T_parent_child` over a chain at a time; None in a gap."""
        return self._product(chain, lambda edge: self._trajectory(edge).at(at_ns, max_gap_ns))

    def _moving_edges(self) -> Iterable[Edge]:
        return self._moving

    def _trajectory(self, edge: Edge) -> Trajectory:
        if edge not in self._trajectories:
            self._trajectories[edge] = self._moving[edge].trajectory()
        return self._trajectories[edge]

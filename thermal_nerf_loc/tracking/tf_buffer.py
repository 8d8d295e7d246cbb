# SPDX-License-Identifier: Apache-2.0
"""
A small tf buffer: timed rigid transforms in a tree of frames, with the two calls used here.

`T_target_source` maps coordinates: `p_target = T_target_source @ p_source`; a tf message's
transform is `T_parent_child`. Between two samples translations are blended linearly and
rotations along the geodesic, as tf2 does. Nothing is extrapolated.
"""

from bisect import bisect_left
from dataclasses import dataclass, field
import threading
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError, RunError
from thermal_nerf_loc.geometry import se3

Array = NDArray[np.float64]

CACHE_NS = 10_000_000_000  # as long as tf2's


class TransformUnavailable(RunError):
    """No transform (yet); `too_new` when it may still arrive for the asked time."""

    def __init__(self, what: str, *, too_new: bool = False) -> None:
        """Tell waiting callers whether waiting can help."""
        super().__init__(what)
        self.too_new = too_new


@dataclass(slots=True)
class _Edge:
    """A frame's history in its parent."""

    parent: str
    static: bool
    stamps_ns: list[int] = field(default_factory=list)
    poses: list[Array] = field(default_factory=list)  # T_parent_child


class TransformBuffer:
    """Transforms of the last ten seconds; safe to use from several threads."""

    def __init__(self, cache_ns: int = CACHE_NS) -> None:
        """Start empty."""
        self._cache_ns = cache_ns
        self._edges: dict[str, _Edge] = {}
        self._lock = threading.Lock()

    def set_transform(self, parent: str, child: str, T_parent_child: Array, stamp_ns: int,
                      static: bool = False) -> None:
        """Remember where `child` is in `parent` at a moment (static: for ever)."""
        parent, child = _name(parent), _name(child)
        if parent == child:
            raise InputError('a frame cannot be its own parent', where=f'tf frame {child!r}')
        T = se3.check_pose(T_parent_child, where=f'tf {parent} -> {child}')
        with self._lock:
            edge = self._edges.get(child)
            if edge is None or edge.parent != parent or edge.static != static or static:
                edge = self._edges[child] = _Edge(parent, static)
            place = bisect_left(edge.stamps_ns, stamp_ns)
            if place < len(edge.stamps_ns) and edge.stamps_ns[place] == stamp_ns:
                edge.poses[place] = T
                return
            edge.stamps_ns.insert(place, stamp_ns)
            edge.poses.insert(place, T)
            stale = bisect_left(edge.stamps_ns, edge.stamps_ns[-1] - self._cache_ns)
            del edge.stamps_ns[:stale], edge.poses[:stale]

    def lookup_transform(self, target: str, source: str, stamp_ns: int | None = None) -> Array:
        """`T_target_source` at a moment; None: the newest moment that the chain knows."""
        target, source = _name(target), _name(source)
        with self._lock:
            from_source, from_target = self._ancestors(source), self._ancestors(target)
            common = next((name for name in from_source if name in from_target), None)
            if common is None:
                raise TransformUnavailable(self._unconnected(target, source))
            up = from_source[:from_source.index(common)]
            down = from_target[:from_target.index(common)]
            if stamp_ns is None:
                newest = [edge.stamps_ns[-1] for edge in map(self._edges.__getitem__, up + down)
                          if not edge.static]
                stamp_ns = min(newest, default=0)
            return se3.inverse(self._climb(down, stamp_ns)) @ self._climb(up, stamp_ns)

    def clear(self) -> None:
        """Forget what moves (time jumped back); static transforms stay."""
        with self._lock:
            self._edges = {child: edge for child, edge in self._edges.items() if edge.static}

    def _ancestors(self, frame: str) -> list[str]:
        """The frame itself, its parent, ..., the root."""
        chain = [frame]
        while chain[-1] in self._edges:
            parent = self._edges[chain[-1]].parent
            if parent in chain:
                raise TransformUnavailable(f'tf frames form a loop: {" -> ".join(chain)}')
            chain.append(parent)
        return chain

    def _climb(self, chain: list[str], stamp_ns: int) -> Array:
        """`T_ancestor_frame` over the chain's edges."""
        T = np.eye(4)
        for child in chain:
            T = _at(self._edges[child], child, stamp_ns) @ T
        return T

    def _unconnected(self, target: str, source: str) -> str:
        known = sorted({*self._edges, *(edge.parent for edge in self._edges.values())})
        missing = [name for name in (target, source) if name not in known]
        what = (f'tf has no frame {" and no frame ".join(map(repr, missing))}' if missing else
                f'tf does not connect {source!r} with {target!r}')
        return f'{what}; frames known: {", ".join(known) or "none"}'


def _at(edge: _Edge, child: str, stamp_ns: int) -> Array:
    stamps = edge.stamps_ns
    if edge.static:
        return edge.poses[0]
    if not stamps[0] <= stamp_ns <= stamps[-1]:
        raise _outside(edge, child, stamp_ns)
    after = bisect_left(stamps, stamp_ns)
    if stamps[after] == stamp_ns:
        return edge.poses[after]
    share = (stamp_ns - stamps[after - 1]) / (stamps[after] - stamps[after - 1])
    return _blend(edge.poses[after - 1], edge.poses[after], share)


def _outside(edge: _Edge, child: str, stamp_ns: int) -> TransformUnavailable:
    first, last = edge.stamps_ns[0], edge.stamps_ns[-1]
    gap_s = (stamp_ns - last if stamp_ns > last else first - stamp_ns) / 1e9
    side = 'newer than the newest' if stamp_ns > last else 'older than the oldest'
    return TransformUnavailable(
        f'tf {edge.parent} -> {child} was asked {gap_s:.3f} s {side} it has',
        too_new=stamp_ns > last)


def _blend(T_a: Array, T_b: Array, share: float) -> Array:
    R_a, R_b = T_a[:3, :3], T_b[:3, :3]
    R = R_a @ se3.so3_exp(share * se3.so3_log(R_a.T @ R_b))
    return se3.from_parts(R, (1.0 - share) * T_a[:3, 3] + share * T_b[:3, 3])


def _name(frame: str) -> str:
    """Frame ids of ROS 1 began with a slash."""
    return frame.lstrip('/')


class Transforms(Protocol):
    """What is asked of a tf buffer here; see `frames.TransformBuffer`."""

    def set_transform(self, parent: str, child: str, T_parent_child: Array, stamp_ns: int,
                      static: bool = False) -> None:
        """Remember where `child` is in `parent` at a moment (static: for ever)."""

    def lookup_transform(self, target: str, source: str, stamp_ns: int | None = None) -> Array:
        """`T_target_source` at a moment; None: the newest moment that the chain knows."""

    def clear(self) -> None:
        """Forget what moves; static transforms stay."""

# SPDX-License-Identifier: Apache-2.0
"""
The tf buffer of the node: tf2's own where tf2_ros is installed, else `TransformBuffer`.

Both are a `TfBuffer` and give the same answers; one test holds both to this contract.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.duration import Duration
from rclpy.time import Time

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.bags.messages import matrix_from_transform
from thermal_nerf_loc.io.bags.transform_tree import (CACHE_NS, TfBuffer, TransformBuffer,
                                                     TransformUnavailable)
from thermal_nerf_loc.ros.message_conversion import matrix_to_transform

Array = NDArray[np.float64]


class Tf2Buffer:
    """tf2's buffer behind matrices and nanoseconds."""

    def __init__(self, cache_ns: int = CACHE_NS) -> None:
        """Start empty."""
        import tf2_ros
        self._tf2 = tf2_ros
        self._cache = Duration(nanoseconds=cache_ns)
        self._statics: dict[str, Any] = {}
        self._buffer = tf2_ros.Buffer(cache_time=self._cache)

    def set_transform(self, parent: str, child: str, T_parent_child: Array, stamp_ns: int,
                      static: bool = False) -> None:
        """Remember where `child` is in `parent`."""
        parent, child = parent.lstrip('/'), child.lstrip('/')
        if parent == child:
            raise InputError('a frame cannot be its own parent', where=f'tf frame {child!r}')
        if stamp_ns < 0:
            raise InputError('stamp is negative', where=f'tf {parent} -> {child}', got=stamp_ns)
        T = se3.check_pose(T_parent_child, where=f'tf {parent} -> {child}')
        message = matrix_to_transform(T, parent, child, stamp_ns)
        if static:
            self._statics[child] = message
            self._buffer.set_transform_static(message, 'localizer')
        else:
            self._buffer.set_transform(message, 'localizer')

    def lookup_transform(self, target: str, source: str, stamp_ns: int | None = None) -> Array:
        """`T_target_source`; raises `TransformUnavailable` as our own buffer does."""
        target, source = target.lstrip('/'), source.lstrip('/')
        if stamp_ns is not None and stamp_ns < 0:  # tf2 raises ValueError
            raise TransformUnavailable(f'tf has nothing of {stamp_ns} ns')
        try:
            found = self._buffer.lookup_transform_core(target, source, _time(stamp_ns))
        except self._tf2.ExtrapolationException as error:
            raise TransformUnavailable(f'tf: {error}', too_new=self._is_too_new(
                target, source, stamp_ns)) from None
        except self._tf2.TransformException as error:
            raise TransformUnavailable(self._unconnected(target, source, error)) from None
        return matrix_from_transform(found.transform)

    def clear(self) -> None:
        """Forget what moves; a fresh buffer, because tf2 keeps the tree of what it forgot."""
        self._buffer = self._tf2.Buffer(cache_time=self._cache)
        for message in self._statics.values():
            self._buffer.set_transform_static(message, 'localizer')

    def _is_too_new(self, target: str, source: str, stamp_ns: int | None) -> bool:
        if stamp_ns is None:
            return False
        newest = self._buffer.get_latest_common_time(target, source)
        return bool(stamp_ns > newest.nanoseconds)

    def _unconnected(self, target: str, source: str, error: Exception) -> str:
        known = set(self._buffer.all_frames_as_string().replace(',', ' ').split())
        missing = [name for name in (target, source) if name not in known]
        if missing:
            return f'tf has no frame {" and no frame ".join(map(repr, missing))} ({error})'
        return f'tf does not connect {source!r} with {target!r} ({error})'


def make_buffer() -> TfBuffer:
    """tf2's buffer where it is installed."""
    try:
        import tf2_ros  # noqa: F401
    except ImportError:
        return TransformBuffer()
    return Tf2Buffer()


def _time(stamp_ns: int | None) -> Any:
    """Time for tf2; zero asks for the newest."""
    return Time(nanoseconds=stamp_ns or 0)

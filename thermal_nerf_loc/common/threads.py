# SPDX-License-Identifier: Apache-2.0
"""Threads for compiled work that releases the GIL: a pool on all cores, and low priority."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
import os
import threading
from typing import TypeVar

In = TypeVar('In')
Out = TypeVar('Out')

JOIN_S = 5.0  # longest wait for a thread that was told to end


class _ThreadState(threading.local):
    has_low_priority = False
    is_worker = False  # of the pool


_this_thread = _ThreadState()


def lower_priority(nice: int) -> None:
    """
    Lower the priority of the calling thread, where the system can.

    The threads of the pool do not inherit it, so that from now on `parallel_map` runs in the
    calling thread.
    """
    if nice and hasattr(os, 'setpriority'):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(),
                       min(os.getpriority(os.PRIO_PROCESS, 0) + nice, 19))
        _this_thread.has_low_priority = True


def parallel_map(work: Callable[[In], Out], items: Iterable[In]) -> list[Out]:
    """Apply `work` to the items on all cores, in order; a call by `work` itself stays there."""
    if _this_thread.has_low_priority or _this_thread.is_worker:
        return [work(item) for item in items]
    return list(_pool().map(work, items))


def kernel_threads() -> int:
    """How many threads a compiled kernel takes: numba's number, one where priority is low."""
    if _this_thread.has_low_priority:
        return 1
    import numba
    return int(numba.get_num_threads())


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    """One pool for the whole process: every new thread would have a heap of its own."""
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix='parallel-map',
                              initializer=_become_worker)


def _become_worker() -> None:
    _this_thread.is_worker = True

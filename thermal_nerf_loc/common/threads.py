# SPDX-License-Identifier: Apache-2.0
"""Threads for compiled work that releases the GIL: a pool on the cores, limits, low priority."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
import os
import threading
from typing import TypeVar

In = TypeVar('In')
Out = TypeVar('Out')

_limit = 0  # threads that compute; 0: one for each core
JOIN_S = 5.0  # longest wait for a thread that was told to end


class _ThreadState(threading.local):
    has_low_priority = False
    is_worker = False  # of the pool


_this_thread = _ThreadState()


def limit_threads(count: int) -> None:
    """
    Compute with so many threads at most, in the whole process; 0: one for each core.

    Before the first use of the pool. Threads that are started later call `adopt_limit`.
    """
    global _limit
    _limit = count
    if count:
        import torch
        torch.set_num_threads(count)
    adopt_limit()


def adopt_limit() -> None:
    """Let the calling thread keep to the limit: numba's number of threads is a thread's own."""
    if _limit:
        import numba
        numba.set_num_threads(min(_limit, numba.config.NUMBA_NUM_THREADS))


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
    cores = len(os.sched_getaffinity(0))
    return ThreadPoolExecutor(min(_limit or cores, cores), thread_name_prefix='parallel-map',
                              initializer=_become_worker)


def _become_worker() -> None:
    _this_thread.is_worker = True

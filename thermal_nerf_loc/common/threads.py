# SPDX-License-Identifier: Apache-2.0
"""Compiled work that lets Python's lock go, on all cores."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
import os
import threading
from typing import TypeVar

In = TypeVar('In')
Out = TypeVar('Out')


class _Manners(threading.local):
    gives_way = False


_own = _Manners()


def give_way(nice: int) -> None:
    """
    Lower this thread's own priority, where the system knows such a thing.

    The pool's threads do not inherit it, so that from now on this one does its work alone.
    """
    if nice and hasattr(os, 'setpriority'):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(),
                       min(os.getpriority(os.PRIO_PROCESS, 0) + nice, 19))
        _own.gives_way = True


def side_by_side(work: Callable[[In], Out], items: Iterable[In]) -> list[Out]:
    """Results in the order of the items; `work` must not call this itself."""
    if _own.gives_way:
        return [work(item) for item in items]
    return list(_pool().map(work, items))


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    """One for the whole process: each new thread would have a heap of its own."""
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix='side-by-side')

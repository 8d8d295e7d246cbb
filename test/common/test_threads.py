# SPDX-License-Identifier: Apache-2.0
"""Parallel work: results keep their order, errors reach the caller."""

import os
import subprocess
import sys
import threading
import time

import pytest

from thermal_nerf_loc.common.threads import lower_priority, parallel_map


def test_results_keep_the_order_of_the_items():
    def work(k):
        time.sleep(0.01 * (k % 3))
        return k

    assert parallel_map(work, range(12)) == list(range(12))


def test_work_of_the_pool_may_ask_for_parallel_work_itself():
    """It runs where it is: waiting for the pool from within would never end."""
    def inner(k):
        return threading.get_native_id(), k

    for first, second in parallel_map(lambda _: parallel_map(inner, range(2)), range(8)):
        assert first[0] == second[0] and (first[1], second[1]) == (0, 1)


def test_an_error_reaches_the_caller():
    with pytest.raises(ZeroDivisionError):
        parallel_map(lambda k: 1 // k, [1, 0])


@pytest.mark.skipif(not hasattr(os, 'setpriority'), reason='needs priorities of threads')
def test_a_thread_of_low_priority_leaves_the_pool_alone():
    """Work that a thread of low priority asks for runs at that priority, in that thread."""
    seen = {}

    def work(_):
        return threading.get_native_id(), os.getpriority(os.PRIO_PROCESS,
                                                         threading.get_native_id())

    def check():
        before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        lower_priority(0)
        seen['pool'] = parallel_map(work, range(4))
        lower_priority(5)
        seen['alone'] = parallel_map(work, range(4))
        seen['own'] = threading.get_native_id(), min(before + 5, 19)

    thread = threading.Thread(target=check)
    thread.start()
    thread.join()
    assert seen['alone'] == [seen['own']] * 4
    assert seen['own'][0] not in {name for name, _ in seen['pool']}
    assert threading.get_native_id() not in {name for name, _ in parallel_map(work, range(4))}


def test_a_limit_holds_for_kernels_of_every_thread_and_for_the_pool():
    code = ('import threading\n'
            'from thermal_nerf_loc.common import threads\n'
            'threads.limit_threads(1)\n'
            'import torch\n'
            'found = [threads.kernel_threads(), torch.get_num_threads(),\n'
            '         threads._pool()._max_workers]\n'
            'def work():\n'
            '    threads.adopt_limit()\n'
            '    found.append(threads.kernel_threads())\n'
            'thread = threading.Thread(target=work)\n'
            'thread.start()\n'
            'thread.join()\n'
            'print(found)\n')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                          check=True, env={**os.environ, 'NUMBA_NUM_THREADS': '2'})
    assert done.stdout.strip() == '[1, 1, 1, 1]'

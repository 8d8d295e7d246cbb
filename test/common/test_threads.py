# SPDX-License-Identifier: Apache-2.0
"""Work side by side: results keep their order, errors reach the caller."""

import os
import threading
import time

import pytest

from thermal_nerf_loc.common.threads import give_way, side_by_side


def test_results_keep_the_order_of_the_items():
    def work(k):
        time.sleep(0.01 * (k % 3))
        return k

    assert side_by_side(work, range(12)) == list(range(12))


def test_an_error_reaches_the_caller():
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda k: 1 // k, [1, 0])


@pytest.mark.skipif(not hasattr(os, 'setpriority'), reason='needs priorities of threads')
def test_who_gives_way_keeps_others_out_of_it():
    """What a thread of low priority asks for is not done at a higher one."""
    seen = {}

    def work(_):
        return threading.get_native_id(), os.getpriority(os.PRIO_PROCESS,
                                                         threading.get_native_id())

    def check():
        before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        give_way(0)
        seen['pool'] = side_by_side(work, range(4))
        give_way(5)
        seen['alone'] = side_by_side(work, range(4))
        seen['own'] = threading.get_native_id(), min(before + 5, 19)

    thread = threading.Thread(target=check)
    thread.start()
    thread.join()
    assert seen['alone'] == [seen['own']] * 4
    assert seen['own'][0] not in {name for name, _ in seen['pool']}
    assert threading.get_native_id() not in {name for name, _ in side_by_side(work, range(4))}

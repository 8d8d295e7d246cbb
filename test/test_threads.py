# SPDX-License-Identifier: Apache-2.0
"""Work side by side: results keep their order, errors reach the caller."""

import time

import pytest

from thermal_nerf_loc.threads import side_by_side


def test_results_keep_the_order_of_the_items():
    def work(k):
        time.sleep(0.01 * (k % 3))
        return k

    assert side_by_side(work, range(12)) == list(range(12))


def test_an_error_reaches_the_caller():
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda k: 1 // k, [1, 0])

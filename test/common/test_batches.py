# SPDX-License-Identifier: Apache-2.0
"""Batches by time."""

import time

from thermal_nerf_loc.common import batches
from thermal_nerf_loc.common.progress import silent


def test_all_in_order_and_the_next_batch_is_as_long_as_time_allows(monkeypatch):
    """A clock that tells 1 s an item: two at a time, whatever the machine does."""
    clock, reports = [0.0], []

    def work(i):
        clock[0] += 1.0
        return 10 * i

    monkeypatch.setattr(batches, 'time', type('Clock', (), {'monotonic': lambda: clock[0]}))
    found = batches.in_batches(work, 11, lambda done, total, message: reports.append(done), 'x')
    assert found == [10 * i for i in range(11)]
    assert reports == [0, 4, 6, 8, 10]
    monkeypatch.setattr(batches, 'time', time)
    assert batches.in_batches(work, 0, silent, 'x') == []


def test_no_batch_begins_after_the_time_is_up(monkeypatch):
    """A second for each item; some are done whatever it takes."""
    clock = [0.0]

    def work(i):
        clock[0] += 1.0
        return i

    def count_within(seconds, fewest=0, count=100):
        clock[0] = 0.0
        return len(batches.in_batches(work, count, silent, 'x', seconds, fewest))

    monkeypatch.setattr(batches, 'time', type('Clock', (), {'monotonic': lambda: clock[0]}))
    assert count_within(10.0) == 10
    assert count_within(0.0) == 0
    assert count_within(0.0, fewest=8) == 8
    assert count_within(99.0, count=3) == 3

# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of benchmarks/ros_live.py; it needs no ROS."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest


@pytest.fixture
def ros_live(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / 'benchmarks'))
    import ros_live
    return ros_live


def test_growth_is_told_from_after_the_warm_up(ros_live):
    seconds = np.arange(0.0, 600.0, 0.5)
    mib = np.where(seconds < 60.0, 100.0 + seconds, 400.0 + 0.02 * (seconds - 60.0))
    told = ros_live.growth(list(zip(seconds, mib)))
    assert told['minutes'] == pytest.approx(9.0, abs=0.01)
    assert told['rss_slope_mib_per_minute'] == pytest.approx(1.2)
    assert told['rss_start_mib'] == pytest.approx(400.5, abs=0.1)
    assert told['rss_growth_percent'] == pytest.approx(100 * 9.72 / 400.54, abs=0.02)


def test_rates_count_spans_and_not_ends(ros_live):
    assert ros_live.rate_hz([0, 100_000_000, 200_000_000]) == pytest.approx(10.0)
    assert ros_live.rate_hz([5]) == 0.0
    trajectory = SimpleNamespace(stamps_ns=np.arange(11) * 20_000_000)
    figures = ros_live.live_figures(SimpleNamespace(
        updates=trajectory, tf=trajectory, odometry_count=22, latencies_s=np.array([0.1, 0.3])))
    assert figures['tf_hz'] == pytest.approx(50.0)
    assert figures['tf_answers_share'] == pytest.approx(0.5)
    assert figures['latency_median_s'] == pytest.approx(0.2)


def test_the_report_says_what_was_reached(ros_live, capsys):
    ros_live.report('realtime', {'updates_hz': 7.0, 'latency_p95_s': 0.1, 'tf_hz': 50.0})
    lines = capsys.readouterr().out.splitlines()
    assert any('updates_hz' in line and '>= 8' in line and 'no' in line.split()
               for line in lines)
    assert any('latency_p95_s' in line and 'yes' in line.split() for line in lines)


def test_every_target_is_a_figure_of_its_run(ros_live):
    assert set(ros_live.TARGETS) == set(ros_live.WHAT)
    assert set(ros_live.TARGETS['soak']) <= set(ros_live.growth([(0.0, 1.0), (1.0, 1.0)]))

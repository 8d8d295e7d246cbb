# SPDX-License-Identifier: Apache-2.0
"""A step is measured once; the training that measures it is a real one."""

import pytest

from thermal_nerf_loc.evaluation import training_time


def test_a_step_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_time, '_SECONDS', 0.0)
    training_time.seconds_a_step.cache_clear()
    seconds = training_time.seconds_a_step()
    assert 0.0 < seconds < 60.0
    assert training_time.seconds_a_step() == seconds
    training_time.seconds_a_step.cache_clear()

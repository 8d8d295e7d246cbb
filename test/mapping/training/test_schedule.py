# SPDX-License-Identifier: Apache-2.0
"""The time limit includes what follows a training; all of it is shared out by a measured speed."""

import pytest

from thermal_nerf_loc.mapping.training.config import TrainConfig
from thermal_nerf_loc.mapping.training.schedule import Schedule


def schedule(**settings: float) -> Schedule:
    made = Schedule(TrainConfig(steps=1000, **settings), ('rgb',))
    made.preparation_s = 20.0
    return made


def test_without_a_limit_nothing_is_reserved() -> None:
    assert schedule().to_reserve(lambda steps: steps, 0.1) == 0.0


def test_what_follows_is_as_long_as_so_many_steps() -> None:
    """There is time for 800 steps of 0.1 s; a tenth as many follow: 8 s."""
    made = schedule(max_seconds=100.0)
    made.reserved_s = made.to_reserve(lambda steps: 0.1 * steps, 0.1)
    assert made.reserved_s == pytest.approx(8.0)
    assert not made.finished(91.9) and made.finished(92.0)
    made.update(56.0)
    assert made.share == pytest.approx(0.5)


def test_steps_that_are_planned_end_before_the_time() -> None:
    made = schedule(max_seconds=1000.0)
    assert made.to_reserve(lambda steps: 0.1 * steps, 0.1) == pytest.approx(10.0)


def test_half_of_the_time_is_left_for_training() -> None:
    assert schedule(max_seconds=30.0).to_reserve(lambda steps: 500.0, 0.1) == pytest.approx(5.0)


def test_a_resumed_training_keeps_its_plan() -> None:
    made = schedule(max_seconds=100.0)
    made.reserved_s = 7.0
    resumed = Schedule(TrainConfig(steps=1000, max_seconds=100.0), ('rgb',))
    resumed.restore(made.facts())
    assert resumed.reserved_s == 7.0
    former = made.facts()
    del former['reserved_s']
    resumed.restore(former)
    assert resumed.reserved_s == 0.0

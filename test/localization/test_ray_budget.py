# SPDX-License-Identifier: Apache-2.0
"""Fewer rays before dropped frames: a frame whose time grows with its rays."""

import pytest

from thermal_nerf_loc.localization.localizer import LocalizerConfig
from thermal_nerf_loc.localization.ray_budget import RayBudget, SHARES


def track(budget, step_s, period_s, count=300):
    """Track frames, a third of whose time is the same for any number of rays; the shares."""
    shares = []
    for _ in range(count):
        budget.note(step_s * (0.33 + 0.67 * budget.share), period_s)
        shares.append(budget.share)
    return shares


def test_with_time_to_spare_all_rays_are_used():
    assert set(track(RayBudget(), 0.05, 1 / 15)) == {1.0}


def test_under_load_the_rays_are_as_many_as_fit():
    budget = RayBudget()
    shares = track(budget, 0.085, 1 / 15)
    assert shares[-1] == 0.5  # 0.085 s would be 1.28 of the time, with half the rays it is 0.85
    assert len(set(shares[-100:])) == 1  # and it does not go up and down
    assert min(shares) == 0.5


def test_the_effort_has_an_end():
    budget = RayBudget()
    assert track(budget, 1.0, 1 / 30)[-1] == SHARES[-1]
    config = budget.apply(LocalizerConfig())
    assert config.refinement.last_rays == round(0.35 * LocalizerConfig().refinement.last_rays)
    assert config.refinement.grid_rays == LocalizerConfig().refinement.grid_rays
    assert config.refinement.thorough_rays == LocalizerConfig().refinement.thorough_rays


def test_when_the_load_is_gone_all_rays_come_back():
    budget = RayBudget()
    track(budget, 0.2, 1 / 15)
    assert budget.share < 1.0
    assert track(budget, 0.03, 1 / 15)[-1] == 1.0
    assert budget.apply(LocalizerConfig()) == LocalizerConfig()


@pytest.mark.parametrize('period_s', [None, 0.0])
def test_without_a_known_rate_nothing_changes(period_s):
    budget = RayBudget()
    assert not budget.note(10.0, period_s)
    assert budget.share == 1.0

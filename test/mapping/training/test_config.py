# SPDX-License-Identifier: Apache-2.0
"""Training settings of earlier versions, in YAML files and in maps, still load."""

import pytest

from thermal_nerf_loc.common.config import from_mapping
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.mapping.training.config import ScheduleConfig, TrainConfig


def test_former_names_are_read() -> None:
    """As a map of an earlier version has them."""
    config = from_mapping(TrainConfig, {
        'extent_steps': 7, 'formation': False, 'formation_learning_rate': 0.01,
        'places': {'rays': 512}, 'refine': {'look_ahead': 0.3}})
    assert config.scene_bounds_steps == 7 and not config.camera_response
    assert config.camera_response_learning_rate == 0.01
    assert config.panoramas.rays == 512 and config.refine.colour_map_share == 0.3


def test_what_is_left_of_removed_choices_changes_nothing() -> None:
    """The one value that is left is accepted, any other refused by name."""
    old = {'balance': 'fixed', 'refine': {'form': 'so3xr3'}}
    assert from_mapping(TrainConfig, old) == TrainConfig()
    with pytest.raises(InputError, match=r"removed.*expected 'fixed', or no such key.*'learned'"):
        from_mapping(TrainConfig, {'balance': 'learned'}, 'c.yaml')
    with pytest.raises(InputError, match=r'refine\.form.*was removed.*so3xr3.*6d'):
        from_mapping(TrainConfig, {'refine': {'form': '6d'}}, 'c.yaml')


def test_known_depth_shortens_the_search_for_surfaces() -> None:
    """Where all pixels know it no step is uniform; where none does all is as it was."""
    plain, half, full = (ScheduleConfig(known_depth=share) for share in (0.0, 0.5, 1.0))
    assert plain.uniform_until(3000) == 400 and half.uniform_until(3000) == 200
    assert full.uniform_until(3000) == 1
    assert full.exploring(2, 3000) == pytest.approx(plain.exploring_share)
    assert plain.exploring(600, 3000) > half.exploring(600, 3000)


def test_depth_lets_go() -> None:
    """Its weight fades to a tenth, unless it shall stay."""
    fading = ScheduleConfig(depth_until=0.5, depth_floor=0.1)
    staying = ScheduleConfig(depth_until=1.0)
    shares = [fading.depth_share(step, 4000) for step in (0, 1000, 2000, 3600)]
    assert shares == pytest.approx([1.0, 0.55, 0.1, 0.1])
    assert fading.depth_share(300, 300) > 0.9  # images do not hold the surfaces yet
    assert staying.depth_share(1000, 1000) == 1.0
    assert fading.holds_depth(99, 1000) and not fading.holds_depth(100, 1000)

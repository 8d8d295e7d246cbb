# SPDX-License-Identifier: Apache-2.0
"""Training settings of earlier versions, in YAML files and in maps, still load."""

import pytest

from thermal_nerf_loc.common.config import from_mapping
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.mapping.training.config import TrainConfig


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

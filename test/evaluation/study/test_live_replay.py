# SPDX-License-Identifier: Apache-2.0
"""The environment of the processes of a live replay; it needs no ROS."""

import pytest

from thermal_nerf_loc.evaluation.study.live_replay import dds_profile

OLD, NEW = 'FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE'  # Fast DDS 2, 3


@pytest.mark.parametrize('chosen', [{}, {OLD: 'mine.xml'}, {NEW: 'mine.xml'}])
def test_both_variables_of_fast_dds_name_the_users_profile_or_ours(monkeypatch, chosen):
    for name in (OLD, NEW):
        monkeypatch.delenv(name, raising=False)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    profile = dds_profile()
    assert profile[OLD] == profile[NEW]
    assert profile[OLD] == 'mine.xml' if chosen else profile[OLD].endswith('config/fastdds.xml')

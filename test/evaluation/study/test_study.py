# SPDX-License-Identifier: Apache-2.0
"""A study called from Python: figures, notes and progress come back, nothing is printed."""

import shutil

import pytest

from thermal_nerf_loc.evaluation.study.drive_replay import ReplayRequest
from thermal_nerf_loc.evaluation.study.study import make_study, replay, run_study
from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
from thermal_nerf_loc.simulation.layouts import make_world
from thermal_nerf_loc.simulation.record import simulate_bag, SimulationConfig


@pytest.fixture
def bag(tmp_path, monkeypatch):
    world = make_world('room')
    monkeypatch.setattr(RadianceMap, 'load', lambda path, device='cpu': world)
    simulate_bag(tmp_path / 'drive', SimulationConfig(seconds=0.6, size=(64, 48), rgb_hz=8.0,
                                                      thermal_hz=8.0, supersampling=1))
    return tmp_path / 'drive'


def test_a_study_reports_its_progress_and_prints_nothing(bag, tmp_path, capfd):
    shutil.copytree(bag, tmp_path / 'second')
    calls = []
    plan = make_study(ReplayRequest(tmp_path / 'm', bag, tmp_path / 'out'),
                      [bag, tmp_path / 'second'], [], [], False, {})
    result = run_study(plan, lambda done, total, message='': calls.append((done, total, message)))
    out, err = capfd.readouterr()
    assert (out, err) == ('', '')
    assert {total for _, total, _ in calls} == {2}
    assert [done for done, _, _ in calls] == sorted(done for done, _, _ in calls)
    assert calls[-1][0] == pytest.approx(2.0, abs=0.05)
    assert calls[0][2].startswith('drive, both') and calls[-1][2].startswith('second, both')
    assert [row['drive'] for row in result.table] == ['drive', 'second', 'all']
    assert result.figures['matched'] == result.table[2]['matched']
    assert len(result.notes) == 2 and '0.10 m' in result.notes[0]


def test_one_replay_needs_no_note_where_the_start_is_given(bag, tmp_path):
    with_help = replay(ReplayRequest(tmp_path / 'm', bag, tmp_path / 'one'))
    alone = replay(ReplayRequest(tmp_path / 'm', bag, tmp_path / 'two', init='global'))
    assert len(with_help.notes) == 1 and alone.notes == ()
    assert len(with_help.table) == 1 and (tmp_path / 'one' / 'report.html').is_file()

# SPDX-License-Identifier: Apache-2.0
"""Localizing a data set: starts as far off as asked, and shares counted by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from thermal_nerf_loc.evaluation.localization_quality import localize_scene, perturbed
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
from thermal_nerf_loc.simulation.record import simulate_dataset, SimulationConfig


@pytest.fixture(scope='module')
def scene(tmp_path_factory):
    out = tmp_path_factory.mktemp('data') / 'room'
    simulate_dataset(out, SimulationConfig(frames=8, size=(16, 12), supersampling=1))
    return load_scene(out)


class FixedErrors:
    """A localizer that is off by given metres, with given verdicts, in turn."""

    def __init__(self, scene, metres, verdicts):
        self.truth = {frame.name: frame.T_world_cam for frame in scene.frames}
        self.left = list(zip(metres, verdicts))
        self.starts = []

    def localize(self, frame, start):
        metres, verdict = self.left.pop(0)
        self.starts.append((frame, start))
        T = se3.plus(self.truth[frame.name], [0.0, metres, 0.0, 0.0, 0.0, 0.0])
        return SimpleNamespace(T_world_cam=T, seconds=0.5, verdict=verdict, confidence=0.9,
                               reason='', rivals=(), carried_by='both')


def test_a_perturbed_pose_is_so_far_off():
    T = se3.exp([1.0, -2.0, 0.5, 0.3, -0.8, 2.0])
    for seed in ((0, 1), (0, 2)):
        assert se3.distance(perturbed(T, 0.25, 12.0, seed), T) == pytest.approx((0.25, 12.0),
                                                                                rel=3e-3)
    assert not np.allclose(perturbed(T, 0.25, 12.0, (0, 1)), perturbed(T, 0.25, 12.0, (0, 2)))


def test_shares_count_right_ambiguous_and_wrong_but_confident_poses(scene):
    localizer = FixedErrors(scene, [0.01, 0.07, 0.2, 0.3], ['ok', 'ok', 'ok', 'ambiguous'])
    done = []
    found = localize_scene(localizer, scene, ('rgb',), 'train', (0.1, 5.0), 4,
                           progress=lambda done_, total, name: done.append((done_, total)))
    assert [row['error_m'] for row in found['frames']] == pytest.approx([0.01, 0.07, 0.2, 0.3])
    assert found['success_5cm_5deg'] == 0.25
    assert found['confident_share'] == 0.75
    assert found['ambiguous_share'] == 0.25
    assert found['wrong_but_confident_share'] == 0.25  # 7 cm is no success, but not wrong either
    assert found['median_m'] == pytest.approx(0.135)
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for frame, start in localizer.starts:
        assert set(frame.images) == {'rgb'}
        assert se3.distance(start, localizer.truth[frame.name]) == pytest.approx((0.1, 5.0),
                                                                                 rel=1e-3)


def test_without_an_error_there_is_no_start(scene):
    localizer = FixedErrors(scene, [0.0], ['ok'])
    localize_scene(localizer, scene, ('rgb', 'thermal'), 'train', None, 1)
    assert localizer.starts[0][1] is None

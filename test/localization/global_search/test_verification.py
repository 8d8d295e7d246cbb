# SPDX-License-Identifier: Apache-2.0
"""Finding a frame without a guess: right, or honest about twins; in darkness by heat alone."""

from dataclasses import replace

from localization_room import make_poses, PaintedRoom, perturbed, SIZE_M, take_frame
import numpy as np
import pytest

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.localization.global_search.candidates import Candidate
from thermal_nerf_loc.localization.global_search.panorama_retrieval import (
    orientations, RetrievalConfig)
from thermal_nerf_loc.localization.global_search.verification import GlobalSearchConfig
from thermal_nerf_loc.localization.localizer import Localizer, LocalizerConfig
from thermal_nerf_loc.mapping.map.panoramas import find_panoramas, PanoramaConfig
from thermal_nerf_loc.sensing.frame import Frame, RGB, THERMAL

PATH = make_poses(12, seed=5)
POSES = make_poses(2, seed=11)  # of the frames: none of the path
CONFIG = LocalizerConfig(global_search=GlobalSearchConfig(
    candidates=6, panoramas=RetrievalConfig(hypotheses=16)))


class TwinRoom(PaintedRoom):
    """Looks the same after half a turn around its middle."""

    def _values(self, modality, p):
        size = p.new_tensor(SIZE_M)
        other = p.clone()
        other[:, :2] = size[:2] - p[:, :2]
        return super()._values(modality, (p[:, :1] > 0.5 * size[0]) * p
                               + (p[:, :1] <= 0.5 * size[0]) * other)


def surveyed(room):
    room.panoramas = find_panoramas(room, PATH, PanoramaConfig(spacing=0.36, rays=400))
    return room


@pytest.fixture(scope='module')
def room():
    return surveyed(PaintedRoom())


@pytest.mark.parametrize('modalities', [(RGB, THERMAL), (THERMAL,)])
def test_a_frame_is_found_without_a_guess(room, modalities):
    localizer = Localizer(room, CONFIG)
    for k, T in enumerate(POSES):
        found = localizer.localize(take_frame(room, T, seed=k, modalities=modalities))
        metres, degrees = se3.distance(found.T_world_cam, T)
        assert metres < 0.03
        assert degrees < 1.0
        assert found.verdict == 'ok'
        assert found.rivals == ()


def test_in_darkness_heat_alone_finds_it(room):
    frame = take_frame(room, POSES[0])
    noise = np.random.default_rng(0).normal(0.03, 0.01, frame.images[RGB].values.shape)
    dark = replace(frame.images[RGB], values=noise.astype(np.float32))
    frame = Frame(0, {**frame.images, RGB: dark})
    found = Localizer(room, CONFIG).localize(frame)
    assert found.verdict == 'ok'
    assert se3.distance(found.T_world_cam, POSES[0])[0] < 0.05


def test_the_same_answer_on_every_run(room):
    frame = take_frame(room, POSES[1], modalities=(THERMAL,))
    first, second = (Localizer(room, CONFIG).localize(frame) for _ in range(2))
    assert (first.T_world_cam == second.T_world_cam).all()
    assert first.confidence == second.confidence


def test_twins_are_told():
    twins = surveyed(TwinRoom())
    T = POSES[0]
    found = Localizer(twins, CONFIG).localize(take_frame(twins, T))
    half_turn = se3.from_parts(np.diag([-1.0, -1.0, 1.0]), (SIZE_M[0], SIZE_M[1], 0.0))
    assert found.verdict == 'ambiguous'
    assert 'fits as well' in found.reason
    answers = [found.T_world_cam, *found.rivals]
    for expected in (T, half_turn @ T):
        assert min(se3.distance(answer, expected)[0] for answer in answers) < 0.05


def test_twins_that_were_not_looked_at_are_told_as_well():
    """Of two places that look alike to begin with, time allows to refine one."""
    twins = surveyed(TwinRoom())
    one = replace(CONFIG, global_search=replace(CONFIG.global_search, refined=1))
    found = Localizer(twins, one).localize(take_frame(twins, POSES[0]))
    assert found.verdict == 'ambiguous'
    assert 'not refined' in found.reason
    assert len(found.rivals) >= 1


def test_a_view_of_another_place_is_not_believed(room):
    other = PaintedRoom(seed=3)
    assert Localizer(room, CONFIG).localize(take_frame(other, POSES[0])).verdict != 'ok'


def test_bare_walls_are_no_place_and_contradict_none(room):
    """Fainter than any map is exact to; where the map shows more, it is not there."""
    faint, other = PaintedRoom(), PaintedRoom(seed=3)
    for one in (faint, other):
        one.paint *= 0.05
    frame = take_frame(other, POSES[1], noise=0.1)
    found = Localizer(surveyed(faint), CONFIG).localize(frame)
    assert found.verdict == 'ambiguous'
    assert 'too little' in found.reason
    assert Localizer(room, CONFIG).localize(frame).verdict == 'lost'


def test_candidates_may_come_from_elsewhere():
    T, asked = POSES[0], []

    class Oracle:
        def candidates(self, frame, count):
            asked.append((sorted(frame.images), count))
            return [Candidate(perturbed(T, 170.0, 1.0, seed=1), 2.0),
                    Candidate(perturbed(T, 8.0, 0.2, seed=2), 1.0)]

    found = Localizer(PaintedRoom(), CONFIG, Oracle()).localize(take_frame(PaintedRoom(), T))
    assert asked == [([RGB, THERMAL], 6)]
    assert found.verdict == 'ok'
    assert se3.distance(found.T_world_cam, T)[0] < 0.03


def test_a_source_may_know_nothing():
    class Silent:
        def candidates(self, frame, count):
            return []

    room = PaintedRoom()
    found = Localizer(room, CONFIG, Silent()).localize(take_frame(room, POSES[0]))
    assert found.verdict == 'lost'
    assert 'no pose in the map is a candidate' in found.reason


def test_nothing_can_be_searched_without_viewpoints():
    with pytest.raises(InputError, match='where its cameras stood'):
        Localizer(PaintedRoom()).localize(take_frame(PaintedRoom(), POSES[0]))


def test_the_published_method_needs_a_guess(room):
    localizer = Localizer(room, LocalizerConfig(method='inerf'))
    with pytest.raises(InputError, match='needs a guess'):
        localizer.localize(take_frame(room, POSES[0]))


def test_orientations_cover_how_cameras_were_held(room):
    config = RetrievalConfig(step_deg=12.0)
    turns = orientations(room.panoramas, config)
    assert np.allclose(turns @ turns.transpose(0, 2, 1), np.eye(3), atol=1e-9)
    for T in POSES:
        traces = np.einsum('nij,ij->n', turns, T[:3, :3])
        nearest = np.rad2deg(np.arccos(np.clip(0.5 * (traces.max() - 1.0), -1.0, 1.0)))
        assert nearest < 11.0

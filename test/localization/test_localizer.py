# SPDX-License-Identifier: Apache-2.0
"""Localizer: from guess to pose, honest covariance and verdicts, clear complaints."""

from dataclasses import replace
from types import SimpleNamespace

from localization_room import make_poses, PaintedRoom, perturbed, take_frame
import numpy as np
import pytest
from stand_in_map import StandInMap

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.localization.localizer import Localizer, LocalizerConfig
from thermal_nerf_loc.localization.refinement.coarse_to_fine import (
    CoarseToFine, RefinementConfig, skip_coarse_rounds)
from thermal_nerf_loc.localization.refinement.image_pyramid import observe
from thermal_nerf_loc.localization.refinement.inerf import InerfConfig, refine
from thermal_nerf_loc.sensing.frame import Frame, RGB, THERMAL

ROOM = PaintedRoom()
POSES = make_poses(4, seed=11)


@pytest.mark.parametrize('modalities, limit_m', [((RGB, THERMAL), 0.015), ((RGB,), 0.015),
                                                 ((THERMAL,), 0.03)])
def test_rough_guess_is_found(modalities, limit_m):
    localizer = Localizer(ROOM)
    for k, T in enumerate(POSES[:2]):
        frame = take_frame(ROOM, T, seed=k, modalities=modalities)
        found = localizer.localize(frame, perturbed(T, 10.0, 0.1, seed=k))
        metres, degrees = se3.distance(found.T_world_cam, T)
        assert metres < limit_m
        assert degrees < 0.5
        assert found.verdict == 'ok'
        assert found.confidence > 0.5
        assert set(found.fits) == set(modalities)


def test_same_result_on_every_run():
    T = POSES[0]
    frame, guess = take_frame(ROOM, T), perturbed(T, 5.0, 0.05, seed=1)
    first, second = (Localizer(ROOM).localize(frame, guess) for _ in range(2))
    assert (first.T_world_cam == second.T_world_cam).all()
    assert (first.covariance == second.covariance).all()
    other = Localizer(ROOM, LocalizerConfig(seed=1)).localize(frame, guess)
    assert (other.T_world_cam != first.T_world_cam).any()


def test_result_is_immutable_and_inputs_are_kept():
    T = POSES[0]
    guess = perturbed(T, 5.0, 0.05, seed=1)
    before = guess.copy()
    found = Localizer(ROOM).localize(take_frame(ROOM, T), guess)
    assert (guess == before).all()
    with pytest.raises(ValueError, match='read-only'):
        found.T_world_cam[0, 3] = 1.0
    with pytest.raises(TypeError):
        found.fits['x'] = None


def test_bare_wall_comes_out_wide():
    bare = PaintedRoom(bare=True)
    T = POSES[0]
    found = Localizer(bare).localize(take_frame(bare, T), T)
    assert found.verdict == 'lost'
    assert np.sqrt(found.covariance.diagonal().max()) > 0.5


def test_unseen_direction_comes_out_wide():
    class Striped(PaintedRoom):
        """Every wall shows only how high one looks."""

        def _values(self, modality, p):
            return super()._values(modality, p * p.new_tensor([0.0, 0.0, 1.0]))
    striped = Striped()
    T = se3.from_parts([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], [2.5, 2.0, 1.25])
    found = Localizer(striped).localize(take_frame(striped, T), T, 1e-4 * np.eye(6))
    world = T[:3, :3] @ found.covariance[:3, :3] @ T[:3, :3].T
    assert world[1, 1] > 0.5**2  # sideways along the stripes nothing tells the position
    assert world[2, 2] < 0.15 * world[1, 1]  # across them they do
    assert (found.verdict, found.partial) == ('ambiguous', True)


def test_tight_guess_needs_fewer_rays():
    T = POSES[1]
    frame = take_frame(ROOM, T)
    tight = Localizer(ROOM).localize(frame, perturbed(T, 0.3, 0.005, seed=2),
                                     np.diag([1e-4] * 3 + [5e-5] * 3))
    rough = Localizer(ROOM).localize(frame, perturbed(T, 0.3, 0.005, seed=2))
    assert tight.rays < rough.rays
    assert se3.distance(tight.T_world_cam, T)[0] < 0.015


def test_rounds_follow_the_guess():
    assert skip_coarse_rounds((6.0, 3.0, 1.2, 0.5), 20.0) == (6.0, 3.0, 1.2, 0.5)
    assert skip_coarse_rounds((6.0, 3.0, 1.2, 0.5), 3.0) == (3.0, 1.2, 0.5)
    assert skip_coarse_rounds((6.0, 3.0, 1.2, 0.5), 0.1) == (0.5,)


def test_wide_images_get_further_rounds():
    """Until the blur is one of the widest image's own pixels."""
    for width, rounds in ((160, (0.6,)), (320, (0.6, 0.3)), (640, (0.6, 0.3, 0.15))):
        images = {RGB: SimpleNamespace(camera=Camera.from_fov(width, width // 2, 60.0)),
                  THERMAL: SimpleNamespace(camera=Camera.from_fov(80, 60, 60.0))}
        refiner = CoarseToFine(ROOM, RefinementConfig(), images, 0)
        assert refiner.with_finer_rounds((0.6,)) == rounds


@pytest.mark.parametrize('case, searches', [('easy', [False]), ('near', [False]),
                                            ('elsewhere', [False, True])])
def test_the_dense_search_comes_where_no_pose_is_accepted(monkeypatch, case, searches):
    """Neither for a pose that was accepted, nor for a guess that needs no search."""
    seen, original = [], CoarseToFine.hypotheses

    def noted(self, *args, dense=False):
        seen.append(dense)
        found = original(self, *args, dense=dense)
        assert all(len(one.sigmas_px) == 1 for one in found)  # 160 px wide: no detail beyond
        assert len(found) <= (6 if dense else 3)
        return found

    monkeypatch.setattr(CoarseToFine, 'hypotheses', noted)
    frame = take_frame(ROOM, POSES[0], seed=0)
    if case == 'elsewhere':
        frame = take_frame(PaintedRoom(seed=5), POSES[0], seed=0)
    sigmas = {'guess_sigma_deg': 0.1, 'guess_sigma_m': 0.001} if case == 'near' else {}
    start = POSES[0] if case == 'near' else perturbed(POSES[0], 10.0, 0.1, seed=0)
    found = Localizer(ROOM, LocalizerConfig(**sigmas)).localize(frame, start)
    assert seen == searches and (found.verdict == 'ok') == (case != 'elsewhere')


def altered(frame, name, values):
    image = frame.images[name]
    return replace(frame, images={**frame.images, name: replace(
        image, values=np.broadcast_to(np.float32(values), image.values.shape).copy())})


@pytest.mark.parametrize('value, reason', [(0.0, 'black'), (1.0, 'saturated')])
def test_useless_rgb_is_left_out(value, reason):
    T = POSES[2]
    frame = altered(take_frame(ROOM, T), RGB, value)
    found = Localizer(ROOM).localize(frame, perturbed(T, 5.0, 0.05, seed=3))
    assert reason in found.ignored[RGB]
    assert found.verdict == 'ok'
    assert se3.distance(found.T_world_cam, T)[0] < 0.03
    alone = Localizer(ROOM).localize(frame.only(RGB), T)
    assert alone.verdict == 'lost'
    assert reason in alone.reason
    assert alone.confidence == 0.0


def test_flat_thermal_alone_is_lost():
    frame = altered(take_frame(ROOM, POSES[2]), THERMAL, 21.0).only(THERMAL)
    found = Localizer(ROOM).localize(frame, POSES[2])
    assert found.verdict == 'lost'
    assert 'flat' in found.reason


def test_another_place_is_never_believed():
    other = PaintedRoom(seed=9)
    localizer = Localizer(ROOM)
    for k, T in enumerate(POSES):
        found = localizer.localize(take_frame(other, T, seed=k), T)
        assert found.verdict != 'ok'


def test_hopeless_guess_is_not_believed():
    localizer = Localizer(ROOM)
    for k, T in enumerate(POSES):
        found = localizer.localize(take_frame(ROOM, T, seed=k),
                                   se3.plus(T, [0, 0, 0, 0, 0.8 * np.pi, 0]))
        wrong = se3.distance(found.T_world_cam, T)[0] > 0.1
        assert not (wrong and found.verdict == 'ok')


def test_bad_input_is_named():
    T, frame = POSES[0], take_frame(ROOM, POSES[0])
    localizer = Localizer(ROOM)
    nan = altered(frame, THERMAL, np.nan)
    cases = [
        (Frame(0, {}), T, 'no image'), (nan, T, 'no finite value'),
            (frame, None, 'cannot be searched'),
        (frame, np.full((4, 4), np.nan), 'NaN'), (frame, 2 * np.eye(4), 'no rigid motion'),
        (frame, se3.from_parts(np.eye(3), [50, 0, 0]), 'outside the map')]
    for bad, guess, message in cases:
        with pytest.raises(InputError, match=message):
            localizer.localize(bad, guess)
    with pytest.raises(InputError, match='covariance'):
        localizer.localize(frame, T, np.eye(3))

    class ThermalOnly(PaintedRoom):
        modalities = (THERMAL,)
    with pytest.raises(InputError, match='none of the frame'):
        Localizer(ThermalOnly()).localize(frame.only(RGB), T)
    with pytest.raises(InputError, match='every round'):
        Localizer(ROOM, LocalizerConfig(refinement=RefinementConfig(sigmas_px=())))
    with pytest.raises(InputError, match='out of range'):
        Localizer(ROOM, LocalizerConfig(refinement=RefinementConfig(rays=0)))


def test_inerf_descends_to_the_pose():
    T = POSES[0]
    frame = take_frame(ROOM, T)
    images, _ = observe(frame, (RGB, THERMAL))
    start = perturbed(T, 2.0, 0.02, seed=4)
    result = refine(ROOM, images, start, InerfConfig(steps=120, rays=128, rate=0.005))
    metres, degrees = se3.distance(result.T_world_cam, T)
    assert metres < 0.01
    assert degrees < 0.5
    assert len(result.losses) == 120
    assert np.mean(result.losses[-10:]) < 0.3 * result.losses[0]


def test_inerf_through_the_localizer():
    T = POSES[0]
    config = LocalizerConfig(method='inerf', inerf=InerfConfig(steps=40, rays=128, rate=0.003))
    found = Localizer(ROOM, config).localize(take_frame(ROOM, T), perturbed(T, 1.0, 0.01, seed=4))
    assert se3.distance(found.T_world_cam, T)[0] < 0.02
    assert found.verdict == 'ok'


def test_inerf_needs_gradients():
    plain = StandInMap(modalities=(RGB,), render_rays=ROOM.render_rays)
    with pytest.raises(InputError, match='cannot be differentiated'):
        Localizer(plain, LocalizerConfig(method='inerf')).localize(
            take_frame(ROOM, POSES[0]), POSES[0])


def test_inerf_that_did_not_arrive_is_not_believed():
    T = POSES[1]
    config = LocalizerConfig(method='inerf', inerf=InerfConfig(steps=2, rays=64, rate=1e-4))
    found = Localizer(ROOM, config).localize(take_frame(ROOM, T), perturbed(T, 5.0, 0.1, seed=4))
    assert se3.distance(found.T_world_cam, T)[0] > 0.05
    assert found.verdict == 'lost'

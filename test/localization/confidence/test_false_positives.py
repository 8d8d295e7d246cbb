# SPDX-License-Identifier: Apache-2.0
"""How confident wrong poses get: a tail that was put in is found again, and rules the verdict."""

from localization_room import make_poses, PaintedRoom, perturbed, take_frame
import numpy as np
import pytest

from thermal_nerf_loc.localization.confidence.false_positives import fit_tail, measure_tails
from thermal_nerf_loc.localization.confidence.verdict import (
    ConfidenceConfig, highest_logit, judge, least_confidence, logit, sigmas, VERDICT_AMBIGUOUS,
    VERDICT_OK)
from thermal_nerf_loc.localization.localizer import Localizer
from thermal_nerf_loc.sensing.frame import THERMAL


HIGHEST = highest_logit(ConfidenceConfig())


def logistic(x):
    return 1.0 / (1.0 + np.exp(-x))


@pytest.mark.parametrize('median, scale', [(-4.0, 0.5), (-2.0, 1.0)])
def test_a_tail_is_found_again(median, scale):
    """From 300 wrong answers to the confidence that one in a thousand exceeds."""
    drawn = logistic(median + scale * np.random.default_rng(0).exponential(size=300))
    tail = fit_tail(drawn, 100.0)
    for rate in (0.1, 0.001):
        true = median - scale * np.log(rate)
        assert logit(np.array(least_confidence(tail, rate))) == pytest.approx(true, abs=scale)


@pytest.mark.parametrize('shape', [-0.45, -0.2])
def test_a_tail_with_an_end_is_found_again(shape):
    """Generalised Pareto, drawn by its quantiles: the answer stays near the true one."""
    share = np.random.default_rng(1).random(400)
    drawn = logistic(-4.0 + 2.0 * (share**-shape - 1.0) / shape)
    tail = fit_tail(drawn, HIGHEST)
    true = -4.0 + 2.0 * (0.001**-shape - 1.0) / shape
    assert logit(np.array(least_confidence(tail, 0.001))) == pytest.approx(true, abs=1.0)
    assert tail[2] < 0.0


def test_no_more_is_asked_than_a_pose_can_have():
    """However heavy the tail of few samples looks, it ends where all agrees."""
    drawn = logistic(np.minimum(-4.0 + 2.0 * np.random.default_rng(0).exponential(size=60), 4.9))
    tail = fit_tail(drawn, HIGHEST)
    assert logit(np.array(least_confidence(tail, 1e-9))) <= HIGHEST + 1e-6


def test_rarer_needs_more():
    tail = (-1.0, 0.5, -0.1)
    asked = [least_confidence(tail, rate) for rate in (0.1, 0.01, 0.001)]
    assert asked == sorted(asked) and asked[0] < asked[2] < 1.0


def test_answers_without_any_confidence_have_a_finite_tail():
    assert np.isfinite(fit_tail(np.zeros(20), HIGHEST)).all()


def test_a_map_whose_wrong_poses_look_right_is_believed_less():
    world, T = PaintedRoom(), make_poses(1, seed=2)[0]
    frame, start = take_frame(world, T), perturbed(T, 3.0, 0.05, 0)
    plain = Localizer(world).localize(frame, start)
    assert plain.verdict == VERDICT_OK
    world.false_positive_tails = {'rgb+thermal': (4.0, 1.0, 0.0)}
    doubted = Localizer(world).localize(frame, start)
    assert doubted.verdict == VERDICT_AMBIGUOUS and 'wrong poses' in doubted.reason
    world.false_positive_tails = {'rgb+thermal': (-6.0, 1.0, 0.0), 'rgb': (4.0, 1.0, 0.0)}
    assert Localizer(world).localize(frame, start).verdict == VERDICT_OK


def test_the_looser_a_pose_is_held_the_less_it_is_told():
    """Below all that may be believed, and never the same for two."""
    world, T, config = PaintedRoom(), make_poses(1, seed=2)[0], ConfidenceConfig()
    found = Localizer(world).localize(take_frame(world, T), T)
    unit = found.covariance / sigmas(found.covariance)[0]**2  # to hold it to a metre
    judged = [judge(found.fits, sigma_m**2 * unit, config) for sigma_m in (0.05, 0.08, 0.2)]
    told = [one.confidence for one in judged]
    assert config.min_confidence > told[0] > 1.3 * told[1] > 1.3 * told[2] > 0.0
    assert all(one.verdict == VERDICT_AMBIGUOUS and one.partial for one in judged)


def test_wrong_starts_in_an_exact_world_are_hardly_confident():
    world = PaintedRoom()
    frames = [take_frame(world, T, seed=k, modalities=(THERMAL,))
              for k, T in enumerate(make_poses(8, seed=4))]
    found = measure_tails(world, frames)
    assert set(found) == {THERMAL} and world.false_positive_tails == {}
    assert least_confidence(found[THERMAL], 0.01) < 0.95
    assert Localizer(world).localize(frames[0], perturbed(frames[0].T_world_cam, 2., .02, 0)
                                     ).verdict == VERDICT_OK
    assert measure_tails(world, frames[:7]) == {}

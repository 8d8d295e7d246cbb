# SPDX-License-Identifier: Apache-2.0
"""Tracker: prediction, gating, fusion and states, with a localizer that does as it is told."""

from dataclasses import replace

import numpy as np
import pytest

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.localization.localizer import Localization
from thermal_nerf_loc.sensing.frame import Frame, RGB, SensorImage, THERMAL
from thermal_nerf_loc.tracking.background_search import BackgroundSearch, InlineRunner
from thermal_nerf_loc.tracking.tracker import Tracker
from thermal_nerf_loc.tracking.tracker_config import TrackerConfig

CAMERA = Camera.from_fov(8, 6, 60.0)
STEP = se3.exp([0.05, 0.0, 0.1, 0.0, 0.05, 0.0])  # of the robot, each 0.1 s
SIGMA = 0.01
WIDE = np.diag([9.0, 9.0, 9.0, 1.0, 1.0, 1.0])  # of who knows nothing
EXACT_ODOMETRY = {'odometry_sigma_m': 0.0, 'odometry_sigma_deg': 0.0, 'odometry_drift': 0.0}


class FakeLocalizer:
    """Answers with the truth and what the test makes of it; remembers what it was asked."""

    def __init__(self):
        self.truth, self.verdict, self.error = np.eye(4), 'ok', np.zeros(6)
        self.guesses, self.covariances, self.frames = [], [], []
        self.confidence = 0.9

    def localize(self, frame, T_world_cam_guess=None, guess_covariance=None):
        self.guesses.append(np.array(T_world_cam_guess))
        self.covariances.append(np.array(guess_covariance))
        self.frames.append(frame)
        if self.verdict == 'blind':  # the images carry nothing
            return Localization(frame.stamp_ns, self.guesses[-1], WIDE, 0.0, 'lost', 'dark',
                                0.01, 0)
        reason = '' if self.verdict == 'ok' else 'told so'
        return Localization(frame.stamp_ns, se3.plus(self.truth, self.error),
                            SIGMA**2 * np.eye(6), self.confidence, self.verdict, reason, 0.01,
                            100)


class Drive:
    """A robot that moves on, and its tracker."""

    def __init__(self, start_error=(0.05, 0, 0, 0, 0.02, 0), odometry=True, hz=10, **config):
        self.hz, self.fake = hz, FakeLocalizer()
        self.tracker = Tracker(self.fake, TrackerConfig(**config))
        self.odometry, self.k = odometry, 0
        self.T_odom_world = se3.exp([3.0, -2.0, 1.0, 0.3, 0.2, -0.1])
        self.tracker.initialize(se3.plus(np.eye(4), start_error))

    def step(self, verdict='ok', error=None, stand=False, images=None):
        self.k += 1
        if not stand and self.k > 1:
            self.fake.truth = self.fake.truth @ STEP
        self.fake.verdict = verdict
        self.fake.error = np.zeros(6) if error is None else np.asarray(error, dtype=float)
        T_odom = self.T_odom_world @ self.fake.truth if self.odometry else None
        return self.tracker.step(make_frame(self.k, images, self.hz), T_odom)

    def error(self, update):
        return se3.distance(update.T_world_cam, self.fake.truth)


def make_frame(k, images=None, hz=10):
    stamp = round(k * 1e9 / hz)
    if images is None:
        images = {RGB: SensorImage(CAMERA, np.full((6, 8, 3), k % 7 / 7, np.float32), stamp)}
    return Frame(stamp, images)


def settle(drive, count=4):
    for _ in range(count):
        update = drive.step()
    assert update.state == 'tracking'
    return update


def test_nobody_said_where():
    update = Tracker(FakeLocalizer()).step(make_frame(1))
    assert update.state == 'initializing'
    assert update.T_world_cam is None
    assert 'initial pose' in update.reason


def test_start_counts_when_confirmed():
    drive = Drive()
    assert drive.step().state == 'initializing'
    update = drive.step()
    assert update.state == 'tracking'
    assert drive.error(update)[0] < 0.01


def test_start_that_fixes_contradict_each_other_stays_open():
    drive = Drive()
    for k in range(6):
        update = drive.step(error=[0.5 * (-1)**k, 0, 0, 0, 0, 0])
        assert update.state == 'initializing'


@pytest.mark.parametrize('odometry', [True, False])
def test_prediction_follows_the_motion(odometry):
    drive = Drive(odometry=odometry)
    settle(drive, 8)
    update = drive.step()
    guess = drive.fake.guesses[-1]
    assert se3.distance(guess, drive.fake.truth)[0] < 0.01
    assert drive.error(update)[0] < 0.005


@pytest.mark.parametrize('odometry', [True, False])
def test_missing_fixes_degrade_then_lose(odometry):
    drive = Drive(odometry=odometry, lost_after_s=3.0)
    before = settle(drive)
    states, last = [], before
    for _ in range(60):
        update = drive.step('blind')
        states.append(update.state)
        assert np.trace(update.covariance) >= np.trace(last.covariance) or update.state == 'lost'
        last = update
    assert states[0] == 'tracking'
    assert 'degraded' in states
    assert states[-1] == 'lost'
    assert states == sorted(states, key=['tracking', 'degraded', 'lost'].index)
    assert last.reason == 'dark'


def test_odometry_bridges_a_gap():
    drive = Drive()
    settle(drive)
    for _ in range(10):
        update = drive.step('blind')
    assert update.state == 'degraded'
    assert drive.error(update)[0] < 0.05
    assert drive.step().state == 'tracking'


def test_a_wild_fix_is_not_followed():
    drive = Drive()
    settle(drive)
    update = drive.step(error=[1.0, 0, 0, 0, 0.5, 0])
    assert drive.error(update)[0] < 0.02
    assert 'disagrees' in update.reason
    assert drive.step().state == 'tracking'


def test_ambiguous_fix_is_not_followed():
    drive = Drive()
    settle(drive)
    update = drive.step('ambiguous', error=[0.05, 0, 0, 0, 0, 0])
    assert drive.error(update)[0] < 0.02


def test_agreeing_fixes_overrule_the_filter():
    drive = Drive()
    settle(drive)
    away = [0.6, 0.0, 0.0, 0.0, 0.0, 0.0]  # the robot was carried; every fix says so
    updates = [drive.step(error=away, stand=True) for _ in range(8)]
    assert drive.error(updates[0])[0] < 0.05
    metres, _ = se3.distance(updates[-1].T_world_cam, se3.plus(drive.fake.truth, away))
    assert metres < 0.02
    assert updates[-1].state == 'tracking'


def test_lost_robot_is_found_again_by_agreeing_fixes():
    drive = Drive(lost_after_s=0.5)
    settle(drive)
    for _ in range(10):
        update = drive.step('lost')
    assert update.state == 'lost'
    assert drive.step().state == 'lost'
    update = drive.step()
    assert update.state == 'tracking'
    assert drive.error(update)[0] < 0.01


def test_fusion_is_sharper_than_its_parts():
    drive = Drive()
    update = settle(drive, 10)
    fix_sigma = np.hypot(SIGMA, TrackerConfig().fix_sigma_m)
    assert np.sqrt(update.covariance[0, 0]) < fix_sigma
    assert np.linalg.eigvalsh(update.covariance)[0] > 0.0
    noise = np.random.default_rng(0).normal(0.0, SIGMA, (60, 6))
    errors = [drive.error(drive.step(error=xi))[0] for xi in noise]
    assert np.mean(errors[5:]) < 0.8 * np.linalg.norm(noise[5:, :3], axis=1).mean()


def test_frozen_image_is_not_localized():
    drive = Drive()
    settle(drive)
    thermal = np.random.default_rng(0).normal(size=(6, 8, 1)).astype(np.float32)

    def images(k, frozen):
        values = thermal if frozen else thermal + k
        return {RGB: SensorImage(CAMERA, np.full((6, 8, 3), 0.01 * k, np.float32), 0),
                THERMAL: SensorImage(CAMERA, values, 0)}
    drive.step(images=images(1, False))
    assert set(drive.fake.frames[-1].images) == {RGB, THERMAL}
    drive.step(images=images(2, True))
    drive.step(images=images(3, True))
    assert set(drive.fake.frames[-1].images) == {RGB}
    only = {THERMAL: SensorImage(CAMERA, thermal, 0)}
    asked = len(drive.fake.frames)
    update = drive.step(images=only)
    assert len(drive.fake.frames) == asked
    assert 'frozen' in update.reason


def test_late_image_is_seen_from_where_it_was_taken():
    drive = Drive()
    settle(drive, 6)
    k = drive.k + 1
    late_ns = k * 100_000_000 - 50_000_000
    drive.step(images={RGB: SensorImage(CAMERA, np.full((6, 8, 3), 0.9, np.float32), late_ns)})
    moved = drive.fake.frames[-1].images[RGB].T_cam_sensor
    np.testing.assert_allclose(moved, se3.exp(-0.5 * se3.log(STEP)), atol=1e-9)


def test_guess_comes_with_its_covariance():
    drive = Drive(initial_sigma_m=0.3, initial_sigma_deg=12.0)
    drive.step()
    assert np.sqrt(drive.fake.covariances[0][0, 0]) == pytest.approx(0.3, rel=0.01)
    settle(drive, 6)
    assert np.sqrt(drive.fake.covariances[-1][0, 0]) < 0.05


def test_covariance_of_a_motion_is_carried_by_the_adjoint():
    drive = Drive(**EXACT_ODOMETRY)
    before = settle(drive)
    after = drive.step('blind')
    rng = np.random.default_rng(0)
    L = np.linalg.cholesky(before.covariance)
    samples = se3.plus(before.T_world_cam, rng.normal(size=(4000, 6)) @ L.T) @ STEP
    xi = se3.minus(samples, after.T_world_cam)
    np.testing.assert_allclose(np.cov(xi.T), after.covariance, atol=0.08 * after.covariance.max())


def elsewhere(decades):
    """Probability of being elsewhere: prior odds of a thousandth, ten times more a decade."""
    odds = 10.0**(decades - 3.0)
    return odds / (1.0 + odds)


def told_sigmas(update):
    return np.sqrt(update.covariance[0, 0]), np.rad2deg(np.sqrt(update.covariance[3, 3]))


def test_contradicting_images_spread_the_covariance_in_closed_form():
    drive = Drive(lost_sigma_m=100.0, lost_sigma_deg=180.0, contradiction_s=0.5,
                  carried_sigma_m=2.0, carried_sigma_deg=30.0, **EXACT_ODOMETRY)
    settle(drive)
    before = drive.step(stand=True).covariance
    spread = np.diag(np.repeat((2.0**2, np.deg2rad(30.0)**2), 3))
    for n in range(1, 20):
        update = drive.step('lost', stand=True)
        np.testing.assert_allclose(update.covariance, before + elsewhere(0.2 * n) * spread,
                                   atol=1e-12)
    np.testing.assert_allclose(update.covariance, before + 0.8633 * spread, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize('hz', [30, 10, 5])
@pytest.mark.parametrize('carried_m', [0.5, 1.0, 4.0])
def test_a_carried_robot_is_given_up_before_it_is_confidently_wrong(hz, carried_m):
    drive = Drive(hz=hz)
    settle(drive, 8)
    doomed_s = 0.25 * (3.0 - np.log10(1.5**2 / 0.5**2 - 1.0))  # p 1.5^2 = 0.5^2
    for n in range(1, 2 * hz):
        update = drive.step('lost', stand=True)
        if n / hz > 0.5 and update.state != 'lost':
            assert min(carried_m, 1.3) < 3.0 * told_sigmas(update)[0]
        if n / hz > doomed_s:
            assert update.state == 'lost'
        elif n / hz < 0.8 * doomed_s:
            assert update.state in ('tracking', 'degraded')
        if update.state == 'lost':
            assert n >= 2
            return
    raise AssertionError('never lost')


def test_one_contradiction_never_decides_however_long_it_took():
    drive = Drive(hz=0.5)
    settle(drive, 8)
    assert drive.step('lost').state == 'tracking'
    assert drive.step('lost').state == 'lost'


@pytest.mark.parametrize('hz', [30, 10])
def test_images_that_tell_nothing_are_no_contradiction(hz):
    drive = Drive(hz=hz, **EXACT_ODOMETRY)
    settle(drive, 8)
    before = drive.step('ok', stand=True)
    for _ in range(2 * hz):
        update = drive.step('blind', stand=True)
    assert update.state == 'degraded'
    np.testing.assert_allclose(update.covariance, before.covariance, atol=1e-12)


def test_a_fix_elsewhere_is_a_contradiction_too():
    drive = Drive(takeover=100, **EXACT_ODOMETRY)
    settle(drive)
    before = drive.step(stand=True).covariance
    away = [0.6, 0.0, 0.0, 0.0, 0.0, 0.0]
    update = drive.step(error=away, stand=True)
    assert told_sigmas(update)[0] == pytest.approx(
        np.sqrt(before[0, 0] + elsewhere(0.4) * 1.5**2), rel=1e-6)
    states = [drive.step(error=away, stand=True).state for _ in range(7)]
    assert states[:4] == ['degraded'] * 4
    assert 'lost' in states
    assert states[-1] == 'tracking'  # the fixes agree: that is where it is
    assert drive.error(drive.step(error=away, stand=True))[0] == pytest.approx(0.6, abs=0.02)


def test_a_good_fix_lifts_the_doubt_and_half_a_fix_does_not():
    drive = Drive(**EXACT_ODOMETRY)
    settle(drive)
    before = drive.step(stand=True).covariance
    for _ in range(3):
        doubting = drive.step('lost', stand=True)
    assert told_sigmas(doubting)[0] > 5.0 * np.sqrt(before[0, 0])
    seen = drive.fake.localize
    drive.fake.localize = lambda *asked: replace(seen(*asked), partial=True)
    partly = drive.step('ambiguous', stand=True)
    assert partly.state == 'tracking'
    assert told_sigmas(partly)[0] == pytest.approx(told_sigmas(doubting)[0], rel=0.01)
    drive.fake.localize = seen
    sure = drive.step(stand=True)
    assert told_sigmas(sure)[0] <= np.sqrt(before[0, 0])


def test_who_doubts_looks_further():
    drive = Drive(**EXACT_ODOMETRY)
    settle(drive)
    told = [drive.step('lost', stand=True) for _ in range(3)]
    drive.step('lost', stand=True)
    np.testing.assert_allclose(drive.fake.covariances[-1], told[-1].covariance, atol=1e-12)


def test_a_lost_robot_is_searched_as_widely_as_it_was_doubted():
    drive = Drive(**EXACT_ODOMETRY)
    settle(drive)
    while (update := drive.step('lost', stand=True)).state != 'lost':
        pass
    drive.step('lost', stand=True)
    sigma_m = np.sqrt(drive.fake.covariances[-1][0, 0])
    assert sigma_m == pytest.approx(told_sigmas(update)[0], rel=1e-6)
    assert sigma_m > 0.5


def test_bad_input_is_named():
    drive = Drive()
    drive.step()
    with pytest.raises(InputError, match='not newer'):
        drive.tracker.step(make_frame(1))
    with pytest.raises(InputError, match='NaN'):
        drive.tracker.step(make_frame(9), np.full((4, 4), np.nan))
    with pytest.raises(InputError, match='covariance'):
        drive.tracker.initialize(np.eye(4), -np.eye(6))
    with pytest.raises(InputError, match='out of range'):
        Tracker(FakeLocalizer(), TrackerConfig(gate=0.0))


def test_reset_forgets():
    drive = Drive()
    settle(drive)
    drive.tracker.reset()
    assert drive.step().T_world_cam is None


def test_partial_fix_helps_only_where_the_view_holds_the_pose():
    drive = Drive()
    settle(drive)
    for _ in range(6):
        before = drive.step('blind')
    seen = drive.fake.localize

    def partial(frame, *guess):
        found = seen(frame, *guess)
        wide = np.diag([9.0, *[SIGMA**2] * 5])  # along x nothing is known
        return Localization(found.stamp_ns, found.T_world_cam, wide, 0.4, 'ambiguous', 'bare wall',
                            0.01, 100, partial=True)
    drive.fake.localize = partial
    after = drive.step('ambiguous')
    assert after.state == 'tracking'
    assert after.reason == 'bare wall'
    assert after.covariance[2, 2] < 0.5 * before.covariance[2, 2]
    assert after.covariance[0, 0] >= 0.9 * before.covariance[0, 0]


class Later:
    """A runner that answers when the test wants it to."""

    def __init__(self):
        self.task, self.is_done, self.urgent, self.dropped = None, False, [], 0

    def begin(self, task, urgent):
        self.task, self.is_done = task(), False
        self.urgent.append(urgent)

    def outcome(self):
        if self.task is None or not self.is_done:
            return None
        done, self.task = self.task, None
        return done

    def drop(self):
        self.task, self.dropped = None, self.dropped + 1


class Anywhere(FakeLocalizer):
    """Knows the truth also without a guess, unless told otherwise."""

    def __init__(self):
        super().__init__()
        self.global_verdict, self.global_error = 'ok', np.zeros(6)
        self.searches = []

    def localize_anywhere(self, frame, hints=()):
        self.searches.append((frame.stamp_ns, hints))
        return Localization(frame.stamp_ns, se3.plus(self.truth, self.global_error),
                            SIGMA**2 * np.eye(6), 0.9, self.global_verdict, 'as told', 0.5, 100)


def drive_without_start(runner=None, **config):
    """Nobody says where the robot is."""
    drive = Drive(**config)
    drive.fake = Anywhere()
    drive.tracker = Tracker(drive.fake, TrackerConfig(**config),
                            BackgroundSearch(runner or InlineRunner()))
    return drive


def test_the_map_is_searched_where_nobody_said():
    drive = drive_without_start()
    update = drive.step()
    assert (update.state, update.searched) == ('initializing', 'found')
    assert '1 of 2' in update.reason
    assert len(drive.fake.guesses) == 0  # the same frame cannot confirm itself
    update = drive.step()
    assert update.state == 'tracking'
    assert drive.error(update)[0] < 0.02
    assert len(drive.fake.searches) == 1


def test_nothing_is_searched_where_it_is_not_wanted():
    drive = drive_without_start(search=False)
    assert drive.step().reason == 'no initial pose'
    drive.tracker.initialize_anywhere()
    assert drive.step().searched == 'found'


def test_an_answer_that_comes_late_is_carried_on_by_odometry():
    runner = Later()
    drive = drive_without_start(runner)
    for _ in range(12):
        update = drive.step()
        assert (update.state, update.reason) == ('initializing', 'searching the whole map')
        assert update.T_world_cam is None
    assert len(drive.fake.searches) == 1
    runner.is_done = True
    update = drive.step()
    assert update.state == 'tracking'
    assert drive.error(update)[0] < 0.03


def test_without_odometry_a_late_answer_is_less_sure():
    runner = Later()
    drive = drive_without_start(runner, unknown_speed_m_s=0.5)
    drive.odometry = False
    for _ in range(5):
        drive.step(stand=True)
    runner.is_done = True
    drive.step(stand=True)
    sigma_m = np.sqrt(np.linalg.eigvalsh(drive.fake.covariances[0][:3, :3])[-1])
    assert 0.05 < sigma_m < 1.0


@pytest.mark.parametrize('verdict, told', [('ambiguous', 'ambiguous'), ('lost', 'nothing')])
def test_a_search_in_vain_is_repeated_after_a_pause(verdict, told):
    drive = drive_without_start(search_pause_s=0.25)
    drive.fake.global_verdict = verdict
    updates = [drive.step() for _ in range(7)]
    assert [u.searched for u in updates] == [told, '', '', told, '', '', told]
    assert all(u.T_world_cam is None for u in updates)
    assert updates[0].reason == 'as told'


def test_what_a_search_finds_wrongly_is_never_claimed():
    drive = drive_without_start(search_pause_s=0.0)
    drive.fake.global_error = np.array([2.0, 0, 0, 0, 0, 0])
    states = [drive.step('lost').state for _ in range(6)]
    assert set(states) == {'initializing'}
    assert len(drive.fake.searches) > 1


def test_a_carried_robot_is_found_by_a_search():
    drive = drive_without_start()
    settle(drive)
    drive.fake.truth = se3.exp([3.0, 1.0, 0.0, 0.0, 0.0, 2.0])
    drive.T_odom_world = drive.tracker._T_odom_cam @ se3.inverse(drive.fake.truth)
    states, searched = [], []
    for _ in range(20):  # images fit nowhere near, until the search has told
        told = 'found' in searched
        update = drive.step('ok' if told else 'lost', stand=True)
        states.append(update.state)
        searched.append(update.searched)
    assert 'lost' in states
    assert searched[states.index('lost') + 1] == 'found'
    assert states[-1] == 'tracking'
    assert drive.error(update)[0] < 0.05


def test_a_given_start_is_given_time_before_the_map_is_searched():
    drive = drive_without_start(search_after_s=1.0)
    drive.tracker.initialize(se3.exp([0.3, 0.0, 0.0, 0.0, 0.0, 0.0]))
    searched = [drive.step('lost').searched for _ in range(12)]
    assert searched[:10] == [''] * 10
    assert 'found' in searched


def test_a_new_start_drops_the_search():
    runner = Later()
    drive = drive_without_start(runner)
    drive.step()
    drive.tracker.initialize(drive.fake.truth)
    assert runner.dropped > 0
    assert drive.step().reason == '1 of 2 agreeing fixes'


@pytest.mark.parametrize('error, verdict, told, gates', [
    (0.0, 'ok', 'confirmed', True), (3.0, 'ok', 'contradicted', False),
    (3.0, 'ambiguous', 'undecided', True)])
def test_a_tracked_pose_is_checked_now_and_then(error, verdict, told, gates):
    runner = Later()
    drive = drive_without_start(runner, check_period_s=1.0)
    drive.step()
    runner.is_done = True
    settle(drive)
    for _ in range(11):
        drive.step()
    assert len(drive.fake.searches) == 2
    assert runner.urgent == [True, False]
    assert len(drive.fake.searches[1][1]) == 1  # the tracked pose competes
    runner.task = replace(runner.task, T_world_cam=se3.plus(
        runner.task.T_world_cam, [error, 0, 0, 0, 0, 0]), verdict=verdict)
    runner.is_done = True
    update = drive.step()
    assert update.searched == told
    for _ in range(4):  # a single alarm does not move the filter
        update = drive.step()
    assert update.state == 'tracking'
    assert drive.error(update)[0] < 0.02


def test_slow_divergence_is_noticed_by_a_check():
    drive = drive_without_start(check_period_s=1.0)
    drive.step()
    settle(drive)
    wrong, furthest_m = np.array([0.8, 0, 0, 0, 0, 0]), 0.0
    for k in range(60):  # fixes near the belief drag it away; only a search knows better
        drive.fake.truth = drive.fake.truth @ STEP
        away = drive.tracker._candidate is None
        drive.fake.verdict = 'ok'
        drive.fake.error = wrong * min(k / 30, 1.0) if away else np.zeros(6)
        drive.k += 1
        update = drive.tracker.step(make_frame(drive.k), drive.T_odom_world @ drive.fake.truth)
        furthest_m = max(furthest_m, drive.error(update)[0])
        if update.searched == 'contradicted':
            break
    assert furthest_m > 0.1
    for _ in range(6):
        update = drive.step()
    assert update.state == 'tracking'
    assert drive.error(update)[0] < 0.02


def test_a_start_that_images_plainly_refute_is_searched_for_at_once():
    drive = drive_without_start()
    drive.tracker.initialize(se3.plus(np.eye(4), (2.0, 0, 0, 0, 1.0, 0)))
    drive.fake.confidence = 0.1
    drive.step('lost')
    assert drive.fake.searches == []
    update = drive.step('lost')
    assert update.searched == 'found'  # 0.1 s after the click, not `search_after_s`
    update = drive.step()
    assert update.state == 'tracking' and drive.error(update)[0] < 0.02


@pytest.mark.parametrize('verdict, confidence', [('blind', 0.0), ('ambiguous', 0.4),
                                                 ('lost', 0.4)])
def test_a_start_that_images_only_doubt_has_its_time(verdict, confidence):
    drive = drive_without_start(search_after_s=1.0)
    drive.tracker.initialize(se3.plus(np.eye(4), (0.1, 0, 0, 0, 0.0, 0)))
    drive.fake.confidence = confidence
    for _ in range(10):
        drive.step(verdict)
    assert drive.fake.searches == []
    drive.step(verdict)
    drive.step(verdict)
    assert len(drive.fake.searches) == 1

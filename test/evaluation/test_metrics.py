# SPDX-License-Identifier: Apache-2.0
"""Pose and trajectory errors, alignment and time lost, against closed forms."""

from hypothesis import given, settings, strategies as st
import numpy as np
import pytest

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.evaluation import association, availability, metrics
from thermal_nerf_loc.evaluation.availability import self_checks, StampedErrors
from thermal_nerf_loc.evaluation.study import comparison
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.trajectory import Trajectory

NS = 1_000_000_000


def circle(count=41, period_s=0.1, radius_m=2.0):
    angle = np.arange(count) * 0.05
    w = np.stack([0 * angle, 0 * angle, angle], axis=1)
    t = radius_m * np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    stamps = (np.arange(count) * period_s * NS).astype(np.int64)
    return Trajectory(stamps, se3.from_parts(se3.so3_exp(w), t))


def test_pose_errors_are_distance_and_angle():
    truth = circle().poses
    xi = np.array([0.03, 0.0, 0.04, 0.0, 0.0, 0.0])
    turn = np.array([0.0, 0.0, 0.0, 0.0, np.deg2rad(7.0), 0.0])
    shifted = metrics.pose_errors(se3.plus(truth, xi), truth)
    np.testing.assert_allclose(shifted.metres, 0.05, atol=1e-12)
    np.testing.assert_allclose(shifted.degrees, 0.0, atol=1e-6)
    turned = metrics.pose_errors(se3.plus(truth, turn), truth)
    np.testing.assert_allclose(turned.metres, 0.0, atol=1e-12)
    np.testing.assert_allclose(turned.degrees, 7.0, atol=1e-9)
    assert turned.success_5cm_5deg == 0.0


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-1.0, 1.0), min_size=12, max_size=12))
def test_pose_error_does_not_depend_on_the_world_frame(numbers):
    A, B = se3.exp(numbers[:6]), se3.exp(numbers[6:])
    G = se3.exp([3.0, -1.0, 2.0, 0.5, 1.0, -0.7])
    plain, moved = metrics.pose_errors(A, B), metrics.pose_errors(G @ A, G @ B)
    np.testing.assert_allclose(plain.metres, moved.metres, atol=1e-9)
    np.testing.assert_allclose(plain.degrees, moved.degrees, atol=1e-6)


def test_ate_is_the_root_mean_square():
    truth = circle(4)
    off = np.zeros((4, 6))
    off[:, 0] = (0.01, 0.02, 0.03, 0.2)
    off[:, 5] = np.deg2rad((0.0, 0.0, 3.0, 4.0))
    poses = truth.poses @ se3.from_parts(se3.so3_exp(off[:, 3:]), off[:, :3])
    found = metrics.trajectory_metrics(Trajectory(truth.stamps_ns, poses), truth)
    assert found.ate_rmse_m == pytest.approx(np.sqrt(np.mean(off[:, 0]**2)), rel=1e-9)
    assert found.ate_rmse_deg == pytest.approx(2.5, rel=1e-6)
    assert found.ate_median_m == pytest.approx(0.025)
    assert found.ate_max_m == pytest.approx(0.2)
    assert found.success_5cm_5deg == 0.75
    assert found.matched == 4


def test_rpe_sees_drift_not_offset():
    truth = circle()
    offset = se3.exp([1.0, 2.0, 3.0, 0.1, 0.2, 0.3])
    moved = metrics.trajectory_metrics(Trajectory(truth.stamps_ns, offset @ truth.poses), truth)
    assert moved.ate_rmse_m > 1.0
    assert moved.rpe_rmse_m == pytest.approx(0.0, abs=1e-9)
    straight = se3.from_parts(np.broadcast_to(np.eye(3), (41, 3, 3)),
                              np.outer(np.arange(41) * 0.1, (1.0, 0.0, 0.0)))
    faster = straight.copy()
    faster[:, :3, 3] *= 1.03  # 1 m/s with 3 % too much: 3 cm in each second
    found = metrics.trajectory_metrics(Trajectory(truth.stamps_ns, faster),
                                       Trajectory(truth.stamps_ns, straight))
    assert found.rpe_rmse_m == pytest.approx(0.03, rel=1e-6)
    assert found.rpe_rmse_deg == pytest.approx(0.0, abs=1e-6)


def test_truth_is_interpolated_on_the_geodesic():
    truth = circle()
    middle = truth.stamps_ns[:-1] + 50_000_000
    poses = se3.interpolate(truth.poses[:-1], truth.poses[1:], np.full(40, 0.5))
    found = metrics.trajectory_metrics(Trajectory(middle, poses), truth)
    assert found.ate_rmse_m < 1e-9
    assert found.matched == 40


def test_poses_without_truth_are_left_out():
    truth = circle()
    late = Trajectory(truth.stamps_ns + 2 * NS, truth.poses)
    stamps, _, _ = metrics.associate(late, truth)
    assert len(stamps) == 21
    with pytest.raises(InputError, match='near it in time'):
        metrics.associate(Trajectory(truth.stamps_ns + 9 * NS, truth.poses), truth)
    gap = Trajectory(truth.stamps_ns[[0, 40]], truth.poses[[0, 40]])
    assert len(metrics.associate(truth, gap)[0]) == 2


def test_lone_pose_has_no_relative_error():
    one = circle(1)
    found = metrics.trajectory_metrics(one, one)
    assert (found.rpe_rmse_m, found.matched) == (0.0, 1)


def test_rates_latencies_and_shares():
    assert metrics.updates_hz(circle().stamps_ns) == pytest.approx(10.0)
    assert metrics.updates_hz([5]) == 0.0
    found = metrics.latency(np.arange(101) / 100)
    assert (found.p50_s, found.p90_s, found.p95_s, found.p99_s, found.max_s) == pytest.approx(
        (0.5, 0.9, 0.95, 0.99, 1.0))
    with pytest.raises(InputError):
        metrics.latency([])
    assert metrics.lost_share(['tracking', 'lost', 'lost', 'degraded']) == 0.5
    assert metrics.lost_share([]) == 0.0


def test_unequal_numbers_of_poses_are_refused():
    with pytest.raises(InputError, match='as many'):
        metrics.pose_errors(circle(3).poses, circle(4).poses)


def test_nearest_pairs_are_within_the_tolerance_and_the_earlier_of_two():
    truth = circle(11)
    estimated = Trajectory(np.array([4, 50, 104, 350], np.int64) * 1_000_000,
                           circle(4).poses)
    stamps, A, B = metrics.associate(estimated, truth, 'nearest', 0.005)
    assert stamps.tolist() == [4_000_000, 104_000_000]
    np.testing.assert_array_equal(A, estimated.poses[[0, 2]])
    np.testing.assert_array_equal(B, truth.poses[[0, 1]])
    _, _, B = metrics.associate(estimated, truth, 'nearest', 0.05)
    np.testing.assert_array_equal(B, truth.poses[[0, 0, 1, 3]])
    many, few = metrics.associate(truth, estimated, 'nearest', 0.005)[1:]
    np.testing.assert_array_equal(many, truth.poses[[0, 1]])
    np.testing.assert_array_equal(few, estimated.poses[[0, 2]])


def test_a_gap_of_the_truth_is_as_wide_as_the_tolerance_lets_it():
    truth = circle()
    gappy = Trajectory(np.delete(truth.stamps_ns, slice(10, 14)),
                       np.delete(truth.poses, slice(10, 14), axis=0))  # 0.5 s without truth
    assert len(metrics.associate(truth, gappy, tolerance_s=0.25).stamps_ns) == 41
    assert len(metrics.associate(truth, gappy, tolerance_s=0.24).stamps_ns) == 37


@pytest.mark.parametrize('unit, delta, count', [('s', 1.0, 31), ('f', 10, 31), ('m', 0.5, 36)])
def test_pairs_of_relative_errors(unit, delta, count):
    drive = circle()  # 10 Hz, 5 cm a step in arc, nearly so along the chords
    matched = association.Matched(drive.stamps_ns, drive.poses * 1.0, drive.poses)
    first, second = association.relative_pairs(matched, delta, unit)
    assert len(first) == len(second) == count
    assert set((second - first).tolist()) == {5 if unit == 'm' else 10}


def test_seconds_and_frames_agree_at_a_steady_rate():
    truth = circle()
    noisy = Trajectory(truth.stamps_ns, se3.plus(
        truth.poses, 0.01 * np.random.default_rng(1).normal(size=(41, 6))))
    by = [metrics.trajectory_metrics(noisy, truth, metrics.EvaluationConfig(
        rpe_unit=unit, rpe_delta=delta)).rpe_rmse_m for unit, delta in (('s', 1.0), ('f', 10.0))]
    assert by[0] == by[1] > 0.005
    with pytest.raises(InputError, match='whole'):
        metrics.EvaluationConfig(rpe_unit='f', rpe_delta=1.5)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-1.0, 1.0), min_size=6, max_size=6), st.floats(0.2, 5.0))
def test_alignment_takes_out_exactly_a_similarity(xi, scale):
    truth = circle().poses
    moved = se3.inverse(se3.exp(xi)) @ truth
    moved[:, :3, 3] /= scale
    found = association.find_alignment(moved, truth, 'sim3')
    assert found.scale == pytest.approx(scale, rel=1e-9)
    np.testing.assert_allclose(found.apply(moved)[:, :3, 3], truth[:, :3, 3], atol=1e-9)
    rigid = association.find_alignment(moved, truth, 'se3')
    assert rigid.scale == 1.0
    np.testing.assert_allclose(rigid.T[:3, :3], found.T[:3, :3], atol=1e-6)
    assert association.find_alignment(moved, truth, 'none') is association.IDENTITY


def test_alignment_is_rigid_also_for_a_mirrored_path():
    truth = circle().poses.copy()
    truth[:, 2, 3] = np.sin(np.arange(41))
    mirrored = truth.copy()
    mirrored[:, 0, 3] *= -1.0
    found = association.find_alignment(mirrored, truth, 'se3')
    assert np.linalg.det(found.T[:3, :3]) == pytest.approx(1.0)
    line = np.tile(np.eye(4), (5, 1, 1))
    line[:, 0, 3] = np.arange(5)
    with pytest.raises(InputError, match='cannot be aligned'):
        association.find_alignment(line, line, 'se3')


def test_time_lost_and_found_again():
    states = [(0, 'initializing'), (1, 'tracking'), (4, 'degraded'), (5, 'lost'), (7, 'lost'),
              (8, 'tracking'), (9, 'lost'), (10, 'initializing'), (15, 'tracking'), (16, 'lost'),
              (18, 'lost')]
    found = availability.availability([(t * NS, state) for t, state in states])
    assert found.time_lost_s == pytest.approx(1 + 3 + 6 + 2)
    assert found.initialization_s == pytest.approx(1.0)
    assert (found.losses, found.recoveries) == (3, 2)  # the last one lasts
    assert found.relocalization_median_s == pytest.approx(4.5)
    assert found.relocalization_max_s == pytest.approx(6.0)
    never = availability.availability([(0, 'lost'), (NS, 'lost')])
    assert (never.initialization_s, never.losses, never.time_lost_s) == (None, 0, 1.0)
    both = availability.availability([(t * NS, state) for t, state in states],
                                     [(0, 'tracking'), (NS, 'tracking')])
    assert (both.losses, both.time_lost_s) == (3, pytest.approx(12.0))


def test_alarms_are_judged_by_the_truth():
    errors = StampedErrors(np.arange(4) * NS, np.array([0.01, 0.01, 0.5, 0.01]),
                    np.array([1.0, 1.0, 1.0, 9.0]))
    said = [(0, 'confirmed'), (NS, 'contradicted'), (NS + 1, ''), (2 * NS, 'confirmed'),
            (2 * NS + 1, 'contradicted'), (3 * NS, 'undecided'), (3 * NS, 'found')]
    found = self_checks([(said, errors)])
    assert (found.self_checks, found.self_checks_confirmed, found.self_checks_contradicted,
            found.self_checks_undecided) == (5, 2, 2, 1)
    assert (found.false_alarms, found.missed_alarms, found.false_alarm_share) == (1, 1, 0.5)
    blind = self_checks([(said, errors), (said, None)])
    assert (blind.self_checks, blind.false_alarms) == (10, None)
    assert self_checks([([], errors)]).self_checks is None


def test_pauses_of_a_system_without_states_are_time_lost():
    stamps = np.array([2.0, 2.5, 3.0, 6.0, 6.5], np.float64) * NS
    states = availability.states_from_stamps(stamps.astype(np.int64), 0, 10 * NS, 1.0)
    found = availability.availability(states)
    assert found.time_lost_s == pytest.approx(2.0 + 3.0 + 3.5)
    assert found.initialization_s == pytest.approx(2.0)
    assert (found.losses, found.relocalization_max_s) == (2, pytest.approx(3.0))
    whole = availability.states_from_stamps(stamps.astype(np.int64), 2 * NS, 7 * NS, 5.0)
    assert availability.availability(whole).time_lost_s == 0.0
    nothing = availability.states_from_stamps(np.zeros(0, np.int64), 0, NS, 1.0)
    assert availability.availability(nothing).time_lost_s == 1.0


def test_rows_of_two_drives_and_what_they_are_together():
    truth = circle()
    runs = []
    for drive, off, lost in (('a', 0.03, 0.0), ('b', 0.04, 0.5)):
        estimated = Trajectory(truth.stamps_ns, se3.plus(truth.poses, [off, 0, 0, 0, 0, 0]))
        runs.append(comparison.Run(
            drive, 'both', estimated, ((0, 'tracking'), (NS, 'tracking')),
            metrics.evaluate(estimated, truth), lost, 10, 5.0 if drive == 'a' else 10.0,
            np.full(10, off)))
    rows = comparison.rows(runs)
    assert [row['drive'] for row in rows] == ['a', 'b', 'all']
    assert rows[2]['ate_rmse_m'] == pytest.approx(np.sqrt((0.03**2 + 0.04**2) / 2))
    assert rows[2]['updates_hz'] == pytest.approx(20 / 3.0)  # 2 s and 1 s for ten each
    assert rows[2]['lost_share'] == pytest.approx(0.25)
    assert rows[2]['latency_max_s'] == pytest.approx(0.04)
    five = next(rate for rate in rows[1]['success'] if rate['metres'] == 0.05)
    assert (five['share_of_poses'], five['share_of_updates']) == (1.0, 0.5)
    assert comparison.cells(rows[0])[0] == '3.00'
    other = comparison.Run('a', 'other', runs[0].trajectory, runs[0].states)
    assert comparison.cells(comparison.rows([other])[0])[0] == '–'

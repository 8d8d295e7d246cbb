# SPDX-License-Identifier: Apache-2.0
"""Pose and trajectory errors against closed forms; figures are real PNGs."""

import cv2
from hypothesis import given, settings, strategies as st
import numpy as np
import pytest

from thermal_nerf_loc.data.trajectory import Trajectory
from thermal_nerf_loc.errors import InputError
from thermal_nerf_loc.evaluation import metrics, report
from thermal_nerf_loc.geometry import se3

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
                                       Trajectory(truth.stamps_ns, straight), rpe_delta_s=1.0)
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
    with pytest.raises(InputError, match='share no moment'):
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
    assert (found.p50_s, found.p95_s, found.max_s) == pytest.approx((0.5, 0.95, 1.0))
    with pytest.raises(InputError):
        metrics.latency([])
    assert metrics.lost_share(['tracking', 'lost', 'lost', 'degraded']) == 0.5
    assert metrics.lost_share([]) == 0.0


def test_unequal_numbers_of_poses_are_refused():
    with pytest.raises(InputError, match='as many'):
        metrics.pose_errors(circle(3).poses, circle(4).poses)


def test_figures_are_pictures():
    truth = circle()
    estimated = Trajectory(truth.stamps_ns, se3.plus(truth.poses, [0.01, 0, 0, 0, 0.01, 0]))
    states = [(0, 'initializing'), (NS, 'tracking'), (3 * NS, 'lost'), (4 * NS, 'lost')]
    errors = metrics.pose_errors(estimated.poses, truth.poses)
    pictures = {
        'trajectory': report.plot_trajectory(estimated, truth, np.array([[-3, -3, 0], [3, 3, 2]])),
        'errors': report.plot_errors(estimated, truth, states),
        'histogram': report.plot_error_histogram(errors.metres, errors.degrees)}
    for png in pictures.values():
        image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
        assert image.shape[0] > 300
        assert len(np.unique(image.reshape(-1, 3), axis=0)) > 20
    page = report.html_report('a <drive>', {'ate_rmse_m': 0.0123456}, pictures)
    assert 'a &lt;drive&gt;' in page
    assert '0.01235' in page
    assert page.count('data:image/png;base64,') == 3

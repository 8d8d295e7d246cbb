# SPDX-License-Identifier: Apache-2.0
"""SE(3): group laws, Jacobians by finite differences, and two other libraries."""

from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation
import transforms3d

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3

EXACT = 1e-9
ANGLES = st.one_of(
    st.floats(0.0, np.pi), st.floats(0.0, 1e-3), st.floats(0.0, 1e-9),
    st.sampled_from([0.0, 1e-300, 9.9e-5, 1e-4, 1.01e-4, np.pi / 2, np.pi]),
    st.floats(0.0, 1e-3).map(lambda gap: np.pi - gap),
    st.floats(0.0, 1e-9).map(lambda gap: np.pi - gap))


@st.composite
def axes(draw):
    v = draw(hnp.arrays(float, 3, elements=st.floats(-1.0, 1.0)))
    n = np.linalg.norm(v)
    return v / n if n > 1e-3 else np.array([0.0, 0.6, -0.8])


@st.composite
def rotation_vectors(draw):
    return draw(ANGLES) * draw(axes())


@st.composite
def tangents(draw):
    v = draw(hnp.arrays(float, 3, elements=st.floats(-10.0, 10.0, allow_subnormal=False)))
    return np.concatenate([v, draw(rotation_vectors())])


def series_exp(A, terms=60):
    """Matrix exponential by its definition, after halving its argument."""
    halvings = 6
    term = out = np.eye(len(A))
    for k in range(1, terms):
        term = term @ (A / 2**halvings) / k
        out = out + term
    return np.linalg.matrix_power(out, 2**halvings)


def hat6(xi):
    out = np.zeros((4, 4))
    out[:3, :3], out[:3, 3] = se3.hat(xi[3:]), xi[:3]
    return out


@given(tangents())
def test_exp_is_the_matrix_exponential(xi):
    np.testing.assert_allclose(se3.exp(xi), series_exp(hat6(xi)), atol=EXACT)


@given(rotation_vectors())
def test_rotations_agree_with_scipy_and_transforms3d(w):
    R = se3.so3_exp(w)
    np.testing.assert_allclose(R, Rotation.from_rotvec(w).as_matrix(), atol=EXACT)
    angle = np.linalg.norm(w)
    if angle > 1e-12:
        np.testing.assert_allclose(
            R, transforms3d.axangles.axangle2mat(w / angle, angle, is_normalized=True),
            atol=EXACT)
    x, y, z, real = se3.quaternion_from_matrix(R)
    assert real >= 0.0
    np.testing.assert_allclose(transforms3d.quaternions.quat2mat([real, x, y, z]), R, atol=EXACT)
    np.testing.assert_allclose(R.T @ R, np.eye(3), atol=1e-14)


@given(rotation_vectors())
def test_log_undoes_exp_near_zero_and_near_pi(w):
    back = se3.so3_log(se3.so3_exp(w))
    if np.linalg.norm(w) > np.pi - 1e-7:  # at pi both signs are the same rotation
        back = back * np.sign(back @ w or 1.0)
    np.testing.assert_allclose(back, w, atol=EXACT)


@given(tangents())
def test_exp_undoes_log(xi):
    T = se3.exp(xi)
    np.testing.assert_allclose(se3.exp(se3.log(T)), T, atol=EXACT)


@given(tangents(), tangents(), tangents())
def test_group_axioms(a, b, c):
    A, B, C = se3.exp(a), se3.exp(b), se3.exp(c)
    np.testing.assert_allclose((A @ B) @ C, A @ (B @ C), atol=EXACT)
    np.testing.assert_allclose(A @ se3.inverse(A), np.eye(4), atol=EXACT)
    np.testing.assert_allclose(se3.inverse(A @ B), se3.inverse(B) @ se3.inverse(A), atol=EXACT)


@given(tangents(), tangents())
def test_adjoint_moves_a_tangent_to_the_other_side(a, xi):
    T, Ad = se3.exp(a), se3.adjoint(se3.exp(a))
    small = 0.1 * xi
    np.testing.assert_allclose(T @ se3.exp(small), se3.exp(Ad @ small) @ T, atol=1e-8)
    np.testing.assert_allclose(se3.adjoint(T @ se3.exp(xi)), Ad @ se3.adjoint(se3.exp(xi)),
                               atol=1e-8)


@given(tangents(), tangents())
def test_minus_undoes_plus(a, b):
    A, B = se3.exp(a), se3.exp(b)
    np.testing.assert_allclose(se3.plus(A, se3.minus(B, A)), B, atol=EXACT)


@given(rotation_vectors())
def test_left_jacobian_by_finite_differences(w):
    J, step = se3.left_jacobian(w), 1e-6
    for i, e in enumerate(np.eye(3)):
        ahead, behind = se3.so3_exp(w + step * e), se3.so3_exp(w - step * e)
        slope = (ahead - behind) / (2 * step) @ se3.so3_exp(w).T
        np.testing.assert_allclose(slope, se3.hat(J[:, i]), atol=1e-8)


@given(rotation_vectors())
def test_left_jacobian_inverse(w):
    np.testing.assert_allclose(se3.left_jacobian(w) @ se3.left_jacobian_inverse(w), np.eye(3),
                               atol=1e-13)


@given(rotation_vectors())
def test_closed_forms_meet_the_series(w):
    """The whole left Jacobian is sum W^n / (n + 1)!."""
    W, term, total = se3.hat(w), np.eye(3), np.eye(3)
    for n in range(1, 40):
        term = term @ W / (n + 1)
        total = total + term
    np.testing.assert_allclose(se3.left_jacobian(w), total, atol=EXACT)


@given(tangents(), tangents())
def test_interpolation_is_a_geodesic(a, b):
    A, B = se3.exp(a), se3.exp(b)
    np.testing.assert_allclose(se3.interpolate(A, B, 0.0), A, atol=EXACT)
    np.testing.assert_allclose(se3.interpolate(A, B, 1.0), B, atol=EXACT)
    half, quarter = se3.interpolate(A, B, 0.5), se3.interpolate(A, B, 0.25)
    np.testing.assert_allclose(se3.interpolate(A, half, 0.5), quarter, atol=1e-8)


@given(tangents())
def test_quaternion_round_trip(xi):
    T = se3.exp(xi)
    q = se3.quaternion_from_matrix(T[:3, :3])
    np.testing.assert_allclose(se3.from_quaternion(T[:3, 3], q), T, atol=EXACT)
    np.testing.assert_allclose(se3.from_quaternion(T[:3, 3], -3.0 * q), T, atol=EXACT)
    np.testing.assert_allclose(Rotation.from_quat(q).as_matrix(), T[:3, :3], atol=EXACT)


@settings(max_examples=20)
@given(hnp.arrays(float, (4, 6), elements=st.floats(-2.0, 2.0, allow_subnormal=False)))
def test_batches_are_rows_alone(xi):
    T = se3.exp(xi)
    for function, rows in ((se3.exp, xi), (se3.log, T), (se3.adjoint, T), (se3.inverse, T)):
        np.testing.assert_allclose(function(rows), [function(row) for row in rows], atol=1e-12)
    shares = np.linspace(0.0, 1.0, 4)
    np.testing.assert_allclose(
        se3.interpolate(T[0], T[1], shares),
        [se3.interpolate(T[0], T[1], share) for share in shares], atol=1e-12)


@given(tangents(), hnp.arrays(float, (5, 3), elements=st.floats(-5.0, 5.0)))
def test_transform_is_homogeneous_multiplication(xi, points):
    T = se3.exp(xi)
    expected = (T @ np.c_[points, np.ones(5)].T).T[:, :3]
    np.testing.assert_allclose(se3.transform(T, points), expected, atol=EXACT)


@given(tangents(), st.floats(0.0, 5.0), ANGLES, axes())
def test_distance_is_metres_and_degrees(xi, metres, angle, axis):
    T = se3.exp(xi)
    other = T @ se3.from_parts(se3.so3_exp(angle * axis), metres * axis)
    np.testing.assert_allclose(se3.distance(T, other), (metres, np.rad2deg(angle)), atol=1e-7)


def test_named_rotation():
    """A quarter turn to the left takes x to y."""
    T = se3.exp([0.0, 0.0, 0.0, 0.0, 0.0, np.pi / 2])
    np.testing.assert_allclose(se3.transform(T, [1.0, 0.0, 0.0]), [0.0, 1.0, 0.0], atol=1e-15)


@given(tangents(), st.floats(-2e-6, 2e-6))
def test_check_pose_cleans_rounding(xi, noise):
    T = se3.exp(xi)
    rough = T.copy()
    rough[:3, :3] += noise
    clean = se3.check_pose(rough)
    np.testing.assert_allclose(clean[:3, :3].T @ clean[:3, :3], np.eye(3), atol=1e-14)
    np.testing.assert_allclose(clean, T, atol=1e-5)


@pytest.mark.parametrize('change, reason', [
    (lambda T: T[:3], 'wrong shape'),
    (lambda T: T * np.nan, 'NaN'),
    (lambda T: T * np.diag([1.02, 1.02, 1.02, 1.0]), 'no rigid motion'),
    (lambda T: T @ np.diag([1.0, 1.0, -1.0, 1.0]), 'no rigid motion'),
    (lambda T: T + np.eye(4)[3][:, None] * 0.1, 'last row'),
])
def test_check_pose_refuses(change, reason):
    with pytest.raises(InputError, match=reason):
        se3.check_pose(change(np.eye(4)), 'frame 7')

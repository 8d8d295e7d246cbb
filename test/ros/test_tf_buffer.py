# SPDX-License-Identifier: Apache-2.0
"""One contract for both tf buffers: ours, and tf2's where it is installed."""

import importlib.util

import numpy as np
import pytest

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.bags.transform_tree import TransformBuffer, TransformUnavailable

pytest.importorskip('rclpy')

from thermal_nerf_loc.ros.tf_buffer import make_buffer, Tf2Buffer  # noqa: I202

S = 10**9
T_A = se3.exp([1.0, 0.0, 0.5, 0.2, -0.1, 0.9])
T_B = se3.exp([1.4, 0.3, 0.5, 0.2, 0.3, 1.3])
MOUNT = se3.exp([0.1, -0.2, 0.4, -1.2, 1.2, -1.2])

HAS_TF2 = importlib.util.find_spec('tf2_ros') is not None


@pytest.fixture(params=[TransformBuffer, pytest.param(Tf2Buffer, marks=[
    pytest.mark.ros, pytest.mark.skipif(not HAS_TF2, reason='tf2_ros is not installed')])])
def tf(request):
    buffer = request.param()
    buffer.set_transform('base', 'camera', MOUNT, 0, static=True)
    buffer.set_transform('odom', 'base', T_A, 10 * S)
    buffer.set_transform('odom', 'base', T_B, 11 * S)
    return buffer


def test_samples_are_given_back(tf):
    np.testing.assert_allclose(tf.lookup_transform('odom', 'base', 10 * S), T_A, atol=1e-9)
    np.testing.assert_allclose(tf.lookup_transform('odom', 'base', 11 * S), T_B, atol=1e-9)
    np.testing.assert_allclose(tf.lookup_transform('base', 'odom', 11 * S), se3.inverse(T_B),
                               atol=1e-9)


def test_no_moment_means_the_newest(tf):
    np.testing.assert_allclose(tf.lookup_transform('odom', 'base'), T_B, atol=1e-9)
    np.testing.assert_allclose(tf.lookup_transform('odom', 'camera'), T_B @ MOUNT, atol=1e-9)
    np.testing.assert_allclose(tf.lookup_transform('base', 'camera'), MOUNT, atol=1e-9)


def test_between_samples_it_blends(tf):
    T = tf.lookup_transform('odom', 'base', 10 * S + S // 4)
    np.testing.assert_allclose(T[:3, 3], 0.75 * T_A[:3, 3] + 0.25 * T_B[:3, 3], atol=1e-9)
    whole = se3.so3_log(T_A[:3, :3].T @ T_B[:3, :3])
    np.testing.assert_allclose(se3.so3_log(T_A[:3, :3].T @ T[:3, :3]), 0.25 * whole, atol=1e-7)


def test_static_frames_hold_for_ever_and_chain(tf):
    np.testing.assert_allclose(tf.lookup_transform('camera', 'base', 99 * S), se3.inverse(MOUNT),
                               atol=1e-9)
    np.testing.assert_allclose(tf.lookup_transform('odom', 'camera', 10 * S), T_A @ MOUNT,
                               atol=1e-9)


def test_nothing_is_extrapolated(tf):
    with pytest.raises(TransformUnavailable) as newer:
        tf.lookup_transform('odom', 'base', 12 * S)
    assert newer.value.too_new  # waiting may help
    with pytest.raises(TransformUnavailable) as older:
        tf.lookup_transform('odom', 'camera', 9 * S)
    assert not older.value.too_new


def test_unknown_and_unconnected_frames_are_told_apart(tf):
    tf.set_transform('other', 'thing', np.eye(4), 0, static=True)
    with pytest.raises(TransformUnavailable, match="no frame 'kamera'") as unknown:
        tf.lookup_transform('base', 'kamera')
    assert not unknown.value.too_new
    with pytest.raises(TransformUnavailable, match='does not connect'):
        tf.lookup_transform('base', 'thing')


def test_clearing_keeps_what_is_static(tf):
    tf.clear()
    with pytest.raises(TransformUnavailable):
        tf.lookup_transform('odom', 'base')
    np.testing.assert_allclose(tf.lookup_transform('base', 'camera'), MOUNT, atol=1e-9)
    tf.set_transform('odom', 'base', T_A, 1 * S)  # time has started over
    np.testing.assert_allclose(tf.lookup_transform('odom', 'camera'), T_A @ MOUNT, atol=1e-9)


def test_what_is_no_transform_is_refused(tf):
    with pytest.raises(InputError, match='odom -> base'):
        tf.set_transform('odom', 'base', np.full((4, 4), np.nan), 12 * S)
    with pytest.raises(InputError, match='own parent'):
        tf.set_transform('odom', 'odom', np.eye(4), 12 * S)


def test_leading_slashes_of_ros_1_do_not_matter(tf):
    np.testing.assert_allclose(tf.lookup_transform('/odom', '/base', 11 * S), T_B, atol=1e-9)


def test_the_node_takes_tf2_where_it_is():
    assert isinstance(make_buffer(), Tf2Buffer if HAS_TF2 else TransformBuffer)

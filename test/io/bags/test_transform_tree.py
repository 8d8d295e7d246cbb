# SPDX-License-Identifier: Apache-2.0
"""Trees of frames against closed forms: the buffer of a running robot, and that of a bag."""

import threading
from types import SimpleNamespace

from hypothesis import given, settings, strategies as st
import numpy as np
import pytest

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.bags.transform_tree import (FrameTree, TransformBuffer,
                                                     TransformUnavailable)

S = 10**9
tangents = st.lists(st.floats(-1.5, 1.5), min_size=6, max_size=6).map(se3.exp)


def shift(x, y=0.0, z=0.0):
    T = np.eye(4)
    T[:3, 3] = x, y, z
    return T


def turn_z(angle):
    c, s = np.cos(angle), np.sin(angle)
    return se3.from_parts([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]], np.zeros(3))


@settings(max_examples=25, deadline=None)
@given(tangents, tangents, tangents, tangents)
def test_chain_multiplies_through_the_common_ancestor(T_map_odom, T_odom_base, T_base_a, T_base_b):
    tf = TransformBuffer()
    tf.set_transform('map', 'odom', T_map_odom, 5 * S)
    tf.set_transform('odom', 'base', T_odom_base, 5 * S)
    tf.set_transform('base', 'a', T_base_a, 0, static=True)
    tf.set_transform('base', 'b', T_base_b, 0, static=True)
    np.testing.assert_allclose(tf.lookup_transform('map', 'a', 5 * S),
                               T_map_odom @ T_odom_base @ T_base_a, atol=1e-9)
    np.testing.assert_allclose(tf.lookup_transform('a', 'b', 7),
                               np.linalg.inv(T_base_a) @ T_base_b, atol=1e-9)
    np.testing.assert_allclose(tf.lookup_transform('a', 'map', 5 * S),
                               np.linalg.inv(T_map_odom @ T_odom_base @ T_base_a), atol=1e-9)


def test_between_samples_it_interpolates_like_tf2():
    tf = TransformBuffer()
    tf.set_transform('odom', 'base', shift(1.0) @ turn_z(0.0), 1 * S)
    tf.set_transform('odom', 'base', shift(3.0) @ turn_z(1.2), 2 * S)
    expected = shift(1.5) @ turn_z(0.3)  # straight line, constant turn rate
    np.testing.assert_allclose(tf.lookup_transform('odom', 'base', 5 * S // 4), expected,
                               atol=1e-12)


def test_out_of_order_samples_are_sorted_in():
    tf = TransformBuffer()
    for second in (1, 3, 2):
        tf.set_transform('odom', 'base', shift(float(second)), second * S)
    T = tf.lookup_transform('odom', 'base', 5 * S // 2)
    assert T[0, 3] == pytest.approx(2.5)


def test_nothing_is_extrapolated_and_the_future_is_told_from_the_past():
    tf = TransformBuffer()
    tf.set_transform('odom', 'base', np.eye(4), 1 * S)
    tf.set_transform('odom', 'base', np.eye(4), 2 * S)
    with pytest.raises(TransformUnavailable, match='newer') as late:
        tf.lookup_transform('odom', 'base', 2 * S + 1)
    with pytest.raises(TransformUnavailable, match='older') as early:
        tf.lookup_transform('odom', 'base', S - 1)
    assert late.value.too_new
    assert not early.value.too_new


def test_latest_is_the_newest_moment_that_all_edges_know():
    tf = TransformBuffer()
    tf.set_transform('map', 'odom', shift(10.0), 1 * S)
    tf.set_transform('map', 'odom', shift(20.0), 2 * S)
    tf.set_transform('odom', 'base', shift(1.0), 1 * S)
    tf.set_transform('odom', 'base', shift(3.0), 3 * S)
    assert tf.lookup_transform('map', 'base')[0, 3] == pytest.approx(22.0)


def test_old_samples_are_forgotten_and_static_ones_stay():
    tf = TransformBuffer(cache_ns=2 * S)
    tf.set_transform('base', 'camera', shift(0.5), 0, static=True)
    for second in range(10):
        tf.set_transform('odom', 'base', shift(float(second)), second * S)
    with pytest.raises(TransformUnavailable, match='older'):
        tf.lookup_transform('odom', 'base', 6 * S)
    assert tf.lookup_transform('odom', 'camera', 8 * S)[0, 3] == pytest.approx(8.5)
    tf.clear()
    with pytest.raises(TransformUnavailable):
        tf.lookup_transform('odom', 'base')
    assert tf.lookup_transform('base', 'camera')[0, 3] == 0.5


def test_unknown_frames_are_named_with_those_known():
    tf = TransformBuffer()
    tf.set_transform('base', 'camera', np.eye(4), 0, static=True)
    with pytest.raises(TransformUnavailable, match=r"no frame 'kamera'.*base, camera"):
        tf.lookup_transform('base', 'kamera')
    tf.set_transform('other', 'thing', np.eye(4), 0, static=True)
    with pytest.raises(TransformUnavailable, match="does not connect 'thing' with 'base'"):
        tf.lookup_transform('base', 'thing')


def test_a_loop_of_frames_is_refused():
    tf = TransformBuffer()
    tf.set_transform('a', 'b', np.eye(4), 0, static=True)
    tf.set_transform('b', 'a', np.eye(4), 0, static=True)
    with pytest.raises(TransformUnavailable, match='loop'):
        tf.lookup_transform('a', 'b')


@pytest.mark.parametrize('T', [np.full((4, 4), np.nan), np.diag([2.0, 2.0, 2.0, 1.0])])
def test_what_is_no_rigid_motion_is_refused(T):
    with pytest.raises(InputError, match='odom -> base'):
        TransformBuffer().set_transform('odom', 'base', T, 0)
    with pytest.raises(InputError, match='own parent'):
        TransformBuffer().set_transform('odom', 'odom', np.eye(4), 0)


def test_readers_and_writers_may_be_threads():
    tf, failures = TransformBuffer(cache_ns=50), []
    tf.set_transform('odom', 'base', shift(0.0), 0)

    def write():
        for ns in range(1, 400):
            tf.set_transform('odom', 'base', shift(float(ns)), ns)

    def read():
        while writer.is_alive():
            x = tf.lookup_transform('odom', 'base')[0, 3]
            if not 0.0 <= x <= 400.0:
                failures.append(x)

    writer = threading.Thread(target=write)
    reader = threading.Thread(target=read)
    writer.start()
    reader.start()
    writer.join()
    reader.join()
    assert not failures
    assert tf.lookup_transform('odom', 'base')[0, 3] == 399.0


def tf_message(parent, child, T, stamp_ns):
    x, y, z, w = se3.quaternion_from_matrix(T[:3, :3])
    transform = SimpleNamespace(
        translation=SimpleNamespace(**dict(zip('xyz', T[:3, 3]))),
        rotation=SimpleNamespace(x=x, y=y, z=z, w=w))
    stamp = SimpleNamespace(sec=stamp_ns // S, nanosec=stamp_ns % S)
    header = SimpleNamespace(frame_id=parent, stamp=stamp)
    return SimpleNamespace(transforms=[SimpleNamespace(header=header, child_frame_id=child,
                                                       transform=transform)])


@settings(max_examples=10, deadline=None)
@given(tangents, tangents, tangents)
def test_buffer_and_bag_agree_at_their_samples(T_map_odom, T_odom_base, T_base_camera):
    buffer, tree = TransformBuffer(), FrameTree()
    for parent, child, T, static in (('/map', 'odom', T_map_odom, False),
                                     ('odom', 'base', T_odom_base, False),
                                     ('base', '/camera', T_base_camera, True)):
        buffer.set_transform(parent, child, T, S, static)
        tree.add(tf_message(parent, child, T, S), static)
    assert buffer.frames == tree.frames == ('base', 'camera', 'map', 'odom')
    for target, source in (('map', 'camera'), ('camera', 'odom')):
        chain = tree.require_chain(target, source)
        assert tree.moves(chain)
        np.testing.assert_allclose(buffer.lookup_transform(target, source, S),
                                   tree.along(chain, S, S), atol=1e-9)
    assert not tree.moves(tree.require_chain('camera', 'base'))
    for ask in (lambda: buffer.lookup_transform('map', 'moon'),
                lambda: tree.require_chain('map', 'moon')):
        with pytest.raises((InputError, TransformUnavailable), match="no frame 'moon'"):
            ask()


def test_a_frame_changes_its_parent_in_the_buffer_and_keeps_both_in_a_bag():
    buffer, tree = TransformBuffer(), FrameTree()
    for second, parent in enumerate(('map', 'odom')):
        buffer.set_transform(parent, 'base', shift(1.0 + second), second * S)
        tree.add(tf_message(parent, 'base', shift(1.0 + second), second * S), False)
    with pytest.raises(TransformUnavailable, match="no frame 'map'"):
        buffer.lookup_transform('map', 'base')
    assert buffer.lookup_transform('odom', 'base')[0, 3] == 2.0
    assert tree.along(tree.require_chain('map', 'base'), 0, S)[0, 3] == 1.0
    assert tree.along(tree.require_chain('odom', 'base'), S, S)[0, 3] == 2.0


def test_a_bag_knows_nothing_in_its_gaps_and_follows_a_steady_turn_exactly():
    tree = FrameTree()
    speed = np.array([0.5, 0.0, 0.1, 0.0, 0.0, 0.8])
    for second in (0, 1, 2, 5):
        tree.add(tf_message('odom', 'base', se3.exp(speed * second), second * S), False)
    chain = tree.require_chain('odom', 'base')
    np.testing.assert_allclose(tree.along(chain, 3 * S // 2, S), se3.exp(speed * 1.5), atol=1e-12)
    assert tree.along(chain, 3 * S, S) is None
    assert tree.along(chain, 6 * S, S) is None
    assert tree.stamps.tolist() == [0, S, 2 * S, 5 * S]

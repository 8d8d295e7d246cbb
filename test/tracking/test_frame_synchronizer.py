# SPDX-License-Identifier: Apache-2.0
"""Pairing images, odometry and camera_info into frames; it needs no ROS."""

import struct
from types import SimpleNamespace
import zlib

from image_streams import (camera_info, drain, feed, header, image, make_synchronizer, MS,
                           odometry, play, T_BASE_RGB, T_BASE_THERMAL)
import numpy as np
import pytest

from thermal_nerf_loc.common.errors import InputError, RunError
from thermal_nerf_loc.io.bags.transform_tree import TransformBuffer
from thermal_nerf_loc.tracking import frame_synchronizer
from thermal_nerf_loc.tracking.frame_synchronizer import FrameSynchronizer, SynchronizerConfig


def test_images_of_one_moment_make_one_frame():
    synchronizer = make_synchronizer(odometry_until_ms=100)
    feed(synchronizer, ('thermal', 50), ('rgb', 50))
    (seen,) = drain(synchronizer)
    assert set(seen.frame.images) == {'rgb', 'thermal'}
    assert seen.frame.stamp_ns == 50 * MS
    assert seen.frame.images['rgb'].values.shape == (6, 8, 3)
    assert seen.frame.images['rgb'].values[0, 0, 0] == pytest.approx(50 / 255)
    assert seen.frame.images['thermal'].values[0, 0, 0] == pytest.approx(20.5, abs=1e-4)
    np.testing.assert_allclose(seen.T_base_cam, T_BASE_RGB, atol=1e-12)
    np.testing.assert_allclose(seen.T_odom_base, odometry(50 * MS), atol=1e-9)


def test_each_image_counts_at_its_own_stamp():
    synchronizer = make_synchronizer(odometry_until_ms=200)
    feed(synchronizer, ('thermal', 70), ('rgb', 100))
    (seen,) = drain(synchronizer)
    T_odom_thermal = odometry(70 * MS) @ T_BASE_THERMAL  # where it really was
    T_odom_cam = seen.T_odom_base @ seen.T_base_cam
    np.testing.assert_allclose(T_odom_cam @ seen.frame.images['thermal'].T_cam_sensor,
                               T_odom_thermal, atol=1e-9)
    assert np.abs(T_odom_thermal - odometry(100 * MS) @ T_BASE_THERMAL).max() > 0.01
    assert {image.stamp_ns for image in seen.frame.images.values()} == {100 * MS}


def test_without_odometry_images_keep_their_own_stamps():
    synchronizer = make_synchronizer()
    feed(synchronizer, ('thermal', 70), ('rgb', 100))
    (seen,) = drain(synchronizer)
    thermal = seen.frame.images['thermal']
    assert thermal.stamp_ns == 70 * MS
    np.testing.assert_allclose(T_BASE_RGB @ thermal.T_cam_sensor, T_BASE_THERMAL, atol=1e-9)


def test_repeated_messages_count_once():
    synchronizer = make_synchronizer(odometry_until_ms=100)
    assert len(play(synchronizer, ('rgb', 0), ('thermal', 0), ('rgb', 0), ('rgb', 0))) == 1
    assert synchronizer.counts['rgb_repeated'] == 2


def test_thermal_twice_as_fast_is_paired_with_its_newest():
    synchronizer = make_synchronizer(odometry_until_ms=1000)
    seen = play(synchronizer, *[e for ms in range(0, 600, 60)
                          for e in (('thermal', ms), ('thermal', ms + 30), ('rgb', ms + 31))])
    red = [round(float(o.frame.images['rgb'].values[0, 0, 0]) * 255) for o in seen]
    assert red == [(ms + 31) % 200 for ms in range(0, 600, 60)]
    warm = [round(float(o.frame.images['thermal'].values[0, 0, 0] - 20.0) * 100) for o in seen]
    assert warm == [(ms + 30) % 200 for ms in range(0, 600, 60)]


def test_a_silent_camera_is_waited_for_only_so_long():
    synchronizer = make_synchronizer(odometry_until_ms=2000)
    seen = play(synchronizer, ('rgb', 0), ('thermal', 0),
                *[('thermal', ms) for ms in range(30, 600, 30)])
    frames = [sorted(o.frame.images) for o in seen]
    assert frames[0] == ['rgb', 'thermal']
    assert all(names == ['thermal'] for names in frames[1:])
    assert len(frames) == 1 + len(range(300, 600, 30))


def test_a_frozen_thermal_camera_is_no_news():
    synchronizer, seen = make_synchronizer(odometry_until_ms=2000), []
    for ms in range(0, 1000, 50):
        value = 100 if ms >= 300 else ms // 50  # the same picture from 300 ms on
        synchronizer.add_image('thermal', image('thermal', ms * MS, value), ms * MS)
        synchronizer.add_image('rgb', image('rgb', ms * MS), ms * MS)
        seen += drain(synchronizer)
    late = [o for o in seen if o.frame.stamp_ns > 700 * MS]
    assert late
    assert all(list(o.frame.images) == ['rgb'] for o in late)
    assert synchronizer.counts['thermal_frozen'] == 13


def test_frames_wait_for_odometry_and_then_go_without():
    synchronizer = make_synchronizer(odometry_until_ms=40, odometry_wait_s=0.1)
    feed(synchronizer, ('rgb', 50), ('thermal', 50))
    assert synchronizer.next_frame(100 * MS, newest=True) is None
    synchronizer.tf.set_transform('odom', 'base_link', odometry(60 * MS), 60 * MS)
    seen = synchronizer.next_frame(101 * MS, newest=True)
    assert seen is not None
    assert seen.T_odom_base is not None
    feed(synchronizer, ('rgb', 100), ('thermal', 100))
    assert synchronizer.next_frame(199 * MS, newest=True) is None
    seen = synchronizer.next_frame(201 * MS, newest=True)
    assert seen is not None
    assert seen.T_odom_base is None


def test_the_live_node_takes_the_newest_and_counts_what_it_drops():
    synchronizer = make_synchronizer(odometry_until_ms=1000)
    feed(synchronizer, *[e for ms in range(0, 300, 60) for e in (('thermal', ms), ('rgb', ms))])
    (seen,) = drain(synchronizer, newest=True)
    assert seen.frame.stamp_ns == 240 * MS
    assert synchronizer.counts['frames_dropped'] == 4


def test_the_queue_never_grows():
    synchronizer = make_synchronizer(odometry_until_ms=5000)
    feed(synchronizer, *[e for ms in range(0, 3000, 30) for e in (('thermal', ms), ('rgb', ms))])
    assert len(drain(synchronizer)) + synchronizer.counts['frames_dropped'] == 100
    assert synchronizer.counts['frames_dropped'] == 92


def test_time_that_jumps_back_starts_anew():
    synchronizer = make_synchronizer(odometry_until_ms=9000)
    feed(synchronizer, ('rgb', 8000), ('thermal', 8000))
    first = drain(synchronizer)
    feed(synchronizer, ('rgb', 100), ('thermal', 100), ('rgb', 200), ('thermal', 200))
    again = drain(synchronizer)
    assert [o.restarted for o in first + again] == [False, True, False]
    assert again[0].T_odom_base is None  # odometry of the first round is forgotten


def test_an_image_delivered_late_is_no_jump_in_time():
    synchronizer = make_synchronizer(odometry_until_ms=5000)
    seen = play(synchronizer, ('rgb', 0), ('thermal', 0), ('rgb', 4000), ('thermal', 100),
                ('thermal', 4000), ('rgb', 4100), ('thermal', 4100))
    assert not any(o.restarted for o in seen)
    assert all(o.T_odom_base is not None for o in seen)  # odometry is not forgotten
    assert set(seen[-1].frame.images) == {'rgb', 'thermal'}


def test_images_before_camera_info_wait_for_it():
    synchronizer = make_synchronizer(odometry_until_ms=100, infos=())
    feed(synchronizer, ('rgb', 0), ('thermal', 0))
    assert drain(synchronizer) == []
    synchronizer.add_camera_info('rgb', camera_info('rgb'))
    synchronizer.add_camera_info('thermal', camera_info('thermal'))
    assert len(drain(synchronizer)) == 1


def test_without_camera_info_an_image_is_refused_with_the_reason():
    synchronizer = make_synchronizer(odometry_until_ms=3000, infos=())
    feed(synchronizer, ('rgb', 0), ('thermal', 0), ('rgb', 1500), ('thermal', 1500))
    with pytest.raises(RunError, match='no camera_info yet'):
        drain(synchronizer)


def test_one_bad_image_does_not_spoil_the_other():
    synchronizer = make_synchronizer(odometry_until_ms=100)
    synchronizer.add_image('rgb', image('rgb', 0, size=(5, 5)), 0)
    synchronizer.add_image('thermal', image('thermal', 0), 0)
    (seen,) = drain(synchronizer)
    assert list(seen.frame.images) == ['thermal']
    assert 'expected 8x6; got 5x5' in seen.problems[0]
    assert synchronizer.counts['rgb_rejected'] == 1


def test_missing_extrinsics_name_the_frames():
    synchronizer = FrameSynchronizer(SynchronizerConfig(), TransformBuffer(), ('thermal',), None)
    synchronizer.add_camera_info('thermal', camera_info('thermal'))
    synchronizer.add_image('thermal', image('thermal', 0), 0)
    with pytest.raises(RunError, match="no frame 'base_link' and no frame 'thermal_optical'"):
        drain(synchronizer)


def test_the_reference_camera_stays_the_same():
    synchronizer = make_synchronizer(odometry_until_ms=5000, infos=('thermal',), first_wait_s=0.0)
    feed(synchronizer, ('thermal', 0))
    references = [o.T_base_cam for o in drain(synchronizer)]
    synchronizer.add_camera_info('rgb', camera_info('rgb'))
    feed(synchronizer, ('rgb', 100), ('thermal', 100))
    references += [o.T_base_cam for o in drain(synchronizer)]
    assert len(references) == 2
    for T in references:
        np.testing.assert_allclose(T, T_BASE_THERMAL, atol=1e-12)


def test_cameras_that_got_out_of_step_find_together_again():
    synchronizer = make_synchronizer(odometry_until_ms=3000)
    events = [(m, ms) for ms in range(0, 500, 125) for m in ('rgb', 'thermal')]
    events += [('rgb', ms) for ms in range(500, 1500, 125)]  # thermal is silent for a second
    events += [(m, ms) for ms in range(1500, 3000, 125) for m in ('rgb', 'thermal')]
    found = play(synchronizer, *events)
    both = [f.frame.stamp_ns // MS for f in found if len(f.frame.images) == 2]
    assert set(range(0, 500, 125)) <= set(both)
    assert set(range(1625, 3000, 125)) <= set(both)  # all but the first, at which rgb did not wait
    stamps = [f.frame.stamp_ns for f in found]
    assert stamps == sorted(set(stamps))


def test_cameras_that_are_never_in_step_are_used_one_by_one():
    synchronizer = make_synchronizer(odometry_until_ms=2000)
    events = [event for ms in range(0, 1990, 210) for event in (('rgb', ms), ('thermal', ms + 90))]
    found = play(synchronizer, *events)
    assert sum('rgb' in f.frame.images for f in found) >= 8
    assert sum('thermal' in f.frame.images for f in found) >= 8
    stamps = [f.frame.stamp_ns for f in found]
    assert stamps == sorted(set(stamps))


def test_other_cameras_may_be_listened_to():
    synchronizer = make_synchronizer(odometry_until_ms=400)
    feed(synchronizer, ('thermal', 50), ('rgb', 50))
    synchronizer.use_cameras(('thermal',))
    assert drain(synchronizer) == []  # what waited is forgotten
    (seen,) = play(synchronizer, ('thermal', 100))
    assert set(seen.frame.images) == {'thermal'}
    synchronizer.use_cameras(('rgb', 'thermal'))
    (seen,) = play(synchronizer, ('thermal', 200), ('rgb', 200))
    assert set(seen.frame.images) == {'rgb', 'thermal'}


@pytest.mark.parametrize('hz, cap, expected_hz', [(30, 10.0, 10.0), (15, 10.0, 10.0),
                                                  (10, 30.0, 10.0), (30, 0.0, 30.0)])
def test_frames_beyond_the_largest_rate_are_left_out(hz, cap, expected_hz):
    synchronizer = make_synchronizer(odometry_until_ms=6100)
    synchronizer.max_rate_hz = cap
    found = []
    for k in range(6 * hz):
        stamp = round(k * 1e9 / hz)
        for modality in ('rgb', 'thermal'):
            synchronizer.add_image(modality, image(modality, stamp, k % 200), stamp)
        found += drain(synchronizer)
    assert len(found) == pytest.approx(6 * expected_hz, abs=2)
    assert synchronizer.counts['frames_beyond_rate'] == 6 * hz - len(found)
    assert synchronizer.counts['frames_dropped'] == 0
    assert synchronizer.frame_period_s == pytest.approx(1.0 / expected_hz, abs=0.5 / hz)


def test_a_time_offset_moves_a_cameras_stamps():
    synchronizer = make_synchronizer(odometry_until_ms=300)
    synchronizer.time_offsets_s = {'thermal': -0.08}
    feed(synchronizer, ('rgb', 100), ('thermal', 180))  # taken at one moment, stamped 80 ms late
    (seen,) = drain(synchronizer)
    assert seen.frame.stamp_ns == 100 * MS
    assert seen.frame.images['thermal'].stamp_ns == 100 * MS
    np.testing.assert_allclose(seen.T_odom_base, odometry(100 * MS), atol=1e-9)
    np.testing.assert_allclose(seen.frame.images['thermal'].T_cam_sensor,
                               np.linalg.inv(T_BASE_RGB) @ T_BASE_THERMAL, atol=1e-12)


def large(kind, side=20000):
    """A file of some hundred bytes that says it is 400 million pixels."""
    if kind == 'png':
        ihdr = struct.pack('>IIBBBBB', side, side, 8, 0, 0, 0, 0)
        chunk = struct.pack('>I', 13) + b'IHDR' + ihdr + struct.pack('>I', zlib.crc32(
            b'IHDR' + ihdr))
        return b'\x89PNG\r\n\x1a\n' + chunk
    return (b'\xff\xd8\xff\xc0' + struct.pack('>HBHHB', 11, 8, side, side, 1) + b'\x01\x11\x00'
            + b'\xff\xd9')


@pytest.mark.parametrize('kind', ['png', 'jpeg'])
@pytest.mark.parametrize('side', [20000, 4000])
def test_compressed_images_of_another_size_are_refused_before_decoding(monkeypatch, kind, side):
    def decode(*_):
        raise AssertionError('decoded')
    monkeypatch.setattr(frame_synchronizer, 'values_from_message', decode)
    synchronizer = make_synchronizer(odometry_until_ms=100)
    synchronizer.use_cameras(('thermal',))
    message = SimpleNamespace(header=header(50 * MS, 'thermal'), format=kind,
                              data=large(kind, side))
    synchronizer.add_image('thermal', message, 50 * MS)
    with pytest.raises(RunError, match=f'differ in size.*{side}x{side}'):
        synchronizer.next_frame(10**12, newest=True)
    assert synchronizer.counts['thermal_rejected'] == 1


@pytest.mark.parametrize('spoil, told', [
    ({'height': 60000, 'width': 60000}, 'too large'), ({'encoding': 'x' * 10**6}, 'encoding'),
    ({'header': SimpleNamespace(stamp=SimpleNamespace(sec=0, nanosec=0), frame_id='f' * 10**6)},
     'too long a name')])
def test_images_that_would_cost_memory_are_not_kept(spoil, told):
    synchronizer = make_synchronizer()
    message = image('thermal', 50 * MS)
    message.__dict__.update(spoil)
    with pytest.raises(InputError, match=told) as refused:
        synchronizer.add_image('thermal', message, 0)
    assert len(str(refused.value)) < 300
    assert drain(synchronizer) == [] and synchronizer.counts['thermal_rejected'] == 1


def test_a_lens_of_a_size_that_no_camera_has_is_refused():
    synchronizer = make_synchronizer(infos=())
    info = camera_info('rgb')
    info.width, info.height = 2**31, 2
    with pytest.raises(InputError, match='too large'):
        synchronizer.add_camera_info('rgb', info)
    info = camera_info('rgb')
    info.d = np.ones(10**6)
    with pytest.raises(InputError, match='too many distortion') as refused:
        synchronizer.add_camera_info('rgb', info)
    assert len(str(refused.value)) < 300

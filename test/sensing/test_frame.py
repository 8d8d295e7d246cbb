# SPDX-License-Identifier: Apache-2.0
"""Frames hold their images against their cameras and cannot be changed by accident."""

import dataclasses

import numpy as np
import pytest

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.sensing.frame import Frame, RGB, SensorImage, THERMAL

CAMERA = Camera.from_fov(4, 3, 60.0)


def image(**extra):
    return SensorImage(CAMERA, np.zeros((3, 4, 1), dtype=np.float32), 5, **extra)


@pytest.mark.parametrize('values', [np.zeros((4, 3, 1)), np.zeros((3, 4)), np.zeros((3, 5, 1))])
def test_an_image_of_another_size_is_refused(values):
    with pytest.raises(InputError, match='4x3 pixels'):
        SensorImage(CAMERA, values.astype(np.float32), 0)


@pytest.mark.parametrize('kind', [np.uint8, np.uint16, np.int64])
def test_integers_are_refused(kind):
    """Neither 8-bit colours nor thermal counts are what the map was trained on."""
    with pytest.raises(InputError, match=r'image holds integers.*Divide 8-bit colours by 255'):
        SensorImage(CAMERA, np.zeros((3, 4, 3), dtype=kind), 0)


@pytest.mark.parametrize('extra, what', [
    ({'valid': np.ones((4, 3), dtype=bool)}, 'mask'),
    ({'depth_m': np.ones((3, 4, 1), dtype=np.float32)}, 'depth')])
def test_a_mask_or_depth_of_another_size_is_refused(extra, what):
    with pytest.raises(InputError, match=f'{what} does not fit'):
        image(**extra)


def test_each_image_starts_with_its_own_identity_pose():
    first, second = image(), image()
    np.testing.assert_array_equal(first.T_cam_sensor, np.eye(4))
    assert first.T_cam_sensor is not second.T_cam_sensor


def test_frames_copy_and_freeze_their_images():
    given = {RGB: image(), THERMAL: image()}
    frame = Frame(7, given, np.eye(4), 'one')
    del given[RGB]
    assert set(frame.images) == {RGB, THERMAL}
    with pytest.raises(TypeError):
        frame.images['x'] = image()
    with pytest.raises(dataclasses.FrozenInstanceError):
        frame.stamp_ns = 8


def test_only_keeps_what_is_asked_for():
    frame = Frame(7, {RGB: image(), THERMAL: image()}, np.eye(4), 'one')
    kept = frame.only(THERMAL)
    assert set(kept.images) == {THERMAL}
    assert (kept.stamp_ns, kept.name) == (7, 'one')
    assert kept.T_world_cam is frame.T_world_cam
    assert set(frame.images) == {RGB, THERMAL}

# SPDX-License-Identifier: Apache-2.0
"""Calibrated covariances: factors that were put in are found again, and used."""

from dataclasses import replace

from localization_room import make_poses, PaintedRoom, perturbed, take_frame
import numpy as np
import pytest

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.localization.confidence.covariance_calibration import (
    calibrate, distance_seen, fit_covariance_scale, MIN_VIEWS)
from thermal_nerf_loc.localization.confidence.verdict import ConfidenceConfig, covariance_of
from thermal_nerf_loc.localization.localizer import Localizer
from thermal_nerf_loc.sensing.flat_field import radial, resized
from thermal_nerf_loc.sensing.frame import Frame


def drawn(factor, floor_m, count=4000, seed=0):
    """Errors that follow `factor P + floor^2` of many different P."""
    rng = np.random.default_rng(seed)
    roots = rng.normal(size=(count, 6, 6)) * np.array([.01, .01, .01, .004, .004, .004])[:, None]
    P = roots @ roots.transpose(0, 2, 1) + 1e-8 * np.eye(6)
    true = factor * P + floor_m**2 * np.diag([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    return np.einsum('nij,nj->ni', np.linalg.cholesky(true), rng.normal(size=(count, 6))), P


@pytest.mark.parametrize('factor, floor_m', [(1.0, 0.0), (0.25, 0.003), (8.0, 0.002)])
def test_what_was_put_in_is_found_again(factor, floor_m):
    found_factor, found_floor = fit_covariance_scale(*drawn(factor, floor_m), 2.0)
    assert found_factor == pytest.approx(factor, rel=0.5)
    assert found_floor == pytest.approx(floor_m, abs=0.0012)


def test_stray_views_widen_little():
    errors, P = drawn(1.0, 0.0, 400)
    errors[:20] *= 30.0
    assert fit_covariance_scale(errors, P, 2.0)[0] < 4.0


def test_lengths_follow_the_unit_of_the_map():
    """The same errors in centimetres, and what the same room shows from as far away."""
    errors, P = drawn(1.0, 0.003, 400)
    unit = np.repeat((100.0, 1.0), 3)
    one = fit_covariance_scale(errors, P, 2.0)
    other = fit_covariance_scale(errors * unit, P * np.outer(unit, unit), 200.0)
    assert other[0] == pytest.approx(one[0])
    assert other[1] == pytest.approx(100.0 * one[1])
    world, T = PaintedRoom(), make_poses(3, seed=1)
    seen = distance_seen(world, [take_frame(world, pose) for pose in T])
    assert 0.5 < seen < 3.0  # of a room of 4 x 4 x 2.5 m


def test_a_modality_that_nobody_believes_weighs_as_the_least_sure():
    """Not as one that is sure: its own factor is unknown, and 1 would be the best there is."""
    world = PaintedRoom()
    frames = [take_frame(world, T, seed=10 * k) for k, T in enumerate(make_poses(MIN_VIEWS))]
    blind = [replace(frame, images={**frame.images, 'thermal': replace(
        frame.images['thermal'], values=np.full_like(frame.images['thermal'].values, 20.0))})
        for frame in frames]
    found = calibrate(world, blind)
    assert found['thermal'] == found['rgb']


def test_a_covariance_has_the_maps_factor_and_floor():
    config = ConfidenceConfig(inflation=2.0)
    information = np.diag([1e6, 2e6, 3e6, 1e7, 1e7, 1e7])
    P = covariance_of(information, config, 3.0, 0.01)
    expected = 6.0 / np.diag(information) + np.repeat((1e-4, 0.0), 3)
    np.testing.assert_allclose(np.diag(P), expected, rtol=1e-3)


def test_views_that_were_held_out_calibrate_a_map():
    """An exact world: the covariances are not far off, alone and together."""
    world = PaintedRoom()
    frames = [take_frame(world, T, seed=10 * k) for k, T in enumerate(make_poses(MIN_VIEWS))]
    found = calibrate(world, frames)
    assert set(found) == {'rgb', 'thermal', 'rgb+thermal'}
    assert all(0.05 < factor < 20.0 and floor_m < 0.01 for factor, floor_m in found.values())
    assert world.calibration == {}  # a map is not changed
    assert calibrate(world, frames[:MIN_VIEWS - 1]) == {}


def test_a_modality_that_proved_bad_weighs_less():
    """Thermal walls that moved by some degrees: the pose then comes from colour."""
    world, T = PaintedRoom(), make_poses(1, seed=3)[0]
    frame = take_frame(world, T)
    thermal = frame.images['thermal']
    wrong = replace(thermal, T_cam_sensor=se3.plus(thermal.T_cam_sensor, [0.03, 0, 0, 0, 0.03, 0]))
    frame = Frame(frame.stamp_ns, {**frame.images, 'thermal': wrong}, T)
    errors = []
    for factor in (1.0, 400.0):
        world.calibration = {'thermal': (factor, 0.0)}
        found = Localizer(world).localize(frame, perturbed(T, 2.0, 0.03, 0))
        errors.append(se3.distance(found.T_world_cam, T)[0])
    assert errors[1] < 0.5 * errors[0]


def test_what_the_camera_is_known_to_add_is_taken_away():
    world, T = PaintedRoom(), make_poses(1, seed=5)[0]
    frame = take_frame(world, T, modalities=('thermal',))
    image = frame.images['thermal']
    field = resized(radial(-4.0, -2.0), image.camera.size)[..., None]
    frame = Frame(frame.stamp_ns, {'thermal': replace(image, values=image.values + field)}, T)
    errors = []
    for known in (None, field):
        world.flat_field_offset = lambda modality, size, known=known: known
        found = Localizer(world).localize(frame, perturbed(T, 5.0, 0.05, 1))
        errors.append(se3.distance(found.T_world_cam, T)[0])
    assert errors[1] < 0.01 and errors[1] < 0.5 * errors[0]

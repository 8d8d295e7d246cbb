# SPDX-License-Identifier: Apache-2.0
"""Sensor models: measured noise is the noise that was asked for, shutters freeze and reset."""

from dataclasses import replace

import numpy as np
import pytest

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.simulation.sensors import (
    IDEAL_RGB, IDEAL_THERMAL, linear_from_srgb, RgbCamera, RgbSensor, srgb_from_linear,
    ThermalCamera, ThermalSensor)

CAMERA = Camera.from_fov(80, 60, 57.0)
FLAT = np.full((60, 80), 25.0, dtype=np.float32)
MS = 1_000_000
S = 1_000_000_000


def thermal(seed=0, **settings):
    return ThermalCamera(CAMERA, replace(IDEAL_THERMAL, **settings), seed)


def record(camera, seconds, hz=20.0, scene=FLAT):
    stamps = np.arange(int(seconds * hz)) * int(1e9 / hz)
    return stamps, [camera.expose(scene, int(stamp)) for stamp in stamps]


def test_a_clean_camera_gives_the_truth():
    rng = np.random.default_rng(0)
    scene = rng.uniform(10.0, 40.0, FLAT.shape).astype(np.float32)
    seen = thermal().expose(scene, 3 * S)
    np.testing.assert_array_equal(seen.celsius, scene)
    assert not seen.frozen
    colours = rng.uniform(0.0, 1.0, (6, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(RgbCamera(IDEAL_RGB, 0).expose(colours, S), colours, atol=1e-6)


def test_netd_is_the_noise_of_a_pixel_over_time():
    _, images = record(thermal(netd_celsius=0.05), 10.0)
    stack = np.stack([image.celsius for image in images])
    assert stack.std(axis=0).mean() == pytest.approx(0.05, rel=0.02)
    assert stack.mean() == pytest.approx(25.0, abs=1e-3)
    ahead = (stack[1:] - 25.0) * (stack[:-1] - 25.0)
    assert abs(ahead.mean()) < 0.02 * 0.05**2  # white in time


def test_fixed_pattern_stays_and_columns_share_it():
    camera = thermal(pixel_pattern_celsius=0.2, column_pattern_celsius=0.5, nuc_period_s=10.0)
    first = camera.error_celsius(1 * S)
    np.testing.assert_array_equal(first, camera.error_celsius(1 * S))
    event_at = 5 * S
    grown = camera.error_celsius(event_at)
    assert np.corrcoef(first.ravel(), grown.ravel())[0, 1] > 0.999
    age = 0.2 + 0.8 * 0.5
    columns = grown.mean(axis=0)
    assert columns.std() == pytest.approx(0.5 * age, rel=0.25)
    assert (grown - columns).std() == pytest.approx(0.2 * age, rel=0.05)


def test_column_noise_is_new_in_each_image():
    _, images = record(thermal(column_noise_celsius=0.1), 10.0)
    stack = np.stack([image.celsius for image in images])
    np.testing.assert_allclose(stack.std(axis=1).max(), 0.0, atol=1e-4)
    assert stack.mean(axis=1).std(axis=0).mean() == pytest.approx(0.1, rel=0.05)


def test_vignetting_makes_corners_colder():
    error = thermal(vignetting_celsius=0.8).error_celsius(0)
    assert error[30, 40] == pytest.approx(0.0, abs=1e-3)
    assert error[0, 0] == pytest.approx(-0.8, abs=0.05)
    np.testing.assert_allclose(error, error[::-1, ::-1], atol=1e-12)


def test_drift_grows_until_the_shutter_resets_it():
    camera = thermal(drift_celsius_per_s=0.05, nuc_period_s=8.0)
    stamps, images = record(camera, 60.0)
    level = np.array([image.celsius.mean() for image in images]) - 25.0
    states = [camera.shutter(int(stamp)) for stamp in stamps]
    event, frozen = np.array([s.event for s in states]), np.array([s.frozen for s in states])
    for k in range(1, event.max() + 1):
        before = level[(event == k - 1) & ~frozen]
        after = level[(event == k) & ~frozen]
        assert abs(before[-1]) > 0.1
        assert abs(after[0]) < 0.006
        slopes = np.diff(before)
        np.testing.assert_allclose(slopes, slopes[0], atol=1e-4)
        assert 0.024 < abs(slopes[0]) * 20.0 < 0.076  # half to one and a half of 0.05


def test_shutter_events_freeze_the_image():
    camera = ThermalCamera(CAMERA, ThermalSensor(nuc_period_s=6.0), 4)
    _, images = record(camera, 120.0, hz=30.0)
    frozen = np.array([image.frozen for image in images])
    edges = np.flatnonzero(np.diff(frozen.astype(int)))
    begins, ends = edges[::2] + 1, edges[1::2] + 1
    assert 12 < len(begins) < 28
    lengths_s = (ends - begins[:len(ends)]) / 30.0
    assert lengths_s.min() > 0.25 - 1 / 30 - 1e-9
    assert lengths_s.max() < 1.0 + 1 / 30 + 1e-9
    assert np.ptp(lengths_s) > 0.3
    for begin, end in zip(begins, ends, strict=False):
        for i in range(begin, end):
            np.testing.assert_array_equal(images[i].celsius, images[begin - 1].celsius)
        assert not np.array_equal(images[end].celsius, images[begin].celsius)
    living = [i for i in range(1, len(images)) if not frozen[i]]
    assert all(not np.array_equal(images[i].celsius, images[i - 1].celsius) for i in living)


def test_without_shutter_events_nothing_ever_freezes():
    camera = ThermalCamera(CAMERA, ThermalSensor(nuc_period_s=0.0), 0)
    assert not any(camera.shutter(second * S).frozen for second in range(0, 1000, 7))


def test_opens_ns_waits_for_the_shutter():
    camera = ThermalCamera(CAMERA, ThermalSensor(nuc_period_s=5.0), 1)
    stamps = np.arange(0, 30 * S, 50 * MS)
    waited = [camera.next_open_ns(int(stamp)) for stamp in stamps]
    was_frozen = np.array([camera.shutter(int(stamp)).frozen for stamp in stamps])
    assert was_frozen.any()
    assert not any(camera.shutter(moment).frozen for moment in waited)
    assert (np.array(waited)[~was_frozen] == stamps[~was_frozen]).all()
    assert (np.array(waited) - stamps).max() <= 1.01 * S


def test_noise_depends_on_the_moment_not_on_what_was_asked_before():
    busy, lazy = (ThermalCamera(CAMERA, ThermalSensor(), 7) for _ in range(2))
    for i in range(10):
        busy.expose(FLAT, i * 100 * MS)
    np.testing.assert_array_equal(busy.expose(FLAT, 2 * S).celsius,
                                  lazy.expose(FLAT, 2 * S).celsius)
    other = ThermalCamera(CAMERA, ThermalSensor(), 8).expose(FLAT, 2 * S).celsius
    assert not np.array_equal(other, lazy.expose(FLAT, 2 * S).celsius)


def test_lag_is_a_first_order_step_response():
    camera = thermal(lag_s=0.1)
    camera.expose(FLAT, 0)
    warm = FLAT + np.float32(10.0)
    seen = [camera.expose(warm, i * 10 * MS).celsius.mean() for i in range(1, 41)]
    assert seen[9] == pytest.approx(35.0 - 10.0 * np.exp(-1.0), abs=1e-3)
    assert seen[39] == pytest.approx(35.0 - 10.0 * np.exp(-4.0), abs=1e-3)


def test_thermal_cameras_refuse_what_cannot_be():
    camera = thermal()
    camera.expose(FLAT, S)
    with pytest.raises(InputError, match='back in time'):
        camera.expose(FLAT, S - 1)
    with pytest.raises(InputError, match='does not fit'):
        camera.expose(FLAT.T, 2 * S)
    with pytest.raises(InputError, match='shortest <= longest'):
        ThermalSensor(nuc_shortest_s=0.9, nuc_longest_s=0.3)
    with pytest.raises(InputError, match='hardly ever open'):
        ThermalSensor(nuc_period_s=1.0)


def test_darkness_goes_down_to_black():
    colours = np.full((40, 40, 3), 0.8, dtype=np.float32)
    black = RgbCamera(replace(IDEAL_RGB, darkness=1.0), 0).expose(colours, S)
    assert (black == 0.0).all()
    noisy = RgbCamera(RgbSensor(darkness=1.0), 0).expose(colours, S)
    assert noisy.mean() < 0.01
    means = [RgbCamera(replace(IDEAL_RGB, darkness=d), 0).expose(colours, S).mean()
             for d in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert (np.diff(means) < -0.1).all()
    assert means[2] == pytest.approx(0.4, abs=0.05)  # looks half as bright


def test_exposure_wanders_smoothly_within_its_swing():
    camera = RgbCamera(RgbSensor(exposure_swing=0.3), 5)
    gains = np.log([camera.exposure(i * 100 * MS) for i in range(1000)])
    assert 0.15 < np.abs(gains).max() <= 0.3
    assert np.abs(np.diff(gains)).max() < 0.03


@pytest.mark.parametrize('level', [0.2, 0.5, 0.8])
def test_rgb_noise_in_linear_light(level):
    sensor = replace(IDEAL_RGB, shot_noise=0.02, read_noise=0.003)
    flat = np.full((200, 200, 3), level, dtype=np.float32)
    light = linear_from_srgb(RgbCamera(sensor, 1).expose(flat, S))
    truth = float(linear_from_srgb(np.array(level)))
    assert light.mean() == pytest.approx(truth, abs=2e-4)
    assert light.std() == pytest.approx(np.sqrt(0.003**2 + 0.02**2 * truth), rel=0.02)


def test_srgb_curve():
    values = np.linspace(0.0, 1.0, 101)
    np.testing.assert_allclose(srgb_from_linear(linear_from_srgb(values)), values, atol=1e-6)
    np.testing.assert_allclose(linear_from_srgb(np.array([0.0, 0.5, 1.0])), [0.0, 0.21404, 1.0],
                               atol=1e-5)

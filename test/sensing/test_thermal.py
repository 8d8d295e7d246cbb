# SPDX-License-Identifier: Apache-2.0
"""Thermal counts and deg C: Planck's law as FLIR writes it, linear scales, AGC images."""

import math

from hypothesis import given, strategies as st
import numpy as np
import pytest

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.sensing.thermal import (
    decode_thermal, LinearRadiometry, PlanckRadiometry, radiometry_from_mapping,
    radiometry_to_mapping, TemperatureRange)

TLINEAR = LinearRadiometry(0.01, -273.15)
ARCO = LinearRadiometry(1 / 40, -100.0)
FLIR = {'R': 17096.453, 'B': 1428.0, 'F': 1.0, 'O': -342.0, 'R2': 0.04642918}


def scalar_planck(counts, R, B, F, O, R2, e=1.0, reflected=20.0, t=1.0, air=20.0):  # noqa: E741
    """The chain as published for FLIR files: take away what the object did not send, invert."""
    def raw(celsius):
        return R / (R2 * (math.exp(B / (celsius + 273.15)) - F)) - O
    attenuated_reflection = (1 - e) / e * raw(reflected)
    attenuated_air = (1 - t) / e / t * raw(air)
    of_object = counts / e / t - attenuated_air - attenuated_reflection
    return B / math.log(R / (R2 * (of_object + O)) + F) - 273.15


@given(st.integers(1500, 60000), st.floats(0.3, 1.0), st.floats(-20.0, 60.0),
       st.floats(0.5, 1.0), st.floats(-20.0, 40.0))
def test_planck_is_flir_s_chain(counts, emissivity, reflected, transmission, air):
    ours = float(PlanckRadiometry(**FLIR, emissivity=emissivity, reflected_celsius=reflected,
                                  transmission=transmission, atmosphere_celsius=air)
                 .to_celsius(np.array(counts)))
    try:
        expected = scalar_planck(counts, **FLIR, e=emissivity, reflected=reflected,
                                 t=transmission, air=air)
    except ValueError:  # a logarithm of nothing: less came than even the surroundings sent
        assert math.isnan(ours)
        return
    if math.isnan(ours):
        assert expected < -273.15 or expected != expected
    else:
        assert ours == pytest.approx(expected, rel=1e-6, abs=1e-4)  # float32 out


def test_planck_black_body_by_hand():
    """T = B / ln(R / S + F) with R = e^2 - 1, S = 1, F = 1 is B / 2."""
    simple = PlanckRadiometry(R=math.exp(2) - 1, B=600.0, F=1.0, O=0.0)
    assert simple.to_celsius(np.array(1)) == pytest.approx(300.0 - 273.15, abs=1e-5)


@given(st.floats(-30.0, 300.0), st.floats(0.6, 1.0))
def test_planck_counts_come_back(celsius, emissivity):
    camera = PlanckRadiometry(**FLIR, emissivity=emissivity)
    counts = camera.to_counts(celsius)
    steps = camera.to_celsius(np.array([counts - 1.0, counts, counts + 1.0]))
    assert steps[0] <= celsius + 1e-3
    assert steps[2] >= celsius - 1e-3


def test_less_reflective_objects_read_hotter():
    """A polished pipe hotter than the room, read as if it were black, seems too cold."""
    counts = PlanckRadiometry(**FLIR, emissivity=0.5).to_counts(80.0)
    assert PlanckRadiometry(**FLIR).to_celsius(counts) < 65.0


def test_impossible_counts_are_nan_not_numbers():
    celsius = PlanckRadiometry(**FLIR).to_celsius(np.array([0, 342, 20000], dtype=np.uint16))
    assert np.isnan(celsius[:2]).all()
    assert np.isfinite(celsius[2])


@given(st.integers(0, 65535))
def test_linear_round_trip_is_exact(counts):
    for camera in (TLINEAR, ARCO):
        assert camera.to_counts(camera.to_celsius(np.array(counts))) == counts


def test_linear_values():
    celsius = TLINEAR.to_celsius(np.array([27315, 29315], dtype=np.uint16))
    np.testing.assert_allclose(celsius, [0.0, 20.0], atol=1e-5)
    assert celsius.dtype == np.float32
    np.testing.assert_allclose(ARCO.to_celsius(np.array(4800, dtype=np.uint16)), 20.0, atol=1e-5)


def test_counts_are_clipped_and_nan_is_zero():
    np.testing.assert_array_equal(TLINEAR.to_counts([-300.0, 1e6, np.nan]), [0, 65535, 0])


def test_agc_images_are_not_radiometric():
    image = np.array([[0, 255]], dtype=np.uint8)
    values, radiometric = decode_thermal(image, None)
    np.testing.assert_array_equal(values, [[0.0, 1.0]])
    assert not radiometric
    values, radiometric = decode_thermal(np.array([[65535]], dtype=np.uint16), None)
    assert values == 1.0
    assert not radiometric
    with pytest.raises(InputError, match='8-bit thermal image called radiometric'):
        decode_thermal(image, TLINEAR, 'thermal/1.png')


def test_radiometric_images():
    values, radiometric = decode_thermal(np.array([[29315]], dtype=np.uint16), TLINEAR)
    assert radiometric
    np.testing.assert_allclose(values, 20.0, atol=1e-5)
    with pytest.raises(InputError, match='no counts'):
        decode_thermal(np.zeros((1, 1), dtype=np.float32), TLINEAR)


@pytest.mark.parametrize('radiometry', [
    None, TLINEAR, PlanckRadiometry(**FLIR, emissivity=0.9, reflected_celsius=15.0)])
def test_scales_survive_a_file(radiometry):
    assert radiometry_from_mapping(radiometry_to_mapping(radiometry)) == radiometry


@pytest.mark.parametrize('block, reason', [
    ({'celsius_per_count': 0.01}, 'half a temperature scale'),
    ({'planck_r1': 1.0, 'planck_b': 2.0}, 'half a temperature scale'),
    ({'celsius_per_count': 0.01, 'celsius_offset': 0.0, 'planck_b': 1.0}, 'two temperature'),
    ({'celsius_per_count': '0.01', 'celsius_offset': 0.0}, 'no number'),
    ({'celsius_per_count': True, 'celsius_offset': 0.0}, 'no number'),
    ({'celsius_per_count': 0.0, 'celsius_offset': 0.0}, 'zero'),
    ({'celsius_per_count': float('nan'), 'celsius_offset': 0.0}, 'not finite'),
    ({'planck_r1': -1.0, 'planck_b': 1.0, 'planck_f': 1.0, 'planck_o': 0.0}, 'impossible'),
    ({'planck_r1': 1.0, 'planck_b': 1.0, 'planck_f': 1.0, 'planck_o': 0.0, 'emissivity': 1.2},
     'emissivity'),
])
def test_bad_scales(block, reason):
    with pytest.raises(InputError, match=reason):
        radiometry_from_mapping(block, 'transforms.json')


def test_temperature_range():
    span = TemperatureRange(10.0, 30.0)
    np.testing.assert_allclose(span.to_field([0.0, 10.0, 15.0, 30.0, 99.0]),
                               [0.0, 0.0, 0.25, 1.0, 1.0])
    np.testing.assert_allclose(span.to_celsius([0.0, 0.25, 1.0]), [10.0, 15.0, 30.0])
    assert TemperatureRange.covering([20.0, np.nan, 25.0]) == TemperatureRange(19.0, 26.0)
    with pytest.raises(InputError, match='empty'):
        TemperatureRange(5.0, 5.0)
    with pytest.raises(InputError, match='no temperature'):
        TemperatureRange.covering([np.nan])


@given(st.floats(-50.0, 500.0))
def test_temperature_range_round_trip(celsius):
    span = TemperatureRange(-50.0, 500.0)
    assert span.to_celsius(span.to_field(celsius)) == pytest.approx(celsius, abs=1e-4)

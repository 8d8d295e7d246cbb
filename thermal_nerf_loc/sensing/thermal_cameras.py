# SPDX-License-Identifier: Apache-2.0
"""
What the 16-bit counts of common thermal cameras mean, by name, as their makers document it.

docs/data.md says which of these could not be confirmed.

What thermal counts mean where nobody said, told in words.
"""

from collections.abc import Mapping
import difflib
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.sensing.thermal import LinearRadiometry, Radiometry

_ABSOLUTE = -273.15  # deg C at count zero, where counts are kelvin


class KnownCamera(NamedTuple):
    """A scale, and the camera's own setting under which it holds."""

    radiometry: LinearRadiometry
    setting: str


KNOWN_CAMERAS: Mapping[str, KnownCamera] = MappingProxyType({
    'flir-boson': KnownCamera(LinearRadiometry(0.01, _ABSOLUTE),
                              'radiometric Boson, TLinear output on'),
    'flir-lepton': KnownCamera(LinearRadiometry(0.01, _ABSOLUTE),
                               'radiometric Lepton (2.5, 3.5), TLinear, resolution 0.01 K'),
    'flir-lepton-0.1k': KnownCamera(LinearRadiometry(0.1, _ABSOLUTE),
                                    'radiometric Lepton, TLinear, resolution 0.1 K'),
    'flir-a-series': KnownCamera(LinearRadiometry(0.01, _ABSOLUTE),
                                 'A50, A70, A300, A400, A600, A700; IRFormat '
                                 'TemperatureLinear10mK'),
    'flir-a-series-100mk': KnownCamera(LinearRadiometry(0.1, _ABSOLUTE),
                                       'the same; IRFormat TemperatureLinear100mK'),
    'flir-ax5': KnownCamera(LinearRadiometry(0.04, _ABSOLUTE),
                            'A5, A15, A35, A65; TemperatureLinearMode, resolution High (14 bits)'),
    'flir-ax5-low': KnownCamera(LinearRadiometry(0.4, _ABSOLUTE),
                                'the same, resolution Low'),
    'optris-pi': KnownCamera(LinearRadiometry(0.1, -100.0),
                             'PI and Xi, temperature output, one decimal'),
    'seek': KnownCamera(LinearRadiometry(1.0 / 64.0, -40.0),
                        'SDK format THERMOGRAPHY_FIXED_10_6'),
})


def radiometry_of(name: str) -> LinearRadiometry:
    """The scale of a camera known by name."""
    if name in KNOWN_CAMERAS:
        return KNOWN_CAMERAS[name].radiometry
    near = difflib.get_close_matches(name.lower(), KNOWN_CAMERAS, n=1, cutoff=0.4)
    raise InputError('thermal camera is not known', expected='one of ' + ', '.join(KNOWN_CAMERAS),
                     got=repr(name), hint=f'Did you mean {near[0]!r}?' if near else
                     'Give its scale by --celsius-per-count and --celsius-offset.')


CENTIKELVIN = LinearRadiometry(0.01, -273.15)  # what most radiometric drivers publish
_PLAUSIBLE_CELSIUS = (-60.0, 200.0)  # of nearly all of an image


class SettledScale(NamedTuple):
    """A scale (None: floating-point deg C, or no temperatures), in words, and what to tell."""

    radiometry: Radiometry | None
    radiometric: bool
    told: str
    note: str


def settle_scale(plane: NDArray[Any], radiometry: Radiometry | None, radiometric: bool,
                 where: str) -> SettledScale:
    """Decide by a first image (h, w) what counts mean; 8 bits are never temperatures."""
    if plane.dtype == np.uint8 and radiometry is None:
        radiometric = False
    if not radiometric:
        return SettledScale(None, False, 'not radiometric',
                            'thermal images have 8 bits (AGC): shapes, no temperatures'
                            if plane.dtype == np.uint8 else '')
    if radiometry is not None:
        told = _words(radiometry)
        return SettledScale(radiometry, True, told, _doubt(radiometry.to_celsius(plane), told))
    if np.issubdtype(plane.dtype, np.floating):
        told = 'deg C as published'
        return SettledScale(None, True, told, _doubt(plane, told))
    low, high = _span(CENTIKELVIN.to_celsius(plane))
    if low < _PLAUSIBLE_CELSIUS[0] or high > _PLAUSIBLE_CELSIUS[1]:
        raise InputError('nobody says what thermal counts mean', where=where,
                         expected='--thermal-camera NAME, --celsius-per-count and '
                                  '--celsius-offset, or --not-radiometric',
                         got=f'counts from {plane.min()} to {plane.max()}, which are no '
                             'hundredths of a kelvin')
    return SettledScale(CENTIKELVIN, True, _words(CENTIKELVIN),
                        f'thermal counts are taken as hundredths of a kelvin ({low:.0f} to '
                        f'{high:.0f} deg C in the first image); --thermal-camera says otherwise')


def _span(celsius: NDArray[Any]) -> tuple[float, float]:
    low, high = np.nanpercentile(celsius, (1.0, 99.0))
    return float(low), float(high)


def _doubt(celsius: NDArray[Any], told: str) -> str:
    low, high = _span(celsius)
    if low < -100.0 or high > 2000.0:
        return (f'with {told}, the first thermal image lies between {low:.0f} and {high:.0f} '
                'deg C: is the scale right?')
    return ''


def _words(radiometry: Radiometry) -> str:
    if isinstance(radiometry, LinearRadiometry):
        return (f'deg C = {radiometry.celsius_per_count:g} x counts '
                f'{radiometry.celsius_offset:+g}')
    return "FLIR's Planck constants"

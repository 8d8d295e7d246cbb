# SPDX-License-Identifier: Apache-2.0
"""
The temperature scale of a thermal camera: by the camera's name, or chosen by its first image.

`KNOWN_CAMERAS` holds the 16-bit scales of common cameras as their makers document them;
docs/guide/data.md says which could not be confirmed. `choose_scale` is the rule of the importers:
8-bit images carry no temperatures, a given scale is used, floating-point pixels are deg C, and
other counts are hundredths of a kelvin where that gives plausible temperatures.
"""

from collections.abc import Mapping
import difflib
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.sensing.thermal import (
    CENTIKELVIN, LinearRadiometry, Radiometry, ZERO_CELSIUS_KELVIN)

# Of the 1st and 99th percentile of an image.
_PLAUSIBLE_CELSIUS = (-60.0, 200.0)  # counts of unknown scale are refused beyond
_SUSPECT_CELSIUS = (-100.0, 2000.0)  # a given scale is questioned beyond


class KnownCamera(NamedTuple):
    """A scale, and the setting of the camera under which it holds."""

    radiometry: LinearRadiometry
    setting: str


def _kelvin(kelvin_per_count: float) -> LinearRadiometry:
    """The scale of counts that are proportional to kelvin."""
    return LinearRadiometry(kelvin_per_count, -ZERO_CELSIUS_KELVIN)


KNOWN_CAMERAS: Mapping[str, KnownCamera] = MappingProxyType({
    'flir-boson': KnownCamera(_kelvin(0.01), 'radiometric Boson, TLinear output on'),
    'flir-lepton': KnownCamera(_kelvin(0.01), 'radiometric Lepton (2.5, 3.5), TLinear, '
                               'resolution 0.01 K'),
    'flir-lepton-0.1k': KnownCamera(_kelvin(0.1), 'radiometric Lepton, TLinear, resolution 0.1 K'),
    'flir-a-series': KnownCamera(_kelvin(0.01), 'A50, A70, A300, A400, A600, A700; IRFormat '
                                 'TemperatureLinear10mK'),
    'flir-a-series-100mk': KnownCamera(_kelvin(0.1), 'the same; IRFormat TemperatureLinear100mK'),
    'flir-ax5': KnownCamera(_kelvin(0.04), 'A5, A15, A35, A65; TemperatureLinearMode, resolution '
                            'High (14 bits)'),
    'flir-ax5-low': KnownCamera(_kelvin(0.4), 'the same, resolution Low'),
    'optris-pi': KnownCamera(LinearRadiometry(0.1, -100.0),
                             'PI and Xi, temperature output, one decimal'),
    'dji-m2ea': KnownCamera(_kelvin(1.0 / 64.0), 'raw counts of R-JPEGs; plausible, unverified'),
    'seek': KnownCamera(LinearRadiometry(1.0 / 64.0, -40.0), 'SDK format THERMOGRAPHY_FIXED_10_6'),
})


def radiometry_of(name: str) -> LinearRadiometry:
    """The scale of a camera known by name."""
    if name in KNOWN_CAMERAS:
        return KNOWN_CAMERAS[name].radiometry
    near = difflib.get_close_matches(name.lower(), KNOWN_CAMERAS, n=1, cutoff=0.4)
    raise InputError('thermal camera is not known', expected='one of ' + ', '.join(KNOWN_CAMERAS),
                     got=repr(name), hint=f'Did you mean {near[0]!r}?' if near else
                     'Give its scale by --celsius-per-count and --celsius-offset.')


class ChosenScale(NamedTuple):
    """
    What the pixels of a thermal camera mean.

    `radiometry` is None where pixels are deg C already, and where they are no temperatures (then
    `radiometric` is False). `note` is what the user should read; it may be empty.
    """

    radiometry: Radiometry | None
    radiometric: bool
    description: str
    note: str


def choose_scale(first_image: NDArray[Any], radiometry: Radiometry | None, radiometric: bool,
                 where: str) -> ChosenScale:
    """
    Choose the scale by the first image (h, w) of a camera.

    `radiometry` is the scale that was given, None where none was; `radiometric` False says that
    there are no temperatures. 8-bit images are AGC images, and have none either.
    """
    if first_image.dtype == np.uint8 and radiometry is None:
        radiometric = False
    if not radiometric:
        return ChosenScale(None, False, 'not radiometric',
                           'thermal images have 8 bits (AGC): shapes, no temperatures'
                           if first_image.dtype == np.uint8 else '')
    if radiometry is not None:
        description = _description(radiometry)
        return ChosenScale(radiometry, True, description,
                           _warning(radiometry.to_celsius(first_image), description))
    if np.issubdtype(first_image.dtype, np.floating):
        description = 'deg C as published'
        return ChosenScale(None, True, description, _warning(first_image, description))
    low, high = _percentiles(CENTIKELVIN.to_celsius(first_image))
    if low < _PLAUSIBLE_CELSIUS[0] or high > _PLAUSIBLE_CELSIUS[1]:
        raise InputError('thermal counts have no known scale', where=where,
                         expected='--thermal-camera NAME, --celsius-per-count and '
                                  '--celsius-offset, or --not-radiometric',
                         got=f'counts from {first_image.min()} to {first_image.max()}, which are '
                             'no hundredths of a kelvin')
    return ChosenScale(CENTIKELVIN, True, _description(CENTIKELVIN),
                       f'thermal counts are taken as hundredths of a kelvin ({low:.0f} to '
                       f'{high:.0f} deg C in the first image); --thermal-camera says otherwise')


def _percentiles(celsius: NDArray[Any]) -> tuple[float, float]:
    low, high = np.nanpercentile(celsius, (1.0, 99.0))
    return float(low), float(high)


def _warning(celsius: NDArray[Any], description: str) -> str:
    """A question about a scale that gives impossible temperatures; empty where they are fine."""
    low, high = _percentiles(celsius)
    if low < _SUSPECT_CELSIUS[0] or high > _SUSPECT_CELSIUS[1]:
        return (f'with {description}, the first thermal image lies between {low:.0f} and '
                f'{high:.0f} deg C: is the scale right?')
    return ''


def _description(radiometry: Radiometry) -> str:
    if isinstance(radiometry, LinearRadiometry):
        return (f'deg C = {radiometry.celsius_per_count:g} x counts '
                f'{radiometry.celsius_offset:+g}')
    return "FLIR's Planck constants"

# SPDX-License-Identifier: Apache-2.0
"""What thermal counts mean where nobody said, told in words."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.sensing.thermal import LinearRadiometry, Radiometry

CENTIKELVIN = LinearRadiometry(0.01, -273.15)  # what most radiometric drivers publish
_PLAUSIBLE_CELSIUS = (-60.0, 200.0)  # of nearly all of an image


class ThermalScale(NamedTuple):
    """A scale (None: floating-point deg C, or no temperatures), in words, and what to tell."""

    radiometry: Radiometry | None
    radiometric: bool
    told: str
    note: str


def settle_scale(plane: NDArray[Any], radiometry: Radiometry | None, radiometric: bool,
                 where: str) -> ThermalScale:
    """Decide by a first image (h, w) what counts mean; 8 bits are never temperatures."""
    if plane.dtype == np.uint8 and radiometry is None:
        radiometric = False
    if not radiometric:
        return ThermalScale(None, False, 'not radiometric',
                            'thermal images have 8 bits (AGC): shapes, no temperatures'
                            if plane.dtype == np.uint8 else '')
    if radiometry is not None:
        told = _words(radiometry)
        return ThermalScale(radiometry, True, told, _doubt(radiometry.to_celsius(plane), told))
    if np.issubdtype(plane.dtype, np.floating):
        told = 'deg C as published'
        return ThermalScale(None, True, told, _doubt(plane, told))
    low, high = _span(CENTIKELVIN.to_celsius(plane))
    if low < _PLAUSIBLE_CELSIUS[0] or high > _PLAUSIBLE_CELSIUS[1]:
        raise InputError('nobody says what thermal counts mean', where=where,
                         expected='--thermal-camera NAME, --celsius-per-count and '
                                  '--celsius-offset, or --not-radiometric',
                         got=f'counts from {plane.min()} to {plane.max()}, which are no '
                             'hundredths of a kelvin')
    return ThermalScale(CENTIKELVIN, True, _words(CENTIKELVIN),
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

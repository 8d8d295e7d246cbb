# SPDX-License-Identifier: Apache-2.0
"""
What the 16-bit counts of common thermal cameras mean, by name, as their makers document it.

docs/data.md says which of these could not be confirmed.
"""

from collections.abc import Mapping
import difflib
from types import MappingProxyType
from typing import NamedTuple

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.sensing.thermal import LinearRadiometry

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

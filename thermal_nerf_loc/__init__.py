# SPDX-License-Identifier: Apache-2.0
"""Tell a robot where it is from thermal and RGB images inside a radiance map."""

import os
from typing import Any

# torch and numba bring an OpenMP runtime each; idle threads that spin for one starve the other
# (five times slower on two busy cores). Read when those libraries load, so it is set here.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

__version__ = '0.1.0'
__all__ = ['Localizer', 'RadianceMap', '__version__']


def __getattr__(name: str) -> Any:
    """Import the two public classes on first use: torch takes seconds to load."""
    if name == 'RadianceMap':
        from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
        return RadianceMap
    if name == 'Localizer':
        from thermal_nerf_loc.localization.localizer import Localizer
        return Localizer
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

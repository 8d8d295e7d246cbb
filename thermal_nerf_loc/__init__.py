# SPDX-License-Identifier: Apache-2.0
"""
Tell a robot where it is from thermal and RGB images inside a radiance map.

    scene = load_scene(folder)                      # thermal_nerf_loc.io.datasets.nerfstudio
    radiance_map = build_map(scene).map
    found = Localizer(radiance_map).localize(frame)  # pose, covariance, verdict

docs/guide/python.md has the whole example. Names are imported on first use: torch takes seconds to
load, and the command line answers without it.
"""

import importlib
import os
from typing import Any, TYPE_CHECKING

from thermal_nerf_loc.common import __version__, kernel_cache

if TYPE_CHECKING:
    from thermal_nerf_loc.geometry.camera import Camera
    from thermal_nerf_loc.localization.build_map import build_map
    from thermal_nerf_loc.localization.localizer import Localizer
    from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
    from thermal_nerf_loc.sensing.frame import Frame, SensorImage
    from thermal_nerf_loc.tracking.tracker import Tracker

# torch and numba bring an OpenMP runtime each; idle threads that spin for one starve the other
# (five times slower on two busy cores). Read when those libraries load, so it is set here.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

# Where numba keeps compiled kernels; without a folder for them it would refuse to load.
KERNEL_NOTICE = kernel_cache.prepare()

__all__ = ['build_map', 'RadianceMap', 'Localizer', 'Tracker', 'Frame', 'SensorImage', 'Camera',
           '__version__']

_MODULES = {'build_map': 'localization.build_map', 'RadianceMap': 'mapping.map.radiance_map',
            'Localizer': 'localization.localizer', 'Tracker': 'tracking.tracker',
            'Frame': 'sensing.frame', 'SensorImage': 'sensing.frame', 'Camera': 'geometry.camera'}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _MODULES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = getattr(importlib.import_module(f'{__name__}.{_MODULES[name]}'), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List what is public, loaded or not."""
    return sorted(__all__)

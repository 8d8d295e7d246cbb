# SPDX-License-Identifier: Apache-2.0
"""
The figures that answer what the user of a command asks first, in words and units.

A command that is not named here shows all its figures; `--verbose` and `--json` always have all.
"""

from collections.abc import Iterator, Mapping
from typing import Any

_MAP = {  # name of the figure: (what it says, its unit)
    'test.rgb_psnr': ('colour of held-out views', 'dB'),
    'test.thermal_psnr': ('heat of held-out views', 'dB'),
    'test.thermal_mae_celsius': ('temperature error, mean', 'deg C'),
    'test.depth_median_error_m': ('depth error, median', 'm'),
    'geometry_check.rgb.points.median': ('depth error at points matched by colour', '%'),
    'geometry_check.rgb.views.within_1pct': ('depth that two colour views share to 1 %', '%'),
    'geometry_check.thermal.points.median': ('depth error at points matched by heat', '%'),
    'geometry_check.thermal.views.within_1pct': ('depth that two thermal views share to 1 %', '%'),
}
_DRIVE = {
    'ate_rmse_m': ('position error, RMSE', 'm'),
    'ate_rmse_deg': ('orientation error, RMSE', 'deg'),
    'success_5cm_5deg': ('poses within 5 cm and 5 deg', '%'),
    'lost_share': ('updates without a pose', '%'),
    'losses': ('times that it got lost', ''),
    'updates_hz': ('new poses from images', 'Hz'),
    'latency_median_s': ('from image to pose, median', 's'),
    'latency_p95_s': ('from image to pose, 95 of 100', 's'),
}

HEADLINES = {
    'train': {'pose_agreement.verdict': ('images and their given poses', ''),
              'geometry.source': ('training started with depth from', ''),
              'steps': ('training steps', ''), 'seconds': ('time of training', 's'),
              **_MAP, 'map': ('map', '')},
    'eval-map': {'frames': ('held-out views', ''),
                 **{name.removeprefix('test.'): words for name, words in _MAP.items()}},
    'replay': _DRIVE,
    'demo': {**{f'map.{name}': words for name, words in _MAP.items()
                if name.startswith('test.')},
             **_DRIVE, 'seconds.train': ('time for the map', 's'),
             'seconds.total': ('time for everything', 's')},
}


def headlines(command: str, figures: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Words and value of each headline of a command that its (flat) figures have."""
    for name, (words, unit) in HEADLINES.get(command, {}).items():
        if (value := figures.get(name)) is not None:
            yield words, _with_unit(value, unit)


def _with_unit(value: Any, unit: str) -> str:
    """A value as one says it: shares in per cent, lengths under a metre in centimetres."""
    if not isinstance(value, (int, float)):
        return f'{value}'
    if unit == '%':
        value *= 100.0
    elif unit == 'm' and abs(value) < 1.0:
        value, unit = 100.0 * value, 'cm'
    text = f'{value:.3g}' if abs(value) < 1000.0 else f'{value:,.0f}'
    return f'{text} {unit}'.rstrip()

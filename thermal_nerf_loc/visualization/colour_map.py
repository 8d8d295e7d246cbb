# SPDX-License-Identifier: Apache-2.0
"""Temperatures and distances as colours, and colour bars with numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

HEAT, DEPTH = 'inferno', 'viridis'
CELSIUS, GRAY, METRES = '°C', 'gray value', 'm'
_UNKNOWN_COLOUR = (184, 184, 184)
_DPI = 100


@dataclass(frozen=True, slots=True)
class ColourScale:
    """Maps values to colours; values beyond the ends get the colour of the end."""

    colours: str  # one of matplotlib's colour maps
    low: float
    high: float
    unit: str

    def paint(self, values: NDArray[Any]) -> Picture:
        """sRGB of values of any shape (...) -> (..., 3); grey where a value is not finite."""
        values = np.asarray(values, np.float64)
        share = (values - self.low) / max(self.high - self.low, 1e-9)
        known = np.isfinite(share)
        index = np.where(known, np.clip(share, 0.0, 1.0) * 255.0, 256.0)
        return _table(self.colours)[np.rint(index).astype(np.intp)]


def fitted_scale(colours: str, unit: str, parts: Sequence[NDArray[Any]],
                 share: tuple[float, float] = (0.005, 0.995)) -> ColourScale:
    """A scale between two quantiles, so that single hot or far pixels do not matter."""
    values = np.concatenate([np.ravel(part) for part in parts]) if parts else np.empty(0)
    values = values[np.isfinite(values)]
    low, high = np.quantile(values, share) if values.size else (0.0, 1.0)
    return ColourScale(colours, float(low), float(max(high, low + 1e-3)), unit)


def draw_bar(scale: ColourScale, size: tuple[int, int], upright: bool = True) -> Picture:
    """A colour bar with numbers, (width, height) pixels; a horizontal one has its unit below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    width, height = size
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor='white')
    canvas: Any = FigureCanvasAgg(figure)
    box = ((8 / width, 0.03, 14 / width, 0.94) if upright
           else (0.06, 1.0 - 18 / height, 0.88, 14 / height))
    axes = figure.add_axes(box)
    shades = ScalarMappable(Normalize(scale.low, scale.high), scale.colours)
    along = (height if upright else width) / 40
    bar = figure.colorbar(shades, cax=axes, orientation='vertical' if upright else 'horizontal',
                          ticks=MaxNLocator(nbins=max(2, min(8, int(along)))))
    if not upright:
        bar.set_label(scale.unit, fontsize=8, labelpad=2)
    axes.tick_params(labelsize=8, pad=2, length=3)
    canvas.draw()
    return np.array(np.asarray(canvas.buffer_rgba())[..., :3])


@functools.cache
def _table(name: str) -> Picture:
    """256 colours and, after them, that of unknown values: (257, 3)."""
    import matplotlib

    shades = matplotlib.colormaps[name](np.linspace(0.0, 1.0, 256))[:, :3]
    return np.concatenate([np.rint(shades * 255.0), [_UNKNOWN_COLOUR]]).astype(np.uint8)

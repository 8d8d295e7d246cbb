# SPDX-License-Identifier: Apache-2.0
"""
Images of a data set beside a map's renders, as one figure.

One row for each view of each camera: truth, render, error, rendered depth and its normals, error
of the depth. On the normals a bent wall shows at once, where depth looks smooth. Scales are shared
by all rows, so that rows can be compared; thermal rows have theirs in deg C.
"""

from collections.abc import Sequence
from dataclasses import dataclass
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.evaluation.map_quality import (
    compare_frame, score_view, thermal_span, ViewComparison, ViewScore)
from thermal_nerf_loc.io.atomic_files import write_atomically
from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.mapping.map.localization_map import LocalizationMap
from thermal_nerf_loc.sensing.frame import RGB, THERMAL
from thermal_nerf_loc.visualization.normals import normals_of, paint_normals

_CELL_IN = 2.3  # width of one picture
_BAR_IN = 0.75  # a colour bar with its numbers
_LABEL_IN = 1.25  # the text before a row
_HEAD_IN = 0.5  # title above the rows
_TITLE_IN = 0.34  # of one picture
_FOOT_IN = 0.15
_GAP_IN = 0.14
_DPI = 120
_HEAT, _ERROR, _DEPTH, _SIGNED = 'inferno', 'magma', 'viridis', 'RdBu'
_DEPTH_SPAN_CM = 20.0
_WIDEST_PX = 320  # of the images drawn: more would not be seen


@dataclass(frozen=True, slots=True)
class SheetScales:
    """Ends of the colour bars, shared by all rows."""

    thermal: tuple[float, float]
    thermal_error: float
    rgb_error: float
    depth_m: tuple[float, float]
    depth_error_cm: float


@dataclass(frozen=True, slots=True, eq=False)
class _Picture:
    """One cell: an image, how it is coloured, and whether a colour bar follows it."""

    title: str
    values: NDArray[Any]
    colours: str | None = None  # None: the values are RGB
    low: float = 0.0
    high: float = 1.0
    unit: str | None = None  # of the colour bar after the picture; None: no bar
    extend: str = 'neither'


def pick_views(scores: Sequence[ViewScore], most: int) -> list[str]:
    """
    Names of frames to show: from the best over the middle to the worst, by one camera's PSNR.

    A sheet of good views alone would flatter the map, one of bad views alone would not help.
    """
    if not scores:
        return []
    first = next((m for m in (RGB, THERMAL) if any(s.modality == m for s in scores)),
                 scores[0].modality)
    ranked = sorted((s for s in scores if s.modality == first), key=lambda s: -s.psnr)
    count = min(most, len(ranked))
    ranks = np.linspace(0, len(ranked) - 1, count).round().astype(int)
    return [ranked[rank].name for rank in ranks]


def write_sheet(path: Path, renderer: LocalizationMap, scene: Scene,
                scores: Sequence[ViewScore], most: int) -> None:
    """Render a few of the scored frames once more, and draw them beside the truth, as PNG."""
    index = {frame.name: i for i, frame in enumerate(scene.frames)}
    views = [view for name in pick_views(scores, most)
             for view in compare_frame(renderer, scene, index[name], _WIDEST_PX)]
    score_of = {(score.name, score.modality): score for score in scores}
    title = (f'Map {renderer.name!r} beside {scene.root.name!r}: '
             f'{len({view.name for view in views})} of {len({s.name for s in scores})} views, '
             'best to worst')
    figure = draw_sheet(views, [score_of[view.name, view.modality] for view in views], title)
    write_atomically(path, png(figure))


def render_sheet(renderer: LocalizationMap, scene: Scene, indices: Sequence[int],
                 title: str) -> bytes:
    """Render, score and draw these frames, as PNG."""
    views = [view for index in indices for view in compare_frame(renderer, scene, index)]
    span = thermal_span(scene, indices)
    scores = [score_view(view, 1.0 if view.modality == RGB else span) for view in views]
    return png(draw_sheet(views, scores, title))


def draw_sheet(views: Sequence[ViewComparison], scores: Sequence[ViewScore], title: str) -> Any:
    """Matplotlib figure with one row a view; `scores` in the order of `views`."""
    from matplotlib.figure import Figure

    scales = _scales(views)
    rows = [_pictures(view, scales) for view in views]
    columns = max(len(row) for row in rows)
    bars = [any(len(row) > c and row[c].unit is not None for row in rows) for c in range(columns)]
    widths = [_CELL_IN + _GAP_IN + _BAR_IN * bar for bar in bars]
    aspects = [view.depth_m.shape[0] / view.depth_m.shape[1] for view in views]
    heights = [_CELL_IN * min(aspect, 1.5) + _TITLE_IN for aspect in aspects]
    size = (_LABEL_IN + sum(widths), _HEAD_IN + sum(heights) + _FOOT_IN)
    figure = Figure(figsize=size, dpi=_DPI, facecolor='white')
    figure.text(0.5, 1.0 - 0.24 / size[1], title, ha='center', va='center', fontsize=12,
                weight='bold')
    top = size[1] - _HEAD_IN
    for row, score, height in zip(rows, scores, heights):
        top -= height
        figure.text(0.12 / size[0], (top + 0.5 * (height - _TITLE_IN)) / size[1], describe(score),
                    ha='left', va='center', fontsize=8, linespacing=1.5)
        left = _LABEL_IN
        for picture, width in zip(row, widths):
            _draw(figure, picture, left, top, height - _TITLE_IN, size)
            left += width
    return figure


def describe(score: ViewScore) -> str:
    """A row's label: which view, and its figures."""
    lines = [f'$\\bf{{{_camera(score.modality)}}}$', _short(score.name),
             f'{score.psnr:.1f} dB' + ('' if score.ssim is None else f', SSIM {score.ssim:.2f}')]
    if score.mae_celsius is not None:
        lines.append(f'MAE {score.mae_celsius:.2f} °C')
    if score.depth_median_error_m is not None:
        lines.append(f'depth {100.0 * score.depth_median_error_m:.1f} cm')
    return '\n'.join(lines)


def png(figure: Any) -> bytes:
    """The figure as PNG."""
    out = io.BytesIO()
    figure.savefig(out, format='png', dpi=_DPI)
    return out.getvalue()


def _scales(views: Sequence[ViewComparison]) -> SheetScales:
    """Robust ends: a single hot or far pixel must not turn all others black."""
    thermal = [v.seen.values[np.isfinite(v.seen.values)] for v in views if v.modality != RGB]
    thermal_error = [_error(v) for v in views if v.modality != RGB]
    rgb_error = [_error(v) for v in views if v.modality == RGB]
    low, high = _ends(thermal, 0.005, 0.995) if thermal else (0.0, 1.0)
    return SheetScales(
        (low, high), _ends(thermal_error, 0.0, 0.99)[1] if thermal else 1.0,
        _ends(rgb_error, 0.0, 0.99)[1] if rgb_error else 1.0,
        _ends([v.depth_m for v in views], 0.01, 0.99), _DEPTH_SPAN_CM)


def _ends(parts: Sequence[NDArray[Any]], low: float, high: float) -> tuple[float, float]:
    values = np.concatenate([part.ravel() for part in parts])
    values = values[np.isfinite(values)]
    ends = np.quantile(values, (low, high)) if values.size else (0.0, 1.0)
    return float(ends[0]), float(max(ends[1], ends[0] + 1e-6))


def _pictures(view: ViewComparison, scales: SheetScales) -> list[_Picture]:
    if view.modality == RGB:
        row = [_Picture('RGB truth', np.clip(view.seen.values, 0.0, 1.0)),
               _Picture('RGB render', np.clip(view.rendered, 0.0, 1.0)),
               _Picture('RGB |error|, mean of channels', _error(view), _ERROR, 0.0,
                        scales.rgb_error, 'of full scale', 'max')]
    else:
        low, high = scales.thermal
        unit = '°C' if view.seen.radiometric else 'gray value, no °C'
        name = _camera(view.modality)
        row = [_Picture(f'{name} truth', view.seen.values[..., 0], _HEAT, low, high),
               _Picture(f'{name} render', view.rendered[..., 0], _HEAT, low, high, unit, 'both'),
               _Picture(f'{name} |error|', _error(view), _ERROR, 0.0, scales.thermal_error,
                        unit, 'max')]
    row.append(_Picture('rendered depth', view.depth_m, _DEPTH, *scales.depth_m, 'm', 'both'))
    row.append(_Picture('normals (blue: faces the camera)',
                        paint_normals(normals_of(view.depth_m, view.seen.camera))))
    if view.seen.depth_m is not None:
        known = np.isfinite(view.seen.depth_m) & (view.seen.depth_m > 0.0)
        off = np.where(known, 100.0 * (view.depth_m - view.seen.depth_m), np.nan)
        span = scales.depth_error_cm
        row.append(_Picture('depth error (red: too near)', off, _SIGNED, -span, span, 'cm',
                            'both'))
    return row


def _error(view: ViewComparison) -> NDArray[np.float32]:
    """Absolute difference, mean over channels; NaN where the image does not count."""
    off = np.abs(view.rendered - view.seen.values).mean(axis=2)
    return off if view.seen.valid is None else np.where(view.seen.valid, off, np.nan)


def _draw(figure: Any, picture: _Picture, left: float, bottom: float, height: float,
          size: tuple[float, float]) -> None:
    """Draw a picture and its colour bar; positions are inches from the lower left."""
    rows, columns = picture.values.shape[:2]
    width = min(_CELL_IN, height * columns / rows)
    axes = figure.add_axes((left / size[0], bottom / size[1], width / size[0], height / size[1]))
    axes.set_facecolor('#b8b8b8')  # unknown: masked, or no truth
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(picture.title, fontsize=8, pad=3)
    shown = axes.imshow(picture.values, aspect='auto', interpolation='nearest',
                        **({} if picture.colours is None else
                           {'cmap': picture.colours, 'vmin': picture.low, 'vmax': picture.high}))
    if picture.unit is None:
        return
    bar = figure.add_axes(((left + width + 0.07) / size[0], bottom / size[1],
                           0.09 / size[0], height / size[1]))
    scale = figure.colorbar(shown, cax=bar, extend=picture.extend, extendfrac=0.03)
    scale.set_label(picture.unit, fontsize=7, labelpad=2)
    scale.ax.tick_params(labelsize=7, pad=1, length=2)


def _camera(modality: str) -> str:
    return 'RGB' if modality == RGB else modality.capitalize()


def _short(name: str) -> str:
    """The end of a file name: it tells frames apart."""
    stem = name.rsplit('/', 1)[-1]
    return stem if len(stem) <= 18 else '…' + stem[-17:]

# SPDX-License-Identifier: Apache-2.0
"""Pictures of a drive, as PNG bytes; nothing here knows about files or screens."""

from collections.abc import Mapping, Sequence
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.data.trajectory import Trajectory
from thermal_nerf_loc.evaluation.metrics import associate, pose_errors

STATE_COLOURS = {'tracking': '#2e9e5b', 'degraded': '#e8a33d', 'lost': '#cc3d3d',
                 'initializing': '#9aa0a6'}
_TRUTH, _ESTIMATE, _SECOND = '#222222', '#1f6fb4', '#c2571a'
_NS = 1e-9
_DPI = 110


def plot_trajectory(estimated: Trajectory, truth: Trajectory | None = None,
                    outline: NDArray[np.float64] | None = None) -> bytes:
    """Top view, x to the right and y up; `outline` are the map's bounds (2, 3)."""
    figure, axes = _figure(7.0, 6.0)
    if outline is not None:
        (x0, y0, _), (x1, y1, _) = np.asarray(outline)
        axes.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color='#bbbbbb', label='map')
    if truth is not None and len(truth):
        axes.plot(*truth.poses[:, :2, 3].T, color=_TRUTH, linewidth=1.2, label='truth')
    if len(estimated):
        axes.plot(*estimated.poses[:, :2, 3].T, '.-', color=_ESTIMATE, linewidth=1.0,
                  markersize=3.0, label='estimated')
        axes.plot(*estimated.poses[0, :2, 3], 'o', color=_ESTIMATE, label='start')
    axes.set_aspect('equal', adjustable='datalim')
    axes.set(xlabel='x in m', ylabel='y in m', title='Trajectory from above')
    axes.legend(loc='best', fontsize=8)
    return _png(figure)


def plot_errors(estimated: Trajectory, truth: Trajectory,
                states: Sequence[tuple[int, str]] = ()) -> bytes:
    """Position and orientation error over time, above a band of the tracker's states."""
    stamps_ns, A, B = associate(estimated, truth)
    errors = pose_errors(A, B)
    start_ns = int(min(stamps_ns[0], states[0][0]) if states else stamps_ns[0])
    seconds = (stamps_ns - start_ns) * _NS
    figure, axes = _figure(9.0, 4.0)
    axes.plot(seconds, 100.0 * errors.metres, '.-', color=_ESTIMATE, markersize=3.0)
    axes.set_xlabel('time in s')
    axes.set_ylabel('position error in cm', color=_ESTIMATE)
    axes.set_ylim(bottom=0.0)
    axes.set_title('Error over time')
    right = axes.twinx()
    right.plot(seconds, errors.degrees, '.-', color=_SECOND, markersize=3.0)
    right.set_ylabel('orientation error in deg', color=_SECOND)
    right.set_ylim(bottom=0.0)
    draw_states(axes, states, start_ns)
    return _png(figure)


def plot_error_histogram(metres: NDArray[np.float64], degrees: NDArray[np.float64]) -> bytes:
    """Share of poses within an error, for single images."""
    figure, axes = _figure(7.0, 4.0)
    share = np.arange(1, len(metres) + 1) / max(len(metres), 1)
    axes.step(100.0 * np.sort(metres), share, where='post', color=_ESTIMATE, label='position, cm')
    axes.step(np.sort(degrees), share, where='post', color=_SECOND, label='orientation, deg')
    axes.set_xscale('log')
    axes.set(xlabel='error', ylabel='share of images', ylim=(0.0, 1.02),
             title='Share of images within an error')
    axes.legend(loc='lower right', fontsize=8)
    return _png(figure)


def draw_states(axes: Any, states: Sequence[tuple[int, str]], start_ns: int) -> None:
    """Colour the background by state; `states` are (stamp, state) in order of time."""
    ends = [stamp for stamp, _ in states[1:]] + [states[-1][0]] if states else []
    shown = set()
    for (begin_ns, state), end_ns in zip(states, ends):
        label = state if state not in shown else None
        shown.add(state)
        axes.axvspan((begin_ns - start_ns) * _NS, (end_ns - start_ns) * _NS, ymax=0.04,
                     color=STATE_COLOURS.get(state, '#000000'), linewidth=0.0, label=label)
    if shown:
        axes.legend(loc='upper left', fontsize=8, ncols=len(shown))


def html_report(title: str, figures: Mapping[str, Any], images: Mapping[str, bytes]) -> str:
    """One self-contained page: a table of figures and the pictures."""
    import base64
    import html

    rows = ''.join(f'<tr><td>{html.escape(str(name))}</td><td>{html.escape(_text(value))}</td>'
                   '</tr>' for name, value in figures.items())
    pictures = ''.join(
        f'<figure><img alt="{html.escape(name)}" src="data:image/png;base64,'
        f'{base64.b64encode(png).decode()}"><figcaption>{html.escape(name)}</figcaption></figure>'
        for name, png in images.items())
    return ('<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
            f'<title>{html.escape(title)}</title><style>body{{font-family:sans-serif;'
            'margin:2em;max-width:70em}td{padding:.2em 1em .2em 0;border-bottom:1px solid #ddd}'
            'td+td{text-align:right;font-variant-numeric:tabular-nums}img{max-width:100%}'
            f'</style></head><body><h1>{html.escape(title)}</h1><table>{rows}</table>{pictures}'
            '</body></html>\n')


def _text(value: Any) -> str:
    return f'{value:.4g}' if isinstance(value, float) else str(value)


def _figure(width_in: float, height_in: float) -> tuple[Any, Any]:
    """Figure and axes without pyplot: no global state, no window."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout='constrained')
    axes = figure.subplots()
    axes.grid(True, color='#e6e6e6')
    axes.set_axisbelow(True)
    return figure, axes


def _png(figure: Any) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format='png', dpi=_DPI)
    return out.getvalue()

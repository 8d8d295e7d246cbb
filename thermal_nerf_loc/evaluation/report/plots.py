# SPDX-License-Identifier: Apache-2.0
"""Plots of drives as matplotlib figures: trajectories, errors over time, shares of poses."""

from collections.abc import Sequence
import io
import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.evaluation.availability import NO_POSE, POSE, States
from thermal_nerf_loc.evaluation.study.comparison import Run
from thermal_nerf_loc.io.trajectory import Trajectory
from thermal_nerf_loc.visualization.top_view import ground_axes, TopView

STATE_COLOURS = {'tracking': '#2e9e5b', 'degraded': '#e8a33d', 'lost': '#cc3d3d',
                 'initializing': '#9aa0a6', POSE: '#2e9e5b', NO_POSE: '#cc3d3d'}
RUN_COLOURS = ('#1f6fb4', '#c2571a', '#7a4fb5', '#2f8f83', '#b0306a', '#6b6b1f')
_TRUTH, _ESTIMATE, _SECOND = '#111111', RUN_COLOURS[0], RUN_COLOURS[1]
_NS = 1e-9
_DPI = 110
_MOST_GAP_S = 1.0  # lines do not bridge longer ones
_NO_DATE: dict[str, dict[str, Any]] = {'pdf': {'CreationDate': None}, 'svg': {'Date': None}}
_UNSEEN_COLOUR = '#eceff1'
_STYLE: dict[Any, Any] = {'axes.edgecolor': '#888888', 'svg.fonttype': 'path',
                          'svg.hashsalt': 'thermal_nerf_loc'}


def plot_trajectory(runs: Sequence[Run], truth: Trajectory | None = None,
                    view: TopView | None = None) -> Any:
    """Top view of one drive, on the map where there is a view of it."""
    known = truth if truth is not None and len(truth) else runs[0].trajectory
    axes_of_map = view.axes if view is not None else ground_axes(known.poses)[0]
    figure, (axes,) = _figure(6.4, 5.6)
    if view is not None:
        axes.imshow(view.image, extent=view.extent_m, interpolation='bilinear', zorder=0)
        axes.grid(False)
        axes.set_facecolor(_UNSEEN_COLOUR)
    if truth is not None and len(truth):
        line = _track(truth.stamps_ns, truth.poses, axes_of_map)
        axes.plot(*line, color='white', linewidth=4.0, alpha=0.7)
        axes.plot(*line, color=_TRUTH, linewidth=1.6, label='truth')
    for colour, run in zip(_cycle(runs), runs):
        if not len(run.trajectory):
            continue
        poses = _aligned(run)
        axes.plot(*_track(run.trajectory.stamps_ns, poses, axes_of_map), color=colour,
                  linewidth=1.6, label=_label(run, runs))
        start = poses[0, axes_of_map, 3]
        axes.plot(*start, 'o', color=colour, markeredgecolor='white', markersize=8.0)
    names = [f'{"xyz"[axis]} in m' for axis in axes_of_map]
    axes.set(xlabel=names[0], ylabel=names[1])
    if view is not None:
        axes.set(xlim=view.extent_m[:2], ylim=view.extent_m[2:])
    axes.set_aspect('equal', adjustable='box' if view is not None else 'datalim')
    figure.legend(loc='outside upper center', ncols=4, frameon=False)
    return figure


def plot_errors(runs: Sequence[Run]) -> Any:
    """
    Errors over time of the runs of one drive; confidence and states are those of the first.

    The dotted line is the error that the first run expected: sigma in the worst direction.
    """
    main = runs[0]
    rated = [record for record in main.records if record.confidence is not None]
    evaluated = [run for run in runs if run.evaluation is not None]
    panels = [*(('position error in cm', 'metres', 100.0),
                ('orientation error in deg', 'degrees', 1.0)) * bool(evaluated)]
    ratios = [2.0] * len(panels) + [1.2] * bool(rated) + [0.2]
    figure, axes = _figure(6.8, 0.9 + 1.15 * sum(ratios), ratios)
    start_ns = _start(runs)
    for cell, (label, name, factor) in zip(axes, panels):
        for colour, run in zip(_cycle(runs), runs):
            if run.evaluation is None:
                continue
            values = factor * getattr(run.evaluation.absolute, name)
            stamps_s = (run.evaluation.matched.stamps_ns - start_ns).astype(np.float64) * _NS
            cell.plot(*_with_gaps(stamps_s, values), color=colour,
                      linewidth=1.4, label=_label(run, runs))
        cell.set_ylabel(label)
    if panels:
        _draw_sigma(axes[0], main, start_ns)
        for cell in axes[:len(panels)]:
            cell.set_ylim(bottom=0.0)
        axes[0].legend(loc='lower right', bbox_to_anchor=(1.0, 1.0), fontsize=9, ncols=4,
                       frameon=False)
    if rated:
        cell = axes[len(panels)]
        cell.plot(*_with_gaps(np.array([(record.stamp_ns - start_ns) * _NS for record in rated]),
                              np.array([record.confidence for record in rated], np.float64)),
                  color='#555555', linewidth=1.2)
        cell.set(ylabel='confidence', ylim=(0.0, 1.05))
    _draw_states(axes[-1], main.states, start_ns)
    axes[-1].set_xlabel('time in s')
    return figure


def plot_shares(runs: Sequence[Run]) -> Any:
    """Share of the poses within an error, for each run: left is better."""
    figure, axes = _figure(6.8, 3.0, columns=2)
    for cell, name, unit, factor in ((axes[0], 'metres', 'position error in cm', 100.0),
                                     (axes[1], 'degrees', 'orientation error in deg', 1.0)):
        for colour, run in zip(_cycle(runs), runs):
            if run.evaluation is not None:
                values = np.sort(factor * getattr(run.evaluation.absolute, name))
                cell.step(np.maximum(values, 1e-3), np.arange(1, len(values) + 1) / len(values),
                          where='post', color=colour, label=_label(run, runs))
        cell.set_xscale('log')
        cell.set(xlabel=unit, ylim=(0.0, 1.02))
    axes[0].set_ylabel('share of the poses')
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside upper center', ncols=4, frameon=False)
    return figure


def plot_error_histogram(metres: NDArray[np.float64], degrees: NDArray[np.float64]) -> bytes:
    """Share of poses within an error, for single images, as PNG."""
    figure, (axes,) = _figure(7.0, 4.0)
    share = np.arange(1, len(metres) + 1) / max(len(metres), 1)
    axes.step(100.0 * np.sort(metres), share, where='post', color=_ESTIMATE, label='position, cm')
    axes.step(np.sort(degrees), share, where='post', color=_SECOND, label='orientation, deg')
    axes.set_xscale('log')
    axes.set(xlabel='error', ylabel='share of images', ylim=(0.0, 1.02),
             title='Share of images within an error')
    axes.legend(loc='lower right', fontsize=8)
    return encode(figure, 'png')


def encode(figure: Any, kind: str) -> bytes:
    """A figure as 'png', 'pdf' or 'svg'."""
    from matplotlib import rc_context

    out = io.BytesIO()
    with rc_context(_STYLE):
        figure.savefig(out, format=kind, dpi=_DPI, metadata=_NO_DATE.get(kind))
    return out.getvalue()


def _draw_sigma(axes: Any, run: Run, start_ns: int) -> None:
    known = [(record.stamp_ns, record.sigma_m) for record in run.records
             if record.sigma_m is not None]
    if known:
        stamps, sigmas = (np.array(column) for column in zip(*known))
        top = axes.get_ylim()[1]
        axes.plot((stamps - start_ns) * _NS, 100.0 * sigmas, color='#999999', linewidth=0.8,
                  linestyle=':', label='expected (sigma)')
        axes.set_ylim(top=top)  # sigma is wide at the start


def _draw_states(axes: Any, states: States, start_ns: int) -> None:
    """A band of states; `states` are (stamp, state) in the order of time."""
    from matplotlib.patches import Patch

    axes.set_yticks([])
    axes.grid(False)
    changes = [one for k, one in enumerate(states) if k == 0 or one[1] != states[k - 1][1]]
    for (begin_ns, state), (end_ns, _) in itertools.pairwise([*changes, *states[-1:]]):
        axes.axvspan((begin_ns - start_ns) * _NS, (end_ns - start_ns) * _NS, linewidth=0.0,
                     color=STATE_COLOURS.get(state, '#000000'))
    names = dict.fromkeys(state for _, state in states)
    axes.figure.legend(handles=[Patch(color=STATE_COLOURS.get(name, '#000000'), label=name)
                                for name in names], loc='outside lower center', ncols=4,
                       frameon=False)


def _with_gaps(seconds: NDArray[np.float64], values: NDArray[np.float64],
               ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Insert NaN in long pauses, so that no line bridges them."""
    at = np.flatnonzero(np.diff(seconds) > _MOST_GAP_S) + 1
    return np.insert(seconds, at, np.nan), np.insert(values, at, np.nan)


def _aligned(run: Run) -> NDArray[np.float64]:
    """Poses aligned with the truth, if the evaluation aligned them."""
    poses = run.trajectory.poses
    return poses if run.evaluation is None else run.evaluation.similarity.apply(poses)


def _track(stamps_ns: NDArray[np.int64], poses: NDArray[np.float64], axes: tuple[int, int],
           ) -> list[NDArray[np.float64]]:
    seconds = (stamps_ns - stamps_ns[0]).astype(np.float64) * _NS
    return [_with_gaps(seconds, poses[:, axis, 3])[1] for axis in axes]


def _start(runs: Sequence[Run]) -> int:
    stamps = [int(run.trajectory.stamps_ns[0]) for run in runs if len(run.trajectory)]
    return min(stamps + [run.states[0][0] for run in runs if run.states])


def _label(run: Run, runs: Sequence[Run]) -> str:
    """The name of a run in a legend: no longer than needed to be unique."""
    if len({one.drive for one in runs}) > 1:
        return f'{run.drive}, {run.method}'
    return run.method if len(runs) > 1 else 'estimated'


def _cycle(runs: Sequence[Run]) -> list[str]:
    return [RUN_COLOURS[k % len(RUN_COLOURS)] for k in range(len(runs))]


def _figure(width_in: float, height_in: float, ratios: Sequence[float] = (1.0,),
            columns: int = 1) -> tuple[Any, Any]:
    """Figure and axes without pyplot: no global state, no window."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(width_in, height_in), layout='constrained')
        axes = figure.subplots(len(ratios), columns, sharex=columns == 1, squeeze=False,
                               height_ratios=list(ratios)).ravel()
    for cell in axes:
        cell.grid(True, color='#e6e6e6')
        cell.set_axisbelow(True)
    return figure, axes

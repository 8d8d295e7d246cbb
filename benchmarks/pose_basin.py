# SPDX-License-Identifier: Apache-2.0
"""
Basin of convergence: success (within 5 cm and 5 deg) over the error of the start.

    python benchmarks/pose_basin.py [--data DIR --map FILE | --scene room] [--plot FILE.png]

Two sweeps, over the angle (at 0.1 m) and over the distance (at 10 deg), for the aligner and the
baseline, iNeRF, with each modality, all from the same starts on the same held-out views. The
aligner knows how rough the starts are. With --scene the exact simulated world takes the place of a
map, to measure the aligner alone (iNeRF needs a map that can be differentiated).
"""

import argparse
from pathlib import Path
import sys
from typing import Any

from _bench import finish, guarded, parser, prepare, room, show
from _poses import (
    add_inputs, attempts, configured, data_of, held_out, map_of, MODALITIES, modalities_of,
    ProgressPrinter, summary, warm_up)

DEGREES = (5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0)
METRES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
FIXED_DEG, FIXED_M = 10.0, 0.1


def main() -> int:
    """Sweep, show, draw."""
    made = parser(__doc__)
    add_inputs(made, 16)
    made.add_argument('--scene', metavar='NAME', help='use this simulated world itself as the map')
    made.add_argument('--methods', nargs='+', choices=('align', 'inerf'),
                      default=['align', 'inerf'], metavar='NAME', help='(default: align inerf)')
    made.add_argument('--modalities', nargs='+', choices=tuple(MODALITIES), metavar='NAME',
                      help='of both rgb thermal (default: all that map and data have)')
    made.add_argument('--inerf-frames', type=int, default=4, metavar='N',
                      help='iNeRF is slow: so many views (default: 4)')
    made.add_argument('--inerf-steps', type=int, default=300, metavar='N', help='(default: 300)')
    made.add_argument('--inerf-rate', type=float, default=0.02, metavar='R',
                      help='its first step (default: 0.02)')
    made.add_argument('--plot', type=Path, metavar='FILE', help='draw the curves as a PNG')
    args = made.parse_args()
    prepare(args)
    if args.scene:
        args.methods = ['align']
    if args.quick:
        args.frames, args.inerf_frames, args.inerf_steps = 2, 1, 5
    renderer, frames = inputs(args)
    args.modalities = args.modalities or modalities_of(renderer, frames)
    curves = sweep(args, renderer, frames)
    report(curves)
    if args.plot is not None:
        from thermal_nerf_loc.io.atomic_files import write_atomically
        write_atomically(args.plot, picture(curves))
    return finish(args, {'map': str(args.map or args.scene or 'learned now'), 'curves': curves,
                         'inerf_steps': args.inerf_steps, 'inerf_rate': args.inerf_rate})


def inputs(args: argparse.Namespace) -> tuple[Any, list[Any]]:
    """The map, and the views to localize."""
    if args.scene:
        from thermal_nerf_loc.simulation.layouts import make_world
        world = make_world(args.scene)
        data = args.data or room(12, (64, 48) if args.quick else (160, 120), args.scene)
        return world, held_out(data, args.frames)
    data = data_of(args)
    return map_of(args, data), held_out(data, args.frames)


def levels(quick: bool) -> list[tuple[str, float, tuple[float, float]]]:
    """(sweep, what it sweeps over, start in deg and m)."""
    step = 3 if quick else 1
    return ([('angle_deg', value, (value, FIXED_M)) for value in DEGREES[::step]]
            + [('distance_m', value, (FIXED_DEG, value)) for value in METRES[::step]])


def sweep(args: argparse.Namespace, renderer: Any, frames: list[Any]) -> list[dict[str, Any]]:
    """One row for each method, modality and level."""
    from thermal_nerf_loc.localization.localizer import Localizer

    rows, starts = [], levels(args.quick)
    progress = ProgressPrinter(len(starts) * len(args.methods) * len(args.modalities))
    warm_up([Localizer(renderer)], frames[0])
    for method in args.methods:
        chosen = frames if method == 'align' else frames[:args.inerf_frames]
        for modality in args.modalities:
            for name, value, start in starts:
                config = configured(start, method, args.seed, steps=args.inerf_steps,
                                    rate=args.inerf_rate)
                trials = attempts(Localizer(renderer, config), chosen, modality, start, args.seed)
                rows.append({'method': method, 'modality': modality, 'sweep': name,
                             'start': value, **summary(trials)})
                progress.step(f'{method} {modality} {name} {value}')
    return rows


def report(curves: list[dict[str, Any]]) -> None:
    """One table for each sweep: success in percent."""
    for sweep_name, fixed in (('angle_deg', f'by {FIXED_M} m'),
                              ('distance_m', f'by {FIXED_DEG:g} deg')):
        chosen = [row for row in curves if row['sweep'] == sweep_name]
        starts = sorted({row['start'] for row in chosen})
        lines = []
        for method, modality in dict.fromkeys((r['method'], r['modality']) for r in chosen):
            of = {r['start']: r for r in chosen
                  if (r['method'], r['modality']) == (method, modality)}
            lines.append([f'{method} {modality}', next(iter(of.values()))['trials'],
                          *(round(100.0 * of[start]['success_5cm_5deg']) for start in starts)])
        show(f'success % over {sweep_name.replace("_", " in ")}, and {fixed}',
             ('', 'views', *(f'{start:g}' for start in starts)), lines)


def picture(curves: list[dict[str, Any]]) -> bytes:
    """Success over start, as PNG."""
    import io

    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 4.0), layout='constrained')
    colours = dict(zip(MODALITIES, ('#222222', '#1f6fb4', '#c2571a')))
    for axes, name in zip(figure.subplots(1, 2, sharey=True), ('angle_deg', 'distance_m')):
        chosen = [row for row in curves if row['sweep'] == name]
        for method, modality in dict.fromkeys((r['method'], r['modality']) for r in chosen):
            points = [(r['start'], 100.0 * r['success_5cm_5deg']) for r in chosen
                      if (r['method'], r['modality']) == (method, modality)]
            axes.plot(*zip(*points), 'o-' if method == 'align' else 's--', markersize=4,
                      color=colours[modality], label=f'{method}, {modality}')
        axes.set(xlabel=f'error of the start: {name.replace("_", " in ")}', ylim=(-3.0, 103.0))
        axes.grid(True, color='#e6e6e6')
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc='outside right upper',
                  fontsize=8)
    figure.axes[0].set_ylabel('within 5 cm and 5 deg, in %')
    out = io.BytesIO()
    figure.savefig(out, format='png', dpi=110)
    return out.getvalue()


if __name__ == '__main__':
    sys.exit(guarded(main))

# SPDX-License-Identifier: Apache-2.0
"""What a study leaves behind: figures as PNG and PDF, and report.html."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
import importlib.metadata
import os
from pathlib import Path
import platform
from typing import Any, TYPE_CHECKING

from thermal_nerf_loc.cli.output import flatten
from thermal_nerf_loc.cli.replaying import LazyMap
from thermal_nerf_loc.common import __version__
from thermal_nerf_loc.evaluation.metrics import EvaluationConfig
from thermal_nerf_loc.evaluation.report.moments import (choose_moments, Chosen, compare_images,
                                                        find_stills, side_by_side)
from thermal_nerf_loc.evaluation.report.plots import (encode, plot_errors, plot_shares,
                                                      plot_trajectory)
from thermal_nerf_loc.evaluation.report.replay_page import DriveSheet, replay_page
from thermal_nerf_loc.evaluation.study.comparison import cells, COLUMNS
from thermal_nerf_loc.io.atomic_files import write_atomically
from thermal_nerf_loc.io.bags.reader import BagReader
from thermal_nerf_loc.visualization.top_view import look_down

if TYPE_CHECKING:
    from thermal_nerf_loc.cli.study import StudiedDrive

_LIBRARIES = ('numpy', 'scipy', 'torch', 'numba', 'opencv-python-headless', 'rosbags', 'rclpy')


def write_results(out: Path, done: Sequence['StudiedDrive'], table: Sequence[Mapping[str, Any]],
                  figures: Mapping[str, Any], evaluation: EvaluationConfig, a_map: LazyMap,
                  title: str = '', extra: Sequence[str] = ()) -> None:
    """Draw everything and write it; `extra` blocks go into the page."""
    map_name = Path(done[0].drive.config.map).name
    names = ', '.join(one.name for one in done)
    sheets = [_sheet(one, a_map) for one in done]
    write_atomically(out / 'report.html', replay_page(
        title or f'{names} in {map_name}', table, figures, sheets,
        _facts(done, evaluation, a_map), extra))


def show_table(table: Sequence[Mapping[str, Any]]) -> None:
    """Print one row a run."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(header_style='bold')
    for name in ('drive', 'method'):
        shown.add_column(name, no_wrap=True)
    for name, *_ in COLUMNS:
        shown.add_column(name, justify='right')
    for row in table:
        shown.add_row(row['drive'], row['method'], *cells(row))
    Console().print(shown)


def _sheet(one: 'StudiedDrive', a_map: LazyMap) -> DriveSheet:
    """Figures of one drive, and what its cameras saw at three moments."""
    main, renderer = one.runs[0], a_map.get()
    seen_from = one.truth if one.truth is not None else main.trajectory
    plots = {'trajectory': plot_trajectory(one.runs, one.truth,
                                           look_down(renderer, seen_from.poses)),
             'errors': plot_errors(one.runs)}
    if len(one.runs) > 1 and main.evaluation is not None:
        plots['shares'] = plot_shares(one.runs)
    for name, figure in plots.items():
        for kind in ('png', 'pdf'):
            write_atomically(one.folder / f'{name}.{kind}', encode(figure, kind))
    return DriveSheet(one.name, one.runs, {name: encode(figure, 'svg')
                                           for name, figure in plots.items()},
                      _moments(one, a_map))


def _moments(one: 'StudiedDrive', a_map: LazyMap,
             ) -> list[tuple[Chosen, list[tuple[str, bytes]]]]:
    main, config = one.runs[0], one.drive.config
    chosen = choose_moments(main)
    with BagReader(one.bag) as reader:
        stills = find_stills(reader, one.drive.cameras, [c.stamp_ns for c in chosen],
                             config.synchronizer.base_frame, config.thermal_scale.radiometry())
    out = []
    for moment in chosen:
        images = {}
        for modality, (image, T_base_sensor) in stills[moment.stamp_ns].items():
            T_map_base = main.trajectory.at(image.stamp_ns)
            if T_map_base is None:  # before the first pose or after the last
                T_map_base = main.trajectory.at(moment.stamp_ns)
            assert T_map_base is not None
            images[modality] = image, T_map_base @ T_base_sensor
        out.append((moment, side_by_side(compare_images(a_map.get(), images))))
    return out


def _facts(done: Sequence['StudiedDrive'], evaluation: EvaluationConfig,
           a_map: LazyMap) -> dict[str, dict[str, object]]:
    config = done[0].drive.config
    bags: dict[str, object] = {}
    for one in done:
        with BagReader(one.bag) as reader:
            topics = ', '.join(t.image for t in one.drive.cameras.values())
            bags[str(one.bag)] = f'{reader.duration_ns / 1e9:.1f} s; {topics}'
    return {
        'Bags': bags,
        'Map': _map_facts(Path(config.map), a_map),
        'Evaluation': {
            'pairs in time': evaluation.associate, 'alignment': evaluation.align,
            'tolerance': ('default' if evaluation.tolerance_s is None
                          else f'{evaluation.tolerance_s:g} s'),
            'relative errors over': f'{evaluation.rpe_delta:g} {evaluation.rpe_unit}'},
        'Versions': _versions(),
        'Counts': dict(done[0].drive.details),
        'Parameters': {name: value for name, value in _flat(asdict(config)).items()
                       if name != 'map'}}


def _map_facts(path: Path, a_map: LazyMap) -> dict[str, object]:
    info = a_map.get().info
    facts: dict[str, object] = {'file': path, 'shows': ', '.join(a_map.get().modalities)}
    if info is not None:
        facts |= {'scene': info.scene_name, 'made by': info.made_by,
                  'training': f'{info.steps} steps in {info.seconds:.0f} s'}
    return facts


def _versions() -> dict[str, object]:
    found: dict[str, object] = {'thermal_nerf_loc': __version__,
                                'Python': platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found | {'machine': f'{platform.system()} {platform.machine()}, '
                               f'{os.cpu_count()} processors',
                    'ROS': os.environ.get('ROS_DISTRO', 'none sourced')}


def _flat(values: Mapping[str, Any]) -> dict[str, object]:
    """Nested settings by dotted names; tuples stay whole."""
    return dict(flatten({name: _text(value) for name, value in values.items()}))


def _text(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _text(inner) for name, inner in value.items()}
    return ', '.join(map(str, value)) if isinstance(value, (tuple, list)) else value

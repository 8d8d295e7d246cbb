# SPDX-License-Identifier: Apache-2.0
"""Write the report of a study: report.html, and its figures as PNG and PDF."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
import importlib.metadata
import os
from pathlib import Path
import platform
from typing import Any

from thermal_nerf_loc.common import __version__
from thermal_nerf_loc.evaluation.metrics import EvaluationConfig
from thermal_nerf_loc.evaluation.report import page
from thermal_nerf_loc.evaluation.report.example_frames import (
    choose_examples, encode_pairs, ExampleFrame, read_images_at, render_pairs)
from thermal_nerf_loc.evaluation.report.plots import (encode, plot_errors, plot_shares,
                                                      plot_trajectory)
from thermal_nerf_loc.evaluation.report.replay_page import DriveSheet, replay_page
from thermal_nerf_loc.evaluation.study.drive_replay import LazyMap, StudiedDrive
from thermal_nerf_loc.io.atomic_files import write_atomically
from thermal_nerf_loc.io.bags.reader import BagReader
from thermal_nerf_loc.visualization.top_view import render_top_view

_LIBRARIES = ('numpy', 'scipy', 'torch', 'numba', 'opencv-python-headless', 'rosbags', 'rclpy')


def write_report(out: Path, done: Sequence[StudiedDrive], table: Sequence[Mapping[str, Any]],
                 figures: Mapping[str, Any], evaluation: EvaluationConfig, a_map: LazyMap,
                 title: str = '', extra_blocks: Sequence[str] = ()) -> None:
    """Draw everything and write it; `extra_blocks` are HTML for the page."""
    map_name = Path(done[0].drive.config.map).name
    names = ', '.join(studied.name for studied in done)
    sheets = [_sheet(studied, a_map) for studied in done]
    write_atomically(out / 'report.html', replay_page(
        title or f'{names} in {map_name}', table, figures, sheets,
        _settings(done, evaluation, a_map), extra_blocks))


def map_blocks(quality: Mapping[str, Any], picture_png: bytes) -> list[str]:
    """The map's part of a page: held-out views beside their renders, and the map's figures."""
    rows = [(name, f'{value:.4g}' if isinstance(value, float) else str(value))
            for name, value in page.flatten(quality) if value is not None]
    return [page.heading('What the map learned'),
            page.picture(picture_png, 'held-out views, seen and rendered',
                         'Views that the map was not trained on, beside its renders of them.'),
            page.table(('figure of the map', 'value'), rows, 'text')]


def _sheet(studied: StudiedDrive, a_map: LazyMap) -> DriveSheet:
    """Figures of one drive, and example frames beside the map's renders."""
    main, renderer = studied.runs[0], a_map.get()
    trajectory = studied.truth if studied.truth is not None else main.trajectory
    plots = {'trajectory': plot_trajectory(studied.runs, studied.truth,
                                           render_top_view(renderer, trajectory.poses)),
             'errors': plot_errors(studied.runs)}
    if len(studied.runs) > 1 and main.evaluation is not None:
        plots['shares'] = plot_shares(studied.runs)
    for name, figure in plots.items():
        for kind in ('png', 'pdf'):
            write_atomically(studied.folder / f'{name}.{kind}', encode(figure, kind))
    return DriveSheet(studied.name, studied.runs, {name: encode(figure, 'svg')
                                                   for name, figure in plots.items()},
                      _examples(studied, a_map))


def _examples(studied: StudiedDrive, a_map: LazyMap,
              ) -> list[tuple[ExampleFrame, list[tuple[str, bytes]]]]:
    main, config = studied.runs[0], studied.drive.config
    chosen = choose_examples(main)
    with BagReader(studied.bag) as reader:
        images_at = read_images_at(reader, studied.drive.cameras, [c.stamp_ns for c in chosen],
                                   config.synchronizer.base_frame,
                                   config.thermal_scale.radiometry())
    out = []
    for example in chosen:
        images = {}
        for modality, (image, T_base_sensor) in images_at[example.stamp_ns].items():
            T_map_base = main.trajectory.at(image.stamp_ns)
            if T_map_base is None:  # before the first pose or after the last
                T_map_base = main.trajectory.at(example.stamp_ns)
            assert T_map_base is not None
            images[modality] = image, T_map_base @ T_base_sensor
        out.append((example, encode_pairs(render_pairs(a_map.get(), images))))
    return out


def _settings(done: Sequence[StudiedDrive], evaluation: EvaluationConfig,
              a_map: LazyMap) -> dict[str, dict[str, object]]:
    """Bags, map, settings and versions, by heading."""
    config = done[0].drive.config
    bags: dict[str, object] = {}
    for studied in done:
        with BagReader(studied.bag) as reader:
            topics = ', '.join(t.image for t in studied.drive.cameras.values())
            bags[str(studied.bag)] = f'{reader.duration_ns / 1e9:.1f} s; {topics}'
    return {
        'Bags': bags,
        'Map': _map_settings(Path(config.map), a_map),
        'Evaluation': {
            'pairs in time': evaluation.associate, 'alignment': evaluation.align,
            'tolerance': ('default' if evaluation.tolerance_s is None
                          else f'{evaluation.tolerance_s:g} s'),
            'relative errors over': f'{evaluation.rpe_delta:g} {evaluation.rpe_unit}'},
        'Versions': _versions(),
        'Counts': dict(done[0].drive.details),
        'Parameters': {name: value for name, value in _flat(asdict(config)).items()
                       if name != 'map'}}


def _map_settings(path: Path, a_map: LazyMap) -> dict[str, object]:
    info = a_map.get().info
    found: dict[str, object] = {'file': path, 'shows': ', '.join(a_map.get().modalities)}
    if info is not None:
        found |= {'scene': info.scene_name, 'made by': info.made_by,
                  'training': f'{info.steps} steps in {info.seconds:.0f} s'}
    return found


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
    return dict(page.flatten({name: _text(value) for name, value in values.items()}))


def _text(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _text(inner) for name, inner in value.items()}
    return ', '.join(map(str, value)) if isinstance(value, (tuple, list)) else value

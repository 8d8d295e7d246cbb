# SPDX-License-Identifier: Apache-2.0
"""`compare-strategies DATA`: every way for modalities to share a field, on equal terms."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thermal_nerf_loc.cli.options import add_device

_OPTIONS = ('steps', 'max_seconds', 'seed', 'device')
# column title, figure, scale, format
_COLUMNS = (('RGB\ndB', 'rgb_psnr', 1.0, '.2f'), ('RGB\nSSIM', 'rgb_ssim', 1.0, '.3f'),
            ('thermal\ndB', 'thermal_psnr', 1.0, '.2f'),
            ('thermal\nSSIM', 'thermal_ssim', 1.0, '.3f'),
            ('thermal\nMAE °C', 'thermal_mae_celsius', 1.0, '.3f'),
            ('depth\ncm', 'depth_median_error_m', 100.0, '.2f'),
            ('rays\nmillions', 'rays', 1e-6, '.2f'), ('time\ns', 'seconds', 1.0, '.0f'))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare; what is not given keeps the default of `TrainConfig`."""
    parser.add_argument('data', type=Path, metavar='DATA', help='data set with transforms.json')
    parser.add_argument('--steps', type=int, metavar='N', help='optimisation steps, each')
    parser.add_argument('--max-seconds', type=float, metavar='S',
                        help='stop each after this time; ray budgets are then not equal')
    parser.add_argument('--seed', type=int, help='seed of every random choice (default: 0)')
    add_device(parser, None)
    parser.add_argument('--config', type=Path, metavar='FILE', help='YAML file with any setting')
    parser.add_argument('--out', type=Path, metavar='DIR',
                        help='keep the maps, a sheet of pictures each, and comparison.json')


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Train with every strategy, measure, show one row each."""
    from dataclasses import replace

    from thermal_nerf_loc.cli.output import progress_bar, show_note
    from thermal_nerf_loc.common.config import check, load_yaml
    from thermal_nerf_loc.evaluation.strategy_comparison import (
        compile_kernels, ranking, train_and_score)
    from thermal_nerf_loc.io.atomic_files import check_vacant, write_json
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    from thermal_nerf_loc.mapping.training.config import STRATEGIES, TrainConfig

    config = load_yaml(TrainConfig, args.config) if args.config else TrainConfig()
    given = {name: getattr(args, name) for name in _OPTIONS if getattr(args, name) is not None}
    config = replace(config, **given)
    check(config, 'option')
    scene = load_scene(args.data)
    if config.modality == 'both':
        scene.require('rgb', 'thermal')
    if args.out is not None:
        check_vacant(args.out)
    if args.max_seconds is not None:
        show_note('with --max-seconds each strategy trains as many rays as it can in that time')
    compile_kernels(scene, config)
    rows = []
    for name in STRATEGIES:
        with progress_bar(name) as progress:
            rows.append(train_and_score(scene, replace(config, strategy=name), args.out, progress))
    _show(f'{scene.root.name}, seed {config.seed}', rows)
    figures = {'data': str(args.data), 'seed': config.seed, **ranking(rows), 'strategies': rows}
    if args.out is not None:
        write_json(args.out / 'comparison.json', figures)
        figures['out'] = str(args.out)
    return figures


def _show(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify='left', header_style='bold')
    table.add_column('strategy', no_wrap=True)
    for name, *_ in _COLUMNS:
        table.add_column(name, justify='right', no_wrap=True)
    for row in rows:
        cells = ['-' if row[key] is None else format(scale * row[key], style)
                 for _, key, scale, style in _COLUMNS]
        table.add_row(row['strategy'], *cells)
    Console().print(table)

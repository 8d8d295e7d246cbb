# SPDX-License-Identifier: Apache-2.0
"""`compare-strategies DATA`: every way for modalities to share a field, on equal terms."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_OPTIONS = ('steps', 'max_seconds', 'seed', 'device')
# column title, figure, scale, format
_COLUMNS = (('RGB\ndB', 'rgb_psnr', 1.0, '.2f'), ('RGB\nSSIM', 'rgb_ssim', 1.0, '.3f'),
            ('heat\ndB', 'thermal_psnr', 1.0, '.2f'), ('heat\nSSIM', 'thermal_ssim', 1.0, '.3f'),
            ('heat\nMAE °C', 'thermal_mae_celsius', 1.0, '.3f'),
            ('depth\ncm', 'depth_median_error_m', 100.0, '.2f'),
            ('rays\nmillions', 'rays', 1e-6, '.2f'), ('time\ns', 'seconds', 1.0, '.0f'))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare; what is not given keeps the default of `TrainConfig`."""
    parser.add_argument('data', type=Path, metavar='DATA', help='data set with transforms.json')
    parser.add_argument('--steps', type=int, metavar='N', help='optimisation steps of each')
    parser.add_argument('--max-seconds', type=float, metavar='S',
                        help='stop each after this time; ray budgets are then not equal')
    parser.add_argument('--seed', type=int, help='seed of every random choice (default: 0)')
    parser.add_argument('--device', choices=('auto', 'cpu', 'cuda'), help='(default: auto)')
    parser.add_argument('--config', type=Path, metavar='FILE', help='YAML file with any setting')
    parser.add_argument('--out', type=Path, metavar='DIR',
                        help='keep the maps, a sheet of pictures each, and comparison.json')


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Train all four, measure, show side by side."""
    from dataclasses import replace

    from thermal_nerf_loc.cli.output import show_note
    from thermal_nerf_loc.common.config import check, load_yaml
    from thermal_nerf_loc.io.atomic_files import check_vacant, write_json
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    from thermal_nerf_loc.mapping.training.config import STRATEGIES, TrainConfig
    from thermal_nerf_loc.mapping.training.trainer import train

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
    train(scene, replace(config, steps=2, max_seconds=None))  # compiles, on nobody's clock
    rows = [_train_one(scene, replace(config, strategy=name), args.out) for name in STRATEGIES]
    _show(f'{scene.root.name}, seed {config.seed}', rows)
    figures = {'data': str(args.data), 'seed': config.seed, **ranking(rows), 'strategies': rows}
    if args.out is not None:
        write_json(args.out / 'comparison.json', figures)
        figures['out'] = str(args.out)
    return figures


def ranking(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the published comparison claims: who shows heat best, and what colour pays for it."""
    by = {row['strategy']: row for row in rows}

    def better(name: str) -> float | None:
        ours, theirs = by['rgbx'][name], by['scratch'][name]
        return None if ours is None or theirs is None else ours - theirs

    known = [row for row in rows if row['thermal_psnr'] is not None]
    return {'best_thermal_psnr': (max(known, key=lambda row: row['thermal_psnr'])['strategy']
                                  if known else None),
            'rgbx_over_scratch_thermal_db': better('thermal_psnr'),
            'rgbx_over_scratch_rgb_db': better('rgb_psnr')}


def _train_one(scene: Any, config: Any, out: Path | None) -> dict[str, Any]:
    from dataclasses import asdict

    from thermal_nerf_loc.cli.eval_map import write_sheet
    from thermal_nerf_loc.cli.output import progress_bar
    from thermal_nerf_loc.evaluation.map_quality import score_views, summarize
    from thermal_nerf_loc.mapping.training.trainer import train

    with progress_bar(config.strategy) as progress:
        result = train(scene, config, progress)
    scores = score_views(result.map, scene, 'test')
    if out is not None:
        result.map.save(out / f'{config.strategy}.safetensors')
        write_sheet(out / f'{config.strategy}.png', result.map, scene, scores, 3)
    return {'strategy': config.strategy, 'seconds': result.seconds, 'steps': result.steps,
            'rays': result.steps * config.rays, **asdict(summarize(scores))}


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

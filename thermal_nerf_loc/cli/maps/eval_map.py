# SPDX-License-Identifier: Apache-2.0
"""`eval-map M DATA`: compare a map with the images of a data set."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thermal_nerf_loc.cli.options import add_device

_MOST_VIEWS = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare."""
    parser.add_argument('map', type=Path, metavar='M', help='map file')
    parser.add_argument('data', type=Path, metavar='DATA', help='data set with transforms.json')
    parser.add_argument('--split', choices=('train', 'test', 'all'), default='test',
                        help='images to compare with (default: test)')
    parser.add_argument('--all-pixels', action='store_true', help='render every pixel of every '
                        'image (default: a share of the pixels of many or large images)')
    parser.add_argument('--sheet', type=Path, metavar='FILE.png',
                        help='draw truth, render, errors, depth and normals of a few '
                        'views')
    parser.add_argument('--views', type=int, default=3, metavar='N',
                        help='frames on the sheet, from the best to the worst (default: 3)')
    add_device(parser)


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Load both and compare."""
    from dataclasses import asdict

    from thermal_nerf_loc.cli.output import progress_bar, show_note
    from thermal_nerf_loc.common.errors import InputError
    from thermal_nerf_loc.evaluation.geometry_quality import check_geometry, geometry_lines
    from thermal_nerf_loc.evaluation.map_quality import (
        find_lpips, MOST_RAYS, score_views, summarize)
    from thermal_nerf_loc.evaluation.report.map_sheet import write_sheet
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    from thermal_nerf_loc.mapping.tiles.map_loading import load_map

    if not 1 <= args.views <= _MOST_VIEWS:
        raise InputError('number of views is out of range', where='--views',
                         expected=f'1 to {_MOST_VIEWS}', got=args.views)
    if args.sheet is not None and args.sheet.suffix.lower() != '.png':
        raise InputError('sheet is a PNG', where='--sheet', expected='a name that ends in .png',
                         got=args.sheet)
    renderer, scene = load_map(args.map, device=args.device), load_scene(args.data)
    lpips = find_lpips()
    if lpips.score is None:
        show_note(f'LPIPS is left out ({lpips.reason})')
    with progress_bar('compare') as progress:
        scores = score_views(renderer, scene, args.split, lpips.score, progress,
                             None if args.all_pixels else MOST_RAYS)
    with progress_bar('geometry') as progress:
        geometry = check_geometry(renderer, scene, progress)
    for line in geometry_lines(geometry):
        show_note(line)
    figures = {'map': str(args.map), 'split': args.split, 'backend': renderer.backend,
               **asdict(summarize(scores)),
               'lpips_left_out': lpips.reason or None,
               'geometry_check': geometry,
               'views': [asdict(score) for score in scores]}
    if args.sheet is not None:
        write_sheet(args.sheet, renderer, scene, scores, args.views)
        figures['sheet'] = str(args.sheet)
    return figures

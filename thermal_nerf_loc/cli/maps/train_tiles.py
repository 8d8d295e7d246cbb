# SPDX-License-Identifier: Apache-2.0
"""`train-tiles DATA --map FOLDER`: build a map of tiles, for what is larger than a room."""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from thermal_nerf_loc.common.errors import InputError

_TRAINING = ('modality', 'steps', 'seed')
_DIVISION = {'tile_views': 'views', 'tile_m': 'tile_m', 'overlap_m': 'overlap_m'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare options; those not given keep the default of `TrainConfig` and `DivisionConfig`."""
    parser.add_argument('data', type=Path, help='data set: a folder with transforms.json')
    parser.add_argument('--map', type=Path, required=True, metavar='FOLDER',
                        help='folder of the map, such as plant.map; one that is there already '
                        'keeps the tiles whose views did not change')
    parser.add_argument('--add', type=Path, action='append', default=[], metavar='NEW_DATA',
                        help='a further data set, in the same frame; only tiles that get new '
                        'views are trained again; may be given again')
    parser.add_argument('--tile-views', type=int, metavar='N',
                        help='training views of a tile, at most (default: 250)')
    parser.add_argument('--tile-m', type=float, metavar='M',
                        help='longest side of what the cameras of a tile span (default: 14)')
    parser.add_argument('--overlap-m', type=float, metavar='M',
                        help="how far a tile takes its neighbours' views (default: 1)")
    parser.add_argument('--workers', type=int, default=1, metavar='N',
                        help='tiles that are trained at a time, by a process each (default: 1)')
    parser.add_argument('--cluster', metavar='ADDRESS',
                        help='Dask scheduler, tcp://HOST:PORT or its file, instead of processes '
                        'of this machine; its workers share the folders')
    parser.add_argument('--cache-gb', type=float, default=4.0, metavar='GB',
                        help='disk for decoded images while tiles train; 0: decode them each '
                        'time (default: %(default)s)')
    parser.add_argument('--modality', choices=('both', 'rgb', 'thermal'),
                        help='images to use (default: both)')
    parser.add_argument('--steps', type=int, metavar='N', help='optimisation steps of each tile')
    parser.add_argument('--max-seconds', type=float, metavar='S', help='time for each tile')
    parser.add_argument('--seed', type=int, help='seed of every random choice (default: 0)')
    parser.add_argument('--config', type=Path, metavar='FILE',
                        help='YAML file with any setting of a training')


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Divide, train, index."""
    from thermal_nerf_loc.cli.output import compile_kernels, progress_bar
    from thermal_nerf_loc.common.config import check, load_yaml
    from thermal_nerf_loc.localization.tiles.build_tiles import build_tiles
    from thermal_nerf_loc.localization.tiles.job_runners import DaskCluster, LocalProcesses
    from thermal_nerf_loc.mapping.tiles.division import DivisionConfig
    from thermal_nerf_loc.mapping.training.config import TrainConfig

    config = load_yaml(TrainConfig, args.config) if args.config else TrainConfig()
    config = replace(config, **_given(args, {name: name for name in (*_TRAINING, 'max_seconds')}))
    division = replace(DivisionConfig(), **_given(args, _DIVISION))
    check(config, 'option')
    check(division, 'option')
    if not 0.0 <= args.cache_gb < 1e6:
        raise InputError('size of the cache is impossible', where='--cache-gb',
                         expected='0 or more', got=args.cache_gb)
    if args.workers < 1:
        raise InputError('nobody would train', where='--workers', expected='1 or more',
                         got=args.workers)
    runner = DaskCluster(args.cluster) if args.cluster else LocalProcesses(args.workers)
    compile_kernels()
    with progress_bar('train tiles') as progress:
        built = build_tiles([args.data, *args.add], args.map, config, division, runner, progress,
                            args.cache_gb)
    size_mb = sum(tile.bytes for tile in built.index.tiles) / 2**20
    return {'map': str(args.map), 'tiles': len(built.index.tiles),
            'floors': len(built.index.floors), 'trained': len(built.trained),
            'trained_tiles': list(built.trained), 'seconds': built.seconds,
            'size_mb': size_mb, 'peak_memory_mb': built.peak_memory_mb,
            'panoramas': built.panoramas, 'level_steps_left': built.steps_left}


def _given(args: argparse.Namespace, fields: Mapping[str, str]) -> dict[str, Any]:
    return {field: getattr(args, option) for option, field in fields.items()
            if getattr(args, option) is not None}

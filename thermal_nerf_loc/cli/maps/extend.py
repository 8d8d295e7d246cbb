# SPDX-License-Identifier: Apache-2.0
"""`extend M DATA --map M2`: localize images without poses, and train the map again with them."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thermal_nerf_loc.cli.options import add_device

_SHOWN = 20  # refused frames that are printed; --json has them all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare options."""
    parser.add_argument('start', type=Path, metavar='M', help='map of the frames that have poses')
    parser.add_argument('data', type=Path, metavar='DATA',
                        help='data set in which frames lack their transform_matrix')
    parser.add_argument('--map', type=Path, required=True, metavar='M2',
                        help='map file to write, trained anew on all frames')
    parser.add_argument('--poses', type=Path, metavar='FILE',
                        help='write transforms.json anew, with the poses found '
                        '(default: extended.json beside it)')
    parser.add_argument('--rounds', type=int, default=2, metavar='N',
                        help='times to localize the images still without a pose, each time in a '
                        'better map (default: %(default)s)')
    parser.add_argument('--steps', type=int, metavar='N',
                        help='steps of each training (default: those of M)')
    add_device(parser, None)
    parser.add_argument('--config', type=Path, metavar='FILE',
                        help='YAML file with the limits for accepting a pose')


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Localize images and train, in rounds; write the poses."""
    from thermal_nerf_loc.cli.output import progress_bar
    from thermal_nerf_loc.common.config import load_yaml
    from thermal_nerf_loc.common.errors import InputError
    from thermal_nerf_loc.evaluation.refined_poses import extension_figures
    from thermal_nerf_loc.io.atomic_files import check_writable
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    from thermal_nerf_loc.io.datasets.refined_dataset import check_refined_path, write_found
    from thermal_nerf_loc.localization.extend_map import extend_map, training_of
    from thermal_nerf_loc.localization.unposed_images import AcceptanceConfig
    from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap

    if args.rounds < 1:
        raise InputError('no round to look in', where='--rounds', expected='1 or more',
                         got=args.rounds)
    acceptance = load_yaml(AcceptanceConfig, args.config) if args.config else AcceptanceConfig()
    start, scene = RadianceMap.load(args.start, args.device or 'auto'), load_scene(args.data)
    poses = args.poses or scene.root / 'extended.json'
    check_refined_path(args.data, poses)
    check_writable(poses)
    check_writable(args.map)
    config = training_of(start, args.steps, args.device)
    with progress_bar('extend') as progress:
        extended = extend_map(start, scene, args.map, config, acceptance, args.rounds, progress)
    figures = extension_figures(start, scene, extended)
    facts = {row['name']: {key: row[key] for key in ('confidence', 'sigma_m', 'sigma_deg')}
             for row in figures['frames'] if row['accepted']}
    write_found(args.data, extended.scene, poses, facts)
    _show_refused(figures['frames'])
    return {**figures, 'map': str(args.map), 'poses': str(poses)}


def _show_refused(rows: list[dict[str, Any]]) -> None:
    from thermal_nerf_loc.cli.output import show_note

    refused = [row for row in rows if not row['accepted']]
    for row in refused[:_SHOWN]:
        show_note(f'{row["name"]}: {row["refused"]}: {row["reason"]}')
    if len(refused) > _SHOWN:
        show_note(f'... and {len(refused) - _SHOWN} more, all of them in --json')

# SPDX-License-Identifier: Apache-2.0
"""`extend M DATA --map M2`: find images that came without poses in a map, and learn from them."""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

_SHOWN = 20  # refused frames; --json has them all
_SAME_POSE = 1e-6  # metres, or entries of a rotation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare."""
    parser.add_argument('start', type=Path, metavar='M', help='map of the frames that have poses')
    parser.add_argument('data', type=Path, metavar='DATA',
                        help='data set in which frames lack their transform_matrix')
    parser.add_argument('--map', type=Path, required=True, metavar='M2',
                        help='map file to write, learned anew from all frames')
    parser.add_argument('--poses', type=Path, metavar='FILE',
                        help='write transforms.json anew, with the poses found '
                        '(default: extended.json beside it)')
    parser.add_argument('--rounds', type=int, default=2, metavar='N',
                        help='times to look for what is left, each time in a better map '
                        '(default: %(default)s)')
    parser.add_argument('--steps', type=int, metavar='N',
                        help='of each training (default: as many as M has had)')
    parser.add_argument('--device', choices=('auto', 'cpu', 'cuda'), help='(default: auto)')
    parser.add_argument('--config', type=Path, metavar='FILE',
                        help='YAML file: when a pose is good enough to learn from')


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Localize, learn, look again, write the poses."""
    from thermal_nerf_loc.cli.output import progress_bar
    from thermal_nerf_loc.common.config import load_yaml
    from thermal_nerf_loc.common.errors import InputError
    from thermal_nerf_loc.io.atomic_files import check_writable
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    from thermal_nerf_loc.io.datasets.refined_dataset import check_refined_path, write_found
    from thermal_nerf_loc.localization.unposed_images import AcceptanceConfig
    from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap

    if args.rounds < 1:
        raise InputError('no round to look in', where='--rounds', expected='1 or more',
                         got=args.rounds)
    acceptance = load_yaml(AcceptanceConfig, args.config) if args.config else AcceptanceConfig()
    start, scene = RadianceMap.load(args.start), load_scene(args.data)
    poses = args.poses or scene.root / 'extended.json'
    check_refined_path(args.data, poses)
    check_writable(poses)
    check_writable(args.map)
    config = training_of(start, args.steps, args.device)
    with progress_bar('extend') as progress:
        extended, figures = extend_map(start, scene, args.map, config, acceptance, args.rounds,
                                       progress)
    facts = {row['name']: {key: row[key] for key in ('confidence', 'sigma_m', 'sigma_deg')}
             for row in figures['frames'] if row['accepted']}
    write_found(args.data, extended, poses, facts)
    _tell_refused(figures['frames'])
    return {**figures, 'map': str(args.map), 'poses': str(poses)}


def training_of(radiance_map: Any, steps: int | None = None, device: str | None = None) -> Any:
    """How the map was trained; its poses are taken as they are now."""
    from thermal_nerf_loc.common.config import check, from_mapping
    from thermal_nerf_loc.mapping.training.config import TrainConfig

    told = {name: value for name, value in radiance_map.info.training.items()
            if name not in ('panoramas', 'places', 'refine')}  # found anew, and not at all
    config = replace(from_mapping(TrainConfig, told, 'map: training'),
                     steps=steps or radiance_map.info.steps, max_seconds=None,
                     device=device or 'auto')
    check(config, 'option')
    return config


def extend_map(start: Any, scene: Any, path: Path, config: Any, acceptance: Any, rounds: int,
               progress: Any) -> tuple[Any, dict[str, Any]]:
    """The scene with what was found, and figures; the last round's map is at `path`."""
    from thermal_nerf_loc.cli.train import train_map
    from thermal_nerf_loc.common.errors import RunError
    from thermal_nerf_loc.evaluation import refined_poses
    from thermal_nerf_loc.evaluation.map_quality import evaluate_map
    from thermal_nerf_loc.localization.unposed_images import find_unposed
    from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap

    _check(start, scene)
    before = evaluate_map(start, scene)
    findings: dict[str, Any] = {}
    told: list[dict[str, Any]] = []
    current = start
    while scene.unposed and len(told) < rounds:
        found = find_unposed(current, scene, acceptance, progress=progress)
        findings |= {finding.frame.name: finding for finding in found}
        poses = {finding.frame.name: finding.localization.T_world_cam for finding in found
                 if finding.refusal is None}
        told.append({'tried': len(found), 'accepted': len(poses)})
        if not poses:
            break
        scene = scene.with_poses(poses)
        training = train_map(scene, path, config, progress)
        current = RadianceMap.load(path)
        told[-1] |= {'seconds': training['seconds'], 'places': training['places']}
    figures = refined_poses.found_summary(list(findings.values()))
    if current is start:
        raise RunError('none of the poses found is good enough to learn from', where=scene.root,
                       got=', '.join(f'{count} {kind}' for kind, count
                                     in figures['refused'].items()),
                       hint='A better map helps, or looser limits by --config.')
    after = evaluate_map(current, scene)
    return scene, {**figures, 'rounds': told, 'before': _figures(before),
                   'after': _figures(after), 'gain_db': refined_poses.gain(before, after)}


def _check(start: Any, scene: Any) -> None:
    """Refuse what could not be believed, or not be measured."""
    from thermal_nerf_loc.common.errors import InputError

    if not scene.unposed:
        raise InputError('every frame has a pose', where=scene.root,
                         expected='frames without transform_matrix')
    if not scene.test:
        raise InputError('no frame is held out', where=scene.root,
                         hint='Without one nobody can tell what was gained.')
    if not start.calibration:
        raise InputError('the map does not know what its poses are worth', where=start.name,
                         expected='one that was trained with 8 or more frames held out')
    told = start.info.refinement.get('frames', {})
    given = {frame.name: frame.T_world_cam for frame in scene.frames}
    moved = [name for name, T in told.items()
             if name in given and abs(given[name] - T).max() > _SAME_POSE]
    if moved:
        raise InputError('the map was trained on other poses than these', where=scene.root,
                         got=f'{len(moved)} frames, first {moved[0]}',
                         hint='It was refined: give the file that train --refined wrote.')


def _figures(quality: Any) -> dict[str, Any]:
    """What a user compares."""
    return {name: getattr(quality, name) for name in (
        'rgb_psnr', 'rgb_ssim', 'thermal_psnr', 'thermal_ssim', 'thermal_mae_celsius',
        'depth_median_error_m')}


def _tell_refused(rows: list[dict[str, Any]]) -> None:
    from thermal_nerf_loc.cli.output import show_note

    refused = [row for row in rows if not row['accepted']]
    for row in refused[:_SHOWN]:
        show_note(f'{row["name"]}: {row["refused"]}: {row["reason"]}')
    if len(refused) > _SHOWN:
        show_note(f'... and {len(refused) - _SHOWN} more, all of them in --json')

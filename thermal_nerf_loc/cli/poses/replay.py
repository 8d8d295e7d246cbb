# SPDX-License-Identifier: Apache-2.0
"""`replay M BAG ... --out DIR`: localize recorded drives, offline or through the real ROS node."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thermal_nerf_loc.cli.options import add_device

# Options that are fields of `EvaluationConfig`.
_EVALUATION = {'align': 'align', 'associate': 'associate', 'tolerance': 'tolerance_s',
               'rpe_delta': 'rpe_delta', 'rpe_unit': 'rpe_unit'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare."""
    parser.add_argument('map', type=Path, metavar='M', help='map file')
    parser.add_argument('bag', type=Path, nargs='+', metavar='BAG',
                        help='rosbag2 folder, .mcap or .db3; several give one table')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR',
                        help='folder for trajectory.tum, metrics.json, report.html and figures')
    parser.add_argument('--modality', choices=('both', 'rgb', 'thermal'),
                        help='cameras to use (default: what --params-file says, else both)')
    parser.add_argument('--ablate', action='store_true',
                        help='replay with both cameras, rgb alone and thermal alone')
    parser.add_argument('--through-ros', action='store_true',
                        help='play the bag over DDS to the real node (default: call the tracker '
                             'directly)')
    parser.add_argument('--initial-pose', type=float, nargs=7, default=(),
                        metavar=('X', 'Y', 'Z', 'QX', 'QY', 'QZ', 'QW'),
                        help='pose of the base in the map at the start '
                             '(default: see --init)')
    parser.add_argument('--init', choices=('perturb', 'global'), default='perturb',
                        help='perturb: start near the true pose of the bag; global: search the '
                             'whole map (default: %(default)s)')
    for name in ('rgb', 'thermal'):
        parser.add_argument(f'--{name}-topic', metavar='TOPIC', help='image topic (default: '
                            f'/{name}/image_raw; without any such, found as by import-bag)')
    parser.add_argument('--odometry-topic', metavar='TOPIC',
                        help='nav_msgs/Odometry, for parameter odometry: topic (default: /odom)')
    parser.add_argument('--imu-topic', metavar='TOPIC',
                        help='sensor_msgs/Imu, for parameter odometry: imu (default: /imu/data)')
    for name in ('rgb', 'thermal'):
        parser.add_argument(f'--{name}-mask', type=Path, metavar='FILE', help='image of 0 where '
                            f'the {name} camera sees the robot itself (default: none)')
    parser.add_argument('--params-file', type=Path, metavar='FILE',
                        help='parameters of the node, as ROS reads them')
    parser.add_argument('--rate', type=float, metavar='R',
                        help='times real time; frames that come while one is being localized are '
                             'dropped and counted (default: 1 with --through-ros; else every '
                             'frame, as fast as the machine allows)')
    add_device(parser, None)
    _add_evaluation(parser.add_argument_group('evaluation'))


def _add_evaluation(group: Any) -> None:
    group.add_argument('--truth', action='append', default=[], metavar='SOURCE',
                       help="the base's true poses in the map: a TUM file, a topic of the bag or "
                            'tf:MAP:BASE; once, or once for each bag (default: the topic '
                            '/ground_truth/pose)')
    group.add_argument('--compare', action='append', default=[], metavar='NAME=FILE.tum',
                       help="another system's poses of the same base, or another replay's folder; "
                            '{bag} in it stands for the name of the bag; may be given again')
    group.add_argument('--align', choices=('none', 'se3', 'sim3'), default='none',
                       help='fit each trajectory to the truth first, as evo does (default: none)')
    group.add_argument('--associate', choices=('interpolate', 'nearest'), default='interpolate',
                       help="truth at each estimate's stamp, or the nearest in time as evo pairs "
                            'them (default: interpolate)')
    group.add_argument('--tolerance', type=float, metavar='S',
                       help='farthest a true pose may be in time '
                            '(default: 0.25 interpolated, 0.01 nearest)')
    group.add_argument('--rpe-delta', type=float, default=1.0, metavar='D',
                       help='distance of the two poses of a relative error (default: 1)')
    group.add_argument('--rpe-unit', choices=('s', 'f', 'm'), default='s',
                       help='seconds, frames or metres (default: s)')


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Replay and measure."""
    from thermal_nerf_loc.cli.output import progress_bar, show_note, show_table
    from thermal_nerf_loc.evaluation.study.drive_replay import ReplayRequest
    from thermal_nerf_loc.evaluation.study.study import make_study, run_study
    from thermal_nerf_loc.tracking.node_config import NodeConfig, read_parameter_file

    masks = {'rgb': args.rgb_mask, 'thermal': args.thermal_mask}
    modality = args.modality or (
        read_parameter_file(args.params_file) if args.params_file else NodeConfig()).modality
    request = ReplayRequest(args.map, args.bag[0], args.out, modality, args.through_ros,
                            tuple(args.initial_pose),
                            {'rgb': args.rgb_topic, 'thermal': args.thermal_topic,
                             'odometry': args.odometry_topic, 'imu': args.imu_topic},
                            params_file=args.params_file, rate=args.rate, init=args.init,
                            device=args.device,
                            masks={name: path for name, path in masks.items() if path is not None})
    evaluation = {field: getattr(args, option) for option, field in _EVALUATION.items()}
    plan = make_study(request, args.bag, args.truth, args.compare, args.ablate, evaluation)
    with progress_bar('replay') as progress:
        result = run_study(plan, progress)
    for note in result.notes:
        show_note(note)
    if len(result.table) > 1:
        show_table(result.table)
    return {**result.figures, **_geodetic(args.map, args.out)}


def _geodetic(map_path: Path, out: Path) -> dict[str, Any]:
    """Where on earth the trajectory lies, as a table beside it; {} where the map has no anchor."""
    from thermal_nerf_loc.geometry.geodesy import GeoAnchor
    from thermal_nerf_loc.io.geotags import write_geodetic
    from thermal_nerf_loc.io.trajectory import read_tum
    from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap

    if not map_path.is_file():
        return {}
    anchor = dict(RadianceMap.load(map_path).info.geo_anchor)
    if not anchor or not (out / 'trajectory.tum').is_file():
        return {}
    trajectory = read_tum(out / 'trajectory.tum')
    write_geodetic(out / 'geodetic.csv', trajectory, GeoAnchor(**anchor))
    (last,) = GeoAnchor(**anchor).geodetic(trajectory.poses[-1:, :3, 3]).tolist()
    return {'geodetic': str(out / 'geodetic.csv'),
            'last_geodetic': dict(zip(GeoAnchor._fields, last))}

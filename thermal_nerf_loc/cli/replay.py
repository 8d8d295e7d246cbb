# SPDX-License-Identifier: Apache-2.0
"""`replay M BAG --out DIR`: localize a recorded drive, offline or through the real ROS node."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Request:
    """What to replay, and how."""

    map: Path
    bag: Path
    out: Path
    modality: str = 'both'
    through_ros: bool = False
    initial_pose: tuple[float, ...] = ()  # x y z qx qy qz qw; empty: near the truth
    topics: Mapping[str, str | None] | None = None  # image topic by modality
    truth: Path | None = None
    params_file: Path | None = None
    rate: float = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare."""
    parser.add_argument('map', type=Path, metavar='M', help='map file')
    parser.add_argument('bag', type=Path, metavar='BAG', help='rosbag2 folder, .mcap or .db3')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR',
                        help='folder for trajectory.tum, metrics.json and plots')
    parser.add_argument('--modality', choices=('both', 'rgb', 'thermal'), default='both',
                        help='cameras to use (default: both)')
    parser.add_argument('--through-ros', action='store_true',
                        help='play it over DDS to the real node instead of calling the tracker')
    parser.add_argument('--initial-pose', type=float, nargs=7, default=(),
                        metavar=('X', 'Y', 'Z', 'QX', 'QY', 'QZ', 'QW'),
                        help='pose of the base in the map at the start '
                             '(default: the truth of the bag, disturbed)')
    parser.add_argument('--rgb-topic', metavar='TOPIC', help='(default: /rgb/image_raw)')
    parser.add_argument('--thermal-topic', metavar='TOPIC', help='(default: /thermal/image_raw)')
    parser.add_argument('--truth', type=Path, metavar='FILE',
                        help="TUM file of the base's true poses (default: the bag's "
                             '/ground_truth/pose)')
    parser.add_argument('--params-file', type=Path, metavar='FILE',
                        help='parameters of the node, as ROS reads them')
    parser.add_argument('--rate', type=float, default=1.0,
                        help='times real time, with --through-ros (default: 1)')


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Replay and measure."""
    from thermal_nerf_loc.cli.output import progress_bar
    from thermal_nerf_loc.cli.replaying import replay

    request = Request(args.map, args.bag, args.out, args.modality, args.through_ros,
                      tuple(args.initial_pose),
                      {'rgb': args.rgb_topic, 'thermal': args.thermal_topic}, args.truth,
                      args.params_file, args.rate)
    with progress_bar('replay') as progress:
        return replay(request, progress)

# SPDX-License-Identifier: Apache-2.0
"""`import-bag BAG OUT`: make a data set of the keyframes of a recorded drive."""

import argparse
from collections.abc import Mapping
from pathlib import Path
import time
from typing import Any

from thermal_nerf_loc.cli.options import add_thermal, CAMERA_FILE, radiometry_from
from thermal_nerf_loc.common.errors import RunError

_EPILOG = """\
Reads rosbag2 (mcap or sqlite3; compressed, split) and ROS 1 bags; no ROS is needed.
Exit codes: 0 done; 2 bad input; 3 the bag was cut short: the readable part was imported, and the
error says what is lost."""


class BagWasCut(RunError):
    """The data set is complete, but a part of the bag could not be read."""

    exit_code = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare; what is not given keeps the default of `ImportConfig`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument('bag', type=Path, help='rosbag2 folder, or .mcap, .db3 or .bag file')
    parser.add_argument('out', type=Path, help='folder to make: a data set for `train`')
    topics = parser.add_argument_group('cameras, found by type and name where not named')
    topics.add_argument('--modality', choices=('both', 'rgb', 'thermal'), help='(default: both)')
    topics.add_argument('--rgb-topic', metavar='T', help='Image or CompressedImage')
    topics.add_argument('--thermal-topic', metavar='T')
    topics.add_argument('--rgb-info-topic', metavar='T', help='(default: camera_info beside it)')
    topics.add_argument('--thermal-info-topic', metavar='T')
    topics.add_argument('--cameras', type=Path, metavar='FILE', help='lenses, rig and thermal '
                        'scale in YAML, instead of camera_info and tf '
                        f'(see {CAMERA_FILE})')
    _add_poses(parser.add_argument_group(
        'poses (default: tf from map, else PoseStamped, odometry, tf from odom)'))
    _add_choice(parser.add_argument_group('images'))
    add_thermal(parser.add_argument_group('what thermal counts mean'))


def _add_poses(group: Any) -> None:
    group.add_argument('--poses', type=Path, metavar='FILE', help='TUM trajectory')
    group.add_argument('--pose-topic', metavar='T', help='PoseStamped or Odometry')
    group.add_argument('--world-frame', metavar='F', help='root of the tf chain to the cameras')
    group.add_argument('--pose-frame', metavar='F', help='frame whose poses a file or topic holds '
                       '(default: child_frame_id of Odometry, else base_link)')
    group.add_argument('--poses-from-images', action='store_true', help='by structure from motion '
                       '(pycolmap); the scale is arbitrary')
    group.add_argument('--max-gap', type=float, metavar='S', help='images between poses further '
                       'apart in time are left out (default: 0.5)')


def _add_choice(group: Any) -> None:
    group.add_argument('--min-m', type=float, metavar='M',
                       help='metres from one keyframe to the next (default: 0.1)')
    group.add_argument('--min-deg', type=float, metavar='DEG',
                       help='or degrees of turning (default: 5)')
    group.add_argument('--max-frames', type=int, metavar='N', help='(default: 400)')
    group.add_argument('--max-skew', type=float, metavar='S', help='between an RGB image and its '
                       'thermal one (default: 0.05); each gets the pose at its own stamp')
    group.add_argument('--hold-out', type=int, metavar='N',
                       help='every Nth frame is held out (default: 8)')
    group.add_argument('--rectify', action='store_true',
                       help='write pinhole images (default: distortion is kept)')


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Import; for a bag that was cut short the exit code is 3, and the figures are shown too."""
    from thermal_nerf_loc.cli import output
    from thermal_nerf_loc.importers.bags.importer import import_bag

    config, start = configure(args), time.monotonic()
    with output.progress_bar('import a bag') as progress:
        done = import_bag(args.bag, args.out, config, progress)
    seconds = time.monotonic() - start
    for note in done.notes:
        output.show_note(note)
    figures = {**done.figures, 'seconds': seconds,
               'realtime_factor': done.figures['bag_seconds'] / seconds}
    if done.loss:
        if args.json is not None:
            from thermal_nerf_loc.io.atomic_files import write_json
            write_json(args.json, figures)
        output.show_figures(args.command, figures)
        raise BagWasCut('bag was cut short; its readable part was imported', where=args.bag,
                        got=done.loss)
    return figures


def configure(args: argparse.Namespace) -> Any:
    """Turn the arguments into an `ImportConfig`."""
    from thermal_nerf_loc.importers.bags.importer import ImportConfig
    from thermal_nerf_loc.importers.bags.keyframe_selection import KeyframeRule
    from thermal_nerf_loc.importers.bags.pose_choice import PoseOptions

    def given(**names: str) -> dict[str, Any]:
        values = {field: getattr(args, name) for field, name in names.items()}
        return {field: value for field, value in values.items() if value is not None}

    topics = ('rgb_topic', 'thermal_topic', 'rgb_info_topic', 'thermal_info_topic')
    return ImportConfig(
        **given(modality='modality', cameras='cameras', max_skew_s='max_skew',
                hold_out='hold_out', **{name: name for name in topics}),
        poses=PoseOptions(**given(file='poses', topic='pose_topic', world='world_frame',
                                  frame='pose_frame', max_gap_s='max_gap'),
                          from_images=args.poses_from_images),
        keyframes=KeyframeRule(**given(min_m='min_m', min_deg='min_deg',
                                       max_frames='max_frames')),
        rectify=args.rectify, radiometry=radiometry_from(args),
        radiometric=not args.not_radiometric)

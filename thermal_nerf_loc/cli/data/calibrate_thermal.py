# SPDX-License-Identifier: Apache-2.0
"""`calibrate-thermal SOURCE OUT`: lens, rig and time offset of a thermal camera, as YAML."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thermal_nerf_loc.cli.options import CAMERA_FILE

_EPILOG = """\
SOURCE and what it gives:
  images, a video, a stack or a bag of a board (--board): the thermal lens; with RGB images (rgb/,
    --rgb, or a topic) also the RGB lens and the rig
  a bag in which the rig is turned back and forth (no --board): the time offset
  a data set with poses (the folder of a transforms.json): lens, rig, time offset (--what), by
    points that its images share
OUT is a camera file, for --cameras; what a former one says is kept (--cameras)."""

_WHAT = ('intrinsics', 'rig', 'time', 'poses')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument('source', type=Path, metavar='SOURCE', help='images, bag or data set')
    parser.add_argument('out', type=Path, metavar='OUT', help='camera file to write (.yaml)')
    parser.add_argument('--cameras', type=Path, metavar='FILE', help='lenses and rig known so far '
                        f'(see {CAMERA_FILE})')
    board = parser.add_argument_group('a board')
    board.add_argument('--board', choices=('chessboard', 'circles', 'asymmetric-circles'))
    board.add_argument('--size', type=_size, metavar='CxR', help='inner corners of a chessboard, '
                       'or circles: columns x rows, 9x6 say')
    board.add_argument('--spacing', type=float, metavar='M', help='metres between corners or '
                       'circles (of asymmetric ones: half of that in a row)')
    board.add_argument('--rgb', type=Path, metavar='FOLDER', help='RGB images of the same board, '
                       'paired by name or order')
    board.add_argument('--report', type=Path, metavar='FILE', help='write the residuals as a '
                       'picture (.png)')
    other = parser.add_argument_group('a bag, a data set')
    other.add_argument('--rgb-topic', metavar='T')
    other.add_argument('--thermal-topic', metavar='T')
    other.add_argument('--max-offset', type=float, metavar='S', default=1.0,
                       help='largest time offset that is tried (default: 1)')
    other.add_argument('--what', type=lambda text: tuple(text.split(',')), metavar='WHAT',
                       help=f'any of {",".join(_WHAT)} (default: intrinsics,rig; of thermal '
                       'images alone intrinsics)')
    other.add_argument('--into', type=Path, metavar='FILE', help='also write the transforms.json '
                       'of a data set anew, with these cameras: a file beside it')


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Calibrate, write, tell the line for tf."""
    from thermal_nerf_loc.cli import output
    from thermal_nerf_loc.common.errors import InputError
    from thermal_nerf_loc.io.atomic_files import write_atomically
    from thermal_nerf_loc.io.datasets.camera_file import read_rig, write_rig
    from thermal_nerf_loc.mapping.calibration.report import residual_picture, static_transform

    if args.out.suffix.lower() not in ('.yaml', '.yml'):
        raise InputError('is no name of a camera file', where=args.out, expected='FILE.yaml')
    rig = read_rig(args.cameras)
    with output.progress_bar('calibrate') as progress:
        done = _calibration(args, rig, progress)
    for note in done.notes:
        output.show_note(note)
    write_rig(args.out, done.rig, f'By calibrate-thermal from {args.source.name}.')
    figures = {'cameras': str(args.out), **done.figures}
    T = done.rig['thermal'].T_rgb_sensor
    if T is not None:
        figures['static_transform'] = static_transform(T, 'rgb_optical', 'thermal_optical')
    if args.report is not None:
        if not done.fits:
            raise InputError('only a board gives a picture of residuals', where='--report')
        write_atomically(args.report, residual_picture(done.fits))
        figures['report'] = str(args.report)
    if args.into is not None:
        figures['data'] = str(_write_into(args, done))
    return figures


def _calibration(args: argparse.Namespace, rig: Any, progress: Any) -> Any:
    from thermal_nerf_loc.common.errors import InputError
    from thermal_nerf_loc.mapping.calibration import calibrate
    from thermal_nerf_loc.mapping.calibration.board import Board, check_board

    topics = {name: topic for name, topic in (('rgb', args.rgb_topic),
                                              ('thermal', args.thermal_topic)) if topic}
    if args.board is not None:
        if args.size is None or args.spacing is None:
            raise InputError('board is not described', expected='--size CxR and --spacing M')
        columns, rows = args.size
        board = Board(args.board, columns, rows, args.spacing)
        check_board(board)
        return calibrate.by_board(args.source, board, rig, args.rgb, topics, progress)
    if calibrate.is_bag(args.source):
        return calibrate.by_turning(args.source, rig, topics, args.max_offset, progress)
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    if not (args.source.name.endswith('.json') or (args.source / 'transforms.json').is_file()):
        raise InputError('source is not known', where=args.source, expected='a bag, or a data '
                         'set with poses; of images of a board: --board, --size, --spacing')
    scene = load_scene(args.source)
    what = args.what or (('intrinsics', 'rig') if len(scene.modalities) > 1 else ('intrinsics',))
    return calibrate.by_data_set(scene, what, rig, progress)


def _write_into(args: argparse.Namespace, done: Any) -> Path:
    """Write a data set's description anew, beside the old one."""
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    from thermal_nerf_loc.io.datasets.refined_dataset import (
        check_refined_path, with_rig, write_refined)

    source = args.into.parent
    check_refined_path(source, args.into)
    scene = done.scene if done.scene is not None else with_rig(load_scene(source), done.rig)
    write_refined(source, scene, args.into)
    path: Path = args.into
    return path


def _size(text: str) -> tuple[int, int]:
    from thermal_nerf_loc.cli.options import image_size
    return image_size(text)

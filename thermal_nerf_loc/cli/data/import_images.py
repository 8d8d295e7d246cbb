# SPDX-License-Identifier: Apache-2.0
"""`import-images DIR OUT`: make a data set of image folders, thermal series, phones."""

import argparse
from collections.abc import Mapping
from pathlib import Path
import time
from typing import Any

from thermal_nerf_loc.cli.options import add_thermal, CAMERA_FILE, radiometry_from

_EPILOG = """\
DIR holds RGB images, or the folders rgb/ and thermal/, or thermal images alone: the folder
thermal/, radiometric JPEGs (FLIR, DJI), a TIFF stack or a video, which DIR may also be itself. Or
DIR is a phone's recording with poses and depth: Record3D's FILE.r3d, Polycam's raw data, or a
transforms.json; --thermal FOLDER adds a thermal camera's images by the time in their names.
Poses are found by pycolmap (pip install 'pycolmap>=4.0') from the RGB images, or from the thermal
ones alone; --poses takes others. Without --camera-positions, --distance or --tag-size the scale is
that of positions in the images' headers (GPS, RTK), else arbitrary."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare; what is not given keeps the default of `ImageImportConfig`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument('dir', type=Path, metavar='DIR',
                        help='folder with images, a thermal video or stack, or a '
                        "phone's recording")
    parser.add_argument('out', type=Path, help='folder to make: a data set for `train`')
    images = parser.add_argument_group('images')
    images.add_argument('--rgb', type=Path, metavar='FOLDER', help='in DIR or elsewhere '
                        '(default: DIR/rgb, color, images, ..., else DIR)')
    images.add_argument('--thermal', type=Path, metavar='FOLDER',
                        help='(default: DIR/thermal, infrared, ir or lwir)')
    images.add_argument('--pair', choices=('auto', 'name', 'order'), help='RGB and thermal '
                        'images by name or by order (default: by name, else by order)')
    images.add_argument('--cameras', type=Path, metavar='FILE', help='lenses, rig and thermal '
                        f'scale in YAML (see {CAMERA_FILE}); beside RGB images the thermal lens '
                        'must be in it')
    images.add_argument('--every', type=float, metavar='S', help='of a thermal video: one image '
                        'in so many seconds, the sharpest (default: 0.2)')
    images.add_argument('--max-images', type=int, metavar='N', help='of thermal images alone, or '
                        'of a phone: of more, so many of the sharpest (default: 400)')
    images.add_argument('--hold-out', type=int, metavar='N',
                        help='every Nth frame is held out (default: 8)')
    _add_poses(parser.add_argument_group('poses'))
    _add_scale(parser.add_argument_group('metric scale, from one of these'))
    add_thermal(parser.add_argument_group('what thermal counts mean'))


def _add_poses(group: Any) -> None:
    group.add_argument('--poses', type=Path, metavar='FILE', help='of the RGB camera, instead of '
                       "pycolmap's: a TUM file, or the folder of a COLMAP model")
    group.add_argument('--lens', metavar='MODEL', help='lens model to estimate: OPENCV (default; '
                       'thermal images alone: RADIAL, of fewer than 30 SIMPLE_RADIAL), '
                       'OPENCV_FISHEYE, PINHOLE, RADIAL, SIMPLE_PINHOLE, SIMPLE_RADIAL')
    group.add_argument('--matching', choices=('auto', 'all', 'neighbours'), help='which images '
                       'are compared (default: all pairs of up to 150 images, else neighbours)')
    group.add_argument('--keep-frame', action='store_true', help='leave z = 0 at the mean height '
                       'of the cameras (default: on the floor, where the points show one)')


def _add_scale(group: Any) -> None:
    group.add_argument('--camera-positions', type=Path, metavar='FILE', help='lines `name x y z`; '
                       'the poses are turned and scaled to them')
    group.add_argument('--distance', nargs=3, action='append', default=[],
                       metavar=('NAME_A', 'NAME_B', 'METRES'), help='between the cameras of two '
                       'images; may be given again')
    group.add_argument('--tag-size', type=float, metavar='M', help='edge of the black square of '
                       'tags that stand in the scene')
    group.add_argument('--tag-family', metavar='F', help='apriltag-36h11 (default), '
                       'apriltag-25h9, apriltag-16h5, aruco-4x4, aruco-5x5, aruco-6x6, '
                       'aruco-original')


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Import."""
    from thermal_nerf_loc.cli import output
    from thermal_nerf_loc.importers.images.importer import import_images

    config, start = configure(args), time.monotonic()
    with output.progress_bar('import images') as progress:
        done = import_images(args.dir, args.out, config, progress)
    for note in done.notes:
        output.show_note(note)
    return {**done.figures, 'seconds': time.monotonic() - start}


def configure(args: argparse.Namespace) -> Any:
    """Turn the arguments into an `ImageImportConfig`."""
    from thermal_nerf_loc.importers.images.importer import ImageImportConfig

    given = {'rgb': args.rgb, 'thermal': args.thermal, 'pair': args.pair, 'cameras': args.cameras,
             'poses': args.poses, 'lens': args.lens, 'matching': args.matching,
             'positions': args.camera_positions, 'tag_size_m': args.tag_size,
             'tag_family': args.tag_family, 'hold_out': args.hold_out, 'every_s': args.every,
             'max_images': args.max_images}
    return ImageImportConfig(
        **{name: value for name, value in given.items() if value is not None},
        distances=tuple(map(_distance, args.distance)), radiometry=radiometry_from(args),
        radiometric=not args.not_radiometric, keep_frame=args.keep_frame)


def _distance(words: list[str]) -> Any:
    from thermal_nerf_loc.common.errors import InputError
    from thermal_nerf_loc.importers.images.metric_scale import Distance
    try:
        return Distance(words[0], words[1], float(words[2]))
    except ValueError:
        raise InputError('distance is no number', where='--distance',
                         expected='NAME_A NAME_B METRES', got=' '.join(words)) from None

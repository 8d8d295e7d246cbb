# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share: image sizes, the device, and the thermal scale."""

import argparse
from typing import Any

# Names of `sensing.thermal_cameras.KNOWN_CAMERAS`, which would load numpy; a test compares them.
THERMAL_CAMERAS = ('flir-boson', 'flir-lepton', 'flir-lepton-0.1k', 'flir-a-series',
                   'flir-a-series-100mk', 'flir-ax5', 'flir-ax5-low', 'optris-pi', 'dji-m2ea',
                   'seek')
CAMERA_FILE = 'docs/reference/file_formats.md, camera file'  # where its keys are described


def image_size(text: str) -> tuple[int, int]:
    """`160x120` to (160, 120)."""
    width, cross, height = text.lower().partition('x')
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f'{text!r} is no image size such as 160x120')
    return int(width), int(height)


def add_device(parser: Any, default: str | None = 'auto') -> None:
    """Declare where a command renders or trains; None keeps what a file of settings says."""
    parser.add_argument('--device', choices=('auto', 'cpu', 'cuda'), default=default,
                        help='processor or GPU; auto: the GPU where torch sees one '
                        '(default: auto)')


def add_thermal(group: Any) -> None:
    """Declare the options of the thermal scale, for both importers."""
    group.add_argument('--thermal-camera', metavar='NAME', help=', '.join(THERMAL_CAMERAS)
                       + ': see docs/reference/thermal_cameras.md')
    group.add_argument('--celsius-per-count', type=float, metavar='C')
    group.add_argument('--celsius-offset', type=float, metavar='C', help='deg C at count zero')
    group.add_argument('--not-radiometric', action='store_true',
                       help='AGC or raw counts: no temperatures')


def radiometry_from(args: argparse.Namespace) -> Any:
    """The temperature scale that the options give; None: none of them was given."""
    from thermal_nerf_loc.common.errors import InputError
    from thermal_nerf_loc.sensing.thermal import LinearRadiometry
    from thermal_nerf_loc.sensing.thermal_cameras import radiometry_of

    linear = args.celsius_per_count, args.celsius_offset
    ways = [args.thermal_camera is not None, any(value is not None for value in linear),
            args.not_radiometric]
    if sum(ways) > 1:
        raise InputError('thermal scale is given twice', expected='one of --thermal-camera, '
                         '--celsius-per-count with --celsius-offset, --not-radiometric')
    if args.thermal_camera is not None:
        return radiometry_of(args.thermal_camera)
    if not ways[1]:
        return None
    if None in linear:
        raise InputError('half a thermal scale is given',
                         expected='--celsius-per-count and --celsius-offset')
    return LinearRadiometry(*linear)

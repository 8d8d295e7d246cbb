# SPDX-License-Identifier: Apache-2.0
"""`simulate OUT`: make a data set of a simulated scene, and with `--bag` a drive through it."""

import argparse
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
import time
from typing import Any

from thermal_nerf_loc.cli.options import image_size
from thermal_nerf_loc.common.errors import InputError

_OPTIONS = ('scene', 'seed', 'frames', 'size', 'thermal_size', 'trajectory', 'seconds', 'storage',
            'clean', 'distorted', 'supersampling', 'survey', 'processes', 'imu_hz')
_PLANT = {'area': 'area', 'floors': 'floors', 'plant_seed': 'seed', 'outdoors': 'outdoors'}
_FRAMES_PER_M2 = 1.5  # of a plant, unless --frames is given
_PERTURBATIONS = {
    'pose_deg': ('DEG', 'RMS rotation error of the poses in the data set (default: 0)'),
    'pose_m': ('M', 'RMS position error of these poses, metres (default: 0)'),
    'rig_deg': ('DEG', 'rotation error of the thermal camera in the rig of the data set'),
    'rig_m': ('M', 'position error of the thermal camera in that rig, metres'),
    'unposed': ('SHARE', 'leave out the poses of this share of the training frames'),
    'thermal_delay_s': ('S', 'take thermal images later than they are stamped')}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare; what is not given keeps the default of `SimulationConfig`."""
    parser.add_argument('out', type=Path, help='folder to make; the bag becomes OUT/bag')
    parser.add_argument('--scene', metavar='NAME',
                        help='room, hall, machine_room, or plant: floors of rooms and corridors '
                        '(default: room)')
    parser.add_argument('--area', type=_area, metavar='LxW',
                        help='size of a floor of the plant, metres (default: 40x25)')
    parser.add_argument('--floors', type=int, metavar='N', help='of the plant (default: 1)')
    parser.add_argument('--plant-seed', type=int, metavar='N',
                        help='what the plant is drawn from (default: 0)')
    parser.add_argument('--outdoors', action='store_true', default=None,
                        help='in the plant: a way along the facade as well')
    parser.add_argument('--processes', type=int, metavar='N',
                        help='that take images (default: one a core for many images)')
    parser.add_argument('--seed', type=int, help='seed of paths and sensor noise (default: 0)')
    parser.add_argument('--frames', type=int, metavar='N',
                        help='training frames; a fifth as many are held out besides (default: 80; '
                        f'in a plant {_FRAMES_PER_M2} for each square metre)')
    parser.add_argument('--size', type=image_size, metavar='WxH',
                        help='RGB image size (default: 160x120)')
    parser.add_argument('--thermal-size', type=image_size, metavar='WxH',
                        help='thermal image size (default: 3/4 of the RGB size)')
    parser.add_argument('--darkness', type=float, metavar='D',
                        help='0: lit, 1: pitch black (default: 0)')
    parser.add_argument('--trajectory', choices=('drone', 'planar'),
                        help='how the robot moves (default: drone)')
    parser.add_argument('--survey', action='store_true', default=None,
                        help='train on views from everywhere in free space, in all directions')
    parser.add_argument('--later', nargs='?', const='all', metavar='WHAT',
                        help='the same scene and paths some time later: heat, light, furniture, '
                        'people, or some of them with commas (default: all)')
    parser.add_argument('--distorted', action='store_true', default=None,
                        help='give the RGB camera a lens with distortion')
    parser.add_argument('--clean', action='store_true', default=None,
                        help='perfect cameras and odometry')
    parser.add_argument('--supersampling', type=int, metavar='N',
                        help='rays along each side of a pixel (default: 2)')
    for name, meaning in _PERTURBATIONS.items():
        parser.add_argument(f'--{name.replace("_", "-")}', type=float, metavar=meaning[0],
                            help=meaning[1])
    parser.add_argument('--vignetting', type=float, metavar='C',
                        help='by how many deg C a thermal image is too cold in its corners '
                        '(default: 0.6)')
    parser.add_argument('--drift', type=float, metavar='C',
                        help='drift of the thermal camera, deg C per second (default: 0.03)')
    parser.add_argument('--bag', action='store_true',
                        help='record a rosbag2 of a drive on another path as well')
    parser.add_argument('--seconds', type=float, metavar='S', help='length of the bag '
                        '(default: 20)')
    parser.add_argument('--imu-hz', type=float, metavar='HZ', help='IMU samples a second in the '
                        'bag, on /imu/data (default: 0, no IMU)')
    parser.add_argument('--storage', choices=('mcap', 'sqlite3'),
                        help='storage of the bag (default: mcap)')
    parser.add_argument('--config', type=Path, metavar='FILE', help='YAML file with any setting')


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Simulate and write."""
    from thermal_nerf_loc.cli.output import progress_bar
    from thermal_nerf_loc.common.config import load_yaml
    from thermal_nerf_loc.simulation.record import (
        held_out_frames, scene_changes, simulate_bag, simulate_dataset, SimulationConfig)
    from thermal_nerf_loc.simulation.scene_changes import CHANGES

    settings = load_yaml(SimulationConfig, args.config) if args.config else SimulationConfig()
    given = {name: getattr(args, name) for name in _OPTIONS if getattr(args, name) is not None}
    if args.darkness is not None:
        given['rgb'] = replace(settings.rgb, darkness=args.darkness)
    plant = {field: getattr(args, option) for option, field in _PLANT.items()
             if getattr(args, option) is not None}
    if plant and given.get('scene', settings.scene) != 'plant':
        raise InputError('only a plant has a size', where='simulate',
                         expected='--scene plant beside --area, --floors, --outdoors or '
                         '--plant-seed')
    given['plant'] = replace(settings.plant, **plant)
    if given.get('scene', settings.scene) == 'plant' and args.frames is None:
        length, width = given['plant'].area
        given['frames'] = max(40, round(_FRAMES_PER_M2 * length * width * given['plant'].floors))
    given['spoil'] = replace(settings.spoil,
                             **_chosen(args, {name: name for name in _PERTURBATIONS}))
    given['thermal'] = replace(settings.thermal, **_chosen(args, {
        'vignetting': 'vignetting_celsius', 'drift': 'drift_celsius_per_s'}))
    if args.later is not None:
        given['later'] = CHANGES if args.later == 'all' else tuple(args.later.split(','))
    settings = replace(settings, **given)
    start = time.monotonic()
    with progress_bar('simulate a mapping') as progress:
        simulate_dataset(args.out, settings, progress)
    frames, held_out = settings.frames, held_out_frames(settings)
    seconds = time.monotonic() - start
    figures: dict[str, Any] = {
        'data': str(args.out), 'scene': settings.scene, 'train_frames': frames,
        'test_frames': held_out, 'seconds': seconds,
        'frames_per_second': (frames + held_out) / seconds}
    if settings.later:
        figures['changes'] = [asdict(change) for change in scene_changes(settings)]
    if args.bag:
        with progress_bar('simulate a drive') as progress:
            simulate_bag(args.out / 'bag', settings, progress)
        figures |= {'bag': str(args.out / 'bag'), 'bag_seconds': settings.seconds,
                    'bag_realtime_factor': settings.seconds / (time.monotonic() - start - seconds)}
    return figures


def _area(text: str) -> tuple[float, float]:
    try:
        length, width = (float(side) for side in text.lower().split('x'))
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is no area such as 40x25') from None
    return length, width


def _chosen(args: argparse.Namespace, fields: Mapping[str, str]) -> dict[str, float]:
    """Options that were given, under the names of their settings."""
    return {field: getattr(args, option) for option, field in fields.items()
            if getattr(args, option) is not None}

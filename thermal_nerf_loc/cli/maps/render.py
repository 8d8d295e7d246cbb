# SPDX-License-Identifier: Apache-2.0
"""`render M --out FILE`: render a camera path through a map as a video, or one picture."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thermal_nerf_loc.cli.options import add_device, image_size
from thermal_nerf_loc.common.errors import InputError

_MOST_FRAMES = 100_000
_PATHS = ('keyframes', 'orbit')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare."""
    parser.add_argument('map', type=Path, metavar='M', help='map file')
    parser.add_argument('--out', type=Path, required=True, metavar='FILE|DIR',
                        help='FILE.mp4, FILE.webm (which browsers play), a folder for PNG files; '
                             'FILE.png with --pose')
    parser.add_argument('--path', default='keyframes', metavar='PATH',
                        help="keyframes: through the map's own views; orbit: a circle; or a TUM "
                             'file (default: keyframes)')
    parser.add_argument('--axes', choices=('base', 'camera'),
                        help="of the TUM file's poses: base has x ahead and z up, as `replay` "
                             'writes it; camera has z ahead (default: base)')
    parser.add_argument('--pose', metavar='POSE',
                        help='one picture from this camera: "x y z qx qy qz qw", or a file')
    parser.add_argument('--what', metavar='LIST',
                        help='some of colour,temperature,depth,uncertainty (default: all that '
                             'the map has, except uncertainty)')
    parser.add_argument('--size', type=image_size, default=(320, 240), metavar='WxH',
                        help='size of one picture (default: 320x240)')
    parser.add_argument('--fov', type=float, default=70.0, metavar='DEG',
                        help='horizontal field of view (default: 70)')
    parser.add_argument('--fps', type=float, default=15.0, help='frames a second (default: 15)')
    parser.add_argument('--seconds', type=float, metavar='S',
                        help="length of the video (default: 10; a TUM file's own duration)")
    parser.add_argument('--celsius', metavar='LOW,HIGH',
                        help='ends of the temperature scale (default: fitted to the path)')
    add_device(parser)


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Choose the path, render along it, write."""
    _check(args)
    from thermal_nerf_loc.geometry.camera import Camera
    from thermal_nerf_loc.mapping.tiles.map_loading import load_map
    from thermal_nerf_loc.visualization.panels import shown_kinds

    celsius = _celsius(args.celsius)
    camera = Camera.from_fov(args.size[0], args.size[1], args.fov)
    _check_output(args)
    renderer = load_map(args.map, device=args.device)
    kinds = shown_kinds(renderer, args.what.split(',') if args.what else None)
    poses = _poses(args, renderer)
    figures = _write(args, renderer, camera, poses, kinds, celsius)
    return {'out': str(args.out), 'frames': len(poses), 'shown': ', '.join(kinds), **figures}


def _write(args: argparse.Namespace, renderer: Any, camera: Any, poses: Any,
           kinds: tuple[str, ...], celsius: tuple[float, float] | None) -> dict[str, Any]:
    import time

    from thermal_nerf_loc.cli.output import progress_bar
    from thermal_nerf_loc.io.images import write_png
    from thermal_nerf_loc.io.video import movie
    from thermal_nerf_loc.visualization.panels import Panels, render_kinds, scales_for

    start = time.monotonic()
    with progress_bar('render') as progress:
        scales = scales_for(renderer, camera, poses, kinds, celsius)
        panels = Panels(kinds, args.size, scales)
        if args.pose is not None:
            write_png(args.out, panels.compose(render_kinds(renderer, camera, poses[0], kinds)))
        else:
            with movie(args.out, panels.size, args.fps) as write:
                for done, T in enumerate(poses, start=1):
                    write(panels.compose(render_kinds(renderer, camera, T, kinds)))
                    progress(done, len(poses), f'{done} of {len(poses)} frames')
    seconds = time.monotonic() - start
    ends = {f'{kind}_{scale.unit}': f'{scale.low:.2f} to {scale.high:.2f}'
            for kind, scale in scales.items()}
    return {'width': panels.size[0], 'height': panels.size[1], **ends, 'seconds': seconds,
            'frames_per_second': len(poses) / seconds}


def _poses(args: argparse.Namespace, renderer: Any) -> Any:
    """Camera poses (n, 4, 4)."""
    from thermal_nerf_loc.io.trajectory import parse_pose, read_tum
    from thermal_nerf_loc.visualization.camera_path import (
        orbit_path, sample_trajectory, spline_path, T_BASE_CAM)

    if args.pose is not None:
        return parse_pose(args.pose, '--pose')[None]
    if args.path in _PATHS:
        keyframes = renderer.keyframes.poses
        if not len(keyframes):
            raise InputError('map has no keyframes for a path', where=args.map,
                             hint='Give a TUM file: --path FILE.')
        path = spline_path if args.path == 'keyframes' else orbit_path
        return path(keyframes, _count(args, 10.0))
    if not Path(args.path).exists():
        raise InputError('no such path', where='--path', got=args.path,
                         expected=f'{", ".join(_PATHS)} or a TUM file')
    trajectory = read_tum(Path(args.path))
    poses = sample_trajectory(trajectory, _count(args, trajectory.duration_ns * 1e-9))
    return poses @ T_BASE_CAM if args.axes != 'camera' else poses


def _count(args: argparse.Namespace, seconds: float) -> int:
    count = int(round((args.seconds or seconds) * args.fps))
    if count > _MOST_FRAMES:
        raise InputError('video would be too long', expected=f'at most {_MOST_FRAMES} frames',
                         got=count, hint='Give --seconds: the path is gone through faster.')
    return max(1, count)


def _check(args: argparse.Namespace) -> None:
    for name, low, high in (('fps', 0.1, 240.0), ('seconds', 0.01, 1e5), ('fov', 1.0, 170.0)):
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            raise InputError('is out of range', where=f'--{name}', expected=f'{low:g} to {high:g}',
                             got=value)
    if args.axes is not None and (args.pose is not None or args.path in _PATHS):
        raise InputError('--axes belongs to a TUM file', where='--axes', got=args.axes,
                         hint='Leave it out.')


def _check_output(args: argparse.Namespace) -> None:
    from thermal_nerf_loc.io.atomic_files import check_writable
    from thermal_nerf_loc.io.video import check_movie

    if args.pose is None:
        check_movie(args.out)
        return
    if args.out.suffix.lower() != '.png':
        raise InputError('one picture is a PNG', where='--out',
                         expected='a name that ends in .png', got=args.out)
    check_writable(args.out)


def _celsius(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(word) for word in text.split(','))
    except ValueError:
        low = high = 0.0
    if not -273.15 <= low < high < 1e5:
        raise InputError('is no range of temperatures', where='--celsius',
                         expected='LOW,HIGH in deg C such as 15,40', got=text)
    return low, high

# SPDX-License-Identifier: Apache-2.0
"""`view M`: serve an interactive page of a map, until Ctrl-C."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thermal_nerf_loc.cli.options import add_device
from thermal_nerf_loc.common.errors import InputError

_PORT = 8080
_SPACING, _CAMERA_PX = 1.5, (64, 48)  # coarser than an export: the user waits for it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare."""
    parser.add_argument('map', type=Path, metavar='M', help='map file')
    parser.add_argument('--trajectory', type=Path, action='append', metavar='T.tum', default=[],
                        help='TUM file to show as a line; may be given several times')
    parser.add_argument('--port', type=int, metavar='N',
                        help=f'port to serve on (default: {_PORT} or the next that is free)')
    parser.add_argument('--host', default='127.0.0.1', metavar='ADDRESS',
                        help='address to serve on; 0.0.0.0 lets other machines in '
                             '(default: 127.0.0.1)')
    add_device(parser)


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Render the map's points, serve the page, wait for Ctrl-C."""
    import threading

    from thermal_nerf_loc.cli.output import progress_bar, show_note
    from thermal_nerf_loc.geometry.camera import Camera
    from thermal_nerf_loc.io.trajectory import read_tum
    from thermal_nerf_loc.mapping.tiles.map_loading import load_map
    from thermal_nerf_loc.visualization.surface_export import default_spacing_m, surface_points
    from thermal_nerf_loc.visualization.viewer import Content, find_viser, Viewer

    find_viser()  # before the long part starts
    port = _free_port(args.host, args.port)
    trajectories = {path.name: read_tum(path) for path in args.trajectory}
    renderer = load_map(args.map, device=args.device)
    with progress_bar('find surface points') as progress:
        surface = surface_points(renderer, _SPACING * default_spacing_m(renderer), progress,
                                 Camera.from_fov(*_CAMERA_PX, 70.0))
    viewer = Viewer(Content(renderer, surface, trajectories), args.host, port)
    try:
        show_note(f'{renderer.name}: http://{args.host}:{viewer.port}  (Ctrl-C ends it)')
        threading.Event().wait()
    except KeyboardInterrupt:  # how the command ends
        pass
    finally:
        viewer.close()
    return {'map': str(args.map), 'points': len(surface), 'trajectories': len(trajectories),
            'rays_per_second': viewer.live.rays_per_second}


def _free_port(host: str, port: int | None) -> int:
    """Refuse a port that is given but not free: viser would silently take another one."""
    import socket

    if port is None:
        return _PORT
    if not 1 <= port <= 65535:
        raise InputError('is out of range', where='--port', expected='1 to 65535', got=port)
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise InputError('cannot be served on', where=f'{host} port {port}',
                         got=error.strerror or str(error), hint='Choose another --port.') from None
    return port

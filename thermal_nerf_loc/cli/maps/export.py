# SPDX-License-Identifier: Apache-2.0
"""`export M OUT.ply`: the map's surface for other programs."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thermal_nerf_loc.common.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare."""
    parser.add_argument('map', type=Path, metavar='M', help='map file')
    parser.add_argument('out', type=Path, metavar='OUT.ply', help='file to write')
    parser.add_argument('--what', choices=('points', 'mesh'), default='points',
                        help='points with normals, or triangles (default: points)')
    parser.add_argument('--colours', choices=('colour', 'temperature'),
                        help='what red, green and blue show (default: colour, where the map has '
                             'it); the temperature is a property of its own as well')
    parser.add_argument('--spacing', type=float, metavar='METRES',
                        help="between points, or a mesh's voxels (default: a 200th of the map's "
                             'box; twice that for a mesh)')


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Find the surface, write it."""
    from thermal_nerf_loc.io.atomic_files import check_writable
    from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
    from thermal_nerf_loc.sensing.frame import RGB, THERMAL

    if args.out.suffix.lower() != '.ply':
        raise InputError('is no name for a PLY file', where=args.out,
                         expected='a name that ends in .ply')
    if args.spacing is not None and not 1e-6 < args.spacing < 1e6:
        raise InputError('is out of range', where='--spacing', expected='more than 0',
                         got=args.spacing)
    check_writable(args.out)
    renderer = RadianceMap.load(args.map)
    needed = {'colour': RGB, 'temperature': THERMAL}
    if args.colours is not None and needed[args.colours] not in renderer.modalities:
        raise InputError(f'map has no {args.colours}', where=args.map,
                         expected=' or '.join(k for k, m in needed.items()
                                              if m in renderer.modalities), got=args.colours)
    return _export(args, renderer)


def _export(args: argparse.Namespace, renderer: Any) -> dict[str, Any]:
    import time

    from thermal_nerf_loc.cli.output import progress_bar
    from thermal_nerf_loc.visualization.mesh import write_ply
    from thermal_nerf_loc.visualization.surface_export import (
        colour_points, default_spacing_m, estimate_normals, surface_mesh, surface_points)

    start, normals, faces = time.monotonic(), None, None
    spacing_m = args.spacing or default_spacing_m(renderer) * (1 + (args.what == 'mesh'))
    with progress_bar('find surface points') as progress:
        surface = surface_points(renderer, spacing_m, progress)
    if args.what == 'mesh':
        with progress_bar('fuse') as progress:
            mesh, surface = surface_mesh(renderer, surface, spacing_m, progress)
        faces = mesh.faces
    elif surface.seen_from_m is not None:
        normals = estimate_normals(surface.points_m, surface.seen_from_m)
    coloured = colour_points(renderer, surface, args.colours == 'temperature')
    scale = coloured.scale
    meaning = ('colours: as seen' if scale is None else
               f'colours: {scale.low:.2f} to {scale.high:.2f} {scale.unit.replace("°", "deg ")}')
    write_ply(args.out, surface.points_m, coloured.colours, normals, surface.celsius, faces,
              [f'map {renderer.name}, metres', meaning])
    extent = surface.points_m.max(axis=0) - surface.points_m.min(axis=0)
    return {'out': str(args.out), 'points': len(surface),
            'triangles': None if faces is None else len(faces), 'spacing_m': spacing_m,
            'extent_m': ' x '.join(f'{side:.2f}' for side in extent), 'shown': meaning,
            'megabytes': args.out.stat().st_size / 1e6, 'seconds': time.monotonic() - start}

# SPDX-License-Identifier: Apache-2.0
"""`export M OUT`: the map's surface for other programs, or its occupancy grid for Nav2."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thermal_nerf_loc.cli.options import add_device
from thermal_nerf_loc.common.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare."""
    parser.add_argument('map', type=Path, metavar='M', help='map file')
    parser.add_argument('out', type=Path, metavar='OUT', help='file to write: a name that ends '
                        'in .ply; with --grid in .yaml')
    parser.add_argument('--what', choices=('points', 'mesh'), default='points',
                        help='points with normals, or triangles (default: points)')
    parser.add_argument('--colours', choices=('colour', 'temperature'),
                        help='what red, green and blue show (default: colour, where the map has '
                             'it); the temperature is a property of its own as well')
    parser.add_argument('--spacing', type=float, metavar='METRES',
                        help="between points, or a mesh's voxels (default: a 200th of the map's "
                             'box; twice that for a mesh)')
    grid = parser.add_argument_group('occupancy grid')
    grid.add_argument('--grid', action='store_true', help="Nav2's map: OUT.yaml with an image, "
                      'and the temperatures beside them (OUT_heat)')
    grid.add_argument('--resolution', type=float, metavar='METRES', help='edge of a cell '
                      '(default: 0.05)')
    grid.add_argument('--heights', type=float, nargs=2, metavar=('LOW', 'HIGH'), help='above the '
                      'floor, between which a surface is an obstacle (default: 0.1 1.8)')
    grid.add_argument('--fov', type=float, metavar='DEG', help='horizontal field of view of the '
                      'cameras that saw the place (default: 70)')
    add_device(parser)


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Find the surface, write it."""
    from thermal_nerf_loc.io.atomic_files import check_writable
    from thermal_nerf_loc.mapping.tiles.map_loading import load_map
    from thermal_nerf_loc.sensing.frame import RGB, THERMAL

    _check_kind(args)
    if args.grid:
        return _export_grid(args)
    if args.out.suffix.lower() != '.ply':
        raise InputError('is no name for a PLY file', where=args.out,
                         expected='a name that ends in .ply')
    if args.spacing is not None and not 1e-6 < args.spacing < 1e6:
        raise InputError('is out of range', where='--spacing', expected='more than 0',
                         got=args.spacing)
    check_writable(args.out)
    renderer = load_map(args.map, device=args.device)
    needed = {'colour': RGB, 'temperature': THERMAL}
    if args.colours is not None and needed[args.colours] not in renderer.modalities:
        raise InputError(f'map has no {args.colours}', where=args.map,
                         expected=' or '.join(k for k, m in needed.items()
                                              if m in renderer.modalities), got=args.colours)
    return _export(args, renderer)


def _check_kind(args: argparse.Namespace) -> None:
    """Refuse options of the other kind of output."""
    names = ('what', 'colours', 'spacing') if args.grid else ('resolution', 'heights', 'fov')
    given = [name for name in names if getattr(args, name) not in (None, 'points')]
    if given:
        raise InputError('does not go together', where=f'--{given[0]}',
                         expected='with a PLY file' if args.grid else 'with --grid')


def _export_grid(args: argparse.Namespace) -> dict[str, Any]:
    import time

    import numpy as np

    from thermal_nerf_loc.cli.output import progress_bar, show_note
    from thermal_nerf_loc.io import nav2_map
    from thermal_nerf_loc.io.atomic_files import check_writable
    from thermal_nerf_loc.mapping.tiles.map_loading import load_map
    from thermal_nerf_loc.visualization.occupancy_grid import (
        FREE, GridConfig, occupancy_grid, OCCUPIED, UNKNOWN)

    if args.out.suffix.lower() not in ('.yaml', '.yml'):
        raise InputError('is no name for the YAML file of a map', where=args.out,
                         expected='a name that ends in .yaml')
    low, high = args.heights or (None, None)
    given = {'resolution_m': args.resolution, 'low_m': low, 'high_m': high, 'fov_deg': args.fov}
    config = GridConfig(**{name: value for name, value in given.items() if value is not None})
    check_writable(args.out)
    start, renderer = time.monotonic(), load_map(args.map, device=args.device)
    with progress_bar('render what cameras saw') as progress:
        grid = occupancy_grid(renderer, config, progress)
    for text in grid.notes():
        show_note(text)
    about = [f'map {renderer.name}, obstacles from {config.low_m:g} to {config.high_m:g} m '
             'above the floor']
    nav2_map.write_occupancy(args.out, grid.values, grid.resolution_m, grid.origin_m, about)
    figures = {'out': str(args.out), 'cells': f'{grid.values.shape[1]} x {grid.values.shape[0]}',
               'resolution_m': grid.resolution_m, 'free': grid.share(FREE),
               'occupied': grid.share(OCCUPIED), 'unknown': grid.share(UNKNOWN),
               'floor_m': None if grid.floor is None else -grid.floor.offset,
               'floor_tilt_deg': None if grid.floor is None else float(
                   np.rad2deg(grid.floor.tilt_rad))}
    if grid.celsius is not None and renderer.radiometric and np.isfinite(grid.celsius).any():
        ends = np.floor(np.nanmin(grid.celsius)), np.ceil(np.nanmax(grid.celsius))
        heat, step = args.out.with_stem(f'{args.out.stem}_heat'), (ends[1] - ends[0]) / 100.0
        nav2_map.write_raw(heat, grid.celsius, *ends, grid.resolution_m, grid.origin_m, [
            *about, f'deg C = base + multiplier * value: base {ends[0]:g}, multiplier {step:g}'])
        nav2_map.write_tiff(heat.with_suffix('.tif'), grid.celsius)
        figures |= {'heat': str(heat), 'heat_base': float(ends[0]), 'heat_multiplier': float(step)}
    return figures | {'seconds': time.monotonic() - start}


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

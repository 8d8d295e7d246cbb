# SPDX-License-Identifier: Apache-2.0
"""
The occupancy grid of simulated places against the exact one.

    python benchmarks/occupancy_grid.py [--map hall=hall.map machine_room=machine_room.map]

A cell of the exact grid is occupied where a solid stands in it between the two heights (25 points
a cell, layers of 5 cm), else free. `unknown` is right where fewer than half of the points above a
cell can be seen from the map's keyframes (rays to them through the exact world), and inside of
solids. Baseline: the same counting of rays in the exact world itself, from the same cameras.
Target: 97 % of the cells right.
"""

from collections.abc import Mapping
from pathlib import Path
import sys
from typing import Any

from _bench import finish, guarded, parser, prepare, room, show, trained_map

TARGET = 0.97
POINTS = 5  # in a cell, along a side
SCENES = {'hall': 120, 'machine_room': 160}  # and pairs of images that its map is learned from


def main() -> int:
    """Make the grids, compare them cell by cell."""
    made = parser(__doc__)
    made.add_argument('--map', nargs='+', default=[], metavar='SCENE=FILE',
                      help='maps (default: trained now)')
    made.add_argument('--seconds', type=float, default=150.0, help='of training (default: 150)')
    args = made.parse_args()
    prepare(args)
    given = dict(word.split('=', 1) for word in args.map)
    rows, figures = [], {}
    for scene in ('room',) if args.quick else (given or SCENES):
        frames, size = (8, (32, 24)) if args.quick else (SCENES.get(scene, 80), (160, 120))
        path = given.get(scene)
        kept = trained_map(Path() if path else room(frames, size, scene),
                           Path(path) if path else None, 3.0 if args.quick else args.seconds)
        found = compare(scene, kept, args.quick)
        figures[scene] = found
        rows += [(f'{scene}: {source}', *(100.0 * value for value in shares.values()))
                 for source, shares in found.items()]
    show('cells in %', ('grid', 'right', 'free seen\nas occupied', 'free seen\nas unknown',
                        'occupied\nseen as free', 'occupied seen\nas unknown'), rows)
    worst = min(found['map']['right'] for found in figures.values())
    print(f'worst: {100.0 * worst:.1f} % right (target {100.0 * TARGET:.0f} %)')
    return finish(args, {'target': TARGET, 'right': worst, **figures})


def compare(scene: str, path: Path, quick: bool) -> dict[str, dict[str, float]]:
    """Shares of right and wrong cells, of the map's grid and of the exact world's."""
    from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
    from thermal_nerf_loc.simulation.layouts import make_world
    from thermal_nerf_loc.visualization.occupancy_grid import GridConfig, occupancy_grid

    world, radiance_map = make_world(scene), RadianceMap.load(path)
    poses = radiance_map.keyframes.poses
    config = GridConfig(resolution_m=0.2 if quick else 0.05)

    class SameCameras(type(world)):  # type: ignore[misc]
        viewpoints = property(lambda self: poses)

    exact = SameCameras(world.layout)
    return {name: shares(occupancy_grid(renderer, config), exact, config)
            for name, renderer in (('map', radiance_map), ('exact world', exact))}


def shares(grid: Any, world: Any, config: Any) -> Mapping[str, float]:
    """Shares of all cells of a grid."""
    import numpy as np

    clearance = clearances(grid, world, config)
    occupied, solid = clearance[..., 0] <= 0.0, clearance[..., 1] <= 0.0
    hidden = solid | (seen(grid, world, config) < 0.5)
    found = {name: grid.values == value
             for name, value in (('free', 0), ('occupied', 100), ('unknown', -1))}
    wrong = {'free as occupied': found['occupied'] & ~occupied,
             'free as unknown': found['unknown'] & ~occupied & ~hidden,
             'occupied as free': found['free'] & occupied,
             'occupied as unknown': found['unknown'] & occupied & ~hidden}
    return {'right': float(1.0 - np.mean(np.any(list(wrong.values()), axis=0))),
            **{name: float(np.mean(cells)) for name, cells in wrong.items()}}


def clearances(grid: Any, world: Any, config: Any) -> Any:
    """Least and greatest clearance (m) of the points above each cell: (rows, columns, 2)."""
    import numpy as np

    inside = (np.arange(POINTS) + 0.5) / POINTS
    rows, columns = grid.values.shape
    y, x = (origin + cells * grid.resolution_m for origin, cells in zip(
        grid.origin_m[::-1], ((np.arange(rows)[:, None] + inside).ravel(),
                              (np.arange(columns)[:, None] + inside).ravel())))
    x, y = np.meshgrid(x, y)
    least = np.full(x.shape, np.inf)
    for height in np.arange(config.low_m + 0.025, config.high_m, 0.05):
        points = np.stack([x, y, np.full_like(x, height)], axis=-1)
        least = np.minimum(least, world.clearance_m(points))
    cells = least.reshape(rows, POINTS, columns, POINTS).swapaxes(1, 2).reshape(rows, columns, -1)
    return np.stack([cells.min(axis=-1), cells.max(axis=-1)], axis=-1)


def seen(grid: Any, world: Any, config: Any) -> Any:
    """Share of the points above each cell's middle that a camera sees: (rows, columns)."""
    import numpy as np

    rows, columns = grid.values.shape
    x, y = np.meshgrid(*(origin + (np.arange(n) + 0.5) * grid.resolution_m
                         for origin, n in zip(grid.origin_m, (columns, rows))))
    heights = np.linspace(config.low_m + 0.1, config.high_m - 0.1, 4)
    points = np.stack([np.stack([x, y, np.full_like(x, h)], -1) for h in heights]).reshape(-1, 3)
    known = np.zeros(len(points), np.bool_)
    across = np.tan(np.deg2rad(0.5 * config.fov_deg))
    for T in world.viewpoints:
        at = np.flatnonzero(~known)
        away = points[at] - T[:3, 3]
        along, side = away @ T[:3, 2], away @ T[:3, :2]
        view = (along > 0.05) & (np.abs(side) < along[:, None] * (across, 0.75 * across)).all(1)
        at, away = at[view], away[view]
        far = np.linalg.norm(away, axis=1)
        hit = world.cast(np.broadcast_to(T[:3, 3], away.shape), away / far[:, None])
        known[at[hit.distance_m > far]] = True
    return known.reshape(len(heights), rows, columns).mean(axis=0)


if __name__ == '__main__':
    sys.exit(guarded(main))

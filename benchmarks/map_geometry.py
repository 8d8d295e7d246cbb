# SPDX-License-Identifier: Apache-2.0
"""
Where the surfaces of maps stand, several maps of one data set side by side.

    python benchmarks/map_geometry.py --data DATA --map before.map after.map

The first map is the baseline, for example one trained with `--depth-from none`. All are held
against the same points, matched in held-out images, and asked at the same pixels of the same pairs
of views, so that small differences count. Where the data set has true depth, errors against it.

Uneven: rendered depth of held-out views in windows of an eighth of the width. The inverse depth of
a plane is linear in the image, so what is left of a fit says how uneven the surface is. Walls,
floors and facades fill most windows of most places: read the median, and compare maps. Beside the
other figures only: a map of fog at one distance is even, too.
"""

import argparse
from pathlib import Path
import sys
from typing import Any

from _bench import add_data, finish, guarded, parser, prepare, room, show, trained_map

_WIDTH_PX, _WINDOWS = 160, 8
_VIEWS = 8


def options() -> argparse.ArgumentParser:
    """What can be chosen."""
    made = parser(__doc__)
    add_data(made)
    made.add_argument('--map', type=Path, nargs='+', metavar='M',
                      help='maps to compare (default: one trained now)')
    made.add_argument('--map-seconds', type=float, default=120.0, metavar='S',
                      help='of that training (default: 120)')
    return made


def main() -> int:
    """Measure each map, modality by modality."""
    args = options().parse_args()
    prepare(args)
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
    data = args.data or (room(8, (64, 48)) if args.quick else room())
    scene = load_scene(data)
    paths = args.map or [trained_map(data, None, 5.0 if args.quick else args.map_seconds)]
    maps = {f'{path.parent.name}/{path.stem}': RadianceMap.load(path) for path in paths}
    figures = {modality: measure(maps, scene, modality) for modality in scene.modalities}
    return finish(args, figures)


def measure(maps: dict[str, Any], scene: Any, modality: str) -> dict[str, Any]:
    """Figures of all maps that show this modality, and their table."""
    from dataclasses import asdict

    from thermal_nerf_loc.evaluation.geometry_quality import (
        choose_pairs, knows_points, point_errors, view_agreement)
    from thermal_nerf_loc.evaluation.matched_points import measure_points
    shown = {name: found for name, found in maps.items() if modality in found.modalities}
    if not shown:
        return {}
    points = measure_points(scene, modality, unseen_by_training=any(
        knows_points(found) for found in shown.values()))
    pairs = choose_pairs(next(iter(shown.values())), scene, modality)
    rows: dict[str, dict[str, Any]] = {}
    for name, found in shown.items():
        views = view_agreement(found, scene, modality, pairs)
        rows[name] = {
            'points': asdict(point_errors(found, modality, points)) if len(points) else None,
            'views': asdict(views) if views is not None else None,
            **flatness_and_truth(found, scene, modality)}
        print(f'{modality}, {name}: measured', flush=True)
    report(modality, rows)
    return rows


def report(modality: str, rows: dict[str, Any]) -> None:
    """Print the table: shares and relative errors in percent, depth in cm."""
    def percent(part: Any, *names: str) -> list[float | None]:
        return [None if not part or part[name] is None else 100.0 * part[name] for name in names]

    count = max((row['points']['count'] for row in rows.values() if row['points']), default=0)
    show(f'{modality}: held-out views, {count} matched points', (
        'map', 'points\noff %', '90 %', 'within\n2 %', 'views\noff %', 'within\n1 %',
        'within\n2 %', 'uneven\n%', '90 %', 'depth\noff cm', 'within\n5 cm %'),
        [(name, *percent(row['points'], 'median', 'p90', 'within_2pct'),
          *percent(row['views'], 'median', 'within_1pct', 'within_2pct'),
          *percent(row, 'uneven_median', 'uneven_p90', 'depth_median_error_m',
                   'depth_within_5cm')) for name, row in rows.items()])


def flatness_and_truth(radiance_map: Any, scene: Any, modality: str) -> dict[str, Any]:
    """How uneven rendered surfaces are, and errors against true depth where it is known."""
    import numpy as np

    from thermal_nerf_loc.evaluation.geometry_quality import sensor_pose
    from thermal_nerf_loc.evaluation.matched_points import spread
    from thermal_nerf_loc.evaluation.sampled_views import shrunk
    from thermal_nerf_loc.io.datasets.scene import load_image
    from thermal_nerf_loc.sensing.rendering import render_image
    tests = [i for i in scene.test if modality in scene.frames[i].records]
    uneven, off = [], []
    for i in (tests[k] for k in spread(len(tests), _VIEWS)):
        image = shrunk(load_image(modality, scene.frames[i].records[modality]), _WIDTH_PX)
        depth_m = render_image(radiance_map, modality, image.camera,
                               sensor_pose(scene, i, modality), sweep=image.sweep).depth_m
        uneven.append(unevenness(depth_m, image.camera))
        if image.depth_m is not None:
            known = np.isfinite(image.depth_m) & (image.depth_m > 0.0)
            off.append(np.abs(depth_m - image.depth_m)[known])
    parts, errors = (np.concatenate([np.empty(0), *found]) for found in (uneven, off))
    return {'uneven_median': float(np.median(parts)) if parts.size else None,
            'uneven_p90': float(np.quantile(parts, 0.9)) if parts.size else None,
            'depth_median_error_m': float(np.median(errors)) if errors.size else None,
            'depth_within_5cm': float((errors <= 0.05).mean()) if errors.size else None}


def unevenness(depth_m: Any, camera: Any) -> Any:
    """RMS off the fitted plane, as a share of the depth, of each window (n,)."""
    import numpy as np
    rays = camera.rays().reshape(*depth_m.shape, 3)
    flat = rays[..., :2] / rays[..., 2:]
    size = max(4, camera.width // _WINDOWS)
    found = []
    for y in range(0, camera.height - size + 1, size):
        for x in range(0, camera.width - size + 1, size):
            window = (slice(y, y + size), slice(x, x + size))
            A = np.concatenate([flat[window].reshape(-1, 2), np.ones((size * size, 1))], axis=1)
            inverse = 1.0 / np.maximum(depth_m[window].ravel().astype(np.float64), 1e-6)
            plane, *_ = np.linalg.lstsq(A, inverse, rcond=None)
            rest = (inverse - A @ plane) / inverse
            found.append(float(np.sqrt((rest**2).mean())))
    return np.array(found)


if __name__ == '__main__':
    sys.exit(guarded(main))

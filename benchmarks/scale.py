# SPDX-License-Identifier: Apache-2.0
"""
Cost against area: a simulated plant of several sizes, each built as tiles, localized and searched.

    python benchmarks/scale.py [--areas 25 100 200] [--steps 500] [--plot scale.png]

Prints for each area: training seconds of all tiles, MB of the folder, peak memory of the largest
worker, error of tracked poses, seconds to localize and to search, memory of the loaded tiles. The
first row is the baseline of the last columns, which say how much more a square metre costs. The
line `costs at AREA` is extrapolated: so many tiles, each as dear as those measured.
"""

import math
from pathlib import Path
import statistics
import sys
import tempfile
import time
from typing import Any

from _bench import finish, guarded, parser, show

_VIEWS_PER_M2 = 1.5


def main() -> int:
    """Measure each area."""
    made = parser(__doc__)
    made.add_argument('--areas', type=float, nargs='+', default=[25.0, 100.0, 200.0], metavar='M2',
                      help='square metres (default: 25 100 200)')
    made.add_argument('--steps', type=int, default=500, metavar='N',
                      help='of each tile (default: 500)')
    made.add_argument('--frames', type=int, default=12, metavar='N',
                      help='held-out frames to localize and to search for (default: 12)')
    made.add_argument('--size', type=int, default=120, metavar='PX',
                      help='width of the images (default: 120)')
    made.add_argument('--workers', type=int, default=1, metavar='N', help='(default: 1)')
    made.add_argument('--memory-mb', type=float, default=400.0, metavar='MB',
                      help='for loaded tiles (default: 400)')
    made.add_argument('--extrapolate', type=float, default=4000.0, metavar='M2',
                      help='(default: 4000)')
    made.add_argument('--plot', type=Path, metavar='FILE', help='write the costs as a PNG')
    args = made.parse_args()
    if args.quick:
        args.areas, args.steps, args.frames, args.size = [25.0, 36.0], 20, 2, 40
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for area in args.areas:
            rows.append(measure(area, Path(folder) / f'{area:g}', args))
    first = rows[0]
    show('cost against area', ('m2', 'tiles', 'train s', 'MB', 'peak MB', 'cm', 'deg', 'track s',
                               'search s', 'right', 'ambig', 'tile MB', 's/m2', 'MB/m2'),
         [(f'{row["area_m2"]:g}', row['tiles'], row['train_s'], row['size_mb'],
           row['peak_memory_mb'], row['median_cm'], row['median_deg'], row['localize_s'],
           row['search_s'], row['search_right'], row['search_ambiguous'], row['loaded_mb'],
           per_m2(row, first, 'train_s'), per_m2(row, first, 'size_mb')) for row in rows])
    last = rows[-1]
    factor = args.extrapolate / last['area_m2']
    print(f'costs at {args.extrapolate:g} m2 (extrapolated from the last row): '
          f'{math.ceil(last["tiles"] * factor)} tiles, {last["train_s"] * factor / 60:.0f} min of '
          f'one worker, {last["size_mb"] * factor:.0f} MB')
    if args.plot is not None:
        plot(args.plot, rows)
    return finish(args, {'rows': rows})


def per_m2(row: dict[str, Any], first: dict[str, Any], name: str) -> float:
    """How much more a square metre costs than in the first row."""
    return float(row[name] / row['area_m2'] * first['area_m2'] / first[name])


def sides(area_m2: float) -> tuple[float, float]:
    """Length and width of a floor, twice as long as wide where there is room for corridors."""
    ratio = 2.0 if area_m2 >= 150.0 else 1.0
    return round(math.sqrt(ratio * area_m2), 1), round(math.sqrt(area_m2 / ratio), 1)


def measure(area_m2: float, folder: Path, args: Any) -> dict[str, Any]:
    """Simulate, build, localize and search one area."""
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    from thermal_nerf_loc.localization.tiles.build_tiles import build_tiles
    from thermal_nerf_loc.localization.tiles.job_runners import LocalProcesses
    from thermal_nerf_loc.mapping.map.landmarks import LandmarkConfig
    from thermal_nerf_loc.mapping.map.panoramas import PanoramaConfig
    from thermal_nerf_loc.mapping.tiles.division import DivisionConfig
    from thermal_nerf_loc.mapping.training.config import TrainConfig
    from thermal_nerf_loc.simulation.plant import PlantConfig
    from thermal_nerf_loc.simulation.record import simulate_dataset, SimulationConfig

    size = args.size, 3 * args.size // 4
    simulate_dataset(folder / 'data', SimulationConfig(
        scene='plant', plant=PlantConfig(sides(area_m2)), size=size, clean=True, supersampling=1,
        frames=max(30, round(_VIEWS_PER_M2 * area_m2)), processes=1))
    config = TrainConfig(steps=args.steps, depth_from='none', scene_bounds_steps=50,
                         landmarks=LandmarkConfig(most=0),
                         panoramas=PanoramaConfig(most=100, rays=600))
    started = time.perf_counter()
    built = build_tiles([folder / 'data'], folder / 'plant.map', config, DivisionConfig(views=80),
                        LocalProcesses(args.workers))
    figures = {'area_m2': area_m2, 'tiles': len(built.index.tiles),
               'train_s': time.perf_counter() - started,
               'size_mb': sum(tile.bytes for tile in built.index.tiles) / 2**20,
               'peak_memory_mb': built.peak_memory_mb}
    return figures | poses(folder / 'plant.map', load_scene(folder / 'data'), args)


def poses(path: Path, scene: Any, args: Any) -> dict[str, Any]:
    """Errors and times of held-out frames, near their pose and without any."""
    from thermal_nerf_loc.evaluation.localization_quality import perturbed
    from thermal_nerf_loc.evaluation.metrics import pose_errors
    from thermal_nerf_loc.localization.localizer import Localizer
    from thermal_nerf_loc.mapping.tiles.map_loading import load_map
    from thermal_nerf_loc.mapping.tiles.tiled_map import TiledMap

    a_map = load_map(path, args.memory_mb)
    assert isinstance(a_map, TiledMap)
    localizer, rows = Localizer(a_map), []
    for index in scene.test[:args.frames]:
        frame = scene.load(index)
        assert frame.T_world_cam is not None
        found = localizer.localize(frame, perturbed(frame.T_world_cam, 0.05, 3.0, (0, index)))
        searched = localizer.localize_anywhere(frame)
        rows.append((pose_errors(found.T_world_cam, frame.T_world_cam),
                     pose_errors(searched.T_world_cam, frame.T_world_cam), found, searched))
    right = [not other.wrong[0] for _, other, _, _ in rows]
    ambiguous = [one.verdict == 'ambiguous' for *_, one in rows]
    return {'median_cm': 100.0 * statistics.median(float(e.metres[0]) for e, *_ in rows),
            'median_deg': statistics.median(float(e.degrees[0]) for e, *_ in rows),
            'localize_s': statistics.median(one.seconds for _, _, one, _ in rows),
            'search_s': statistics.median(one.seconds for *_, one in rows),
            'search_right': statistics.mean(right), 'search_ambiguous': statistics.mean(ambiguous),
            'search_wrong_believed': statistics.mean(
                one.verdict == 'ok' and not good for good, (*_, one) in zip(right, rows)),
            'loaded_mb': a_map.cache.bytes / 2**20}


def plot(path: Path, rows: list[dict[str, Any]]) -> None:
    """Costs against area."""
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 3, figsize=(11, 6))
    x = [row['area_m2'] for row in rows]
    for axis, (name, label) in zip(axes.ravel(), (
            ('train_s', 'training, s'), ('size_mb', 'map, MB'), ('peak_memory_mb', 'memory, MB'),
            ('median_cm', 'error, cm'), ('localize_s', 'localize, s'), ('search_s', 'search, s'))):
        axis.plot(x, [row[name] for row in rows], 'o-')
        axis.set(xlabel='square metres', ylabel=label, ylim=(0, None))
    figure.tight_layout()
    figure.savefig(path)


if __name__ == '__main__':
    sys.exit(guarded(main))

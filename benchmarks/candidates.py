# SPDX-License-Identifier: Apache-2.0
"""
Sources of candidates for localization without a start: panoramas, regression, particles.

    python benchmarks/candidates.py [--data DIR --map FILE] [--what study|sources|all]

- panoramas: retrieval in the panoramas of the map (the default, and the baseline);
- regression: networks trained on views rendered from the map: PCA + MLP, MLP, CNN;
- particles: Monte-Carlo localization on rendered rays, and parallel inversion with resampling.
Held-out images, no start. 'first': the error of the best candidate, and how often it lies within
0.1 of the scene's scale (the mean half extent of the map's box). '5 cm': what the localizer makes
of all candidates, within 5 cm and 5 deg; 'wrong': 'ok', and more than 10 cm or 5 deg off. Also
seconds per query, seconds of rendering and training, and the size of the model.

The study before it is that of the reversal of a radiance field: every regressor learns from views
rendered around the training path, and is tested on such views that were held out at random
(random split), on those around the last fifth of the path (sequential split: nothing there was
learned from), and on real held-out images; with all images, and with those of one camera. Target:
>= 90 % of positions within 0.1 of the scene's scale, random split.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
import sys
import time
from typing import Any

from _bench import finish, guarded, parser, prepare, show
from _poses import add_inputs, data_of, held_out, map_of, MODALITIES, modalities_of

NETWORKS = ('pca_mlp', 'mlp', 'cnn')
SPLITS = ('random', 'sequential')
METHODS = ('filter', 'inversion')
SHARE = 0.1  # of the scene's scale
SPLIT = 0.1  # of the views, kept back by the random split
SEQUENCE = 0.2  # of the training path, kept back by the sequential split


def main() -> int:
    """Study, then compare."""
    made = parser(__doc__)
    add_inputs(made, 16)
    made.add_argument('--modality', choices=tuple(MODALITIES), help='(default: all of the map)')
    made.add_argument('--what', choices=('study', 'sources', 'all'), default='all',
                      help='the reversal, the sources, or both (default: all)')
    made.add_argument('--views', type=int, default=12_000, metavar='N',
                      help='views rendered to learn from (default: 12000)')
    made.add_argument('--exact', metavar='SCENE', choices=('room', 'machine_room', 'hall'),
                      help='learn from this simulated world itself instead of a map of it: what '
                           'networks can do where every view is exact')
    made.add_argument('--networks', nargs='+', choices=NETWORKS, default=NETWORKS,
                      help='(default: all)')
    made.add_argument('--splits', nargs='+', choices=SPLITS, default=SPLITS,
                      help='of the reversal (default: both)')
    made.add_argument('--regressor-steps', type=int, default=8000, metavar='N',
                      help='of each training (default: 8000)')
    made.add_argument('--train-regressor-seconds', type=float, default=300.0, metavar='S',
                      help='of each network, at most (default: 300)')
    args = made.parse_args()
    prepare(args)
    if args.quick:
        args.frames, args.views, args.train_regressor_seconds = 2, 60, 2.0
        args.regressor_steps = 20
    data = data_of(args)
    renderer = the_map(args, data)
    frames = held_out(data, args.frames)
    modality = args.modality or modalities_of(renderer, frames)[0]
    studied = [args.modality] if args.modality else modalities_of(renderer, frames)
    frames = [frame.only(*MODALITIES[modality]) for frame in frames]
    figures: dict[str, Any] = {'data': str(data), 'modality': modality, 'images': len(frames),
                               'scale_m': renderer.space.scale_m, 'views': args.views}
    if args.what != 'sources':
        views = learned_from(args, renderer, frames[0], 1.0)[0]
        figures['reversal'] = reversal(args, renderer, views, frames, studied)
    if args.what != 'study':
        figures['sources'] = compared(args, renderer, frames,
                                      *learned_from(args, renderer, frames[0]))
    return finish(args, figures)


def the_map(args: argparse.Namespace, data: Path) -> Any:
    """The map, or the exact world with cameras where those of the data set stood."""
    import numpy as np

    from thermal_nerf_loc.field.contraction import ContractedSpace
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    from thermal_nerf_loc.mapping.map.localization_map import panoramas_of, WrappedMap
    from thermal_nerf_loc.mapping.map.panoramas import find_panoramas
    from thermal_nerf_loc.simulation.layouts import make_world

    if args.exact is None:
        learned = map_of(args, data)
        return replace(learned, panoramas=panoramas_of(learned))

    world, scene = make_world(args.exact), load_scene(data)
    low, high = world.bounds

    class ExactMap(WrappedMap):
        viewpoints = np.array([scene.frames[i].T_world_cam for i in scene.train])
        space = ContractedSpace(tuple(0.5 * (low + high)), tuple(0.5 * (high - low)))

    return ExactMap(world, panoramas=find_panoramas(world, ExactMap.viewpoints))


def settings(args: argparse.Namespace, network: str) -> Any:
    """A regressor's configuration."""
    from thermal_nerf_loc.localization.alternatives.pose_regression import RegressionConfig
    from thermal_nerf_loc.localization.alternatives.rendered_views import ViewsConfig
    return RegressionConfig(network=network, max_seconds=args.train_regressor_seconds,
                            steps=args.regressor_steps, seed=args.seed,
                            views=ViewsConfig(count=args.views))


def learned_from(args: argparse.Namespace, renderer: Any, frame: Any,
                 path_share: float | None = None) -> tuple[Any, Any, float]:
    """Views of the map through this frame's cameras, the cameras, and how long that took."""
    from thermal_nerf_loc.localization.alternatives.rendered_views import (
        render_views, thumbnail_cameras)

    config = settings(args, NETWORKS[0])
    chosen_views = (config.views if path_share is None
                    else replace(config.views, path_share=path_share))
    eyes = thumbnail_cameras(frame, tuple(frame.images), config.views.width_px)
    began = time.perf_counter()
    views = render_views(renderer, eyes, chosen_views, args.seed)
    seconds = time.perf_counter() - began
    print(f'{len(views)} views rendered in {seconds:.0f} s', flush=True)
    return views, eyes, seconds


def splits(args: argparse.Namespace, renderer: Any, views: Any) -> dict[str, Any]:
    """The views that are held out, (n,) booleans."""
    import numpy as np

    rng = np.random.default_rng(args.seed)
    path = renderer.viewpoints[:, :3, 3]
    nearest = np.linalg.norm(views.poses[:, None, :3, 3] - path, axis=-1).argmin(axis=1)
    kept = {'random': rng.random(len(views)) < SPLIT,
            'sequential': nearest >= (1.0 - SEQUENCE) * len(path)}
    return {name: kept[name] for name in args.splits}


def reversal(args: argparse.Namespace, renderer: Any, views: Any, frames: Sequence[Any],
             studied: Sequence[str]) -> list[dict[str, Any]]:
    """Each network on each split and with each set of images."""
    rows = []
    for modality in studied:
        seen = [frame.only(*MODALITIES[modality]) for frame in frames]
        shown = views.only([name for name in views.cameras if name in MODALITIES[modality]])
        for network in args.networks:
            rows.append({'images': modality, 'network': network,
                         **learned(args, network, renderer, shown, seen)})
            report([rows[-1]], renderer.space.scale_m)
    report(rows, renderer.space.scale_m)
    return rows


def learned(args: argparse.Namespace, network: str, renderer: Any, views: Any,
            frames: Sequence[Any]) -> dict[str, Any]:
    """Accuracy of one network on held-out views, and its costs."""
    import numpy as np

    from thermal_nerf_loc.localization.alternatives.pose_regression import train
    from thermal_nerf_loc.localization.alternatives.rendered_views import crop, thumbnails

    found: dict[str, Any] = {}
    scale_m, truth = renderer.space.scale_m, np.array([frame.T_world_cam for frame in frames])
    for split, kept in splits(args, renderer, views).items():
        began = time.process_time()
        regressor, test = train(views.chosen(~kept), settings(args, network)), views.chosen(kept)
        found |= {'seconds': regressor.seconds, 'cpu_seconds': time.process_time() - began,
                  'model_mb': 4e-6 * regressor.parameters,
                  split: {'views': len(test),
                          **accuracy(regressor.predict(crop(test)), test.poses, scale_m)}}
        print(f'{network}, {split}: {100 * found[split]["within_share"]:.1f} % of {len(test)} '
              f'after {regressor.seconds:.0f} s', flush=True)
        if split == 'random':
            found['real'] = {'views': len(frames), **accuracy(
                regressor.predict(thumbnails(frames, views.cameras)), truth, scale_m)}
    return found


def report(rows: Sequence[dict[str, Any]], scale_m: float) -> None:
    """Shares, medians and costs."""
    nothing: dict[str, float] = {}
    show(f"Reversal: positions within 0.1 of the scene's scale ({SHARE * scale_m:.2f} m)",
         ('images', 'network', 'random %', 'm', 'deg', 'sequential %', 'm', 'real %', 'CPU s',
          'MB'),
         [[row['images'], row['network'], *(
             value if value is None else factor * value
             for split, name, factor in (
                 ('random', 'within_share', 100), ('random', 'median_m', 1),
                 ('random', 'median_deg', 1), ('sequential', 'within_share', 100),
                 ('sequential', 'median_m', 1), ('real', 'within_share', 100))
             for value in [row.get(split, nothing).get(name)]),
           row['cpu_seconds'], row['model_mb']] for row in rows])


def accuracy(found: Any, truth: Any, scale_m: float) -> dict[str, float]:
    """Of poses (n, 4, 4)."""
    import numpy as np

    from thermal_nerf_loc.evaluation.metrics import pose_errors

    errors = pose_errors(found, truth)
    return {'within_share': float(np.mean(errors.metres < SHARE * scale_m)),
            'median_m': float(np.median(errors.metres)),
            'median_deg': float(np.median(errors.degrees))}


def compared(args: argparse.Namespace, renderer: Any, frames: Sequence[Any], views: Any, eyes: Any,
             rendering_s: float) -> list[dict[str, Any]]:
    """All sources on the same images."""
    rows = []
    for name, (source, training_s, size) in sources(args, renderer, frames, views, eyes).items():
        rows.append({'source': name, **judged(renderer, source, frames),
                     'training_seconds': training_s + (rendering_s if training_s else 0.0),
                     'model_mb': size / 1e6})
    show(f'Without a guess, {len(frames)} held-out images',
         ('source', 'first %', 'm', 'deg', '5 cm %', 'ok', 'wrong', 's', 'train s', 'MB'),
         [[r['source'], 100 * r['within_share'], r['median_m'], r['median_deg'],
           100 * r['success_5cm_5deg'], r['ok'], r['wrong_but_ok'], r['median_seconds'],
           r['training_seconds'], r['model_mb']] for r in rows])
    return rows


def sources(args: argparse.Namespace, renderer: Any, frames: Sequence[Any], views: Any,
            eyes: Any) -> Mapping[str, tuple[Any, float, int]]:
    """Name to source, seconds of its training, bytes of its model."""
    from thermal_nerf_loc.localization.alternatives.particles import ParticleConfig, ParticleSearch
    from thermal_nerf_loc.localization.alternatives.pose_regression import PoseRegression, train
    from thermal_nerf_loc.localization.global_search.panorama_retrieval import PanoramaRetrieval

    places = renderer.panoramas
    made = {'panoramas': (PanoramaRetrieval(places), 0.0,
                          sum(part.nbytes for part in places.tensors().values()))}
    for network in args.networks:
        config = settings(args, network)
        regressor = train(views, config)
        source = PoseRegression(renderer, config)
        source.use(frames[0], eyes, regressor)
        made[f'regression, {network}'] = (source, regressor.seconds, 4 * regressor.parameters)
    for method in METHODS:
        config = ParticleConfig(method=method, seed=args.seed)
        if args.quick:
            config = replace(config, initial_particles=100, particles=20, inversion_poses=4,
                             rounds=2)
        made[f'particles, {method}'] = (ParticleSearch(renderer, config), 0.0, 0)
    return made


def judged(renderer: Any, source: Any, frames: Sequence[Any]) -> dict[str, Any]:
    """Candidates before and after verification."""
    import numpy as np

    from thermal_nerf_loc.evaluation.metrics import pose_errors
    from thermal_nerf_loc.localization.localizer import Localizer

    localizer = Localizer(renderer, source=source)
    localizer.localize(frames[0])  # kernels compile before the clock runs
    found = [localizer.localize(frame) for frame in frames]
    first = [source.candidates(frame, localizer.config.global_search.candidates)[0].T_world_cam
             for frame in frames]
    truth = np.array([frame.T_world_cam for frame in frames])
    errors = pose_errors(np.array([one.T_world_cam for one in found]), truth)
    is_ok = np.array([one.verdict == 'ok' for one in found])
    wrong = is_ok & errors.wrong
    return {**accuracy(np.array(first), truth, renderer.space.scale_m),
            'success_5cm_5deg': errors.success_5cm_5deg, 'ok': int(is_ok.sum()),
            'wrong_but_ok': int(wrong.sum()),
            'median_seconds': float(np.median([one.seconds for one in found]))}


if __name__ == '__main__':
    sys.exit(guarded(main))

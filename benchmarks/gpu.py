# SPDX-License-Identifier: Apache-2.0
"""
The GPU beside the processor in one run of four minutes: training, rendering, poses.

    python benchmarks/gpu.py [--data DIR] [--json gpu.json]

Each device trains the room until held-out views reach 28 dB and a median depth error of 1.5 cm,
or its share of the time is over (times of evaluation do not count). Then both render the same rays
of the same map and localize the same views from 10 deg and 0.1 m off. Without a GPU the column of
the processor is all there is, and a line says so; --torch adds torch's CPU device, which runs the
code of a GPU, at a fraction of the speed.
"""

import copy
from dataclasses import dataclass
import sys
import time
from typing import Any

from _bench import (
    add_data, add_seed, camera_rays, finish, guarded, interleaved, parser, prepare, show,
    training_data)

RGB_DB, DEPTH_M = 28.0, 0.015
SHARES_S = {'cpu': 100.0, 'cuda': 50.0, 'torch': 20.0}  # of training, by device
CHECKS = 6  # evaluations of a training at most
RENDERED_RAYS, POSES = 200_000, 8


@dataclass(frozen=True)
class Way:
    """One column: a device, and whether torch does there what else compiled kernels do."""

    name: str
    device: Any
    plain: bool = False


def main() -> int:
    """Train, render, localize on each device."""
    made = parser(__doc__)
    add_data(made)
    add_seed(made)
    made.add_argument('--torch', action='store_true', help="also torch's CPU device")
    args = made.parse_args()
    prepare(args)
    import torch

    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene

    scene = load_scene(training_data(args))
    ways = [Way('cpu', torch.device('cpu'))]
    if args.torch:
        ways.append(Way('torch', torch.device('cpu'), plain=True))
    if torch.cuda.is_available():
        ways.append(Way('cuda', torch.device('cuda', torch.cuda.current_device())))
    share = 0.03 if args.quick else 1.0
    trained = {way.name: train_until(way, scene, share * SHARES_S[way.name], args)
               for way in ways}
    maps = {way.name: rendered_by(way, trained['cpu']['map']) for way in ways}
    rays = rays_a_second(maps, scene, args)
    poses = poses_a_second(maps, scene, args)
    figures = {name: {**{key: value for key, value in found.items() if key != 'map'},
                      'rendered_rays_per_second': rays[name], 'poses_per_second': poses[name],
                      'backend': maps[name].backend} for name, found in trained.items()}
    report(figures, torch)
    return finish(args, {'data': str(scene.root), 'gpu': gpu_name(torch), 'devices': figures})


def train_until(way: Way, scene: Any, seconds: float, args: Any) -> dict[str, Any]:
    """Train until the aims are reached or the seconds are over; figures, and the map."""
    from thermal_nerf_loc.evaluation.map_quality import evaluate_map
    from thermal_nerf_loc.mapping.training.config import TrainConfig
    from thermal_nerf_loc.mapping.training.distributed import Processes
    from thermal_nerf_loc.mapping.training.pixel_sources import load_sources
    from thermal_nerf_loc.mapping.training.trainer import Trainer

    config = TrainConfig(max_seconds=seconds, seed=args.seed, depth_from='none')
    sources, temperatures = load_sources(scene, config)
    processes = Processes(device=way.device, plain=way.plain)
    Trainer(config, sources, scene, processes).step(0.0)  # kernels compile, memory is taken
    trainer, trained_s, reached_s = Trainer(config, sources, scene, processes), 0.0, None
    quality = found = None
    for check in range(1, CHECKS + 1):
        while trained_s < seconds * check / CHECKS and not trainer.finished(trained_s):
            started = time.monotonic()
            trainer.step(trained_s)
            trained_s += time.monotonic() - started
        started = time.monotonic()
        float(trainer.loss)  # waits for the device
        trained_s += time.monotonic() - started
        found = snapshot(way, trainer, temperatures, trained_s)
        quality = evaluate_map(found, scene)
        depth_m = quality.depth_median_error_m
        print(f'{way.name}: {trained_s:.0f} s, {trainer.steps} steps, {quality.rgb_psnr:.1f} dB, '
              f'depth {100.0 * (depth_m or float("nan")):.1f} cm', flush=True)
        if quality.rgb_psnr >= RGB_DB and (depth_m is None or depth_m <= DEPTH_M):
            reached_s = trained_s
            break
        if args.quick:
            break
    assert quality is not None
    return {'map': found, 'seconds_to_aims': reached_s, 'trained_s': trained_s,
            'steps': trainer.steps, 'rgb_psnr': quality.rgb_psnr,
            'depth_median_cm': 100.0 * (quality.depth_median_error_m or float('nan')),
            'trained_rays_per_second': trainer.steps * config.rays / trained_s}


def snapshot(way: Way, trainer: Any, temperatures: Any, seconds: float) -> Any:
    """The map that the training would give now; it goes on untouched."""
    import torch

    from thermal_nerf_loc.mapping.map.localization_map import MapInfo
    from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap

    learners = tuple(copy.deepcopy(learner).on(torch.device('cpu'))
                     for learner in trainer.learners)
    return RadianceMap(learners, temperatures,
                       MapInfo('', {}, trainer.steps, seconds)).on(way.device)


def rendered_by(way: Way, radiance_map: Any) -> Any:
    """The processor's map, rendered in another way."""
    from dataclasses import replace
    return replace(radiance_map, device=way.device if way.name != 'cpu' else None)


def rays_a_second(maps: dict[str, Any], scene: Any, args: Any) -> dict[str, float]:
    """Rays that each device renders in a second, with the way there and back."""
    import numpy as np

    modality = next(iter(maps.values())).modalities[0]
    origins, directions = camera_rays(scene, scene.test, modality)
    chosen = np.random.default_rng(args.seed).integers(
        0, len(origins), 2000 if args.quick else RENDERED_RAYS)
    rays = origins[chosen], directions[chosen]

    def run(radiance_map: Any) -> Any:
        return lambda: radiance_map.render_rays(modality, *rays)

    seconds = interleaved({name: run(a_map) for name, a_map in maps.items()}, 3)
    return {name: len(chosen) / float(np.median(times)) for name, times in seconds.items()}


def poses_a_second(maps: dict[str, Any], scene: Any, args: Any) -> dict[str, float]:
    """Frames that are localized in a second, from 10 deg and 0.1 m off."""
    import numpy as np

    from thermal_nerf_loc.evaluation.localization_quality import perturbed
    from thermal_nerf_loc.localization.localizer import Localizer

    frames = [scene.load(index) for index in scene.test[:2 if args.quick else POSES]]
    starts = [perturbed(frame.T_world_cam, 0.1, 10.0, (args.seed, i))
              for i, frame in enumerate(frames)]

    def run(localizer: Any) -> Any:
        def localize() -> None:
            for frame, start in zip(frames, starts):
                localizer.localize(frame, start)
        return localize

    seconds = interleaved({name: run(Localizer(a_map)) for name, a_map in maps.items()},
                          1 if args.quick else 2)
    return {name: len(frames) / float(np.median(times)) for name, times in seconds.items()}


def report(figures: dict[str, Any], torch: Any) -> None:
    """Table, one column a device, and what the GPU gains."""
    rows = [('seconds to 28 dB and 1.5 cm', 'seconds_to_aims'), ('trained, s', 'trained_s'),
            ('steps', 'steps'), ('RGB, dB', 'rgb_psnr'), ('depth, cm', 'depth_median_cm'),
            ('training, rays/s', 'trained_rays_per_second'),
            ('rendering, rays/s', 'rendered_rays_per_second'), ('poses/s', 'poses_per_second'),
            ('reads the grid', 'backend')]
    columns = ['', *figures] + (['cuda / cpu'] if 'cuda' in figures else [])
    table = []
    for title, key in rows:
        values = [found[key] for found in figures.values()]
        ratio = []
        if 'cuda' in figures:
            a, b = figures['cuda'][key], figures['cpu'][key]
            ratio = [a / b if isinstance(a, float) and isinstance(b, float) else None]
        table.append((title, *values, *ratio))
    show('one run, the devices beside each other', columns, table)
    if 'cuda' not in figures:
        built = torch.version.cuda is not None
        print('no GPU: ' + ('torch sees none here' if built else f'torch {torch.__version__} was '
                            'built without CUDA') + '; nothing of CUDA was run')


def gpu_name(torch: Any) -> str | None:
    """What `nvidia-smi` calls it."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


if __name__ == '__main__':
    sys.exit(guarded(main))

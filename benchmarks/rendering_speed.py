# SPDX-License-Identifier: Apache-2.0
"""
Rays per second in rendering: the CPU kernels against the torch path, at equal numbers of samples.

    python benchmarks/rendering_speed.py [--data DIR --map FILE]

A cheap sampler can be fast and wrong: the same views are also rendered with 256 uniform samples a
ray in float32 torch, and both renders are compared with the held-out images. Target: 100,000 rays
per second, median over runs, without visible loss.
"""

import functools
from pathlib import Path
import statistics
import sys
from typing import Any
from unittest import mock

from _bench import (
    add_data, camera_rays, finish, guarded, interleaved, parser, prepare, show, spread,
    torch_grid, trained_map, training_data)

TARGET = 1e5
REFERENCE_SAMPLES, REFERENCE_CHUNK = 256, 1024


def main() -> int:
    """Measure speed, then what it costs in quality."""
    made = parser(__doc__)
    add_data(made)
    made.add_argument('--map', type=Path, help='map (default: one trained for a minute)')
    made.add_argument('--runs', type=int, default=9, metavar='N', help='(default: 9)')
    made.add_argument('--views', type=int, default=4, metavar='N',
                      help='test views to judge the quality by (default: 4)')
    args = made.parse_args()
    prepare(args)
    from thermal_nerf_loc.field.native.library import instruction_set
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap

    data = training_data(args)
    radiance_map = RadianceMap.load(trained_map(data, args.map, 3.0 if args.quick else 60.0))
    scene = load_scene(data)
    rows, figures = [], {}
    for modality in radiance_map.modalities:
        rays = camera_rays(scene, scene.test[:1], modality)
        seconds = interleaved(
            {'kernels': functools.partial(radiance_map.render_rays, modality, *rays),
             'numba and torch': functools.partial(staged(radiance_map, modality), *rays),
             'torch path': functools.partial(torch_path, radiance_map, modality, *rays)},
            2 if args.quick else args.runs)
        medians = {way: statistics.median(times) for way, times in seconds.items()}
        for way, times in seconds.items():
            rows.append((modality, way, 1e3 * medians[way], spread([1e3 * t for t in times]),
                         len(rays[0]) / medians[way], medians['numba and torch'] / medians[way],
                         medians['torch path'] / medians[way]))
        figures[modality] = {'rays_per_second': len(rays[0]) / medians['kernels'],
                             'ratio': medians['torch path'] / medians['kernels'],
                             'ratio_to_stages': medians['numba and torch'] / medians['kernels']}
    show(f'rendering {len(rays[0])} rays, {samples_of()} samples each; '
         f'compiled kernels: {instruction_set() or "none"}',
         ('image', 'way', 'ms', 'middle half', 'rays/s', 'times numba\nand torch',
          'times\ntorch'), rows)
    views = 1 if args.quick else args.views
    figures['quality'] = show_quality(radiance_map, scene, scene.test[:views])
    slowest = min(figures[m]['rays_per_second'] for m in radiance_map.modalities)
    print(f'slowest image: {slowest:,.0f} rays/s (target {TARGET:,.0f})')
    return finish(args, {'target': TARGET, 'rays_per_second': slowest, **figures})


def samples_of() -> int:
    """The number of samples a ray that maps are rendered with."""
    from thermal_nerf_loc.mapping.map import radiance_map
    return int(radiance_map.RENDER_SAMPLES)


def staged(radiance_map: Any, modality: str) -> Any:
    """Rendering where there are no compiled kernels: numba, and torch for the networks."""
    from thermal_nerf_loc.field import density_grid
    from thermal_nerf_loc.field.cpu_renderer import CpuRenderer
    from thermal_nerf_loc.mapping.map.radiance_map import (
        CHUNK_RAYS, RENDER_EXPLORING, RENDER_SAMPLES)

    learner = radiance_map.learner(modality)
    renderer = CpuRenderer(learner.field, learner.grid, modality, fused=False)

    def render(origins: Any, directions: Any) -> None:
        with mock.patch.object(density_grid, 'library', return_value=None):  # samples by numba
            for i in range(0, len(origins), CHUNK_RAYS):
                renderer.render(origins[i:i + CHUNK_RAYS], directions[i:i + CHUNK_RAYS],
                                RENDER_SAMPLES, RENDER_EXPLORING)

    return render


def torch_path(radiance_map: Any, modality: str, origins: Any, directions: Any) -> Any:
    """The same rays at the same samples by plain torch operations."""
    from thermal_nerf_loc.field.device_renderer import render_torch
    from thermal_nerf_loc.mapping.map.radiance_map import RENDER_EXPLORING, RENDER_SAMPLES

    learner = radiance_map.learner(modality)
    learner.field.encoding.reference = True
    try:
        return render_torch(learner.field, torch_grid(learner.grid), modality, origins,
                            directions, RENDER_SAMPLES, RENDER_EXPLORING)
    finally:
        learner.field.encoding.reference = False


def reference(radiance_map: Any) -> Any:
    """The map rendered with many uniform samples in float32 torch, whatever that costs."""
    import numpy as np

    from thermal_nerf_loc.field.device_renderer import render_torch
    from thermal_nerf_loc.mapping.map.localization_map import WrappedMap
    from thermal_nerf_loc.sensing.rendering import RayRendering

    class Reference(WrappedMap):
        def render_rays(self, modality: str, origins: Any, directions: Any) -> Any:
            learner = radiance_map.learner(modality)
            parts = [render_torch(learner.field, learner.grid, modality,
                                  origins[i:i + REFERENCE_CHUNK],
                                  directions[i:i + REFERENCE_CHUNK], REFERENCE_SAMPLES, 1.0)
                     for i in range(0, len(origins), REFERENCE_CHUNK)]
            values, *rest = (np.concatenate(part) for part in zip(*parts))
            if modality == 'thermal' and radiance_map.temperature_range is not None:
                values = radiance_map.temperature_range.to_celsius(values)
            return RayRendering(values, *rest)

        def flat_field_offset(self, modality: str, size: tuple[int, int]) -> None:
            return None

    return Reference(radiance_map)


def show_quality(radiance_map: Any, scene: Any, indices: Any) -> list[dict[str, Any]]:
    """Both renders against the images, and against each other."""
    import numpy as np

    from thermal_nerf_loc.evaluation.map_quality import (
        compare_frame, depth_errors, difference, psnr, whole_sample)

    ways = {f'{samples_of()} samples': radiance_map,
            f'{REFERENCE_SAMPLES} uniform': reference(radiance_map)}
    views = {name: [view for i in indices for view in compare_frame(way, scene, i)]
             for name, way in ways.items()}
    ours, theirs = views.values()
    rows = []
    for modality in radiance_map.modalities:
        span = 1.0 if modality == 'rgb' else float(np.ptp(np.concatenate(
            [v.seen.values.ravel() for v in ours if v.modality == modality])))
        for name, shown in views.items():
            mine = [v for v in shown if v.modality == modality]
            samples = [whole_sample(view) for view in mine]
            depth = [float(np.median(off)) for off in map(depth_errors, samples) if off.size]
            rows.append((modality, name, float(np.mean([psnr(difference(s), span)
                                                        for s in samples])),
                         100.0 * float(np.mean(depth)) if depth else None, None, None))
        pairs = [(a, b) for a, b in zip(ours, theirs) if a.modality == modality]
        off = np.concatenate([(a.rendered - b.rendered).ravel() for a, b in pairs])
        deep = np.concatenate([np.abs(a.depth_m - b.depth_m).ravel() for a, b in pairs])
        rows[-2] = (*rows[-2][:4], psnr(off, span), 100.0 * float(np.median(deep)))
    show(f'quality on {len(indices)} held-out views', (
        'image', 'render', 'PSNR\ndB', 'depth error\ncm', 'PSNR to\nuniform dB',
        'depth to\nuniform cm'), rows)
    return [dict(zip(('modality', 'render', 'psnr', 'depth_median_cm', 'psnr_to_uniform',
                      'depth_to_uniform_cm'), row)) for row in rows]


if __name__ == '__main__':
    sys.exit(guarded(main))

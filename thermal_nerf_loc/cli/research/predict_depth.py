# SPDX-License-Identifier: Apache-2.0
"""`predict-depth NETWORK DATA --out DIR`: depth maps with confidence, of thermal images."""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare."""
    parser.add_argument('network', type=Path, metavar='NETWORK', help='file of distill-depth')
    parser.add_argument('data', type=Path, metavar='DATA', help='data set with thermal images')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR',
                        help='folder to write, for train --depth-from DIR')
    parser.add_argument('--split', choices=('train', 'test', 'all'), default='all',
                        help='images to look at (default: all)')


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Look at every thermal image of the split."""
    from thermal_nerf_loc.cli.distill_depth import scores
    from thermal_nerf_loc.cli.output import progress_bar
    from thermal_nerf_loc.io.atomic_files import check_vacant
    from thermal_nerf_loc.io.datasets.depth_maps import write_depth_maps
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    from thermal_nerf_loc.mapping.thermal_depth.model import ThermalDepth
    from thermal_nerf_loc.sensing.frame import THERMAL

    check_vacant(args.out)
    model, scene = ThermalDepth.load(args.network), load_scene(args.data)
    scene.require(THERMAL)
    with progress_bar('predict depth') as progress:
        maps = predicted_maps(model, scene, args.split, progress)
        count = write_depth_maps(args.out, maps, THERMAL,
                                 {'network': str(args.network), **model.facts})
    return {'out': str(args.out), 'maps': count, args.split: scores(model, scene, args.split)}


def predicted_maps(model: Any, scene: Any, split: str, progress: Any,
                   ) -> Iterator[tuple[str, Any, Any]]:
    """Where each image lies in its data set, its depth, and how far to trust that."""
    import numpy as np

    from thermal_nerf_loc.io.datasets.scene import load_image
    from thermal_nerf_loc.sensing.frame import THERMAL
    from thermal_nerf_loc.sensing.rendering import sureness

    frames = [i for i in scene.split(split) if THERMAL in scene.frames[i].records]
    for done, index in enumerate(frames):
        record = scene.frames[index].records[THERMAL]
        seen = model.predict_image(load_image(THERMAL, record))
        trust = sureness(seen.depth_m, seen.spread_m, np.ones_like(seen.depth_m),
                         seen.depth_m > 0.0)
        path = record.path.relative_to(scene.root) if record.path.is_relative_to(
            scene.root) else Path(record.path.name)
        yield str(path.with_suffix('')), seen.depth_m, trust
        progress(done + 1, len(frames), f'{done + 1} of {len(frames)} images')

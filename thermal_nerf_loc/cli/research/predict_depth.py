# SPDX-License-Identifier: Apache-2.0
"""`predict-depth NETWORK DATA --out DIR`: depth maps with confidence, of thermal images."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare."""
    parser.add_argument('network', type=Path, metavar='NETWORK', help='file of distill-depth')
    parser.add_argument('data', type=Path, metavar='DATA', help='data set with thermal images')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR',
                        help='folder to write, for train --depth-from DIR')
    parser.add_argument('--split', choices=('train', 'test', 'all'), default='all',
                        help='images to predict the depth of (default: all)')


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Predict and write the depth of every thermal image of the split."""
    from thermal_nerf_loc.cli.output import progress_bar
    from thermal_nerf_loc.evaluation.depth_quality import network_scores
    from thermal_nerf_loc.io.atomic_files import check_vacant
    from thermal_nerf_loc.io.datasets.depth_maps import write_depth_maps
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    from thermal_nerf_loc.mapping.thermal_depth.dataset import predict_depth_maps
    from thermal_nerf_loc.mapping.thermal_depth.model import ThermalDepth
    from thermal_nerf_loc.sensing.frame import THERMAL

    check_vacant(args.out)
    model, scene = ThermalDepth.load(args.network), load_scene(args.data)
    scene.require(THERMAL)
    with progress_bar('predict depth') as progress:
        maps = predict_depth_maps(model, scene, args.split, progress)
        count = write_depth_maps(args.out, maps, THERMAL,
                                 {'network': str(args.network), **model.facts})
    return {'out': str(args.out), 'maps': count,
            args.split: network_scores(model, scene, args.split)}

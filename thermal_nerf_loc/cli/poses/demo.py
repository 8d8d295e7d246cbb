# SPDX-License-Identifier: Apache-2.0
"""`demo`: simulate a robot, train its map, localize it through the real ROS node, report."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_VIEWS = 4  # on the sheet of renders
_MARKER_FILE = 'demo.json'  # marks a folder that an earlier demo made, which may be written over


@dataclass(frozen=True, slots=True)
class Size:
    """Training frames and durations of a demo."""

    frames: int
    training_s: float
    bag_s: float


FULL = Size(frames=100, training_s=150.0, bag_s=24.0)
QUICK = Size(frames=40, training_s=40.0, bag_s=8.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare."""
    parser.add_argument('--out', type=Path, default=Path('demo_out'), metavar='DIR',
                        help='folder for everything (default: demo_out)')
    parser.add_argument('--scene', default='room', help='simulated world (default: room)')
    parser.add_argument('--seconds', type=float, metavar='S',
                        help=f'length of the drive (default: {FULL.bag_s:.0f})')
    parser.add_argument('--max-seconds', type=float, metavar='S',
                        help=f'time for training (default: {FULL.training_s:.0f})')
    parser.add_argument('--seed', type=int, default=0, help='of the simulation (default: 0)')
    parser.add_argument('--quick', action='store_true',
                        help='a smaller, coarser demo in a fraction of the time')


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Simulate, train, replay through ROS where it is installed, report."""
    import time

    from thermal_nerf_loc.cli.output import show_note
    from thermal_nerf_loc.evaluation.study.live_replay import ros_is_here
    from thermal_nerf_loc.io.atomic_files import write_json

    started = time.monotonic()
    size = QUICK if args.quick else FULL
    _prepare(args.out)
    write_json(args.out / _MARKER_FILE, dict(vars(args)))
    _simulate(args, size)
    simulated = time.monotonic()
    quality = _train(args, size)
    trained = time.monotonic()
    live = ros_is_here()
    if not live:
        show_note('rclpy and tf2_msgs do not import here, so this demo does without ROS: the bag '
                  'is replayed offline, through the same tracker')
    figures = {**_replay(args, live, quality), 'map': quality}
    ended = time.monotonic()
    figures |= {'seconds': {'simulate': simulated - started, 'train': trained - simulated,
                            'drive': ended - trained, 'total': ended - started}}
    write_json(args.out / 'metrics.json', figures)
    show_note(f'report: {args.out / "report.html"}')
    return figures


def _prepare(out: Path) -> None:
    """Remove the files of an earlier demo; refuse a folder with anything else in it."""
    import shutil

    from thermal_nerf_loc.io.atomic_files import check_vacant

    if not (out / _MARKER_FILE).is_file():
        check_vacant(out)
        return
    for name in ('dataset', 'bag'):
        shutil.rmtree(out / name, ignore_errors=True)


def _simulate(args: argparse.Namespace, size: Size) -> None:
    from thermal_nerf_loc.cli.output import progress_bar
    from thermal_nerf_loc.simulation.record import simulate_bag, simulate_dataset, SimulationConfig

    settings = SimulationConfig(scene=args.scene, seed=args.seed, frames=size.frames,
                                seconds=args.seconds or size.bag_s, rgb_hz=10.0, thermal_hz=20.0)
    with progress_bar('simulate a mapping') as progress:
        simulate_dataset(args.out / 'dataset', settings, progress)
    with progress_bar('simulate a drive') as progress:
        simulate_bag(args.out / 'bag', settings, progress)


def _train(args: argparse.Namespace, size: Size) -> dict[str, Any]:
    from thermal_nerf_loc.cli.maps.train import train_map
    from thermal_nerf_loc.cli.output import progress_bar
    from thermal_nerf_loc.evaluation.report.map_sheet import render_sheet
    from thermal_nerf_loc.io.atomic_files import write_atomically
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
    from thermal_nerf_loc.mapping.training.config import TrainConfig

    config = TrainConfig(max_seconds=args.max_seconds or size.training_s)
    scene, path = load_scene(args.out / 'dataset'), args.out / 'map.safetensors'
    with progress_bar('train the map') as progress:
        figures = train_map(scene, path, config, progress)
    held_out = scene.split('test')
    views = held_out[::max(1, len(held_out) // _VIEWS)][:_VIEWS]
    write_atomically(args.out / 'renders.png',
                     render_sheet(RadianceMap.load(path), scene, views, 'Held-out views'))
    return figures


def _replay(args: argparse.Namespace, live: bool, quality: Mapping[str, Any]) -> dict[str, Any]:
    from thermal_nerf_loc.cli.output import progress_bar, show_note
    from thermal_nerf_loc.evaluation.report.study_report import map_blocks
    from thermal_nerf_loc.evaluation.study.drive_replay import ReplayRequest
    from thermal_nerf_loc.evaluation.study.study import replay
    from thermal_nerf_loc.io.atomic_files import read_bytes

    request = ReplayRequest(args.out / 'map.safetensors', args.out / 'bag', args.out,
                            through_ros=live)
    blocks = map_blocks(quality, read_bytes(args.out / 'renders.png'))
    with progress_bar('drive, through ROS' if live else 'drive, offline') as progress:
        result = replay(request, progress,
                        f'A simulated {args.scene}: mapped, then driven through', blocks)
    for note in result.notes:
        show_note(note)
    return result.figures

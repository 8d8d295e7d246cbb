# SPDX-License-Identifier: Apache-2.0
"""`demo`: simulate a robot, train its map, localize it through the real ROS node, report."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from thermal_nerf_loc.cli.options import add_device

_VIEWS = 4  # on the sheet of renders
_STEPS_A_FRAME = 6.0  # training steps that simulation and stereo of a frame take as long as
_AFTER_TRAINING = 1.25  # training and what follows it, over the training
_DRIVE, _FIXED_S = 2.0, 20.0  # simulated and replayed, over its length; start, reports
_MARKER_FILE = 'demo.json'  # marks a folder that an earlier demo made, which may be written over


@dataclass(frozen=True, slots=True)
class Size:
    """Training frames and steps, and the length of the drive."""

    frames: int
    steps: int
    bag_s: float


# Steps, not seconds: the map is the same on every machine.
FULL = Size(frames=100, steps=1400, bag_s=24.0)
QUICK = Size(frames=40, steps=400, bag_s=8.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare."""
    parser.add_argument('--out', type=Path, default=Path('demo_out'), metavar='DIR',
                        help='folder for everything (default: demo_out)')
    parser.add_argument('--scene', default='room', help='simulated world (default: room)')
    parser.add_argument('--seconds', type=float, metavar='S',
                        help=f'length of the drive (default: {FULL.bag_s:.0f})')
    parser.add_argument('--steps', type=int, metavar='N',
                        help=f'training steps (default: {FULL.steps})')
    parser.add_argument('--max-seconds', type=float, metavar='S',
                        help='time for the map; with it the map depends on how fast this machine '
                        'is (default: none)')
    parser.add_argument('--seed', type=int, default=0, help='of the simulation (default: 0)')
    parser.add_argument('--quick', action='store_true',
                        help='a smaller, coarser demo in a fraction of the time')
    add_device(parser)


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Simulate, train, replay through ROS where it is installed, report."""
    import time

    from thermal_nerf_loc.cli.output import compile_kernels, show_note
    from thermal_nerf_loc.evaluation.study.live_replay import ros_is_here
    from thermal_nerf_loc.io.atomic_files import write_json

    size = QUICK if args.quick else FULL
    if args.steps is not None:
        size = replace(size, steps=args.steps)
    _prepare(args.out)
    compile_kernels()
    expected_s = _expected_seconds(args, size)
    show_note(f'this takes about {_rounded(expected_s)} here'
              + ('' if args.quick else '; --quick: a smaller demo, in about '
                 f'{_rounded(_expected_seconds(args, QUICK))}'))
    started = time.monotonic()
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


def _expected_seconds(args: argparse.Namespace, size: Size) -> float:
    """How long the demo takes on this machine, from the measured time of a training step."""
    from thermal_nerf_loc.evaluation.training_time import seconds_a_step

    map_s = (_STEPS_A_FRAME * size.frames + _AFTER_TRAINING * size.steps) * seconds_a_step()
    if args.max_seconds is not None:
        map_s = min(map_s, args.max_seconds)
    return map_s + _DRIVE * (args.seconds or size.bag_s) + _FIXED_S


def _rounded(seconds: float) -> str:
    """As exact as an estimate is."""
    return f'{max(10.0 * round(seconds / 10.0), 10.0):.0f} s' if seconds < 100.0 else (
        f'{seconds / 60.0:.0f} minutes')


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

    config = TrainConfig(steps=size.steps, max_seconds=args.max_seconds, device=args.device)
    scene, path = load_scene(args.out / 'dataset'), args.out / 'map.safetensors'
    with progress_bar('train the map') as progress:
        figures = train_map(scene, path, config, progress)
    held_out = scene.split('test')
    views = held_out[::max(1, len(held_out) // _VIEWS)][:_VIEWS]
    finished = RadianceMap.load(path, args.device)
    write_atomically(args.out / 'renders.png',
                     render_sheet(finished, scene, views, 'Held-out views'))
    return figures


def _replay(args: argparse.Namespace, live: bool, quality: Mapping[str, Any]) -> dict[str, Any]:
    from thermal_nerf_loc.cli.output import progress_bar, show_note
    from thermal_nerf_loc.evaluation.report.study_report import map_blocks
    from thermal_nerf_loc.evaluation.study.drive_replay import ReplayRequest
    from thermal_nerf_loc.evaluation.study.study import replay
    from thermal_nerf_loc.io.atomic_files import read_bytes

    request = ReplayRequest(args.out / 'map.safetensors', args.out / 'bag', args.out,
                            through_ros=live, device=args.device)
    blocks = map_blocks(quality, read_bytes(args.out / 'renders.png'))
    with progress_bar('drive, through ROS' if live else 'drive, offline') as progress:
        result = replay(request, progress,
                        f'A simulated {args.scene}: mapped, then driven through', blocks)
    for note in result.notes:
        show_note(note)
    return result.figures

# SPDX-License-Identifier: Apache-2.0
"""
Effect of a person in the training images on a map, with the squared and with the Huber loss.

    python benchmarks/moving_things.py [--share 0.15]

A simulated room in which a share of the training images (both cameras) show a warm figure, each
time at another position. Maps are trained on the clean images (the baseline) and on these, with
either loss, and evaluated on clean held-out images.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
import sys
import tempfile
from typing import Any

from _bench import add_seed, finish, guarded, parser, prepare, room, show

_COLOUR, _CELSIUS = (0.85, 0.25, 0.10), 34.0
_WIDTH, _HEIGHT = 0.26, 0.76  # of the image
_QUALITY = {'rgb_psnr': 'rgb dB', 'thermal_psnr': 'thermal dB', 'thermal_mae_celsius': 'MAE C',
            'depth_median_error_m': 'depth m'}


def options() -> argparse.ArgumentParser:
    """What can be chosen."""
    made = parser(__doc__)
    made.add_argument('--frames', type=int, default=60, metavar='N', help='(default: 60)')
    made.add_argument('--share', type=float, default=0.15, metavar='P',
                      help='of the training images that show it (default: 0.15)')
    made.add_argument('--steps', type=int, default=1000, metavar='N', help='(default: 1000)')
    made.add_argument('--size', type=int, default=96, metavar='PX', help='width (default: 96)')
    add_seed(made)
    return made


def main() -> int:
    """Paint, train, compare."""
    args = options().parse_args()
    prepare(args)
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene

    if args.quick:
        args.frames, args.steps, args.size = 16, 40, 32
    clean = load_scene(room(args.frames, (args.size, 3 * args.size // 4)))
    with painted(clean, args.share, args.seed) as crossed:
        figures = {f'{name}, {loss}': trained(args, scene, loss)
                   for name, scene in (('without person', clean), ('with person', crossed))
                   for loss in ('l2', 'huber')}
    show(f'held-out views, {args.steps} steps, a person in {args.share:.0%} of the images',
         ('images, loss', *_QUALITY.values(), 's'),
         [(name, *(row[column] for column in (*_QUALITY, 'seconds')))
          for name, row in figures.items()])
    return finish(args, figures)


@contextmanager
def painted(scene: Any, share: float, seed: int) -> Iterator[Any]:
    """The scene with other training images, while the block lasts."""
    import numpy as np

    rng = np.random.default_rng(seed)
    chosen = rng.choice(scene.train, max(1, round(share * len(scene.train))), replace=False)
    frames = list(scene.frames)
    with tempfile.TemporaryDirectory() as folder:
        for index in chosen:
            place = rng.uniform((0.15, 0.3), (0.85, 0.7))
            frames[index] = replace(frames[index], records={
                name: replace(record, path=repainted(record, name, place, Path(folder)))
                for name, record in frames[index].records.items()})
        yield replace(scene, frames=tuple(frames))


def repainted(record: Any, name: str, place: Any, folder: Path) -> Path:
    """A copy of an image with the figure at `place` (shares of width and height)."""
    import numpy as np

    from thermal_nerf_loc.io.images import read_image, write_png

    pixels = read_image(record.path).copy()
    y, x = np.indices(pixels.shape[:2]) / np.reshape(pixels.shape[:2], (2, 1, 1))
    inside = ((x - place[0]) / (0.5 * _WIDTH))**2 + ((y - place[1]) / (0.5 * _HEIGHT))**2 < 1.0
    pixels[inside] = (np.multiply(_COLOUR, 255) if name == 'rgb' else
                      record.radiometry.to_counts(np.array(_CELSIUS)))
    path = folder / f'{name}_{record.path.name}'
    write_png(path, pixels)
    return path


def trained(args: argparse.Namespace, scene: Any, loss: str) -> dict[str, Any]:
    """Figures of one map."""
    from thermal_nerf_loc.evaluation.map_quality import evaluate_map
    from thermal_nerf_loc.mapping.training.config import TrainConfig
    from thermal_nerf_loc.mapping.training.trainer import train

    result = train(scene, TrainConfig(steps=args.steps, loss=loss, seed=args.seed,
                                      checkpoint_seconds=0.0))
    quality = evaluate_map(result.map, scene)
    return {**{name: getattr(quality, name) for name in _QUALITY}, 'seconds': result.seconds}


if __name__ == '__main__':
    sys.exit(guarded(main))

# SPDX-License-Identifier: Apache-2.0
"""Shared by the benchmarks of the localizer: inputs, perturbed starts, trials, summaries."""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
import sys
import time
from typing import Any

from _bench import add_data, add_seed, room, trained_map

from thermal_nerf_loc.evaluation.metrics import CORRECT_DEG, CORRECT_M, SUCCESS_DEG, SUCCESS_M

MODALITIES = {'both': ('rgb', 'thermal'), 'rgb': ('rgb',), 'thermal': ('thermal',)}


@dataclass(frozen=True)
class Trial:
    """One localization, compared with the truth."""

    error_m: float
    error_deg: float
    seconds: float
    verdict: str
    chi2: float  # normalised estimation error squared

    @property
    def succeeded(self) -> bool:
        """Within 5 cm and 5 deg."""
        return self.error_m < SUCCESS_M and self.error_deg < SUCCESS_DEG

    @property
    def wrong_but_ok(self) -> bool:
        """Wrong, although its verdict is 'ok'."""
        return self.verdict == 'ok' and (self.error_m > CORRECT_M or self.error_deg > CORRECT_DEG)


def add_inputs(made: argparse.ArgumentParser, frames: int) -> None:
    """Options for the data set, the map and the held-out frames."""
    add_data(made)
    made.add_argument('--map', type=Path, metavar='FILE', help='map (default: one trained now)')
    made.add_argument('--train-seconds', type=float, default=120.0, metavar='S',
                      help='of a map trained now (default: 120)')
    made.add_argument('--frames', type=int, default=frames, metavar='N',
                      help='held-out images (default: %(default)s)')
    add_seed(made)


def data_of(args: argparse.Namespace, scene: str = 'room') -> Path:
    """The data set that was given, else a simulated one."""
    made: Path = args.data or (room(12, (64, 48), scene) if args.quick else room(scene=scene))
    return made


def map_of(args: argparse.Namespace, data: Path) -> Any:
    """The map that was given, else one trained on the data."""
    from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
    return RadianceMap.load(trained_map(data, args.map, 8.0 if args.quick else args.train_seconds))


def held_out(data: Path, count: int) -> list[Any]:
    """At most `count` held-out frames, spread over the whole set."""
    import numpy as np

    from thermal_nerf_loc.common.errors import InputError
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene

    scene = load_scene(data)
    if not scene.test or count < 1:
        raise InputError('there is no view to find', where=data, expected='1 or more',
                         got=f'{len(scene.test)} held out, --frames {count}')
    chosen = np.unique(np.linspace(0, len(scene.test) - 1, min(count, len(scene.test))).round())
    return [scene.load(scene.test[int(k)]) for k in chosen]


def modalities_of(renderer: Any, frames: Sequence[Any]) -> list[str]:
    """Names of `MODALITIES` that the map and every view have."""
    from thermal_nerf_loc.common.errors import InputError

    common = set(renderer.modalities).intersection(*(frame.images for frame in frames))
    names = [name for name, parts in MODALITIES.items() if common.issuperset(parts)]
    if not names:
        raise InputError('map and views have no modality in common',
                         expected=', '.join(renderer.modalities))
    return names


def configured(start: tuple[float, float], method: str = 'align', seed: int = 0,
               **inerf: Any) -> Any:
    """Settings of a localizer for starts with errors of this size (deg, m)."""
    from thermal_nerf_loc.localization.localizer import LocalizerConfig

    config = LocalizerConfig(method=method, seed=seed, guess_sigma_deg=start[0],
                             guess_sigma_m=start[1])
    return replace(config, inerf=replace(config.inerf, **inerf))


def disturbed(T: Any, start: tuple[float, float], seed: Sequence[int]) -> Any:
    """Perturb a pose by exactly `start` (degrees, metres), in random directions."""
    from thermal_nerf_loc.evaluation.localization_quality import perturbed
    degrees, metres = start
    return perturbed(T, metres, degrees, tuple(seed))


def attempt(localizer: Any, frame: Any, modality: str, T_start: Any) -> Trial:
    """Localize once."""
    import numpy as np

    from thermal_nerf_loc.geometry import se3

    found = localizer.localize(frame.only(*MODALITIES[modality]), T_start)
    metres, degrees = se3.distance(found.T_world_cam, frame.T_world_cam)
    xi = se3.minus(frame.T_world_cam, found.T_world_cam)
    return Trial(metres, degrees, found.seconds, found.verdict,
                 float(xi @ np.linalg.solve(found.covariance, xi)))


def attempts(localizer: Any, frames: Sequence[Any], modality: str, start: tuple[float, float],
             seed: int) -> list[Trial]:
    """Localize every frame, from starts that depend on the seed alone."""
    return [attempt(localizer, frame, modality, disturbed(frame.T_world_cam, start, (seed, k)))
            for k, frame in enumerate(frames)]


def warm_up(localizers: Iterable[Any], frame: Any) -> None:
    """Localize once, so that kernels are compiled before times are measured."""
    for localizer in localizers:
        localizer.localize(frame, frame.T_world_cam)


def summary(trials: Sequence[Trial]) -> dict[str, Any]:
    """Medians and shares."""
    import numpy as np
    return {'trials': len(trials),
            'median_m': float(np.median([t.error_m for t in trials])),
            'median_deg': float(np.median([t.error_deg for t in trials])),
            'success_5cm_5deg': float(np.mean([t.succeeded for t in trials])),
            'median_seconds': float(np.median([t.seconds for t in trials])),
            'ok_share': float(np.mean([t.verdict == 'ok' for t in trials])),
            'wrong_but_ok': sum(t.wrong_but_ok for t in trials)}


class ProgressPrinter:
    """Prints the progress of a long run on stderr, every `period_s`."""

    def __init__(self, total: int, period_s: float = 20.0) -> None:
        """Start to count `total` items."""
        self.total, self.period_s, self.done = total, period_s, 0
        self.began = self.printed = time.monotonic()

    def step(self, what: str) -> None:
        """Count one more item."""
        self.done += 1
        now = time.monotonic()
        if now - self.printed > self.period_s:
            self.printed = now
            print(f'{self.done} of {self.total} after {now - self.began:.0f} s: {what}',
                  file=sys.stderr, flush=True)

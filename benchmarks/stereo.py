# SPDX-License-Identifier: Apache-2.0
"""
Depth by stereo: how much of the pixels, how exact, how honest its confidence, how fast.

    python benchmarks/stereo.py [--what accuracy speed] [--data DIR ...] [--fit]

accuracy: against true depth of simulated rooms, and beside it the simple way: the plane with the
best correlation wins, without aggregation. speed: seconds a view of 320 x 240, 96 planes and 6
neighbours. --fit fits the coefficients of `mapping/stereo/confidence.py` and prints them.
"""

import argparse
from itertools import pairwise
import sys
import time
from typing import Any

from _bench import finish, guarded, parser, prepare, room, show

_BINS = 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.01  # of the confidence
_FIGURES = ('share', 'median', 'within_1', 'within_2', 'within_5', 'near_steps_2',
            'near_steps_share')
_LEVELS = 0.01, 0.02, 0.05  # relative errors
_STEP, _NEAR_STEP_PX = 1.1, 4  # ratio of depths at a step; pixels near it


def main() -> int:
    """Run the benchmark."""
    made = parser(__doc__)
    made.add_argument('--data', nargs='+', metavar='DIR',
                      help='data sets with true depth (default: simulated room, machine_room)')
    made.add_argument('--what', nargs='+', choices=('accuracy', 'speed'),
                      default=['accuracy', 'speed'], help='(default: both)')
    made.add_argument('--fit', action='store_true', help='fit the confidence')
    args = made.parse_args()
    prepare(args)
    figures: dict[str, Any] = {}
    if 'accuracy' in args.what or args.fit:
        figures['accuracy'] = accuracy(args)
    if 'speed' in args.what:
        figures['speed'] = speed(args)
    return finish(args, figures)


def accuracy(args: argparse.Namespace) -> dict[str, Any]:
    """Tables of all data sets and cameras."""
    from pathlib import Path

    import numpy as np

    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    from thermal_nerf_loc.mapping.stereo import confidence
    if args.data:
        folders = [Path(path) for path in args.data]
    elif args.quick:
        folders = [room(10, (80, 60))]
    else:
        folders = [room(), room(160, scene='machine_room')]
    figures: dict[str, Any] = {}
    rows, honest, samples = [], [], []
    for folder in folders:
        scene = load_scene(folder)
        for name in scene.modalities:
            for method in ('simple', 'stereo'):
                case, drawn = _case(scene, name, method == 'simple')
                figures[f'{folder.name}, {name}, {method}'] = case
                rows.append((f'{folder.name}, {name}, {method}',
                             *(None if case[key] is None else f'{case[key]:.3g}'
                               for key in _FIGURES), f'{case["seconds"]:.0f}'))
            honest.append((f'{folder.name}, {name}', *case['wrong_by_confidence']))
            samples += drawn
    show('Depth of training images: share of the pixels, median error, errors within 1, 2, 5 %;\n'
         'within 4 px of steps in depth: errors within 2 %, share. All in %',
         ('', 'share', 'median', '1', '2', '5', 'steps: 2', 'share', 's'), rows)
    show('Depths of a confidence that are wrong by over 2 %, in %',
         ('confidence', *(f'{low:g}-{min(high, 1.0):g}' for low, high in pairwise(_BINS))), honest)
    if args.fit:
        fitted = _logistic(*(np.concatenate(part) for part in zip(*samples, strict=True)))
        figures['coefficients'] = dict(zip(confidence.COEFFICIENTS, fitted.tolist(), strict=True))
        print({name: round(value, 2) for name, value in figures['coefficients'].items()})
    return figures


def _case(scene: Any, name: str, simple: bool) -> tuple[dict[str, Any], list[Any]]:
    """Figures of one camera, and samples to fit the confidence to."""
    from unittest import mock

    from thermal_nerf_loc.mapping.stereo import stereo
    members = [i for i in scene.train if name in scene.frames[i].records]
    true = [scene.load(i).images[name].depth_m for i in members]
    kept: list[Any] = []
    judge = stereo.confidence_of

    def recorded(evidence: Any, of: str) -> Any:
        kept.append(evidence)
        return judge(evidence, of)

    started = time.perf_counter()
    with mock.patch.object(stereo, 'confidence_of', recorded):
        found = _found(scene, members, name, simple)
    seconds = time.perf_counter() - started
    pairs = [found.at_image(k, scene.frames[i].records[name].camera)
             for k, i in enumerate(members)]
    samples = [] if simple else _samples(found, kept, true, scene, members, name)
    return {**_judged(pairs, true), 'seconds': seconds}, samples


def _found(scene: Any, members: list[int], name: str, simple: bool) -> Any:
    """Depth of the training images; `simple`: without aggregation."""
    from thermal_nerf_loc.io.datasets.scene import load_image
    from thermal_nerf_loc.mapping.stereo import semi_global
    from thermal_nerf_loc.mapping.stereo.stereo import stereo_depth
    records = [scene.frames[i].records[name] for i in members]
    poses = [scene.frames[i].T_world_cam @ record.T_cam_sensor
             for i, record in zip(members, records, strict=True)]
    aggregate = semi_global.aggregate
    if simple:
        def alone(cost: Any, image: Any, small: Any, large: Any, edge: Any, summed: Any,
                  forward: bool) -> None:
            summed += cost if forward else 0.0
        semi_global.aggregate = alone
    try:
        return stereo_depth(name, [record.camera for record in records], poses,
                            lambda k: load_image(name, records[k].without_depth()))
    finally:
        semi_global.aggregate = aggregate


def _near_steps(true: Any) -> Any:
    """Pixels close to a step in depth."""
    import cv2
    import numpy as np
    true = np.asarray(true, np.float32)
    nearest = cv2.erode(np.where(true > 0.0, true, np.float32(np.inf)), np.ones((3, 3), np.uint8))
    step = cv2.dilate(true, np.ones((3, 3), np.uint8)) > _STEP * nearest
    around = np.ones((2 * _NEAR_STEP_PX + 1,) * 2, np.uint8)
    return cv2.dilate(step.astype(np.uint8), around) > 0


def _judged(pairs: Any, true: Any) -> dict[str, Any]:
    """Share of the pixels, errors in percent, and how often each confidence is wrong."""
    import numpy as np
    depth = np.concatenate([pair[0].ravel() for pair in pairs])
    sure = np.concatenate([pair[1].ravel() for pair in pairs])
    truth = np.concatenate([image.ravel() for image in true])
    steps = np.concatenate([_near_steps(image).ravel() for image in true])
    known = (sure > 0.0) & (truth > 0.0)
    off = np.abs(depth / np.where(truth > 0.0, truth, 1.0) - 1.0)
    wrong = [float((off[part] > 0.02).mean() * 100.0) if part.sum() > 50 else None
             for low, high in pairwise(_BINS)
             for part in [known & (sure >= low) & (sure < high)]]
    near = known & steps
    return {'share': 100.0 * float(known.mean()),
            'median': 100.0 * float(np.median(off[known])) if known.any() else None,
            **{f'within_{round(100 * level)}': 100.0 * float((off[known] <= level).mean())
               if known.any() else None for level in _LEVELS},
            'near_steps_2': 100.0 * float((off[near] <= 0.02).mean()) if near.any() else None,
            'near_steps_share': 100.0 * float(near.sum() / max(steps.sum(), 1)),
            'wrong_by_confidence': wrong}


def _samples(found: Any, kept: Any, true: Any, scene: Any, members: Any, name: str) -> list[Any]:
    """Features and rightness of some pixels of the views, where other views agree."""
    import numpy as np

    from thermal_nerf_loc.mapping.stereo.confidence import features, RIGHT
    rng, out = np.random.default_rng(0), []
    for k, i in enumerate(members):
        view, camera = found.views.cameras[k], scene.frames[i].records[name].camera
        uv, inside = camera.project(view.rays())
        x, y = np.clip(np.floor(uv).astype(int), 0, np.array(camera.size) - 1).T
        truth = np.where(inside, true[k][y, x], 0.0)
        own = found.at_view(k)[0].ravel()
        match = [e for e in kept if e.depth.size == own.size
                 and (e.depth.ravel()[own > 0.0] == own[own > 0.0]).all()]
        if not match or not (own > 0.0).any():
            continue
        evidence = match[0]
        use = np.flatnonzero((truth > 0.0) & (evidence.agreeing.ravel() >= 1)
                             & (evidence.depth.ravel() > 0.0))
        use = rng.permutation(use)[:1500]
        columns = np.stack([np.ravel(value)[use] for value in features(evidence, name).values()],
                           axis=1)
        right = np.abs(evidence.depth.ravel()[use] / truth[use] - 1.0) <= RIGHT
        out.append((columns, right))
    return out


def _logistic(X: Any, right: Any, ridge: float = 1.0) -> Any:
    """Coefficients of a logistic regression, by Newton's method."""
    import numpy as np
    weights = np.zeros(X.shape[1])
    for _ in range(30):
        p = 1.0 / (1.0 + np.exp(-X @ weights))
        H = (X * (p * (1.0 - p))[:, None]).T @ X + ridge * np.eye(len(weights))
        weights += np.linalg.solve(H, X.T @ (right - p) - ridge * weights)
    return weights


def speed(args: argparse.Namespace) -> dict[str, float]:
    """Seconds a view, as many views at once as there are threads."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    from thermal_nerf_loc.mapping.stereo import plane_sweep, semi_global
    height, width, planes, count = (48, 64, 16, 3) if args.quick else (240, 320, 96, 6)
    rng = np.random.default_rng(0)
    view = rng.normal(size=(height, width)).astype(np.float32)
    images = rng.normal(size=count * height * width).astype(np.float32)
    A, b = np.tile(np.eye(3), (count, 1, 1)), np.tile([60.0, 10.0, 0.01], (count, 1))
    starts, sizes = np.arange(count) * height * width, np.tile([height, width], (count, 1))

    def swept(_: int) -> tuple[float, float]:
        cost = np.empty((height, width, planes), np.uint16)
        started = time.perf_counter()
        plane_sweep.sweep(view, images, starts, sizes, A, b, np.linspace(1.0, 0.0, planes),
                          np.float32(0.01), cost)
        middle = time.perf_counter()
        summed = np.zeros(cost.shape, np.float32)
        for forward in (True, False):
            semi_global.aggregate(cost, view, np.float32(0.06), np.float32(0.5), np.float32(0.3),
                                  summed, forward)
        semi_global.select(summed, cost, *(np.empty(view.shape, np.float32) for _ in range(3)))
        return middle - started, time.perf_counter() - middle

    swept(0)
    rounds = args.threads * (1 if args.quick else 4)
    with ThreadPoolExecutor(args.threads) as pool:
        started = time.perf_counter()
        parts = list(pool.map(swept, range(rounds)))
        seconds = (time.perf_counter() - started) / rounds
    sweep, rest = np.median(parts, axis=0)
    show(f'Seconds a view of {width} x {height}, {planes} planes, {count} neighbours',
         ('', 'a view', 'sweep, one thread', 'aggregation, one thread'),
         [(f'{args.threads} threads', seconds, float(sweep), float(rest))])
    return {'seconds_a_view': seconds, 'sweep_s': float(sweep), 'aggregation_s': float(rest)}


if __name__ == '__main__':
    sys.exit(guarded(main))

# SPDX-License-Identifier: Apache-2.0
"""
Does the localizer know when it is wrong? Its confidence, held against the truth.

Each case is localized by each modality; a pose is right within what 'ok' promises: 10 cm, 5 deg.
- good starts: 1 deg 2 cm, 3 deg 5 cm and 10 deg 10 cm off, as a tracker starts;
- wrong starts: the pose of another view; and 30 deg, 50 cm off;
- another scene: images that the map does not show;
- darkness: RGB is black but for its sensor's noise;
- shutter: the thermal camera looks at its own closed shutter (NUC);
- frozen: a tracker gets the same images again; no answer counts as confidence 0.
A map that was trained without knowing how confident wrong poses get is told first, by every other
view; the rest is tested. Printed: the area under the ROC curve of `confidence` (1: every right
pose above every wrong one), and the share of all answers that were wrong and believed. Targets:
>= 0.99, < 0.1 %. An answer that says itself that the view does not hold the pose, and is off by no
more than its covariance says, is called loose; the area is told without these, and with them.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
import sys
from typing import Any

from _bench import finish, guarded, parser, prepare, show
from _poses import (
    add_inputs, configured, data_of, disturbed, held_out, map_of, MODALITIES, modalities_of,
    Ticker, warm_up, WRONG_DEG, WRONG_M)
from localization import black, moved, stranger

GOOD = ((1.0, 0.02), (3.0, 0.05), (10.0, 0.1))
FAR = (30.0, 0.5)
START = (10.0, 0.1)  # how far off the localizer takes its starts to be
ADMITTED = 22.5  # normalised error squared: 6 degrees of freedom, one in a thousand
TARGET_AUROC, TARGET_WRONG = 0.99, 0.001


@dataclass(frozen=True)
class Answer:
    """What was said of one frame, and whether its pose is right."""

    case: str
    modality: str
    right: bool
    confidence: float
    verdict: str
    loose: bool = False  # not right, says that the view does not hold the pose, and is within that


def main() -> int:
    """Localize all cases, report."""
    made = parser(__doc__)
    add_inputs(made, 16)
    made.add_argument('--other', metavar='NAME', default='hall',
                      help='a simulated scene that the map does not show (default: hall)')
    made.add_argument('--repeats', type=int, default=2, metavar='N',
                      help='starts of each kind and view (default: 2)')
    args = made.parse_args()
    prepare(args)
    if args.quick:
        args.frames, args.repeats = 2, 1
    data = data_of(args)
    renderer, frames = map_of(args, data), held_out(data, args.frames)
    if not renderer.false_confidence:
        frames = calibrated(renderer, frames)
    answers = collect(args, renderer, frames)
    return finish(args, {'data': str(data), 'views': len(frames), **report(data.name, answers)})


def calibrated(renderer: Any, frames: Sequence[Any]) -> Sequence[Any]:
    """Calibrate a map that is not, on every other view; the views that are left."""
    from thermal_nerf_loc.localization.confidence import false_positives
    from thermal_nerf_loc.localization.confidence.verdict import ConfidenceConfig, least_confidence

    tails = false_positives.measure(renderer, frames[1::2])
    rate = ConfidenceConfig().false_confidence
    found = ', '.join(f'{name} {least_confidence(tail, rate):.3f}'
                      for name, tail in tails.items())
    print(f'how confident wrong poses get, from {len(frames[1::2])} views: {100 * rate:g} % of '
          f'them more than {found or "(too few to tell)"}')
    return frames[::2]


def collect(args: argparse.Namespace, renderer: Any, frames: Sequence[Any]) -> list[Answer]:
    """Answers of all cases and modalities."""
    from thermal_nerf_loc.localization.localizer import Localizer

    localizer = Localizer(renderer, configured(START, seed=args.seed))
    warm_up([localizer], frames[0])
    modalities = modalities_of(renderer, frames)
    strangers = held_out(stranger(args), len(frames))
    starts = list(cases(args, frames, strangers))
    ticker = Ticker(len(starts) * len(modalities))
    answers = []
    for modality in modalities:
        for name, frame, T_start in starts:
            answers.append(localized(localizer, name, frame, modality, T_start))
            ticker.tick(f'{name}, {modality}')
        answers += [frozen(localizer, frame, modality) for frame in frames]
    return answers


def cases(args: argparse.Namespace, frames: Sequence[Any], strangers: Sequence[Any],
          ) -> Iterator[tuple[str, Any, Any]]:
    """Name, frame and start."""
    for k, frame in enumerate(frames):
        T = frame.T_world_cam
        stray = moved(strangers[k % len(strangers)], frame)
        for repeat in range(args.repeats):
            seed = (args.seed + 1000 * repeat, k)
            for off in GOOD:
                yield 'good start', frame, disturbed(T, off, seed)
            other = frames[(k + 1 + repeat * (len(frames) // 2)) % len(frames)]
            if other is not frame:
                yield 'wrong start', frame, other.T_world_cam
            yield 'wrong start', frame, disturbed(T, FAR, seed)
            yield 'another scene', stray, disturbed(T, START, seed)
            if 'rgb' in frame.images:
                yield 'darkness', black(frame), disturbed(T, START, seed)
            if 'thermal' in frame.images:
                yield 'shutter', shuttered(frame, seed), disturbed(T, START, seed)


def localized(localizer: Any, case: str, frame: Any, modality: str, T_start: Any) -> Answer:
    """One start; a view of another scene is wrong wherever it is put."""
    import numpy as np

    from thermal_nerf_loc.geometry import se3

    found = localizer.localize(frame.only(*MODALITIES[modality]), T_start)
    metres, degrees = se3.distance(found.T_world_cam, frame.T_world_cam)
    stray = case == 'another scene'
    right = not stray and metres <= WRONG_M and degrees <= WRONG_DEG
    xi = se3.minus(frame.T_world_cam, found.T_world_cam)
    admitted = float(xi @ np.linalg.solve(found.covariance, xi)) < ADMITTED
    return Answer(case, modality, right, found.confidence, found.verdict,
                  not right and not stray and found.partial and admitted)


def frozen(localizer: Any, frame: Any, modality: str) -> Answer:
    """The images of a moment ago, while the robot has moved on."""
    from thermal_nerf_loc.sensing.frame import Frame
    from thermal_nerf_loc.tracking.tracker import Tracker

    tracker, seen = Tracker(localizer), frame.only(*MODALITIES[modality])
    tracker.initialize(frame.T_world_cam)
    tracker.step(seen)
    later = Frame(seen.stamp_ns + 100_000_000, {
        name: replace(image, stamp_ns=image.stamp_ns + 100_000_000)
        for name, image in seen.images.items()}, None, seen.name)
    found = tracker.step(later).localization
    return Answer('frozen', modality, False, 0.0 if found is None else found.confidence,
                  'lost' if found is None else found.verdict)


def shuttered(frame: Any, seed: tuple[int, int]) -> Any:
    """The thermal camera sees its shutter: one temperature and the sensor's noise."""
    import numpy as np

    from thermal_nerf_loc.sensing.frame import Frame

    image = frame.images['thermal']
    noise = np.random.default_rng(seed).normal(25.0, 0.05, image.values.shape)
    flat = replace(image, values=noise.astype(np.float32))
    return Frame(frame.stamp_ns, {**frame.images, 'thermal': flat}, frame.T_world_cam, frame.name)


def report(name: str, answers: Sequence[Answer]) -> dict[str, Any]:
    """A table of cases and the two figures, by modality and over all."""
    rows = {}
    for case in dict.fromkeys(a.case for a in answers):
        part = [a for a in answers if a.case == case]
        rows[case] = {'answers': len(part), 'right': sum(a.right for a in part),
                      'loose': sum(a.loose for a in part),
                      'right_and_ok': sum(a.right and a.verdict == 'ok' for a in part),
                      'wrong_but_ok': sum(not a.right and a.verdict == 'ok' for a in part),
                      'highest_wrong': max((a.confidence for a in part
                                            if not a.right and not a.loose), default=None)}
    show(f'{name}: what the localizer says of itself',
         ('case', 'answers', 'right', 'loose', 'right and ok', 'wrong but ok',
          'most confident wrong'),
         [[case, *row.values()] for case, row in rows.items()])
    figures: dict[str, Any] = {'cases': rows}
    for modality in (*dict.fromkeys(a.modality for a in answers), 'all'):
        part = [a for a in answers if modality in (a.modality, 'all')]
        wrong = [a for a in part if not a.right]
        right = [a.confidence for a in part if a.right]
        figures[modality] = {
            'auroc': area_under_roc(right, [a.confidence for a in wrong if not a.loose]),
            'auroc_with_loose': area_under_roc(right, [a.confidence for a in wrong]),
            'wrong': len(wrong), 'wrong_but_ok': sum(a.verdict == 'ok' for a in wrong),
            'wrong_but_ok_share': sum(a.verdict == 'ok' for a in wrong) / max(len(part), 1)}
    show('', ('modality', 'AUROC', 'with loose ones', 'wrong', 'wrong but ok', '% of all'),
         [[key, f['auroc'], f['auroc_with_loose'], f['wrong'], f['wrong_but_ok'],
           100 * f['wrong_but_ok_share']]
          for key, f in figures.items() if key != 'cases'])
    total = figures['all']
    if total['auroc'] is not None:
        print(f'AUROC {total["auroc_with_loose"]:.4f} (target {TARGET_AUROC}), every answer off '
              f'by more than {100 * WRONG_M:g} cm or {WRONG_DEG:g} deg being wrong; '
              f'{total["auroc"]:.4f} without the loose ones')
    print(f'{100 * total["wrong_but_ok_share"]:.2f} % wrong but believed '
          f'(target < {100 * TARGET_WRONG:g} %)')
    return figures


def area_under_roc(right: Sequence[float], wrong: Sequence[float]) -> float | None:
    """Probability that a right answer has the higher confidence of two; ties count half."""
    from scipy.stats import mannwhitneyu
    if not right or not wrong:
        return None
    return float(mannwhitneyu(right, wrong).statistic) / (len(right) * len(wrong))


if __name__ == '__main__':
    sys.exit(guarded(main))

# SPDX-License-Identifier: Apache-2.0
"""
How long a localizer had a pose, how long it took to find it again, and its self checks.

Time is counted from states (tracking, lost, ...) or, for systems that report none, from the gaps
between poses. A self check is a search of the whole map that confirms or contradicts the tracked
pose; with the truth at hand, false and missed alarms are counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
import itertools

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.evaluation.metrics import CORRECT_DEG, CORRECT_M

POSE, NO_POSE = 'pose', 'no pose'  # states of a system that reports none
_WITH_POSE = frozenset({'tracking', 'degraded', POSE})
CONFIRMED, CONTRADICTED, UNDECIDED = 'confirmed', 'contradicted', 'undecided'
_NS = 1e-9

States = Sequence[tuple[int, str]]  # (stamp, state) in the order of time; it holds to the next
Check = tuple[int, str]  # stamp, outcome of a self check


@dataclass(frozen=True, slots=True)
class Availability:
    """Seconds with and without a pose; None where there was no such event."""

    time_lost_s: float  # without a pose, the start included
    initialization_s: float | None  # from the first image to the first pose, the longest
    losses: int  # times that the pose was lost
    recoveries: int  # times that it was recovered
    relocalization_median_s: float | None  # from a loss to the next pose
    relocalization_max_s: float | None


def has_pose(state: str) -> bool:
    """Tell whether a state stands for a pose."""
    return state in _WITH_POSE


def availability(*drives: States) -> Availability:
    """Add up the states of drives; a loss that lasts to the end counts as time lost alone."""
    found = [_intervals(states) for states in drives]
    firsts = [next((k for k, (_, _, good) in enumerate(drive) if good), None) for drive in found]
    gaps_s = []
    for drive, first in zip(found, firsts):
        later = [] if first is None else drive[first + 1:-1]
        gaps_s += [(end - begin) * _NS for begin, end, good in later if not good]
    starts_s = [(drive[k][0] - drive[0][0]) * _NS for drive, k in zip(found, firsts)
                if k is not None]
    return Availability(
        sum(end - begin for drive in found for begin, end, good in drive if not good) * _NS,
        max(starts_s) if starts_s and None not in firsts else None,
        sum(not good for drive, k in zip(found, firsts) if k is not None
            for _, _, good in drive[k + 1:]), len(gaps_s),
        float(np.median(gaps_s)) if gaps_s else None, max(gaps_s, default=None))


def states_from_stamps(stamps_ns: NDArray[np.int64], start_ns: int, end_ns: int,
                       longest_s: float) -> tuple[tuple[int, str], ...]:
    """States of a system that reports none: a pose, except in gaps longer than `longest_s`."""
    inside = [int(t) for t in stamps_ns if start_ns <= t <= end_ns]
    if not inside:
        return ((start_ns, NO_POSE), (end_ns, NO_POSE))
    longest_ns = round(longest_s / _NS)
    out: list[tuple[int, str]] = [] if inside[0] - start_ns <= longest_ns else [
        (start_ns, NO_POSE)]
    out.append((inside[0], POSE))
    for before, after in itertools.pairwise(inside):
        if after - before > longest_ns:
            out += [(before, NO_POSE), (after, POSE)]
    last = inside[-1]
    return (*out, (last, NO_POSE), (end_ns, NO_POSE)) if end_ns - last > longest_ns else (
        *out, (end_ns, POSE))


def _intervals(states: States) -> list[tuple[int, int, bool]]:
    """Intervals `(begin_ns, end_ns, has a pose)`; neighbours of one kind are joined."""
    out: list[tuple[int, int, bool]] = []
    for begin, (stamp, state) in enumerate(states):
        end = states[begin + 1][0] if begin + 1 < len(states) else stamp
        good = has_pose(state)
        if out and out[-1][2] == good:
            out[-1] = out[-1][0], end, good
        else:
            out.append((stamp, end, good))
    return out


@dataclass(frozen=True, slots=True)
class SelfChecks:
    """How many checks there were; None: they were not recorded, or there is no truth."""

    self_checks: int | None = None
    self_checks_confirmed: int | None = None
    self_checks_undecided: int | None = None
    self_checks_contradicted: int | None = None
    false_alarms: int | None = None  # contradicted, though the pose was correct
    missed_alarms: int | None = None  # confirmed, though the pose was wrong
    false_alarm_share: float | None = None  # of the checks of correct poses


@dataclass(frozen=True, slots=True, eq=False)
class StampedErrors:
    """Errors of the poses of a drive: stamps in the order of time, metres, degrees."""

    stamps_ns: NDArray[np.int64]
    metres: NDArray[np.float64]
    degrees: NDArray[np.float64]

    def is_correct(self, stamp_ns: int) -> bool:
        """Whether the pose nearest in time was correct, see `metrics.CORRECT_M`."""
        k = int(np.abs(self.stamps_ns - stamp_ns).argmin())
        return bool(self.metres[k] <= CORRECT_M and self.degrees[k] <= CORRECT_DEG)


def self_checks(drives: Sequence[tuple[Sequence[Check], StampedErrors | None]]) -> SelfChecks:
    """Add up the checks of drives; without the truth of one, alarms cannot be judged."""
    if not any(outcomes for outcomes, _ in drives):
        return SelfChecks()
    checks = [(stamp_ns, outcome, errors) for outcomes, errors in drives
              for stamp_ns, outcome in outcomes
              if outcome in (CONFIRMED, CONTRADICTED, UNDECIDED)]
    found = [outcome for _, outcome, _ in checks]
    counts = (len(checks), found.count(CONFIRMED), found.count(UNDECIDED),
              found.count(CONTRADICTED))
    if any(errors is None or not len(errors.stamps_ns) for _, errors in drives):
        return SelfChecks(*counts)
    correct = [errors is not None and errors.is_correct(stamp) for stamp, _, errors in checks]
    false = sum(good and outcome == CONTRADICTED for good, outcome in zip(correct, found))
    missed = sum(not good and outcome == CONFIRMED for good, outcome in zip(correct, found))
    return SelfChecks(*counts, false, missed, false / sum(correct) if any(correct) else None)

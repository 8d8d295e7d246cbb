# SPDX-License-Identifier: Apache-2.0
"""When a localizer had a pose to offer: time lost, and how long it took to be found again."""

from collections.abc import Sequence
from dataclasses import dataclass
import itertools

import numpy as np
from numpy.typing import NDArray

POSE, NO_POSE = 'pose', 'no pose'  # of a system whose own states are not known
_WITH_POSE = frozenset({'tracking', 'degraded', POSE})
_NS = 1e-9

States = Sequence[tuple[int, str]]  # (stamp, state) in the order of time; it holds to the next


@dataclass(frozen=True, slots=True)
class Availability:
    """Seconds with and without a pose; None where nothing of the kind happened."""

    time_lost_s: float  # without a pose, the start included
    initialization_s: float | None  # from the first image to the first pose, the longest
    losses: int  # times that the pose was lost
    recoveries: int  # times that it was found again
    relocalization_median_s: float | None  # from a loss to the next pose
    relocalization_max_s: float | None


def has_pose(state: str) -> bool:
    """Tell whether a state stands for a pose."""
    return state in _WITH_POSE


def availability(*drives: States) -> Availability:
    """Add up the states of drives; a loss that lasts to the end counts as time lost alone."""
    found = [_stretches(states) for states in drives]
    firsts = [next((k for k, (_, _, good) in enumerate(one) if good), None) for one in found]
    gaps_s = []
    for one, first in zip(found, firsts):
        later = [] if first is None else one[first + 1:-1]
        gaps_s += [(end - begin) * _NS for begin, end, good in later if not good]
    starts_s = [(one[k][0] - one[0][0]) * _NS for one, k in zip(found, firsts) if k is not None]
    return Availability(
        sum(end - begin for one in found for begin, end, good in one if not good) * _NS,
        max(starts_s) if starts_s and None not in firsts else None,
        sum(not good for one, k in zip(found, firsts) if k is not None
            for _, _, good in one[k + 1:]), len(gaps_s),
        float(np.median(gaps_s)) if gaps_s else None, max(gaps_s, default=None))


def states_from_stamps(stamps_ns: NDArray[np.int64], start_ns: int, end_ns: int,
                       longest_s: float) -> tuple[tuple[int, str], ...]:
    """Where poses follow each other within `longest_s` there is one, elsewhere there is none."""
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


def _stretches(states: States) -> list[tuple[int, int, bool]]:
    """`(begin_ns, end_ns, has a pose)`, neighbours of one kind joined."""
    out: list[tuple[int, int, bool]] = []
    for begin, (stamp, state) in enumerate(states):
        end = states[begin + 1][0] if begin + 1 < len(states) else stamp
        good = has_pose(state)
        if out and out[-1][2] == good:
            out[-1] = out[-1][0], end, good
        else:
            out.append((stamp, end, good))
    return out

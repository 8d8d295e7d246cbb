# SPDX-License-Identifier: Apache-2.0
"""What a tracker's checks of its own pose said, and whether the truth agrees."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIRMED, CONTRADICTED, UNDECIDED = 'confirmed', 'contradicted', 'undecided'
RIGHT_M, RIGHT_DEG = 0.10, 5.0  # what a tracked pose promises

Says = tuple[int, str]  # stamp, what a search came to


@dataclass(frozen=True, slots=True)
class SelfChecks:
    """How many checks there were; None: nobody kept a record, or there is no truth."""

    self_checks: int | None = None
    self_checks_confirmed: int | None = None
    self_checks_undecided: int | None = None
    self_checks_contradicted: int | None = None
    false_alarms: int | None = None  # contradicted, though the pose was right
    missed_alarms: int | None = None  # confirmed, though it was not
    false_alarm_share: float | None = None  # of the checks of right poses


@dataclass(frozen=True, slots=True, eq=False)
class Errors:
    """How far off the poses of a drive were: stamps in the order of time, metres, degrees."""

    stamps_ns: NDArray[np.int64]
    metres: NDArray[np.float64]
    degrees: NDArray[np.float64]

    def is_right(self, stamp_ns: int) -> bool:
        """Whether the pose nearest in time held its promise."""
        k = int(np.abs(self.stamps_ns - stamp_ns).argmin())
        return bool(self.metres[k] <= RIGHT_M and self.degrees[k] <= RIGHT_DEG)


def self_checks(drives: Sequence[tuple[Sequence[Says], Errors | None]]) -> SelfChecks:
    """Add up the checks of drives; without the truth of one, alarms cannot be judged."""
    if not any(said for said, _ in drives):
        return SelfChecks()
    checks = [(stamp_ns, text, errors) for said, errors in drives for stamp_ns, text in said
              if text in (CONFIRMED, CONTRADICTED, UNDECIDED)]
    texts = [text for _, text, _ in checks]
    counts = (len(checks), texts.count(CONFIRMED), texts.count(UNDECIDED),
              texts.count(CONTRADICTED))
    if any(errors is None or not len(errors.stamps_ns) for _, errors in drives):
        return SelfChecks(*counts)
    right = [errors is not None and errors.is_right(stamp) for stamp, _, errors in checks]
    false = sum(good and text == CONTRADICTED for good, text in zip(right, texts))
    missed = sum(not good and text == CONFIRMED for good, text in zip(right, texts))
    return SelfChecks(*counts, false, missed, false / sum(right) if any(right) else None)

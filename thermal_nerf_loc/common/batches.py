# SPDX-License-Identifier: Apache-2.0
"""Work on many views in parallel, with a report every second or two, and with a limit of time."""

from collections.abc import Callable
import time
from typing import TypeVar

from thermal_nerf_loc.common.progress import Progress
from thermal_nerf_loc.common.threads import parallel_map

Out = TypeVar('Out')

_FIRST, _SECONDS, _GROWTH = 4, 1.5, 4  # items of the first batch; of a batch; between two


def in_batches(work: Callable[[int], Out], count: int, progress: Progress, message: str,
               seconds: float | None = None, fewest: int = 0) -> list[Out]:
    """
    `work` of 0 to count - 1; the batches between two reports grow with the speed.

    With `seconds` no batch begins after that time, once the `fewest` are done.
    """
    done: list[Out] = []
    size, began = _FIRST, time.monotonic()
    while len(done) < count:
        progress(len(done), count, message)
        started = time.monotonic()
        if seconds is not None:
            left = began + seconds - started
            if left <= 0.0 and len(done) >= fewest:
                break
            if done:  # what fits into the time that is left
                fit = int(max(left, 0.0) * len(done) / max(started - began, 1e-3))
                size = max(min(size, fit), 2)
        done += parallel_map(work, range(len(done), min(len(done) + size, count)))
        spent = max(time.monotonic() - started, 1e-3)
        size = max(2, min(_GROWTH * size, round(size * _SECONDS / spent)))
    return done

# SPDX-License-Identifier: Apache-2.0
"""Work on many views in parallel, with a report every second or two."""

from collections.abc import Callable
import time
from typing import TypeVar

from thermal_nerf_loc.common.progress import Progress
from thermal_nerf_loc.common.threads import parallel_map

Out = TypeVar('Out')

_FIRST, _SECONDS, _GROWTH = 4, 1.5, 4  # items of the first batch; of a batch; between two


def in_batches(work: Callable[[int], Out], count: int, progress: Progress, message: str,
               ) -> list[Out]:
    """`work` of 0 to count - 1; the batches between two reports grow with the speed."""
    done: list[Out] = []
    size = _FIRST
    while len(done) < count:
        progress(len(done), count, message)
        started = time.monotonic()
        done += parallel_map(work, range(len(done), min(len(done) + size, count)))
        seconds = max(time.monotonic() - started, 1e-3)
        size = max(2, min(_GROWTH * size, round(size * _SECONDS / seconds)))
    return done

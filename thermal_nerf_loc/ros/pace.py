# SPDX-License-Identifier: Apache-2.0
"""The time of a bag on the wall clock, for a replay at a rate."""

from collections.abc import Callable
from dataclasses import dataclass, field
import time


@dataclass(slots=True)
class Pace:
    """`rate` seconds of the bag pass in each second of `clock`, from the first question on."""

    rate: float
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    latencies_s: list[float] = field(default_factory=list)  # from an image's stamp to its pose
    _start: tuple[float, int] | None = None

    def now_ns(self, first_ns: int) -> int:
        """The bag's time; the first call starts it at `first_ns`."""
        if self._start is None:
            self._start = self.clock(), first_ns
        start_s, start_ns = self._start
        return start_ns + round((self.clock() - start_s) * self.rate * 1e9)

    def wait_until(self, due_ns: int) -> None:
        """Sleep until the bag's time has come that far."""
        while (missing_ns := due_ns - self.now_ns(due_ns)) > 0:
            self.sleep(missing_ns / 1e9 / self.rate)

    def note(self, stamp_ns: int) -> None:
        """A pose of this stamp is there now."""
        self.latencies_s.append((self.now_ns(stamp_ns) - stamp_ns) / 1e9 / self.rate)

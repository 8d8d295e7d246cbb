# SPDX-License-Identifier: Apache-2.0
"""
Searches of the whole map for a tracker, at once or in a thread beside it.

A search takes a second or two, and its result holds for the frame that it was begun with. The
camera's motion since then, with its covariance, is added up here and comes with the result. The
thread has a low priority, so that it does not slow the tracker down.
"""

from collections.abc import Callable
from dataclasses import dataclass
import threading
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError, RunError
from thermal_nerf_loc.common.threads import adopt_limit, JOIN_S, lower_priority
from thermal_nerf_loc.geometry.pose_gaussian import PoseGaussian
from thermal_nerf_loc.localization.confidence.verdict import VERDICT_AMBIGUOUS, VERDICT_OK
from thermal_nerf_loc.localization.localizer import Localization

Array = NDArray[np.float64]
Task = Callable[[], Localization]

_CHECK_NICE = 10  # of a check of a tracked pose: the robot goes on meanwhile
_URGENT_NICE = 0


class SearchRunner(Protocol):
    """Runs one task at a time, at once or in the background."""

    def begin(self, task: Task, urgent: bool) -> None:
        """Start a task; only while no other runs."""

    def outcome(self) -> Localization | InputError | None:
        """Result of the task, returned once; None while it runs."""

    def drop(self) -> None:
        """Discard the task: its outcome is not wanted any more."""


class InlineRunner:
    """A `SearchRunner` that runs a task when it begins: the same results in every run."""

    def __init__(self) -> None:
        """Start without a task."""
        self._outcome: Localization | InputError | None = None

    def begin(self, task: Task, urgent: bool) -> None:
        """Run it."""
        try:
            self._outcome = task()
        except InputError as error:
            self._outcome = error

    def outcome(self) -> Localization | InputError | None:
        """See `SearchRunner`."""
        outcome, self._outcome = self._outcome, None
        return outcome

    def drop(self) -> None:
        """See `SearchRunner`."""
        self._outcome = None


class ThreadRunner:
    """A `SearchRunner` that works in the background; the result of a dropped task is discarded."""

    def __init__(self, on_fault: Callable[[Exception], None]) -> None:
        """`on_fault` is called from the thread with errors that are not a user's mistake."""
        self._on_fault = on_fault
        self._lock = threading.Lock()
        self._number = 0  # of the task whose outcome is wanted
        self._outcome: Localization | InputError | None = None
        self._working = threading.Lock()
        self._threads: list[threading.Thread] = []

    def begin(self, task: Task, urgent: bool) -> None:
        """See `SearchRunner`; it starts after a dropped task has ended."""
        with self._lock:
            self._number += 1
            self._outcome = None
            number = self._number
        thread = threading.Thread(target=self._work, args=(task, urgent, number), name='search',
                                  daemon=True)
        self._threads = [*(t for t in self._threads if t.is_alive()), thread]
        thread.start()

    def outcome(self) -> Localization | InputError | None:
        """See `SearchRunner`."""
        with self._lock:
            outcome, self._outcome = self._outcome, None
            return outcome

    def drop(self) -> None:
        """See `SearchRunner`."""
        with self._lock:
            self._number += 1
            self._outcome = None

    def close(self, timeout_s: float = JOIN_S) -> None:
        """Discard all tasks, and wait for their threads."""
        self.drop()
        for thread in self._threads:
            thread.join(timeout_s)

    def _work(self, task: Task, urgent: bool, number: int) -> None:
        with self._working:
            if number != self._number:
                return
            adopt_limit()
            lower_priority(_URGENT_NICE if urgent else _CHECK_NICE)
            outcome: Localization | InputError
            try:
                outcome = task()
            except (InputError, RunError) as error:
                outcome = InputError(str(error))
            except Exception as error:  # the tracker waits for an outcome, whatever happened
                self._on_fault(error)
                outcome = InputError(f'the search failed: {error}')
            with self._lock:
                if number == self._number:
                    self._outcome = outcome


@dataclass(frozen=True, slots=True, eq=False)
class SearchResult:
    """Outcome of a search, and how the camera has moved since it was begun."""

    stamp_ns: int  # of the frame that was searched for
    is_check: bool  # of a tracked pose
    outcome: Localization | InputError
    motion: PoseGaussian

    @property
    def localization(self) -> Localization:
        """The localization; only where one was made."""
        assert isinstance(self.outcome, Localization)
        return self.outcome

    @property
    def is_accepted(self) -> bool:
        """Whether there is a pose with the verdict 'ok'."""
        return isinstance(self.outcome, Localization) and self.outcome.verdict == VERDICT_OK

    @property
    def verdict(self) -> str:
        """Without an accepted pose: 'ambiguous' or 'nothing'."""
        return (VERDICT_AMBIGUOUS if isinstance(self.outcome, Localization)
                and self.outcome.verdict == VERDICT_AMBIGUOUS else 'nothing')

    @property
    def reason(self) -> str:
        """Why no pose was accepted."""
        found = self.outcome
        return str(found) if isinstance(found, InputError) else found.reason


class BackgroundSearch:
    """Begins searches, one at a time, and adds up the motion since."""

    def __init__(self, runner: SearchRunner) -> None:
        """Start without a search."""
        self._runner = runner
        self.reset()

    def reset(self) -> None:
        """Drop the search that runs, and forget when the last one ended."""
        self._runner.drop()
        self._motion: PoseGaussian | None = None  # since the search that runs was begun
        self._begun_ns, self._is_check = 0, False
        self._ended_ns: int | None = None

    @property
    def is_searching(self) -> bool:
        """Whether a result is still to come."""
        return self._motion is not None

    def idle_s(self, now_ns: int) -> float:
        """Seconds since the last search ended; infinite before the first."""
        return float('inf') if self._ended_ns is None else (now_ns - self._ended_ns) * 1e-9

    def add_motion(self, delta: Array, Q: Array) -> None:
        """Add a motion of the camera, with its covariance."""
        if self._motion is not None:
            self._motion = self._motion.moved(delta, Q)

    def begin(self, stamp_ns: int, task: Task, is_check: bool) -> None:
        """Search for the frame of this stamp."""
        self._motion = PoseGaussian(np.eye(4), np.zeros((6, 6)))
        self._begun_ns, self._is_check = stamp_ns, is_check
        self._runner.begin(task, urgent=not is_check)

    def result(self, now_ns: int) -> SearchResult | None:
        """Result of a search that has ended, returned once."""
        if self._motion is None:
            return None
        outcome = self._runner.outcome()
        if outcome is None:
            return None
        result = SearchResult(self._begun_ns, self._is_check, outcome, self._motion)
        self._motion, self._ended_ns = None, now_ns
        return result

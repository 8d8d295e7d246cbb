# SPDX-License-Identifier: Apache-2.0
"""
Searches of the whole map for a tracker: at once, or beside it, while the robot moves on.

A search takes a second or two. What it finds holds for the frame that it was begun with; the
motion since then, with its uncertainty, is kept here and added when the answer comes.

Searches of the whole map beside the tracker, in a thread that gives way to it.
"""

from collections.abc import Callable
from dataclasses import dataclass
import threading
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError, RunError
from thermal_nerf_loc.common.threads import lower_priority
from thermal_nerf_loc.geometry.pose_gaussian import PoseGaussian
from thermal_nerf_loc.localization.confidence.verdict import AMBIGUOUS, OK
from thermal_nerf_loc.localization.localizer import Localization

Array = NDArray[np.float64]
Task = Callable[[], Localization]


class SearchRunner(Protocol):
    """Does one task at a time, now or in the background."""

    def begin(self, task: Task, urgent: bool) -> None:
        """Start; only while nothing else runs."""

    def outcome(self) -> Localization | InputError | None:
        """What came of it, told once; None: not yet."""

    def drop(self) -> None:
        """Nobody wants to know any more."""


class InlineRunner:
    """A `SearchRunner` that works while it is asked: the same on every run."""

    def __init__(self) -> None:
        """Nothing was asked."""
        self._outcome: Localization | InputError | None = None

    def begin(self, task: Task, urgent: bool) -> None:
        """Do it."""
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


@dataclass(frozen=True, slots=True, eq=False)
class SearchResult:
    """What a search has told, and how the camera has moved since it was begun."""

    stamp_ns: int  # of the frame that was searched for
    is_check: bool  # of a tracked pose
    outcome: Localization | InputError
    motion: PoseGaussian

    @property
    def localization(self) -> Localization:
        """The pose, where there is one to be believed."""
        assert isinstance(self.outcome, Localization)
        return self.outcome

    @property
    def is_believed(self) -> bool:
        """Whether there is."""
        return isinstance(self.outcome, Localization) and self.outcome.verdict == OK

    @property
    def verdict(self) -> str:
        """What came of it where there is none: 'ambiguous' or 'nothing'."""
        return (AMBIGUOUS if isinstance(self.outcome, Localization)
                and self.outcome.verdict == AMBIGUOUS else 'nothing')

    @property
    def reason(self) -> str:
        """Why there is none."""
        found = self.outcome
        return str(found) if isinstance(found, InputError) else found.reason


class BackgroundSearch:
    """Begins searches and remembers what they were begun with; never two at a time."""

    def __init__(self, runner: SearchRunner) -> None:
        """Nothing is searched for."""
        self._runner = runner
        self.forget()

    def forget(self) -> None:
        """Start anew: a search that runs is of no interest any more."""
        self._runner.drop()
        self._motion: PoseGaussian | None = None  # since the search at hand was begun
        self._begun_ns, self._is_check = 0, False
        self._ended_ns: int | None = None

    @property
    def is_searching(self) -> bool:
        """Whether an answer is still to come."""
        return self._motion is not None

    def rested_s(self, now_ns: int) -> float:
        """Seconds since the last search ended."""
        return float('inf') if self._ended_ns is None else (now_ns - self._ended_ns) * 1e-9

    def moved(self, delta: Array, Q: Array) -> None:
        """The camera has moved on, with this uncertainty."""
        if self._motion is not None:
            self._motion = self._motion.moved(delta, Q)

    def begin(self, stamp_ns: int, task: Task, is_check: bool) -> None:
        """Search for the frame of this stamp."""
        self._motion = PoseGaussian(np.eye(4), np.zeros((6, 6)))
        self._begun_ns, self._is_check = stamp_ns, is_check
        self._runner.begin(task, urgent=not is_check)

    def answer(self, now_ns: int) -> SearchResult | None:
        """What the search has told, once."""
        if self._motion is None:
            return None
        outcome = self._runner.outcome()
        if outcome is None:
            return None
        answer = SearchResult(self._begun_ns, self._is_check, outcome, self._motion)
        self._motion, self._ended_ns = None, now_ns
        return answer


_NICE = 10  # of a check; the robot goes on meanwhile
_URGENT_NICE = 0


class ThreadRunner:
    """A `SearchRunner` that works in the background; the result of a dropped task is discarded."""

    def __init__(self, on_fault: Callable[[Exception], None]) -> None:
        """Nothing runs; faults (not a user's mistakes) are reported from the thread."""
        self._on_fault = on_fault
        self._lock = threading.Lock()
        self._number = 0  # of the task whose outcome is wanted
        self._outcome: Localization | InputError | None = None
        self._working = threading.Lock()

    def begin(self, task: Task, urgent: bool) -> None:
        """See `SearchRunner`; a task that was dropped is let end first."""
        with self._lock:
            self._number += 1
            self._outcome = None
            number = self._number
        threading.Thread(target=self._work, args=(task, urgent, number), name='search',
                         daemon=True).start()

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

    def _work(self, task: Task, urgent: bool, number: int) -> None:
        with self._working:
            if number != self._number:
                return
            lower_priority(_URGENT_NICE if urgent else _NICE)
            outcome: Localization | InputError
            try:
                outcome = task()
            except (InputError, RunError) as error:
                outcome = InputError(str(error))
            except Exception as error:  # the tracker must hear of an end, whatever it was
                self._on_fault(error)
                outcome = InputError(f'the search failed: {error}')
            with self._lock:
                if number == self._number:
                    self._outcome = outcome

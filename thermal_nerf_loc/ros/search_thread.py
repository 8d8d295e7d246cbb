# SPDX-License-Identifier: Apache-2.0
"""Searches of the whole map beside the tracker, in a thread that gives way to it."""

from collections.abc import Callable
import threading

from thermal_nerf_loc.common.errors import InputError, RunError
from thermal_nerf_loc.common.threads import give_way
from thermal_nerf_loc.localization.finder import Task
from thermal_nerf_loc.localization.localizer import Localization

_NICE = 10  # of a check; the robot goes on meanwhile
_URGENT_NICE = 0


class SearchThread:
    """A `Runner` that works in the background; what was dropped is finished, and not told."""

    def __init__(self, on_fault: Callable[[Exception], None]) -> None:
        """Nothing runs; faults (not a user's mistakes) are reported from the thread."""
        self._on_fault = on_fault
        self._lock = threading.Lock()
        self._number = 0  # of the task whose outcome is wanted
        self._outcome: Localization | InputError | None = None
        self._working = threading.Lock()

    def begin(self, task: Task, urgent: bool) -> None:
        """See `Runner`; a task that was dropped is let end first."""
        with self._lock:
            self._number += 1
            self._outcome = None
            number = self._number
        threading.Thread(target=self._work, args=(task, urgent, number), name='search',
                         daemon=True).start()

    def outcome(self) -> Localization | InputError | None:
        """See `Runner`."""
        with self._lock:
            outcome, self._outcome = self._outcome, None
            return outcome

    def drop(self) -> None:
        """See `Runner`."""
        with self._lock:
            self._number += 1
            self._outcome = None

    def _work(self, task: Task, urgent: bool, number: int) -> None:
        with self._working:
            if number != self._number:
                return
            give_way(_URGENT_NICE if urgent else _NICE)
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

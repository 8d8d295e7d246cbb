# SPDX-License-Identifier: Apache-2.0
"""Progress reports of long jobs, independent of any terminal."""

from typing import Protocol


class Progress(Protocol):
    """What a long job calls from time to time."""

    def __call__(self, done: float, total: float, message: str = '') -> None:
        """`done` of `total` units are finished."""


def silent(done: float, total: float, message: str = '') -> None:
    """Ignore the report."""


def prefixed(progress: Progress, prefix: str) -> Progress:
    """Put a text before every message of a part of a job."""
    def report(done: float, total: float, message: str = '') -> None:
        progress(done, total, prefix + message)
    return report

# SPDX-License-Identifier: Apache-2.0
"""Progress reports of long jobs, independent of any terminal."""

from typing import Protocol


class Progress(Protocol):
    """What a long job calls from time to time."""

    def __call__(self, done: float, total: float, message: str = '') -> None:
        """`done` of `total` units are finished."""


def silent(done: float, total: float, message: str = '') -> None:
    """Ignore the report."""

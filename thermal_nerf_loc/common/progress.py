# SPDX-License-Identifier: Apache-2.0
"""How long jobs tell how far they are, without knowing about terminals."""

from typing import Protocol


class Progress(Protocol):
    """Called now and then by a long job."""

    def __call__(self, done: float, total: float, message: str = '') -> None:
        """`done` of `total` units are finished."""


def silent(done: float, total: float, message: str = '') -> None:
    """Tell nobody."""

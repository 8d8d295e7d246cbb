# SPDX-License-Identifier: Apache-2.0
"""DDS domains that no other test run on this machine uses: one lock file each."""

import fcntl
from pathlib import Path
import tempfile
from typing import IO

_LAST = 101  # above it, default ports run into the ephemeral ones
_held: list[IO[str]] = []  # open until this process ends, and the locks with them


def claim() -> int:
    """Lock a free domain for as long as this process lives."""
    for domain in range(1, _LAST + 1):
        path = Path(tempfile.gettempdir()) / f'thermal_nerf_loc-dds-domain-{domain}.lock'
        try:
            file = path.open('w')
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        _held.append(file)
        return domain
    raise RuntimeError('every DDS domain from 1 to 101 is taken by another test run')

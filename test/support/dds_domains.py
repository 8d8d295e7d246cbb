# SPDX-License-Identifier: Apache-2.0
"""DDS domains that no other test run on this machine uses: one lock file each."""

import atexit
import fcntl
from pathlib import Path
import tempfile
from typing import IO

_LAST = 101  # above it, default ports run into the ephemeral ones
_held: dict[int, IO[str]] = {}  # lock files by domain, open while it is claimed


def claim() -> int:
    """Lock a free domain until it is released, or this process ends."""
    for domain in range(1, _LAST + 1):
        if domain in _held:
            continue
        path = Path(tempfile.gettempdir()) / f'thermal_nerf_loc-dds-domain-{domain}.lock'
        file = None
        try:
            file = path.open('w')
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if file is not None:
                file.close()
            continue
        _held[domain] = file
        return domain
    raise RuntimeError('every DDS domain from 1 to 101 is taken by another test run')


def release(domain: int) -> None:
    """Unlock a domain."""
    _held.pop(domain).close()


@atexit.register
def _release_all() -> None:
    for domain in tuple(_held):
        release(domain)

# SPDX-License-Identifier: Apache-2.0
"""Arrays that may be larger than memory: in a temporary file that leaves with its last user."""

from collections.abc import Callable
import errno
import os
from pathlib import Path
import shutil
import tempfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.data.files import writing

Allocate = Callable[[tuple[int, ...], type[Any]], NDArray[Any]]
# /tmp is memory on many systems; /var/tmp is for what is large.
_LARGE_FILES = Path('/var/tmp')


def in_memory(shape: tuple[int, ...], kind: type[Any]) -> NDArray[Any]:
    """An empty array."""
    return np.empty(shape, kind)


def on_disk(shape: tuple[int, ...], kind: type[Any]) -> NDArray[Any]:
    """
    An array of zeros in a nameless file under $TMPDIR or /var/tmp.

    The space is reserved now: a disk that fills up later would kill the process.
    """
    folder = Path(os.environ.get('TMPDIR') or (
        _LARGE_FILES if _LARGE_FILES.is_dir() else tempfile.gettempdir()))
    size = max(int(np.prod(shape)), 1) * np.dtype(kind).itemsize
    with writing(folder), tempfile.TemporaryFile(dir=folder) as file:
        if size > shutil.disk_usage(folder).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.posix_fallocate(file.fileno(), 0, size)
        return np.memmap(file, kind, 'r+', shape=shape)

# SPDX-License-Identifier: Apache-2.0
"""
The folder in which numba keeps compiled kernels, and what to do where it cannot be written.

numba takes the first of these that it can write: `NUMBA_CACHE_DIR`, `__pycache__` beside the
source, the user's cache folder. Where there is none it refuses to load the package; then kernels
go to a folder that this process and its children share, and that is gone with it. Kernels of
another processor lie beside each other: numba finds those of this one by its name and features.
"""

import atexit
import os
from pathlib import Path
import shutil
import sys
import tempfile

PACKAGE = Path(__file__).resolve().parents[1]

_VARIABLE = 'NUMBA_CACHE_DIR'
_KERNELS = PACKAGE / 'field' / 'kernels'  # stands for all folders of the package


def folders() -> tuple[Path, ...]:
    """Where numba looks, in its order."""
    asked_for = os.environ.get(_VARIABLE)
    cache = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    return (*([Path(asked_for)] if asked_for else []), _KERNELS / '__pycache__',
            Path(cache) / 'numba')


def folder() -> Path:
    """Where kernels are kept; `prepare` has seen to it that there is such a folder."""
    return next((path for path in folders() if is_writable(path)), folders()[0])


def prepare() -> str:
    """Make sure that kernels can be kept somewhere; returns what the user should know, or ''."""
    first, *others = folders()
    if is_writable(first):
        return ''
    kept = next((path for path in others if is_writable(path)), None)
    if kept is not None:
        return f'compiled kernels cannot be kept in {first} (not writable): they go to {kept}'
    made = tempfile.mkdtemp(prefix='thermal-nerf-loc-kernels-')
    atexit.register(_remove, made, os.getpid())
    os.environ[_VARIABLE] = made
    if 'numba' in sys.modules:
        sys.modules['numba'].config.CACHE_DIR = made
    return (f'compiled kernels cannot be kept in {" or ".join(map(str, (first, *others)))} (not '
            f'writable): they are compiled anew at every start; set {_VARIABLE} to a folder that '
            'can be written')


def is_writable(path: Path) -> bool:
    """Whether a folder can be written, or made."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path.is_dir() and os.access(path, os.W_OK | os.X_OK)


def _remove(made: str, process: int) -> None:
    """Only the process that made the folder removes it, not its forks."""
    if os.getpid() == process:
        shutil.rmtree(made, ignore_errors=True)

# SPDX-License-Identifier: Apache-2.0
"""
Atomic files and folders: written under a hidden name beside the final one, synced, renamed.

Every `OSError` becomes a `UserError` that names the path and the reason. `in_memory` and `on_disk`
allocate scratch arrays; those on disk may be larger than the memory, and lie in temporary files
that are removed with their last user.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
import errno
import json
import math
import os
from pathlib import Path
import shutil
import tempfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError, RunError

_READ_REASONS = {
    errno.ENOENT: 'does not exist', errno.ENOTDIR: 'does not exist: a parent is a file',
    errno.EACCES: 'cannot be read: permission denied',
    errno.EPERM: 'cannot be read: permission denied',
    errno.EISDIR: 'is a folder, not a file'}
_WRITE_REASONS = {
    errno.ENOTDIR: 'cannot be written: a parent is a file',
    errno.EEXIST: 'cannot be written: a file stands there',
    errno.EACCES: 'cannot be written: permission denied',
    errno.EPERM: 'cannot be written: permission denied',
    errno.EROFS: 'cannot be written: the file system is read-only',
    errno.EISDIR: 'cannot be written: a folder stands there',
    errno.ENOTEMPTY: 'exists already and is not empty'}
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_LARGE_FILES = Path('/var/tmp')  # on many systems /tmp lies in memory

Allocate = Callable[[tuple[int, ...], type[Any]], NDArray[Any]]  # shape and type to an array


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an `OSError` while reading `path` into an `InputError`."""
    try:
        yield
    except OSError as error:
        reason = _READ_REASONS.get(error.errno or 0, f'cannot be read: {error.strerror or error}')
        raise InputError(reason, where=path) from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` while writing `path` into a `UserError`."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise RunError('no space left on the disk', where=path,
                           hint='Free some space, or write elsewhere.') from error
        reason = _WRITE_REASONS.get(error.errno or 0,
                                    f'cannot be written: {error.strerror or error}')
        raise InputError(reason, where=path) from error


def read_bytes(path: Path) -> bytes:
    """Read a whole file."""
    with reading(path):
        return path.read_bytes()


def read_text(path: Path) -> str:
    """Read a whole UTF-8 file."""
    try:
        return read_bytes(path).decode('utf-8-sig')
    except UnicodeDecodeError as error:
        raise InputError('is no text', where=path, expected='UTF-8',
                         got=f'byte {error.object[error.start]:#04x} at {error.start}') from None


def read_json(path: Path) -> Any:
    """Parse a JSON file; errors have line and column."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError('is no valid JSON', where=path,
                         got=f'{error.msg} at line {error.lineno}, column {error.colno}',
                         hint='Was it written to its end?') from None
    except RecursionError:
        raise InputError('is no valid JSON', where=path, got='endless nesting') from None


def write_json(path: Path, value: Any) -> None:
    """Write JSON; numpy values become plain ones, and NaN or infinity become null."""
    write_atomically(path, json.dumps(_plain(value), indent=2, allow_nan=False) + '\n')


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file under another name and rename it: a crash leaves the old one or the new one."""
    data = content.encode('utf-8') if isinstance(content, str) else content
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(prefix=f'.{path.name}.', dir=path.parent)
        try:
            with os.fdopen(handle, 'wb') as file:
                file.write(data)
                file.flush()
                os.fchmod(file.fileno(), 0o666 & ~_umask())
                os.fsync(file.fileno())
            os.replace(beside, path)
            _sync(path.parent)
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise


def check_writable(path: Path) -> None:
    """Refuse a path that cannot be written, before a long job, by making a file beside it."""
    if not path.parent.is_dir():
        raise InputError('folder does not exist', where=path.parent,
                         hint='Make it first, or write elsewhere.')
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        handle, beside = tempfile.mkstemp(prefix=f'.{path.name}.', dir=path.parent)
        os.close(handle)
        os.unlink(beside)


def remove(path: Path) -> None:
    """Remove a file, if it is there."""
    with writing(path):
        path.unlink(missing_ok=True)


def write_inside(path: Path, content: bytes) -> None:
    """Write a file in a folder of `directory_beside`, which syncs its files at its end."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@contextmanager
def directory_beside(path: Path) -> Iterator[Path]:
    """
    Yield a folder to fill, which becomes `path` when the block ends well.

    Until then it lies in a hidden folder beside `path`, under its final name; after an exception
    nothing of it is left. A folder that exists at `path` and is not empty is refused.
    """
    path = Path(os.path.abspath(path))
    check_vacant(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        hidden = Path(tempfile.mkdtemp(prefix=f'.{path.name}.partial-', dir=path.parent))
        folder = hidden / path.name
        folder.mkdir()
    try:
        yield folder
        with writing(path):
            for file in folder.rglob('*'):
                _sync(file)
            _sync(folder)
            folder.rename(path)
            _sync(path.parent)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def check_vacant(path: Path) -> None:
    """Refuse an output folder that exists and is not empty, before a long job."""
    with writing(path):
        if path.exists() and not path.is_dir():
            raise InputError('is a file', where=path, expected='a folder, or nothing yet')
        if path.is_dir() and any(path.iterdir()):
            raise InputError('exists already and is not empty', where=path,
                             hint='Choose another output folder, or remove this one.')


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    """The umask, from /proc: os.umask could only read it by setting it for the whole process."""
    try:
        for line in Path('/proc/self/status').read_text().splitlines():
            if line.startswith('Umask:'):
                return int(line.split()[1], 8)
    except OSError:
        pass
    return 0o022


def _plain(value: Any) -> Any:
    """Convert numpy, dataclass, path and enum values to types that JSON has."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, dict) or hasattr(value, 'items'):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)


def in_memory(shape: tuple[int, ...], kind: type[Any]) -> NDArray[Any]:
    """An empty array."""
    return np.empty(shape, kind)


def on_disk(shape: tuple[int, ...], kind: type[Any]) -> NDArray[Any]:
    """
    An array of zeros in an unlinked temporary file under $TMPDIR or /var/tmp.

    Its space is reserved at once: if the disk filled up later, the process would be killed.
    """
    folder = Path(os.environ.get('TMPDIR') or (
        _LARGE_FILES if _LARGE_FILES.is_dir() else tempfile.gettempdir()))
    size = max(int(np.prod(shape)), 1) * np.dtype(kind).itemsize
    with writing(folder), tempfile.TemporaryFile(dir=folder) as file:
        if size > shutil.disk_usage(folder).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.posix_fallocate(file.fileno(), 0, size)
        return np.memmap(file, kind, 'r+', shape=shape)

# SPDX-License-Identifier: Apache-2.0
"""
Files at an address: `http(s)://` by the standard library, all others (`s3://` ...) by fsspec.

What is fetched is named by its checksum and kept in a folder, so that it is fetched once. A
transfer that breaks off is tried again; what does not have its checksum is never used.
"""

import hashlib
from http.client import HTTPException
import os
from pathlib import Path
import time
from urllib.error import HTTPError
import urllib.request

from thermal_nerf_loc.common.errors import InputError, RunError
from thermal_nerf_loc.io.atomic_files import read_bytes, write_atomically

_TIMEOUT_S = 20.0
_TRIES, _PAUSE_S = 3, 0.5
_SCHEMES = ('http://', 'https://')


def is_remote(path: str | Path) -> bool:
    """Whether a path is an address; `Path` makes one slash of the two behind the colon."""
    head, colon, rest = str(path).partition(':')
    return bool(colon) and len(head) > 1 and head.isalnum() and rest.startswith('/')


def address(path: str | Path) -> str:
    """The address as it was before it became a `Path`."""
    head, _, rest = str(path).partition(':')
    return f'{head}://{rest.lstrip("/")}'.rstrip('/')


def cache_folder() -> Path:
    """Where fetched files are kept: $THERMAL_NERF_LOC_CACHE, or the user's cache folder."""
    given = os.environ.get('THERMAL_NERF_LOC_CACHE')
    cache = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    return Path(given) if given else Path(cache) / 'thermal_nerf_loc'


def read_remote(url: str) -> bytes:
    """Read a whole file, in several tries where the network fails."""
    for left in reversed(range(_TRIES)):
        try:
            return _read(url)
        except (OSError, HTTPException) as error:
            reason = getattr(error, 'reason', None) or error
            if isinstance(error, FileNotFoundError) or (
                    isinstance(error, HTTPError) and error.code < 500):
                raise InputError('no such file at this address', where=url,
                                 got=str(reason)) from None
            if not left:
                raise RunError('cannot be fetched', where=url, got=str(reason),
                               hint='Is the network there? Nothing is lost: try again.') from None
            time.sleep(_PAUSE_S)
    raise AssertionError


def fetched(url: str, sha256: str, folder: Path | None = None) -> Path:
    """The local copy of a file with this checksum; fetched now where it is not there yet."""
    path = (cache_folder() if folder is None else folder) / sha256
    if path.is_file() and checksum(path) == sha256:
        return path
    content = read_remote(url)
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise InputError('the file is not the one that the index names', where=url,
                         expected=f'checksum {sha256[:12]}', got=found[:12],
                         hint='Copy the folder to the server again.')
    write_atomically(path, content)
    return path


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(read_bytes(path)).hexdigest()


def _read(url: str) -> bytes:
    if not url.startswith(_SCHEMES):
        try:
            import fsspec  # type: ignore[import-untyped]
        except ImportError:
            raise InputError('fsspec is needed for this address', where=url,
                             hint='pip install fsspec, and s3fs for s3://') from None
        with fsspec.open(url, 'rb') as file:
            return bytes(file.read())
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response:
        return bytes(response.read())  # one that breaks off raises IncompleteRead

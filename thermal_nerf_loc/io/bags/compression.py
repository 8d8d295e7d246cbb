# SPDX-License-Identifier: Apache-2.0
"""Decompress files and records of bags (zstd, lz4, bz2), as far as they are intact."""

import bz2
from collections.abc import Callable, Iterator
from pathlib import Path
import sys
from typing import Any, BinaryIO

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.io.atomic_files import reading

ZSTD_MAGIC = b'\x28\xb5\x2f\xfd'

_BLOCK_BYTES = 1 << 20  # read at a time


def decompressed(path: Path, folder: Path) -> Path:
    """The file itself, or the content of a zstd file, as far as it is intact, in `folder`."""
    with reading(path), path.open('rb') as file:
        if file.read(4) != ZSTD_MAGIC:
            return path
        file.seek(0)
        out = folder / path.stem
        with out.open('wb') as plain:
            for block in decompress(file, 'zstd'):
                plain.write(block)
    return out


def zstd() -> Any:
    """The zstandard module: of the standard library, or its backport."""
    if sys.version_info >= (3, 14):
        from compression import zstd as module
    else:
        from backports import zstd as module
    return module


def decompress(file: BinaryIO, kind: str) -> Iterator[bytes]:
    """Decompress block by block, up to the end or to the first damage, without an error."""
    makers: dict[str, Callable[[], Any]] = {
        'zstd': lambda: zstd().ZstdDecompressor(), 'lz4': _lz4, 'bz2': bz2.BZ2Decompressor}
    if kind in ('', 'none'):
        yield file.read()
        return
    if kind not in makers:
        raise InputError('bag is compressed in an unknown way', got=kind,
                         expected=', '.join(makers))
    stream = makers[kind]()
    while block := file.read(_BLOCK_BYTES):
        while block:
            try:
                yield stream.decompress(block)
            except Exception:  # each library has errors of its own
                return
            if not stream.eof:
                break
            block, stream = stream.unused_data, makers[kind]()  # the next frame


def _lz4() -> Any:
    import lz4.frame  # type: ignore[import-untyped]
    return lz4.frame.LZ4FrameDecompressor()

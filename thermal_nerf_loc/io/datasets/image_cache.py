# SPDX-License-Identifier: Apache-2.0
"""
Decoded images on disk, mapped into memory: each is decoded once, by whatever process comes first.

A training reads an image several times (range of temperatures, pixels, features, keyframes), and
tiles share those of their overlap. The folder holds a `.npy` file for each image, named by path,
size and time of the original, and no more bytes than allowed: the oldest go first. Colours of 8
bits are kept as such, so that they come back bit by bit.
"""

from collections.abc import Callable
from dataclasses import dataclass
import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import UserError
from thermal_nerf_loc.io.atomic_files import reading, remove, write_atomically
from thermal_nerf_loc.io.images import CountImage, read_counts, read_rgb, RgbImage

_EIGHT_BITS = np.float32(255.0)


@dataclass(frozen=True, slots=True)
class ImageCache:
    """A folder of decoded images; safe to be shared by processes."""

    folder: Path
    limit_bytes: int

    def rgb(self, path: Path) -> RgbImage:
        """As `read_rgb`."""
        kept = self._kept(path)
        if kept is not None:
            return RgbImage(_colours(kept), None)
        image = read_rgb(path)
        steps = np.rint(image.values * _EIGHT_BITS).astype(np.uint8)
        if image.valid is None and np.array_equal(_colours(steps), image.values):
            self._keep(path, steps)
        return image

    def counts(self, path: Path) -> CountImage:
        """As `read_counts`."""
        kept = self._kept(path)
        if kept is not None:
            return CountImage(np.array(kept), None)
        image = read_counts(path)
        if image.valid is None:
            self._keep(path, image.counts)
        return image

    def clear(self) -> None:
        """Remove all."""
        for file in self.folder.glob('*.npy'):
            remove(file)

    @property
    def bytes(self) -> int:
        """What the folder takes."""
        return sum(size for _, size, _ in self._files())

    def _kept(self, path: Path) -> NDArray[Any] | None:
        file = self._file(path)
        if not file.is_file():
            return None
        try:
            return np.asarray(np.load(file, mmap_mode='r', allow_pickle=False))
        except (OSError, ValueError, EOFError):  # removed meanwhile, or damaged
            return None

    def _keep(self, path: Path, values: NDArray[Any]) -> None:
        content = io.BytesIO()
        np.save(content, values, allow_pickle=False)
        size = content.getbuffer().nbytes
        if size > self.limit_bytes:
            return
        files = sorted(self._files())
        total = size + sum(one for _, one, _ in files)
        for _, one, file in files:
            if total <= self.limit_bytes:
                break
            remove(file)
            total -= one
        try:
            write_atomically(self._file(path), content.getvalue())
        except UserError:  # a full disk makes it slower, nothing else
            return

    def _files(self) -> list[tuple[int, int, Path]]:
        """Time, size and path of each file; others may remove some meanwhile."""
        found = []
        for file in self.folder.glob('*.npy'):
            try:
                state = file.stat()
            except OSError:
                continue
            found.append((state.st_mtime_ns, state.st_size, file))
        return found

    def _file(self, path: Path) -> Path:
        with reading(path):
            state = path.stat()
        name = f'{path.resolve()} {state.st_size} {state.st_mtime_ns}'
        return self.folder / f'{hashlib.sha256(name.encode()).hexdigest()[:32]}.npy'


def reader(cache: ImageCache | None) -> tuple[Callable[[Path], RgbImage],
                                              Callable[[Path], CountImage]]:
    """What reads colours and counts, with a cache or without."""
    return (read_rgb, read_counts) if cache is None else (cache.rgb, cache.counts)


def _colours(steps: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(steps.astype(np.float32) / _EIGHT_BITS)

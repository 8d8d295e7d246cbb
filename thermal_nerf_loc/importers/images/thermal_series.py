# SPDX-License-Identifier: Apache-2.0
"""Thermal images in the order in which they were taken: of a folder, a TIFF stack or a video."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.importers.bags.keyframe_selection import sharpness
from thermal_nerf_loc.importers.images.folders import list_images
from thermal_nerf_loc.io.atomic_files import write_inside
from thermal_nerf_loc.io.image_series import count_images, is_series, read_series
from thermal_nerf_loc.io.images import encode, read_counts
from thermal_nerf_loc.sensing.frozen_images import FreezeDetector


@dataclass(frozen=True, slots=True)
class ThermalSeries:
    """Files of one camera, their stamps where known, and how many were left out."""

    folder: Path
    names: tuple[str, ...]
    stamps_ns: Mapping[str, int]
    received: int
    frozen: int = 0
    blurred: int = 0  # less sharp than another one of the same time step

    def counts(self, name: str) -> NDArray[Any]:
        """Pixels (h, w) of one image."""
        return read_counts(self.folder / name).counts


class _NamedImage(NamedTuple):
    name: str
    pixels: NDArray[Any]
    stamp_ns: int | None


def open_series(source: Path, scratch: Path, every_s: float, max_images: int,
                progress: Progress = silent) -> ThermalSeries:
    """
    The images of a folder, or of a file, which are unpacked into `scratch`.

    An image that repeats the one before is left out: the shutter was closed. Of a video one image
    every `every_s` seconds is kept, of more than `max_images` so many: the sharpest ones.
    """
    inside = [path for path in ([source] if source.is_file() else sorted(source.iterdir()))
              if is_series(path)]
    if source.is_file() and not inside:
        raise InputError('is no series of images', where=source,
                         expected='a TIFF stack or a video')
    images = [] if source.is_file() else _listed(source, inside)
    if inside and not images:
        if len(inside) > 1:
            raise InputError('several videos or stacks lie there', where=source,
                             expected='one camera and one recording',
                             got=', '.join(path.name for path in inside[:3]))
        return _unpacked(inside[0], scratch, every_s, max_images, progress)
    return _folder(source, images or list_images(source, thermal=True), max_images, progress)


def _listed(folder: Path, series: list[Path]) -> list[str]:
    """Image files beside the series; [] where there are none."""
    others = {path.name for path in series}
    try:
        return [name for name in list_images(folder, thermal=True) if name not in others]
    except InputError:
        return []


def _folder(folder: Path, names: list[str], max_images: int,
            progress: Progress) -> ThermalSeries:
    """All images but frozen ones; of too many the sharpest of each step."""
    freeze, frozen, kept = FreezeDetector(), 0, []
    for index, name in enumerate(names):
        pixels = read_counts(folder / name).counts
        if freeze.is_frozen(pixels):
            frozen += 1
        else:
            kept.append((name, sharpness(pixels) if len(names) > max_images else 0.0))
        progress(index + 1, len(names), 'checking')
    step = max(1.0, len(kept) / max_images)
    best: dict[int, tuple[str, float]] = {}
    for index, item in enumerate(kept):
        window = int(index / step)
        if window not in best or item[1] > best[window][1]:
            best[window] = item
    return ThermalSeries(folder, tuple(name for name, _ in best.values()), {}, len(names), frozen,
                         len(kept) - len(best))


def _unpacked(path: Path, scratch: Path, every_s: float, max_images: int,
              progress: Progress) -> ThermalSeries:
    """Write the sharpest image of each step."""
    total = count_images(path)
    freeze, frozen, received = FreezeDetector(), 0, 0
    best: tuple[float, _NamedImage] | None = None
    window, names, stamps = -1, [], {}

    def keep(image: _NamedImage) -> None:
        names.append(_write(scratch, image))
        if image.stamp_ns is not None:
            stamps[names[-1]] = image.stamp_ns

    for image in _images(path):
        received += 1
        progress(received, max(total, received), 'reading')
        if freeze.is_frozen(image.pixels):
            frozen += 1
            continue
        by_count = (received - 1) * max_images // max(total, max_images)
        by_time = by_count if image.stamp_ns is None else int(image.stamp_ns / (1e9 * every_s))
        current = min(by_count, by_time) if total > max_images else (
            received if image.stamp_ns is None else by_time)
        score = sharpness(image.pixels)
        if best is not None and current != window:
            keep(best[1])
            best = None
        if best is None or score > best[0]:
            best = score, image
        window = current
    if best is not None:
        keep(best[1])
    return ThermalSeries(scratch, tuple(names), stamps, received, frozen,
                         received - frozen - len(names))


def _images(path: Path) -> Iterator[_NamedImage]:
    for index, frame in enumerate(read_series(path)):
        yield _NamedImage(f'frame{index:06d}', frame.pixels, frame.since_start_ns)


def _write(folder: Path, image: _NamedImage) -> str:
    if image.pixels.dtype in (np.uint8, np.uint16):
        name = f'{image.name}.png'
        write_inside(folder / name, encode(image.pixels, '.png'))
    else:
        name = f'{image.name}.npy'
        np.save(folder / name, image.pixels)
    return name

# SPDX-License-Identifier: Apache-2.0
"""Twenty broken files of each kind give one clear error each, that names the file."""

from collections.abc import Callable
import functools
from pathlib import Path
import struct

import cv2
import numpy as np
import pytest
from radiometric_files import (
    dji_jpeg, flir_camera, flir_jpeg, flir_raw, flir_segments, preview, segment, XMP)
import tifffile

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.io.image_series import read_series
from thermal_nerf_loc.io.images import read_counts

COUNT = 20
COUNTS = np.add.outer(np.arange(60) * 7, np.arange(80) * 5).astype(np.uint16) + 16_200
FRAMES = [np.roll(COUNTS, 3 * k, axis=1) for k in range(12)]


def cuts(data: bytes, count: int, first: float = 0.02, last: float = 0.85) -> list[bytes]:
    """The beginning of a file, more and more of it."""
    return [data[:int(len(data) * share)] for share in np.linspace(first, last, count)]


def jpeg_with(*segments: bytes) -> bytes:
    jpeg = preview()
    return jpeg[:2] + b''.join(segments) + jpeg[2:]


def flir(records: dict[int, bytes], part: int = 60_000, **header: int) -> bytes:
    return jpeg_with(*flir_segments(records, part, **header))


def flir_faults(raw: bytes, camera: bytes) -> list[bytes]:
    """Wrong tables and sizes, lacking records and segments."""
    both = {1: raw, 0x20: camera}
    parts = flir_segments(both, 500)
    return [
        flir(both, version=7), flir(both, directory=10**6), flir(both, count=10**8),
        flir(both, count=0), flir({0x20: camera}), flir({1: raw}), flir({0x21: camera, 5: raw}),
        flir({1: raw, 0x20: camera[:300]}), flir({1: raw[:-100], 0x20: camera}),
        flir({1: raw[:20], 0x20: camera}), flir({1: b'\7\7' + raw[2:], 0x20: camera}),
        flir({1: raw, 0x20: b'\7\7' + camera[2:]}), flir({1: raw, 0x20: bytes(1000)}),
        flir({1: raw[:2] + struct.pack('<2H', 8000, 60) + raw[6:], 0x20: camera}),
        flir({1: raw[:2] + bytes(4) + raw[6:], 0x20: camera}),
        jpeg_with(*parts[:2], *parts[3:]), jpeg_with(*parts[:2], *parts[1:]), jpeg_with(parts[0]),
        jpeg_with(segment(0xe1, b'FLIR\0\1')),
        jpeg_with(segment(0xe1, b'FLIR\0\1\0\0' + bytes(200)))]


def flir_raw_files() -> list[bytes]:
    good = flir_jpeg(COUNTS)
    return [*flir_faults(flir_raw(COUNTS), flir_camera()), *cuts(good[:9000], 4)]


def flir_png_files() -> list[bytes]:
    raw = flir_raw(COUNTS, 'png')
    small = bytes(cv2.imencode('.png', COUNTS[:30])[1])
    eight = bytes(cv2.imencode('.png', COUNTS.astype(np.uint8))[1])
    return [*flir_faults(raw, flir_camera()),
            *(flir({1: raw[:32] + image, 0x20: flir_camera()}) for image in (small, eight))]


def dji_files() -> list[bytes]:
    counts = np.tile(COUNTS, (4, 4))
    good, jpeg = dji_jpeg(counts), preview((320, 240))
    raw = counts.astype('<u2').tobytes()
    head = jpeg[:2] + segment(0xe1, XMP)
    wrong = [raw[:60_000], raw[:-2], raw[:100], b'', b'\1', raw[:2 * 320 * 200], raw[2:] + b'\1']
    parts = [head + b''.join(segment(0xe3, data[at:at + 60_000])
                             for at in range(0, max(len(data), 1), 60_000)) + jpeg[2:]
             for data in wrong[:-1]]
    return [*parts, head + jpeg[2:], jpeg, *cuts(good, 14, 0.01, 0.6)]


def tiff_files(tmp_path: Path) -> list[bytes]:
    tifffile.imwrite(tmp_path / 'good.tif', COUNTS)
    good = (tmp_path / 'good.tif').read_bytes()
    return [b'', *cuts(good, 14, 0.001), bytes(500), b'II*\0' + bytes(100), good[::-1],
            bytes(cv2.imencode('.tif', np.dstack([COUNTS, COUNTS[::-1], COUNTS]))[1]),
            b'MM' + good[2:]]


def png_files() -> list[bytes]:
    good = bytes(cv2.imencode('.png', COUNTS)[1])
    flipped = [good[:at] + bytes([good[at] ^ 1]) + good[at + 1:] for at in (20, 45, 200, 400)]
    colours = bytes(cv2.imencode('.png', cv2.applyColorMap(
        COUNTS.astype(np.uint8), cv2.COLORMAP_JET))[1])
    return [b'', colours, *flipped, *cuts(good, 13, 0.01, 0.98), bytes(300)]


def stack_files(tmp_path: Path) -> list[bytes]:
    tifffile.imwrite(tmp_path / 'good.tif', np.stack(FRAMES))
    good = (tmp_path / 'good.tif').read_bytes()
    return [b'', *cuts(good, 16, 0.001), bytes(500), b'II*\0' + bytes(100), b'MM' + good[2:]]


def video_files(tmp_path: Path, name: str, code: str, deep: bool) -> list[bytes]:
    options = [cv2.VIDEOWRITER_PROP_DEPTH, cv2.CV_16U, cv2.VIDEOWRITER_PROP_IS_COLOR, 0]
    writer = cv2.VideoWriter(str(tmp_path / name), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*code),
                             10.0, (80, 60), options if deep else [])
    if not writer.isOpened():
        pytest.skip(f'this OpenCV cannot write {code}')
    for frame in FRAMES:
        writer.write(frame if deep else np.dstack([(frame // 64).astype(np.uint8)] * 3))
    writer.release()
    good = (tmp_path / name).read_bytes()
    return [b'', bytes(3000), b'no video', good[::-1], bytes(64) + good[64:],
            *cuts(good, COUNT - 5, 0.001, 0.7)]


KINDS: dict[str, tuple[str, Callable[[Path], list[bytes]]]] = {
    'FLIR, raw': ('a.jpg', lambda tmp_path: flir_raw_files()),
    'FLIR, PNG': ('a.jpg', lambda tmp_path: flir_png_files()),
    'DJI': ('a.jpg', lambda tmp_path: dji_files()),
    'TIFF': ('a.tif', tiff_files),
    'PNG': ('a.png', lambda tmp_path: png_files()),
    'TIFF stack': ('s.tif', stack_files),
    'video of 16 bits': ('v.mkv', lambda tmp_path: video_files(tmp_path, 'v.mkv', 'FFV1', True)),
    'video of 8 bits': ('v.mp4', lambda tmp_path: video_files(tmp_path, 'v.mp4', 'mp4v', False))}


@functools.cache
def broken(kind: str, folder: Path) -> list[bytes]:
    return KINDS[kind][1](folder)


@pytest.mark.parametrize('kind', KINDS)
def test_broken_files_are_one_error(tmp_path: Path, kind: str):
    name = KINDS[kind][0]
    files = broken(kind, tmp_path)
    assert len(files) >= COUNT
    path = tmp_path / f'broken-{name}'
    read = read_counts if name[0] == 'a' else lambda path: list(read_series(path))
    for data in files:
        path.write_bytes(data)
        with pytest.raises(InputError) as caught:
            read(path)
        assert path.name in str(caught.value)
        assert '\n' not in str(caught.value)
        assert len(caught.value.what) > 8

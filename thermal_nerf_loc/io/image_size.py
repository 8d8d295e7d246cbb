# SPDX-License-Identifier: Apache-2.0
"""
The size of an image file by its header, without decoding a pixel.

A file of some hundred kilobytes can hold an image of gigabytes (all of one colour). So the size is
read first, and one beyond `MAX_PIXELS` is refused.
"""

from collections.abc import Iterator
from io import BytesIO
import struct
from typing import Any, NamedTuple

import numpy as np

from thermal_nerf_loc.common.errors import InputError

PNG = b'\x89PNG\r\n\x1a\n'
JPEG = b'\xff\xd8'
TIFF = (b'II*\x00', b'MM\x00*', b'II+\x00', b'MM\x00+')
NPY = b'\x93NUMPY'

MAX_PIXELS = 2**27  # 134 million: a medium format camera has 102 million

_SCAN, _END = 0xda, 0xd9
_FRAMES = {*range(0xc0, 0xd0)} - {0xc4, 0xc8, 0xcc}  # markers SOF: they hold the size
_PADDING = 0xff


class Segment(NamedTuple):
    """A marker segment of a JPEG; `whole` is False where the file ends inside it."""

    marker: int
    content: bytes
    whole: bool


def jpeg_segments(data: bytes) -> Iterator[Segment]:
    """Yield the segments before the scan."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xff:
        marker = data[position + 1]
        if marker == _PADDING:
            position += 1
            continue
        if marker in (_SCAN, _END):
            return
        end = position + 2 + int.from_bytes(data[position + 2:position + 4], 'big')
        yield Segment(marker, data[position + 4:end], end <= len(data))
        position = max(end, position + 4)


def size_of(data: bytes) -> tuple[int, int] | None:
    """Width and height by the file's header; None where it does not say, or is of another kind."""
    try:
        return _size(data)
    except Exception:  # tifffile and numpy let many errors escape; the decoder names the fault
        return None


def check_size(size: tuple[int, int] | None, where: object) -> None:
    """Refuse an image that would not fit in memory."""
    if size is not None and size[0] * size[1] > MAX_PIXELS:
        raise InputError('image is too large', where=where,
                         expected=f'at most {MAX_PIXELS / 1e6:.0f} million pixels',
                         got=f'{size[0]}x{size[1]}, {size[0] * size[1] / 1e6:.0f} million')


def _size(data: bytes) -> tuple[int, int] | None:
    if data.startswith(PNG) and data[12:16] == b'IHDR':
        return struct.unpack('>II', data[16:24])
    if data.startswith(JPEG):
        return next((_of_frame(segment.content) for segment in jpeg_segments(data)
                     if segment.marker in _FRAMES), None)
    if data.startswith(TIFF):
        return _of_tiff(data)
    if data.startswith(NPY):
        return _of_npy(data)
    if data.startswith(b'BM'):
        width, height = struct.unpack('<ii', data[18:26])
        return abs(width), abs(height)
    return _of_webp(data) if data[:4] == b'RIFF' and data[8:12] == b'WEBP' else None


def _of_frame(content: bytes) -> tuple[int, int]:
    height, width = struct.unpack('>HH', content[1:5])
    return width, height


def _of_tiff(data: bytes) -> tuple[int, int]:
    import tifffile
    with tifffile.TiffFile(BytesIO(data)) as file:
        page: Any = file.pages[0]
        return int(page.imagewidth), int(page.imagelength)


def _of_npy(data: bytes) -> tuple[int, int]:
    """Of (h, w), (h, w, channels) or (1, h, w)."""
    stream = BytesIO(data)
    read = (np.lib.format.read_array_header_1_0 if np.lib.format.read_magic(stream) == (1, 0)
            else np.lib.format.read_array_header_2_0)
    shape = read(stream)[0]
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    return int(shape[1]), int(shape[0])


def _of_webp(data: bytes) -> tuple[int, int] | None:
    """By the extended, lossless or lossy header of RFC 9649."""
    kind = data[12:16]
    if kind == b'VP8X':
        return (int.from_bytes(data[24:27], 'little') + 1,
                int.from_bytes(data[27:30], 'little') + 1)
    if kind == b'VP8L':
        bits = int.from_bytes(data[21:25], 'little')
        return (bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1
    if kind == b'VP8 ':
        width, height = struct.unpack('<HH', data[26:30])
        return width & 0x3fff, height & 0x3fff
    return None

# SPDX-License-Identifier: Apache-2.0
"""
Limits on what messages may cost: anyone on the network can send them.

Sizes are read and refused before a pixel is decoded: a file of some hundred kilobytes can hold an
image of gigabytes (all of one colour).
"""

from typing import Any

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.io.image_size import size_of

MAX_PIXELS = 2**25  # of one image: 8K video has 33.2 million
MAX_BYTES = 2**28  # of one image's data
MAX_NAME = 256  # characters of a frame's name
MAX_FRAMES = 2000  # on tf
MAX_TRANSFORMS = 1000  # in one message
MAX_SAMPLES = 20_000  # of one transform: ten seconds at 2 kHz

_COMPRESSED_DEPTH_HEADER = 12  # bytes before the PNG
_HEADER_BYTES = 2**16  # of a file; a JPEG's size stands behind its EXIF block


def check_image(message: Any, where: object) -> None:
    """Refuse an image whose header or data says that it is too large, or that it is not whole."""
    check_name(message.header.frame_id, where)
    if len(message.data) > MAX_BYTES:
        raise InputError('image is too large', where=where, expected=f'at most {MAX_BYTES} bytes',
                         got=f'{len(message.data)} bytes')
    if hasattr(message, 'encoding'):
        if len(message.encoding) > MAX_NAME:
            raise InputError('unknown image encoding', where=where,
                             got=f'{len(message.encoding)} characters')
        check_pixels(message.width, message.height, where)


def check_pixels(width: int, height: int, where: object) -> None:
    """Refuse a size that no camera has."""
    if width * height > MAX_PIXELS:
        raise InputError('image is too large', where=where,
                         expected=f'at most {MAX_PIXELS / 1e6:.1f} million pixels',
                         got=f'{width}x{height}')


def check_name(name: str, where: object) -> None:
    """Refuse a frame's name that is a flood."""
    if len(name) > MAX_NAME:
        raise InputError('frame has too long a name', where=where,
                         expected=f'at most {MAX_NAME} characters', got=f'{len(name)}')


def declared_size(message: Any, where: object) -> tuple[int, int]:
    """Width and height of an image by its header: of the message, or of the file within it."""
    if hasattr(message, 'encoding'):
        return int(message.width), int(message.height)
    begin = _COMPRESSED_DEPTH_HEADER if 'compresseddepth' in message.format.lower() else 0
    size = size_of(bytes(message.data[begin:begin + _HEADER_BYTES]))
    if size is None:  # a TIFF's directory may stand at its end
        size = size_of(bytes(message.data[begin:]))
    if size is None:
        raise InputError('compressed image does not say its size', where=where,
                         expected='PNG, JPEG, TIFF, BMP or WebP',
                         got=f'{bytes(message.data[begin:begin + 8])!r}')
    return size

# SPDX-License-Identifier: Apache-2.0
"""
Series of thermal images in one file: TIFF stacks and videos.

Videos of 16 bits (FFV1 in mkv or avi) come as counts where OpenCV's FFmpeg gives them; others have
8 bits, and are shapes without temperatures.
"""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.io.atomic_files import read_bytes, reading
from thermal_nerf_loc.io.image_size import check_size
from thermal_nerf_loc.io.images import opencv, single_channel

VIDEOS = ('.mkv', '.avi', '.mp4', '.mov', '.m4v', '.webm')
STACKS = ('.tif', '.tiff')

_PALETTE = ('Record with a grey palette (white hot), or as raw 16 bits; colours of a palette are '
            'no temperatures.')
_MIN_SHARE = 0.9  # of the frames that the header promises; a guess for some containers
_FFMPEG = ('ffmpeg -i {} -pix_fmt gray16be frames/%06d.png makes 16-bit images of a raw video; '
           'import that folder.')


class SeriesFrame(NamedTuple):
    """One image (h, w), and nanoseconds since the first; None where the file has no times."""

    pixels: NDArray[Any]
    since_start_ns: int | None


def is_series(path: Path) -> bool:
    """Whether a file is a video, or a TIFF of several images of one size."""
    if not path.is_file() or path.suffix.lower() not in (*VIDEOS, *STACKS):
        return False
    return path.suffix.lower() in VIDEOS or _stack_shape(path) is not None


def read_series(path: Path) -> Iterator[SeriesFrame]:
    """Yield the images in order."""
    return _stack(path) if path.suffix.lower() in STACKS else _video(path)


def count_images(path: Path) -> int:
    """How many images there are; a guess for a video."""
    if path.suffix.lower() in STACKS:
        shape = _stack_shape(path)
        return 1 if shape is None else shape[0]
    cv2 = opencv()
    reader = cv2.VideoCapture(str(path))
    count = int(reader.get(cv2.CAP_PROP_FRAME_COUNT))
    reader.release()
    return max(count, 1)


def _stack_shape(path: Path) -> tuple[int, int, int] | None:
    import tifffile
    with reading(path):
        try:
            with tifffile.TiffFile(path) as file:
                shape = tuple(file.series[0].shape)
        except (tifffile.TiffFileError, ValueError, IndexError, KeyError):
            return None
    return shape if len(shape) == 3 and shape[0] > 1 and shape[2] > 4 else None


def _stack(path: Path) -> Iterator[SeriesFrame]:
    import tifffile
    shape = _stack_shape(path)
    if shape is None:
        raise InputError('is no stack of images', where=path, expected='(images, height, width)')
    check_size(shape[:0:-1], path)
    data = BytesIO(read_bytes(path))
    with tifffile.TiffFile(data) as file:
        for index in range(shape[0]):
            try:
                yield SeriesFrame(_of_stack(file, index), None)
            except Exception as error:  # tifffile lets many errors escape
                raise InputError('TIFF stack is not whole', where=path,
                                 got=f'image {index} of {shape[0]}: {error}') from error


def _of_stack(file: Any, index: int) -> NDArray[Any]:
    """One image, of a page of its own or of the only page (ImageJ)."""
    series = file.series[0]
    return np.asarray(series.asarray()[index] if len(series.pages) == 1
                      else series.pages[index].asarray())


def _video(path: Path) -> Iterator[SeriesFrame]:
    cv2 = opencv()
    with reading(path), path.open('rb'):
        reader = cv2.VideoCapture(str(path))
    try:
        if not reader.isOpened():
            raise InputError('is no video that can be read', where=path,
                             hint=_FFMPEG.format(path.name))
        size = tuple(int(reader.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH,
                                                  cv2.CAP_PROP_FRAME_HEIGHT))
        check_size((size[0], size[1]), path)
        deep = _is_deep(reader, path)
        count = 0
        while True:
            good, pixels = reader.read()
            if not good:
                break
            at_ns = round(1e6 * reader.get(cv2.CAP_PROP_POS_MSEC))  # of the image just read
            count += 1
            yield SeriesFrame(pixels.squeeze() if deep else single_channel(pixels, path, _PALETTE),
                              max(at_ns, 0))
        _check_count(count, int(reader.get(cv2.CAP_PROP_FRAME_COUNT)), path)
    finally:
        reader.release()


def _check_count(count: int, promised: int, path: Path) -> None:
    """Refuse a video without frames, and one that ends before its header says."""
    if count == 0:
        raise InputError('video has no frame', where=path, hint=_FFMPEG.format(path.name))
    if count < _MIN_SHARE * promised - 1:
        raise InputError('video is cut short or damaged', where=path,
                         expected=f'about {promised} frames, by its header',
                         got=f'{count} that can be read',
                         hint=f'ffmpeg -i {path.name} -c copy whole.mkv keeps what is readable.')


def _is_deep(reader: Any, path: Path) -> bool:
    """Whether the frames have 16 bits; then the reader is set to give them as they are."""
    cv2 = opencv()
    number = int(reader.get(cv2.CAP_PROP_CODEC_PIXEL_FORMAT)) & 0xffffffff
    name = number.to_bytes(4, 'little')
    if name[:2] != b'Y1':  # FFmpeg's tags Y1 0 16, Y1 0 10, ...: grey of more than 8 bits
        return False
    if name[3] != 16 or not reader.set(cv2.CAP_PROP_CONVERT_RGB, 0):
        raise InputError(f'grey video of {name[3]} bits cannot be read by this OpenCV', where=path,
                         expected='16 bits', hint=_FFMPEG.format(path.name))
    return True

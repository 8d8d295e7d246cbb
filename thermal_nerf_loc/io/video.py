# SPDX-License-Identifier: Apache-2.0
"""Video files, and folders of numbered PNG files."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import shutil
import tempfile

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError, RunError
from thermal_nerf_loc.io.atomic_files import check_vacant, directory_beside, write_inside, writing
from thermal_nerf_loc.io.images import encode, opencv

Write = Callable[[NDArray[np.uint8]], None]

# MPEG-4 plays in nearly every player, VP9 in browsers.
CODECS = {'.mp4': 'mp4v', '.webm': 'VP90'}


def check_movie(path: Path) -> None:
    """Refuse a name under which no video can be written, before a long job."""
    if not path.suffix:
        check_vacant(path)
    elif path.suffix.lower() not in CODECS:
        raise InputError('is no kind of video that can be written', where=path,
                         expected=f'a name that ends in {" or ".join(CODECS)}, or a folder')
    elif path.is_dir():
        raise InputError('cannot be written: a folder stands there', where=path)


@contextmanager
def movie(path: Path, size: tuple[int, int], fps: float) -> Iterator[Write]:
    """
    Yield a function that writes RGB frames (height, width, 3) of one even `size` (width, height).

    A name without an ending is a folder. Video or folder appear when the block ends well; after
    an exception nothing is left.
    """
    check_movie(path)
    if path.suffix:
        with _video(path, size, fps) as write:
            yield write
        return
    with directory_beside(path) as folder:
        count = 0

        def write_png(frame: NDArray[np.uint8]) -> None:
            nonlocal count
            write_inside(folder / f'{count:05d}.png', encode(frame, '.png'))
            count += 1

        yield write_png


@contextmanager
def _video(path: Path, size: tuple[int, int], fps: float) -> Iterator[Write]:
    """Write by OpenCV, which reports no errors: the frames are counted before the rename."""
    cv2 = opencv()
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        hidden = Path(tempfile.mkdtemp(prefix=f'.{path.name}.partial-', dir=path.parent))
    beside, count = hidden / f'video{path.suffix.lower()}', 0
    writer = cv2.VideoWriter(str(beside), cv2.VideoWriter_fourcc(*CODECS[path.suffix.lower()]),
                             fps, size)

    def write(frame: NDArray[np.uint8]) -> None:
        nonlocal count
        assert frame.shape == (size[1], size[0], 3), (frame.shape, size)
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
        count += 1

    try:
        if not writer.isOpened():
            raise RunError('video cannot be written by this OpenCV', where=path,
                           expected=f'codec {CODECS[path.suffix.lower()]}',
                           hint='Give a folder instead: it is filled with PNG files.')
        yield write
        writer.release()
        _check_frame_count(beside, count, path)
        with writing(path):
            os.replace(beside, path)
    finally:
        writer.release()
        shutil.rmtree(hidden, ignore_errors=True)


def _check_frame_count(beside: Path, count: int, path: Path) -> None:
    reader = opencv().VideoCapture(str(beside))
    found = 0
    while reader.grab():
        found += 1
    reader.release()
    if found != count:
        raise RunError('video is not whole', where=path, expected=f'{count} frames',
                       got=f'{found}', hint='Is the disk full?')

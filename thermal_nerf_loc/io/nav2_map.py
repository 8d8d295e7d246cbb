# SPDX-License-Identifier: Apache-2.0
"""
Occupancy maps as Nav2's map_server loads them: a YAML file and a grey image (PGM).

The first row of the image is the one with the greatest y. In `trinary` mode a pixel p is occupied
with (255 - p) / 255; in `raw` mode it is the cell's value itself, unknown above 100.
"""

from collections.abc import Sequence
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.io.atomic_files import write_atomically

_FREE_PX, _UNKNOWN_PX, _OCCUPIED_PX = 254, 205, 0  # those of map_saver
# (255 - 205) / 255 = 0.196 must lie between: some programs write 0.25, and unknown becomes free
_FREE_BELOW, _OCCUPIED_ABOVE = 0.1, 0.65
_RAW_UNKNOWN_PX = 255
RAW_STEPS = 100  # from the least to the greatest value of a raw map


def write_occupancy(path: Path, values: NDArray[np.int8], resolution_m: float,
                    origin_m: tuple[float, float], comments: Sequence[str] = ()) -> None:
    """Write cells (rows, columns) of 0 free, 100 occupied, -1 unknown, beside an image."""
    pixels = np.full(values.shape, _UNKNOWN_PX, np.uint8)
    pixels[values == 0], pixels[values == 100] = _FREE_PX, _OCCUPIED_PX
    _write(path, pixels, 'trinary', resolution_m, origin_m, comments)


def write_raw(path: Path, values: NDArray[Any], low: float, high: float,
              resolution_m: float, origin_m: tuple[float, float],
              comments: Sequence[str] = ()) -> None:
    """Write values (rows, columns) as 0 to 100 between `low` and `high`; NaN is unknown."""
    share = np.clip((values - low) / max(high - low, 1e-9), 0.0, 1.0)
    pixels = np.where(np.isfinite(share), np.rint(RAW_STEPS * np.nan_to_num(share)),
                      _RAW_UNKNOWN_PX).astype(np.uint8)
    _write(path, pixels, 'raw', resolution_m, origin_m, comments)


def write_tiff(path: Path, values: NDArray[Any]) -> None:
    """Write values (rows, columns) as 32-bit floats, the greatest y first; NaN is unknown."""
    import tifffile
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.asarray(values[::-1], np.float32))
    write_atomically(path, buffer.getvalue())


def _write(path: Path, pixels: NDArray[np.uint8], mode: str, resolution_m: float,
           origin_m: tuple[float, float], comments: Sequence[str]) -> None:
    image = path.with_suffix('.pgm')
    rows, columns = pixels.shape
    write_atomically(image, f'P5\n{columns} {rows}\n255\n'.encode() + pixels[::-1].tobytes())
    lines = [*(f'# {" ".join(comment.split())}' for comment in comments),
             f'image: {image.name}', f'mode: {mode}', f'resolution: {resolution_m:.6g}',
             f'origin: [{origin_m[0]:.6f}, {origin_m[1]:.6f}, 0.0]', 'negate: 0',
             f'occupied_thresh: {_OCCUPIED_ABOVE}', f'free_thresh: {_FREE_BELOW}', '']
    write_atomically(path, '\n'.join(lines))

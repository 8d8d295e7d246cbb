# SPDX-License-Identifier: Apache-2.0
"""
Radiometric JPEGs: what one sees is a preview in false colours, the counts are in the header.

FLIR's: records in segments APP1. The package `flyr` (an optional dependency) reads them, and
gives deg C by the camera's own calibration, emissivity and surroundings.

DJI's: 16-bit counts, little endian, row by row, in the segments APP3, joined. Their scale is not
documented (only DJI's closed SDK knows it), so they are no temperatures unless a scale is given.
"""

from io import BytesIO
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.io.image_size import check_size, JPEG, jpeg_segments, size_of

FLIR, DJI = 'FLIR', 'DJI'
INSTALL = "pip install 'flyr>=5.1'"  # the extra `flir`

_APP1, _APP3 = 0xe1, 0xe3
_FLIR_HEAD = b'FLIR\x00'
_DETECTORS = (640, 512), (336, 256), (256, 192), (160, 120)  # of drones whose preview is larger


def maker_of(data: bytes) -> str | None:
    """FLIR or DJI for a JPEG that holds raw counts; None for any other file."""
    if not data.startswith(JPEG):
        return None
    is_dji, has_counts = False, False
    for segment in jpeg_segments(data):
        if segment.marker == _APP1 and segment.content.startswith(_FLIR_HEAD):
            return FLIR
        is_dji |= segment.marker == _APP1 and b'DJI' in segment.content
        has_counts |= segment.marker == _APP3
    return DJI if is_dji and has_counts else None


def decode(data: bytes, where: object) -> NDArray[Any]:
    """deg C (h, w) of FLIR's files as floats, counts of DJI's."""
    return _flir_celsius(data, where) if maker_of(data) == FLIR else _dji_counts(data, where)


def camera_model(data: bytes) -> str:
    """The camera's name in the XMP text of a JPEG; '' where there is none."""
    found = re.search(rb'tiff:Model(?:="|>)([^"<]*)', data[:2**18])
    return found[1].decode('latin1').strip() if found else ''


def _dji_counts(data: bytes, where: object) -> NDArray[np.uint16]:
    segments = [segment for segment in jpeg_segments(data) if segment.marker == _APP3]
    joined = b''.join(segment.content for segment in segments)
    preview = size_of(data)
    for width, height in (*([preview] if preview else []), *_DETECTORS):
        if len(joined) == 2 * width * height and all(segment.whole for segment in segments):
            return np.frombuffer(joined, '<u2').reshape(height, width).astype(np.uint16)
    raise InputError('raw counts of the JPEG are not whole', where=where,
                     expected=f'{2 * preview[0] * preview[1]} bytes in its segments APP3, for '
                              f'{preview[0]}x{preview[1]} pixels' if preview else 'a whole JPEG',
                     got=f'{len(joined)} bytes', hint='Copy the file from the camera again.')


def _flir_celsius(data: bytes, where: object) -> NDArray[np.float32]:
    try:
        import flyr
    except ImportError as error:
        raise InputError("FLIR's radiometric JPEG needs the package flyr, which does not import "
                         'here', where=where, got=str(error),
                         hint=f"{INSTALL}, or export 16-bit TIFFs with FLIR's tools.") from None
    try:
        celsius = np.asarray(flyr.unpack(BytesIO(data)).celsius, dtype=np.float32)
    except Exception as error:  # flyr checks nothing: KeyError, struct.error, ValueError, ...
        raise InputError("thermal record of FLIR's JPEG is not whole", where=where,
                         got=' '.join(str(error).split()) or type(error).__name__,
                         hint='Copy the file from the camera again.') from error
    if celsius.ndim != 2 or not np.isfinite(celsius).any():
        raise InputError("thermal record of FLIR's JPEG holds no temperatures", where=where,
                         got=f'shape {celsius.shape}')
    check_size((celsius.shape[1], celsius.shape[0]), where)
    return celsius

# SPDX-License-Identifier: Apache-2.0
"""
Radiometric JPEGs: what one sees is a preview in false colours, the counts are in the header.

FLIR's: records in segments APP1 (`flir_records`), which give deg C by the camera's own
calibration, emissivity and surroundings.

DJI's: 16-bit counts, little endian, row by row, in the segments APP3, joined. Their scale is not
documented (only DJI's closed SDK knows it), so they are no temperatures unless a scale is given.
"""

import re
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.io import flir_records
from thermal_nerf_loc.io.image_size import JPEG, jpeg_segments, size_of

FLIR, DJI = 'FLIR', 'DJI'
_APP1, _APP3 = 0xe1, 0xe3
_DETECTORS = (640, 512), (336, 256), (256, 192), (160, 120)  # of drones whose preview is larger


def maker_of(data: bytes) -> str | None:
    """FLIR or DJI for a JPEG that holds raw counts; None for any other file."""
    if not data.startswith(JPEG):
        return None
    is_dji, has_counts = False, False
    for segment in jpeg_segments(data):
        if segment.marker == _APP1 and segment.content.startswith(flir_records.HEAD):
            return FLIR
        is_dji |= segment.marker == _APP1 and b'DJI' in segment.content
        has_counts |= segment.marker == _APP3
    return DJI if is_dji and has_counts else None


def decode(data: bytes, where: object) -> NDArray[Any]:
    """deg C (h, w) of FLIR's files as floats, counts of DJI's."""
    return _flir_celsius(data, where) if maker_of(data) == FLIR else _dji_counts(data, where)


class CameraName(NamedTuple):
    """The camera's name ('' where unknown), and its horizontal field of view (0 where unknown)."""

    model: str
    view_deg: float = 0.0


def camera_of(data: bytes, where: object = None) -> CameraName:
    """The camera by FLIR's records, or by the XMP text of a JPEG."""
    if maker_of(data) == FLIR:
        return CameraName(*flir_records.read_camera(_flir_records(data, where), where)[:2])
    found = re.search(rb'tiff:Model(?:="|>)([^"<]*)', data[:2**18])
    return CameraName(found[1].decode('latin1').strip() if found else '')


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
    records = _flir_records(data, where)
    celsius = flir_records.read_camera(records, where).to_celsius(
        flir_records.read_raw(records, where))
    if not np.isfinite(celsius).any():
        raise InputError("thermal record of FLIR's JPEG holds no temperatures", where=where,
                         expected='counts within the range of its calibration')
    return celsius


def _flir_records(data: bytes, where: object) -> bytes:
    return flir_records.join_segments(
        [segment for segment in jpeg_segments(data) if segment.marker == _APP1
         and segment.content.startswith(flir_records.HEAD)], where)

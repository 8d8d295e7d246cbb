# SPDX-License-Identifier: Apache-2.0
"""
FLIR's records in a JPEG: raw thermal image, calibration and surroundings, to deg C.

The layout is that which ExifTool documents (FLIR tags): the
segments APP1 that begin `FLIR`, joined by their numbers, hold a header `FFF`, a directory of
records, and the records. Record 1 is the raw image, as 16-bit counts or as a PNG; record 0x20
describes the camera.
"""

from collections.abc import Mapping, Sequence
import struct
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.io.image_size import check_size, PNG, Segment, size_of
from thermal_nerf_loc.sensing.thermal import PlanckRadiometry, ZERO_CELSIUS_KELVIN

HEAD = b'FLIR\x00'  # of each segment; then a byte, the segment's number and the last one's

_RAW, _CAMERA = 0x01, 0x20  # kinds of records
_HEADER, _ENTRY, _RAW_HEADER = 64, 32, 32  # bytes
_MAX_RECORDS = 1000
_BYTE_ORDER = 2  # what the first number of a record is, in the right byte order
_FLOATS = {  # of the record of the camera, by offset
    'emissivity': 0x20, 'distance_m': 0x24, 'reflected_kelvin': 0x28, 'atmosphere_kelvin': 0x2c,
    'window_kelvin': 0x30, 'window_transmission': 0x34, 'humidity': 0x3c, 'R': 0x58, 'B': 0x5c,
    'F': 0x60, 'alpha1': 0x70, 'alpha2': 0x74, 'beta1': 0x78, 'beta2': 0x7c, 'x': 0x80,
    'view_deg': 0x1b4, 'R2': 0x30c}
_OFFSET, _MODEL = 0x308, (0xd4, 32)


class FlirCamera(NamedTuple):
    """Model, horizontal field of view (0 where unknown), and what its counts mean."""

    model: str
    view_deg: float
    radiometry: PlanckRadiometry
    window_transmission: float
    window_kelvin: float

    def to_celsius(self, counts: NDArray[np.uint16]) -> NDArray[np.float32]:
        """Deg C of the object (h, w): behind a window, surrounded, through air."""
        scale = self.radiometry
        signal = counts.astype(np.float64)
        if self.window_transmission < 1.0:
            own = scale.R / (scale.R2 * (np.exp(scale.B / self.window_kelvin) - scale.F)) - scale.O
            signal = (signal - (1.0 - self.window_transmission) * own) / self.window_transmission
        return scale.to_celsius(signal)


def join_segments(segments: Sequence[Segment], where: object) -> bytes:
    """The content of the segments that begin `FLIR`, in the order of their numbers."""
    parts: dict[int, bytes] = {}
    total = 0
    for segment in segments:
        if len(segment.content) < 8 or not segment.whole:
            raise broken(where, 'a segment APP1 that ends early')
        number, total = segment.content[6], segment.content[7] + 1
        if number in parts:
            raise broken(where, f'segment {number} twice')
        parts[number] = segment.content[8:]
    if sorted(parts) != list(range(total)):
        raise broken(where, f'{len(parts)} of {total} segments APP1')
    return b''.join(parts[number] for number in range(total))


def read_camera(data: bytes, where: object) -> FlirCamera:
    """The camera's record of joined segments."""
    record = _record(data, _CAMERA, where)
    order = _order(record, where)
    try:
        values = {name: float(struct.unpack_from(f'{order}f', record, offset)[0])
                  for name, offset in _FLOATS.items()}
        offset = struct.unpack_from(f'{order}i', record, _OFFSET)[0]
    except struct.error:
        raise broken(where, f'a record of the camera of {len(record)} bytes') from None
    model = record[_MODEL[0]:sum(_MODEL)].split(b'\0')[0].decode('latin1').strip()
    window = values['window_transmission']
    if not 0.0 < window <= 1.0:
        window = 1.0  # some cameras leave it out
    try:
        radiometry = PlanckRadiometry(
            R=values['R'], B=values['B'], F=values['F'], O=float(offset), R2=values['R2'],
            emissivity=values['emissivity'], transmission=air_transmission(values),
            reflected_celsius=values['reflected_kelvin'] - ZERO_CELSIUS_KELVIN,
            atmosphere_celsius=values['atmosphere_kelvin'] - ZERO_CELSIUS_KELVIN)
    except InputError as error:
        raise InputError(f"calibration in FLIR's JPEG: {error.what}", where=where,
                         expected=error.expected, got=error.got) from None
    view_deg = values['view_deg']
    return FlirCamera(model, view_deg if 1.0 < view_deg < 170.0 else 0.0, radiometry, window,
                      values['window_kelvin'])


def read_raw(data: bytes, where: object) -> NDArray[np.uint16]:
    """The raw image (h, w) of joined segments."""
    record = _record(data, _RAW, where)
    order = _order(record, where)
    if len(record) < _RAW_HEADER:
        raise broken(where, f'a raw image of {len(record)} bytes')
    width, height = struct.unpack_from(f'{order}HH', record, 2)
    pixels = record[_RAW_HEADER:]
    check_size((width, height), where)
    if pixels.startswith(PNG):
        return _from_png(pixels, (width, height), where)
    if min(width, height) < 1 or len(pixels) != 2 * width * height:
        raise broken(where, f'{len(pixels)} bytes for {width}x{height} pixels of 16 bits')
    return np.frombuffer(pixels, f'{order}u2').reshape(height, width).astype(np.uint16)


def air_transmission(values: Mapping[str, float]) -> float:
    """
    FLIR's transmission of air by distance, humidity and temperature.

    exp(1.5587 + ..) is the water in saturated air (g/m^3), a fit over the temperature in deg C;
    the formula is that of FLIR's toolkits (Minkina & Dudzik, Infrared Thermography, 2009).
    """
    celsius = values['atmosphere_kelvin'] - ZERO_CELSIUS_KELVIN
    share = values['humidity'] / 100.0 if values['humidity'] > 2.0 else values['humidity']
    with np.errstate(over='ignore', invalid='ignore'):
        water = np.sqrt(max(share, 0.0) * np.exp(
            1.5587 + 6.939e-2 * celsius - 2.7816e-4 * celsius**2 + 6.8455e-7 * celsius**3))
        path = np.sqrt(max(values['distance_m'], 0.0))
        tau = (values['x'] * np.exp(-path * (values['alpha1'] + values['beta1'] * water))
               + (1.0 - values['x']) * np.exp(-path * (values['alpha2']
                                                       + values['beta2'] * water)))
    return float(min(tau, 1.0)) if np.isfinite(tau) else float('nan')


def broken(where: object, got: str) -> InputError:
    """The error of a file that does not hold what its header says."""
    return InputError("thermal record of FLIR's JPEG is not whole", where=where, got=got,
                      hint='Copy the file from the camera again; image editors and messengers '
                           'remove the raw data.')


def _record(data: bytes, kind: int, where: object) -> bytes:
    """The first record of a kind."""
    if len(data) < _HEADER or data[:4] not in (b'FFF\0', b'AFF\0'):
        raise broken(where, f'a header that begins {data[:4]!r}')
    order = next((o for o in '><' if 100 <= struct.unpack_from(f'{o}I', data, 20)[0] < 200), None)
    if order is None:
        raise broken(where, 'an unknown version of the header')
    start, count = struct.unpack_from(f'{order}II', data, 24)
    if not 0 < count <= _MAX_RECORDS or start + _ENTRY * count > len(data):
        raise broken(where, f'a directory of {count} records beyond the end')
    for entry in range(count):
        found, _, _, _, begin, length = struct.unpack_from(f'{order}HHIIII', data,
                                                           start + _ENTRY * entry)
        if found == kind:
            if begin + length > len(data):
                raise broken(where, f'record {kind:#x} of {length} bytes beyond the end')
            return data[begin:begin + length]
    raise InputError("FLIR's JPEG holds no " + ('raw thermal image' if kind == _RAW else
                                                'calibration'), where=where,
                     expected=f'record {kind:#x}', got=f'{count} others',
                     hint='Take the radiometric JPEG as the camera wrote it.')


def _order(record: bytes, where: object) -> str:
    """Byte order of a record, by its first number."""
    for order in '<>':
        if len(record) >= 2 and struct.unpack_from(f'{order}H', record)[0] == _BYTE_ORDER:
            return order
    raise broken(where, f'a record that begins {record[:2]!r}')


def _from_png(data: bytes, size: tuple[int, int], where: object) -> NDArray[np.uint16]:
    """
    Counts of an embedded PNG.

    Most cameras write its two bytes in the wrong order. Counts of a scene differ little from pixel
    to pixel; with swapped bytes they jump.
    """
    if size_of(data) != size:
        raise broken(where, f'a PNG of {size_of(data)} pixels for {size}')
    image: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype != np.uint16 or image.ndim != 2:
        raise broken(where, 'a PNG that does not hold one channel of 16 bits')
    swapped = image.byteswap()
    return np.asarray(swapped if _roughness(swapped) <= _roughness(image) else image, np.uint16)


def _roughness(image: NDArray[np.uint16]) -> float:
    return float(np.abs(np.diff(image.astype(np.float32), axis=1)).sum())

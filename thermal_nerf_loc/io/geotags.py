# SPDX-License-Identifier: Apache-2.0
"""Where on earth: of a JPEG or TIFF by DJI's XMP text or EXIF's GPS block; of a trajectory."""

from pathlib import Path
import re
import struct
from typing import Any, NamedTuple

from thermal_nerf_loc.geometry.geodesy import GeoAnchor
from thermal_nerf_loc.io.atomic_files import read_bytes, write_atomically
from thermal_nerf_loc.io.image_size import JPEG, jpeg_segments, TIFF
from thermal_nerf_loc.io.trajectory import Trajectory

RTK, GPS = 'RTK', 'GPS'

_EXIF = b'Exif\x00\x00'
_GPS_BLOCK = 0x8825  # tag of the first directory that points to it
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 10: 8}  # of one value, by EXIF's type
_RTK_FIXED = 50  # DJI's RtkFlag


class GeoTag(NamedTuple):
    """Latitude and longitude (deg), height (m), and RTK or GPS."""

    latitude_deg: float
    longitude_deg: float
    height_m: float
    source: str


def read_geotag(path: Path) -> GeoTag | None:
    """The position in a file's header; None where there is none that makes sense."""
    if path.suffix.lower() not in ('.jpg', '.jpeg', '.tif', '.tiff'):
        return None
    data = read_bytes(path)
    exif = data if data.startswith(TIFF) else b''
    if data.startswith(JPEG):
        for segment in jpeg_segments(data):
            if segment.marker == 0xe1 and segment.content.startswith(_EXIF):
                exif = segment.content[len(_EXIF):]
    tag = _from_xmp(data[:2**18]) or _from_exif(exif)
    if tag is None or not (abs(tag.latitude_deg) <= 90.0 and abs(tag.longitude_deg) <= 180.0):
        return None
    # receivers without a fix write zeros
    return None if tag.latitude_deg == tag.longitude_deg == 0.0 else tag


def _from_xmp(head: bytes) -> GeoTag | None:
    def value(*names: bytes) -> float | None:
        for name in names:
            found = re.search(rb'drone-dji:' + name + rb'(?:="|>)\s*([-+0-9.]+)', head)
            if found:
                try:
                    return float(found[1])
                except ValueError:
                    return None
        return None

    # some firmware misspells the longitude
    found = (value(b'GpsLatitude', b'Latitude'), value(b'GpsLongitude', b'GpsLongtitude',
                                                       b'Longitude'), value(b'AbsoluteAltitude'))
    latitude, longitude, height = found
    if latitude is None or longitude is None or height is None:
        return None
    return GeoTag(latitude, longitude, height, RTK if value(b'RtkFlag') == _RTK_FIXED else GPS)


def _from_exif(tiff: bytes) -> GeoTag | None:
    if tiff[:4] not in TIFF[:2]:
        return None
    try:
        order = '<' if tiff[:2] == b'II' else '>'
        first = _directory(tiff, struct.unpack_from(order + 'I', tiff, 4)[0], order)
        block = _directory(tiff, first[_GPS_BLOCK][0], order)
        latitude, longitude = (_degrees(block[n + 1], block[n]) for n in (1, 3))
        height = block.get(6, [0.0])[0] * (-1.0 if block.get(5, [0])[0] == 1 else 1.0)
    except (KeyError, IndexError, struct.error, ZeroDivisionError):
        return None
    return GeoTag(latitude, longitude, height, GPS)


def _directory(tiff: bytes, at: int, order: str) -> dict[int, list[Any]]:
    """Values by tag; those of other types are left out."""
    values: dict[int, list[Any]] = {}
    for entry in range(struct.unpack_from(order + 'H', tiff, at)[0]):
        start = at + 2 + 12 * entry
        tag, kind, count = struct.unpack_from(order + 'HHI', tiff, start)
        if kind not in _BYTES or count > 64:
            continue
        position = start + 8
        if _BYTES[kind] * count > 4:
            position = struct.unpack_from(order + 'I', tiff, position)[0]
        if kind in (5, 10):
            pairs = struct.unpack_from(f'{order}{2 * count}{"Ii"[kind == 10]}', tiff, position)
            values[tag] = [a / b if b else 0.0 for a, b in zip(pairs[::2], pairs[1::2])]
        else:
            code = {1: 'B', 2: 'B', 3: 'H', 4: 'I', 7: 'B'}[kind]
            values[tag] = list(struct.unpack_from(f'{order}{count}{code}', tiff, position))
    return values


def _degrees(parts: list[float], side: list[int]) -> float:
    degrees = parts[0] + parts[1] / 60.0 + parts[2] / 3600.0
    return -degrees if side and chr(side[0]) in 'SW' else degrees


def write_geodetic(path: Path, trajectory: Trajectory, anchor: GeoAnchor) -> None:
    """Write a table: stamp (s), latitude and longitude (deg), height (m) of each pose."""
    rows = anchor.geodetic(trajectory.poses[:, :3, 3])
    write_atomically(path, 'stamp_s,latitude_deg,longitude_deg,height_m\n' + ''.join(
        f'{stamp // 10**9}.{stamp % 10**9:09d},{row[0]:.9f},{row[1]:.9f},{row[2]:.4f}\n'
        for stamp, row in zip(trajectory.stamps_ns.tolist(), rows)))

# SPDX-License-Identifier: Apache-2.0
"""Radiometric JPEGs as cameras write them: by ExifTool's documentation, and by real files."""

import struct
from typing import Any

import cv2
import numpy as np

XMP = b'http://ns.adobe.com/xap/1.0/\x00<x tiff:Make="DJI" tiff:Model="M2EA"/>'
# Emissivity, distance (m), reflected, air and window (K), transmission of the window; then
# humidity, R1, B, F, the air's alpha 1, 2, beta 1, 2 and X, R2: of a FLIR AX8, but for the first.
SCENE = (0.9, 5.0, 303.15, 288.15, 293.15, 1.0)
HUMIDITY, PLANCK, AIR, R2, OFFSET = (
    0.5, (16951.797, 1435.1, 1.0), (0.006569, 0.01262, -0.002276, -0.00667, 1.9), 0.014294867,
    -7142)


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xff, marker]) + (len(content) + 2).to_bytes(2, 'big') + content


def preview(size: tuple[int, int] = (160, 120)) -> bytes:
    """A JPEG in false colours."""
    rng = np.random.default_rng(3)
    colours = rng.integers(0, 255, (*size[::-1], 3)).astype(np.uint8)
    return bytes(cv2.imencode('.jpg', colours)[1])


def dji_jpeg(counts: np.ndarray) -> bytes:
    """Counts in segments APP3, the camera's name in XMP."""
    data, jpeg = counts.astype('<u2').tobytes(), preview(counts.shape[::-1])
    parts = [data[start:start + 65_532] for start in range(0, len(data), 65_532)]
    return jpeg[:2] + segment(0xe1, XMP) + b''.join(
        segment(0xe3, part) for part in parts) + jpeg[2:]


def flir_camera(scene: tuple[float, ...] = SCENE, size: int = 1000) -> bytes:
    camera = bytearray(size)
    struct.pack_into('<H', camera, 0, 2)
    for at, values in ((0x20, scene), (0x3c, (HUMIDITY,)), (0x58, PLANCK), (0x70, AIR),
                       (0x30c, (R2,)), (0x1b4, (47.9,))):
        struct.pack_into(f'<{len(values)}f', camera, at, *values)
    struct.pack_into('<i', camera, 0x308, OFFSET)
    camera[0xd4:0xdc] = b'FLIR AX8'
    return bytes(camera)


def flir_raw(counts: np.ndarray, kind: str = 'raw') -> bytes:
    """Record 1: `raw`, `png` (bytes in the wrong order, as in most cameras) or `png-right`."""
    height, width = counts.shape
    head = struct.pack('<3H', 2, width, height).ljust(32, b'\0')
    if kind == 'raw':
        return head + counts.astype('<u2').tobytes()
    image = counts.astype(np.uint16)
    return head + bytes(cv2.imencode('.png', image.byteswap() if kind == 'png' else image)[1])


def flir_segments(records: dict[int, bytes], part: int = 60_000, **header: Any) -> list[bytes]:
    """Segments APP1 of records by kind; the directory has unused entries, as cameras' have."""
    start = 64 + 32 * (len(records) + 2)
    entries, body = b'', b''
    for kind, record in records.items():
        entries += struct.pack('>HHIIII', kind, 1, 100, 1, start + len(body),
                               len(record)).ljust(32, b'\0')
        body += record
    head = (b'FFF\0'.ljust(20, b'\0') + struct.pack(
        '>III', header.get('version', 101), header.get('directory', 64),
        header.get('count', len(records) + 2))).ljust(64, b'\0')
    whole = head + b'\0' * 32 + entries + b'\0' * 32 + body
    parts = [whole[at:at + part] for at in range(0, len(whole), part)]
    return [segment(0xe1, b'FLIR\0\1' + bytes([index, len(parts) - 1]) + content)
            for index, content in enumerate(parts)]


def flir_jpeg(counts: np.ndarray, kind: str = 'raw', scene: tuple[float, ...] = SCENE,
              part: int = 60_000) -> bytes:
    jpeg = preview()
    return jpeg[:2] + b''.join(flir_segments(
        {1: flir_raw(counts, kind), 0x20: flir_camera(scene)}, part)) + jpeg[2:]

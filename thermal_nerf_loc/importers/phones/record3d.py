# SPDX-License-Identifier: Apache-2.0
"""
Record3D's `.r3d`: a zip with `metadata` (JSON), `rgbd/N.jpg`, `N.depth` and `N.conf`.

`metadata`: w, h, K (3x3, column by column) or perFrameIntrinsicCoeffs (fx fy cx cy), poses (qx qy
qz qw tx ty tz, ARKit's axes), frameTimestamps (s) or fps, dw and dh (of the depth). Depth is
float32 metres, confidence 0 to 2, both compressed by LZFSE (the extra `phone` unpacks it).
"""

from collections.abc import Mapping
import json
from pathlib import Path
from typing import Any
import zipfile
import zlib

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.importers.phones.recording import (
    camera_of, fitted_depth, from_arkit, PhoneFrame, PhoneRecording, pose_of)
from thermal_nerf_loc.io.atomic_files import reading
from thermal_nerf_loc.io.image_size import size_of
from thermal_nerf_loc.io.images import decode_file, rgb_values

INSTALL = "pip install 'lzfse>=0.4'"  # the extra `phone`

_MAX_BYTES = 2**28  # of one member, unpacked


def open_record3d(path: Path) -> PhoneRecording:
    """Read the metadata, and find the images."""
    with _archive(path) as archive:
        names = set(archive.namelist())
        metadata = _metadata(path, archive, names)
        frames, notes = _frames(path, archive, names, metadata)
    return PhoneRecording(path, 'Record3D', frames, notes)


def _archive(path: Path) -> zipfile.ZipFile:
    try:
        with reading(path):
            return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise InputError('is no whole Record3D file', where=path, expected='a zip archive',
                         got=str(error),
                         hint='Export it again; a broken transfer loses the end.') from None


def _member(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        if archive.getinfo(name).file_size > _MAX_BYTES:
            raise InputError('part of the recording is too large', where=f'{path} {name}',
                             expected=f'at most {_MAX_BYTES // 2**20} MB')
        return archive.read(name)
    except (zipfile.BadZipFile, EOFError, OSError, KeyError, RuntimeError, NotImplementedError,
            zlib.error) as error:
        raise InputError('part of the recording is not whole', where=f'{path} {name}',
                         got=str(error)) from None


def _metadata(path: Path, archive: zipfile.ZipFile, names: set[str]) -> Mapping[str, Any]:
    if 'metadata' not in names:
        raise InputError('is no Record3D file', where=path, expected='a part "metadata"',
                         got=', '.join(sorted(names)[:3]) or 'nothing')
    try:
        metadata = json.loads(_member(path, archive, 'metadata'))
    except (ValueError, RecursionError) as error:
        raise InputError('metadata is no JSON', where=path, got=str(error)[:80]) from None
    if not isinstance(metadata, dict):
        raise InputError('metadata is no JSON object', where=path)
    for key in ('w', 'h'):
        if not isinstance(metadata.get(key), int) or not 0 < metadata[key] < 100_000:
            raise InputError(f'metadata has no image size {key}', where=path,
                             got=repr(metadata.get(key)))
    if not isinstance(metadata.get('poses'), list) or not metadata['poses']:
        raise InputError('recording has no poses', where=path, expected='a list "poses"',
                         hint='Record with the LiDAR or world tracking switched on.')
    return metadata


def _frames(path: Path, archive: zipfile.ZipFile, names: set[str], metadata: Mapping[str, Any],
            ) -> tuple[list[PhoneFrame], tuple[str, ...]]:
    poses, notes, frames = metadata['poses'], [], []
    size = metadata['w'], metadata['h']
    present = [k for k in range(len(poses)) if f'rgbd/{k}.jpg' in names]
    if not present:
        raise InputError('recording has no image', where=path, expected='rgbd/0.jpg, ...',
                         got=f'{len(poses)} poses, {len(names)} other parts')
    if len(present) < len(poses):
        notes.append(f'{len(poses) - len(present)} of {len(poses)} poses have no image')
    image = size_of(_member(path, archive, f'rgbd/{present[0]}.jpg')) or size
    with_depth = sum(f'rgbd/{k}.depth' in names for k in present)
    if with_depth and _lzfse() is None:
        notes.append(f'depth is left out: it needs lzfse ({INSTALL})')
        with_depth = 0
    for k in present:
        camera = camera_of(*_lens(metadata, k, path), size, image, path)
        depth = None
        if with_depth and f'rgbd/{k}.depth' in names:
            depth = _depth_reader(path, k, camera, metadata, f'rgbd/{k}.conf' in names)
        frames.append(PhoneFrame(
            f'{k:05d}', _stamp_ns(metadata, k, path),
            from_arkit(pose_of(poses[k], f'{path} pose {k}')), camera,
            _rgb_reader(path, k, camera.size), depth))
    return frames, tuple(notes)


def _lens(metadata: Mapping[str, Any], k: int, path: Path) -> tuple[Any, Any]:
    """Focal lengths and centre of one image."""
    each = metadata.get('perFrameIntrinsicCoeffs')
    if isinstance(each, list) and k < len(each) and isinstance(each[k], list):
        return each[k][:2], each[k][2:4]
    K = metadata.get('K')
    if not isinstance(K, list) or len(K) != 9:
        raise InputError('recording has no lens', where=path, expected='K of nine numbers',
                         got=repr(K)[:60])
    return [K[0], K[4]], [K[6], K[7]]


def _stamp_ns(metadata: Mapping[str, Any], k: int, path: Path) -> int:
    stamps, fps = metadata.get('frameTimestamps'), metadata.get('fps', 60)
    if isinstance(stamps, list) and k < len(stamps):
        seconds = stamps[k]
    else:
        seconds = k / fps if isinstance(fps, int | float) and fps > 0 else None
    if not isinstance(seconds, int | float) or not np.isfinite(seconds):
        raise InputError('recording has no times', where=path, expected='frameTimestamps in s',
                         got=repr(seconds))
    return round(1e9 * seconds)


def _rgb_reader(path: Path, k: int, size: tuple[int, int]) -> Any:
    def read() -> NDArray[np.float32]:
        name = f'rgbd/{k}.jpg'
        with _archive(path) as archive:
            image = decode_file(_member(path, archive, name), f'{path} {name}')
        if image.shape[1::-1] != size:
            raise InputError('image has another size than the first', where=f'{path} {name}',
                             expected=f'{size[0]}x{size[1]}',
                             got=f'{image.shape[1]}x{image.shape[0]}')
        return rgb_values(image)
    return read


def _depth_reader(path: Path, k: int, camera: Any, metadata: Mapping[str, Any],
                  has_confidence: bool) -> Any:
    def read() -> NDArray[np.float32]:
        with _archive(path) as archive:
            depth = np.frombuffer(_unpacked(path, archive, f'rgbd/{k}.depth', 4), '<f4')
            shape = _depth_shape(metadata, len(depth), f'{path} rgbd/{k}.depth')
            depth = np.array(depth.reshape(shape))
            if has_confidence:
                sure = np.frombuffer(_unpacked(path, archive, f'rgbd/{k}.conf', 1), np.uint8)
                if sure.size == depth.size:
                    depth[sure.reshape(shape) == 0] = 0.0  # low confidence
        return fitted_depth(depth, camera)
    return read


def _unpacked(path: Path, archive: zipfile.ZipFile, name: str, item: int) -> bytes:
    packed = _member(path, archive, name)
    module = _lzfse()
    try:
        data: bytes = module.decompress(packed)
    except Exception as error:  # lzfse.error, MemoryError
        raise InputError('depth cannot be unpacked', where=f'{path} {name}',
                         expected='LZFSE', got=str(error) or type(error).__name__) from None
    if not data or len(data) % item:
        raise InputError('depth is not whole', where=f'{path} {name}', got=f'{len(data)} bytes')
    return data


def _depth_shape(metadata: Mapping[str, Any], count: int, where: str) -> tuple[int, int]:
    """Rows and columns: given, else in the shape of the image."""
    width, height = metadata.get('dw'), metadata.get('dh')
    if not (isinstance(width, int) and isinstance(height, int)):
        width = round((count * metadata['w'] / metadata['h'])**0.5)
        height = count // max(width, 1)
    if width * height != count or count == 0:
        raise InputError('depth has another size than the metadata say', where=where,
                         expected=f'{width}x{height} values', got=count)
    return height, width


def _lzfse() -> Any:
    """The module that unpacks LZFSE, None where there is none; two packages have one."""
    for name in ('lzfse', 'liblzfse'):
        try:
            return __import__(name)
        except ImportError:
            continue
    return None

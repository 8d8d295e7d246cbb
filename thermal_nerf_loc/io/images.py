# SPDX-License-Identifier: Apache-2.0
"""
Images on disk: colour, thermal counts, depth and masks.

EXIF orientation is ignored on purpose: poses and intrinsics belong to the sensor's own rows and
columns. A file that is cut short is refused; OpenCV would return a half-grey image. Of a
radiometric JPEG, `read_counts` takes the counts, not the preview.
"""

import functools
from io import BytesIO
import logging
from pathlib import Path
from typing import Any, NamedTuple
import zlib

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.io import radiometric_jpeg
from thermal_nerf_loc.io.atomic_files import read_bytes, write_atomically
from thermal_nerf_loc.io.image_size import check_size, JPEG, NPY, PNG, size_of, TIFF
from thermal_nerf_loc.sensing.false_colour import is_coloured

_PREVIEW = ('This JPEG is a picture without raw counts: take the radiometric JPEG as the camera '
            'wrote it, or export 16-bit TIFFs, or record in grey (palette white hot).')

DEPTH_UNIT_M = 1e-3  # nerfstudio's default: one count is a millimetre


class RgbImage(NamedTuple):
    """sRGB in [0, 1] (h, w, 3), and which pixels count (h, w), None where all do."""

    values: NDArray[np.float32]
    valid: NDArray[np.bool_] | None


class CountImage(NamedTuple):
    """One channel as stored (h, w), and which pixels count, None where all do."""

    counts: NDArray[Any]
    valid: NDArray[np.bool_] | None

    @property
    def is_8bit(self) -> bool:
        """True for AGC images: 256 levels cannot hold temperatures."""
        return bool(self.counts.dtype == np.uint8)


def read_rgb(path: Path) -> RgbImage:
    """Read a colour or grey image of 8 or 16 bits; an alpha channel becomes the mask."""
    image = read_image(path)
    if image.dtype not in (np.uint8, np.uint16):
        raise InputError('is no colour image', where=path, expected='8 or 16 bits a channel',
                         got=str(image.dtype))
    colour, valid = _split_alpha(image)
    return RgbImage(rgb_values(colour[..., 0] if colour.shape[2] == 1 else colour), valid)


def read_counts(path: Path) -> CountImage:
    """
    Read the counts of a thermal image; three equal channels are one.

    Of radiometric JPEGs, FLIR's give deg C as floats, DJI's counts.
    """
    data = read_bytes(path)
    if radiometric_jpeg.maker_of(data) is not None:
        return CountImage(radiometric_jpeg.decode(data, path), None)
    counts, valid = _split_alpha(decode_file(data, path))
    return CountImage(single_channel(counts, path, _PREVIEW if data.startswith(JPEG) else
                                     'Export the raw (radiometric) or the grey-scale image.'),
                      valid)


def read_size(path: Path) -> tuple[int, int]:
    """Width and height of an image file."""
    data = read_bytes(path)
    size = size_of(data)
    if size is None:
        height, width = decode_file(data, path).shape[:2]
        return width, height
    check_size(size, path)
    return size


def rgb_values(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """
    Grey or RGB(A) pixels as sRGB in [0, 1] (h, w, 3).

    Integers are divided by the largest value of their type; floats are taken as they are.
    """
    colour = np.stack([pixels] * 3, axis=-1) if pixels.ndim == 2 else pixels[..., :3]
    top = 1.0 if np.issubdtype(colour.dtype, np.floating) else np.iinfo(colour.dtype).max
    return np.asarray(np.divide(colour, np.float32(top), dtype=np.float32, casting='unsafe'))


def single_channel(pixels: NDArray[Any], where: object, hint: str) -> NDArray[Any]:
    """
    The one channel (h, w) of a thermal image; false colours are refused.

    Three channels are one where they hardly differ: compressed grey, or a small coloured overlay.
    """
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return pixels if pixels.ndim == 2 else pixels[..., 0]
    if is_coloured(pixels[..., :3]):
        raise InputError('thermal image is in false colours', where=where, expected='one channel',
                         got='three differing channels', hint=hint)
    return np.asarray(pixels[..., 1])


def read_depth(path: Path, unit_m: float = DEPTH_UNIT_M) -> NDArray[np.float32]:
    """Read depth along z in metres (h, w); 0 where it is not known."""
    image = read_image(path)
    if image.ndim != 2 or image.dtype == np.uint8:
        raise InputError('is no depth image', where=path,
                         expected='one channel of 16 bits or floats',
                         got=f'shape {image.shape}, {image.dtype}')
    depth_m = (image * unit_m).astype(np.float32)
    return np.where(np.isfinite(depth_m) & (depth_m > 0.0), depth_m, np.float32(0.0))


def read_confidence(path: Path) -> NDArray[np.float32]:
    """Read confidence in [0, 1] (h, w): all of an integer's range, or floats as they are."""
    image = read_image(path)
    if image.ndim != 2:
        raise InputError('is no confidence map', where=path, expected='one channel',
                         got=f'shape {image.shape}')
    if np.issubdtype(image.dtype, np.integer):
        top = np.float32(np.iinfo(image.dtype).max)
        return np.asarray(np.divide(image, top, dtype=np.float32))
    confidence = np.nan_to_num(image.astype(np.float32), nan=0.0, posinf=np.inf, neginf=-np.inf)
    if confidence.min() < 0.0 or confidence.max() > 1.0:
        raise InputError('confidence is out of range', where=path, expected='0 to 1',
                         got=f'{confidence.min():g} to {confidence.max():g}')
    return np.asarray(confidence)


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Read a mask (h, w): True (any value but 0) where pixels count, as nerfstudio has it."""
    image = read_image(path)
    return np.asarray(image != 0 if image.ndim == 2 else (image[..., :3] != 0).any(axis=-1))


def read_image(path: Path) -> NDArray[Any]:
    """Decode PNG, JPEG, TIFF, NPY or another format of OpenCV; (h, w) or (h, w, 3 | 4) RGB(A)."""
    return decode_file(read_bytes(path), path)


def decode_file(data: bytes, where: object) -> NDArray[Any]:
    """Decode an image file's content; `where` names it in errors."""
    if not data:
        raise InputError('is an empty file', where=where, expected='an image')
    check_size(size_of(data), where)
    if data.startswith(NPY):
        return _decode_npy(data, where)
    if data.startswith(TIFF):
        return _decode_tiff(data, where)
    if data.startswith(PNG):
        _check_png(data, where)
    elif data.startswith(JPEG):
        _check_jpeg(data, where)
    return _decode_opencv(data, where)


def write_png(path: Path, image: NDArray[Any]) -> None:
    """Write 8 or 16 bits, grey (h, w) or RGB(A) (h, w, 3 | 4)."""
    write_atomically(path, encode(image, '.png'))


def write_jpeg(path: Path, image: NDArray[np.uint8], quality: int = 95) -> None:
    """Write 8 bits, grey or RGB."""
    write_atomically(path, encode(image, '.jpg', quality))


def encode(image: NDArray[Any], suffix: str, quality: int = 95) -> bytes:
    """Encode as PNG or JPEG; RGB(A) order in, refusing what the format cannot hold."""
    cv2 = opencv()
    kinds = (np.uint8,) if suffix == '.jpg' else (np.uint8, np.uint16)
    if image.dtype not in kinds:
        raise InputError(f'{suffix} cannot hold these values',
                         expected=' or '.join(np.dtype(k).name for k in kinds),
                         got=str(image.dtype))
    if image.ndim == 3 and image.shape[2] >= 3:
        image = image[..., [2, 1, 0, 3][:image.shape[2]]]
    options = ([cv2.IMWRITE_JPEG_QUALITY, quality] if suffix == '.jpg'
               else [cv2.IMWRITE_PNG_COMPRESSION, 3])
    return bytes(cv2.imencode(suffix, np.ascontiguousarray(image), options)[1])


@functools.cache
def opencv() -> Any:
    """OpenCV, imported late (it is slow), without its messages on stderr: errors are raised."""
    import cv2
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2


def _split_alpha(image: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    image = image[..., None] if image.ndim == 2 else image
    if image.shape[2] in (2, 4):
        alpha = image[..., -1]
        valid = alpha > np.iinfo(image.dtype).max // 2
        return image[..., :-1], None if valid.all() else valid
    return image, None


def _decode_opencv(data: bytes, where: object) -> NDArray[Any]:
    cv2 = opencv()
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        image = None
    if image is None:
        raise InputError('is no image that can be read', where=where,
                         expected='PNG, JPEG or TIFF', got=f'a file that begins {data[:8]!r}')
    if image.ndim == 3:
        image = image[..., [2, 1, 0, 3][:image.shape[2]]]
    return np.ascontiguousarray(image)


def _decode_tiff(data: bytes, where: object) -> NDArray[Any]:
    """Decode with tifffile first: thermal cameras leave out tags that OpenCV insists on."""
    import tifffile
    logging.getLogger('tifffile').setLevel(logging.CRITICAL)  # errors are raised, see below
    try:
        image = np.asarray(tifffile.imread(BytesIO(data), key=0))
    except Exception as error:  # tifffile lets ValueError, IndexError, struct.error, ... escape
        if 'imagecodecs' in str(error):  # LZW and the like, which OpenCV decodes itself
            return _decode_opencv(data, where)
        raise InputError('is no whole TIFF', where=where,
                         got=' '.join(str(error).split()) or type(error).__name__) from error
    image = _without_single_axes(image)
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] > 4):
        raise InputError('TIFF holds no plain image', where=where,
                         expected='(h, w) or (h, w, channels)', got=f'shape {image.shape}')
    return np.ascontiguousarray(image, dtype=image.dtype.newbyteorder('='))


def _decode_npy(data: bytes, where: object) -> NDArray[Any]:
    try:
        return _without_single_axes(np.load(BytesIO(data), allow_pickle=False))
    except (ValueError, EOFError, OSError) as error:
        raise InputError('is no whole NPY array', where=where, got=str(error)) from None


def _without_single_axes(image: NDArray[Any]) -> NDArray[Any]:
    """(1, h, w) and (h, w, 1) to (h, w); an image one pixel high or wide stays as it is."""
    while image.ndim > 2 and image.shape[0] == 1:
        image = image[0]
    return image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image


def _check_png(data: bytes, where: object) -> None:
    """Refuse a PNG with a cut or damaged chunk, or without its last chunk, IEND."""
    position = len(PNG)
    while position + 12 <= len(data):
        end = position + 12 + int.from_bytes(data[position:position + 4], 'big')
        if end > len(data):
            break
        kind = data[position + 4:position + 8]
        if zlib.crc32(data[position + 4:end - 4]) != int.from_bytes(data[end - 4:end], 'big'):
            raise InputError('PNG is damaged', where=where,
                             got=f'a wrong check sum in chunk {kind!r} at byte {position}')
        if kind == b'IEND':
            return
        position = end
    raise InputError('PNG is cut short', where=where, expected='an IEND chunk at its end',
                     got=f'{len(data)} bytes')


def _check_jpeg(data: bytes, where: object) -> None:
    """Refuse a JPEG without an end marker after its scan; that of a thumbnail does not count."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xff and data[position + 1] != 0xda:
        position += 2 + int.from_bytes(data[position + 2:position + 4], 'big')
    if data.find(b'\xff\xd9', position) < 0:
        raise InputError('JPEG is cut short', where=where, expected='an end marker',
                         got=f'{len(data)} bytes')

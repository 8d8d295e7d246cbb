# SPDX-License-Identifier: Apache-2.0
"""
Read a COLMAP model, text or binary: `cameras`, `images` and, if there is one, `points3D`.

COLMAP's cameras look along +z with x right and y down, and pixel centres lie at +0.5, as here;
its poses map the world into the camera, and its quaternions begin with w.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera, CameraModel
from thermal_nerf_loc.io.atomic_files import read_bytes, read_text

Array = NDArray[np.float64]

# Name and number of parameters, in the order of COLMAP's model numbers.
_MODELS = (('SIMPLE_PINHOLE', 3), ('PINHOLE', 4), ('SIMPLE_RADIAL', 4), ('RADIAL', 5),
           ('OPENCV', 8), ('OPENCV_FISHEYE', 8), ('FULL_OPENCV', 12), ('FOV', 5),
           ('SIMPLE_RADIAL_FISHEYE', 4), ('RADIAL_FISHEYE', 5), ('THIN_PRISM_FISHEYE', 12),
           ('RAD_TAN_THIN_PRISM_FISHEYE', 16))
_PARAMETER_COUNTS = dict(_MODELS)
# Models with one focal length for both axes: how many of the coefficients k1 k2 they have.
_SINGLE_FOCAL = {'SIMPLE_PINHOLE': 0, 'SIMPLE_RADIAL': 1, 'RADIAL': 2, 'SIMPLE_RADIAL_FISHEYE': 1,
                 'RADIAL_FISHEYE': 2}
_PARSE_ERRORS = (ValueError, IndexError, KeyError, struct.error, OverflowError, UnicodeDecodeError)


@dataclass(frozen=True, slots=True, eq=False)
class PosedImage:
    """The pose of an image, and the number of its camera."""

    T_world_cam: Array
    camera: int


@dataclass(frozen=True, slots=True, eq=False)
class ColmapModel:
    """A reconstruction; `errors_px` is the mean reprojection error of each point."""

    cameras: Mapping[int, Camera]
    images: Mapping[str, PosedImage]
    points: Array  # (n, 3)
    errors_px: Array  # (n,)


def read_model(folder: Path) -> ColmapModel:
    """Read the model in a folder; binary files win over text."""
    for suffix, file_format in (('.bin', _Binary), ('.txt', _Text)):
        if all((folder / f'{name}{suffix}').is_file() for name in ('cameras', 'images')):
            return _read_files(folder, suffix, file_format)
    raise InputError('is no COLMAP model', where=folder,
                     expected='cameras.txt and images.txt, or cameras.bin and images.bin',
                     hint='The model is often in a folder sparse/0.')


def _read_files(folder: Path, suffix: str, file_format: Any) -> ColmapModel:
    files = {name: folder / f'{name}{suffix}' for name in ('cameras', 'images', 'points3D')}
    cameras = dict(_read(files['cameras'], file_format.cameras))
    images = dict(_read(files['images'], file_format.images))
    points = (list(_read(files['points3D'], file_format.points))
              if files['points3D'].is_file() else [])
    if not images:
        raise InputError('COLMAP model has no image', where=files['images'])
    without_camera = [name for name, image in images.items() if image.camera not in cameras]
    if without_camera:
        raise InputError('image has a camera that is not in the model', where=files['images'],
                         got=without_camera[0])
    table = np.array(points, dtype=np.float64).reshape(-1, 4)
    return ColmapModel(cameras, images, table[:, :3], table[:, 3])


def camera_from_colmap(model: str, width: int, height: int, params: tuple[float, ...],
                       where: object = None) -> Camera:
    """The camera of COLMAP's parameters; models that `Camera` does not have are refused."""
    if model not in _PARAMETER_COUNTS or len(params) != _PARAMETER_COUNTS[model]:
        raise InputError('COLMAP camera is not known', where=where,
                         expected=', '.join(f'{name} ({count} parameters)'
                                            for name, count in _MODELS),
                         got=f'{model} ({len(params)} parameters)')
    if model in _SINGLE_FOCAL:
        f, cx, cy, *k = params
        fisheye = model.endswith('FISHEYE')
        k += [0.0] * (4 - len(k))  # k3 k4 of the fisheye, p1 p2 of the other
        kind = CameraModel.OPENCV_FISHEYE if fisheye else CameraModel.OPENCV
        return _camera(width, height, (f, f, cx, cy), kind, tuple(k))
    if model in ('PINHOLE', 'OPENCV', 'FULL_OPENCV'):
        return _camera(width, height, params[:4], CameraModel.OPENCV, params[4:])
    if model == 'OPENCV_FISHEYE':
        return _camera(width, height, params[:4], CameraModel.OPENCV_FISHEYE, params[4:])
    raise InputError(f'cameras of the model {model} are not supported', where=where,
                     expected='pinhole, radial, OPENCV, FULL_OPENCV or OPENCV_FISHEYE',
                     hint='Reconstruct with one of these, or undistort the images first.')


def camera_to_colmap(camera: Camera) -> tuple[str, tuple[float, ...]]:
    """COLMAP's model and parameters of a camera."""
    start = (camera.fx, camera.fy, camera.cx, camera.cy)
    if camera.model is CameraModel.OPENCV_FISHEYE:
        return 'OPENCV_FISHEYE', (*start, *camera.distortion)
    if camera.model is CameraModel.PINHOLE or not camera.distortion:
        return 'PINHOLE', start
    count = 4 if len(camera.distortion) == 4 else 8
    padded = (*camera.distortion, *(0.0,) * (count - len(camera.distortion)))
    return 'OPENCV' if count == 4 else 'FULL_OPENCV', (*start, *padded)


def _camera(width: int, height: int, start: tuple[float, ...], kind: CameraModel,
            distortion: tuple[float, ...]) -> Camera:
    if kind is CameraModel.OPENCV and not any(distortion):
        kind, distortion = CameraModel.PINHOLE, ()
    fx, fy, cx, cy = start
    return Camera(width, height, fx, fy, cx, cy, kind, distortion)


def _posed_image(q_wxyz: Any, t: Any, camera: int) -> PosedImage:
    w, x, y, z = (float(value) for value in q_wxyz)
    q = np.array([x, y, z, w])
    norm = float(np.linalg.norm(q))
    if not np.isfinite(norm) or abs(norm - 1.0) > 1e-2 or not np.isfinite(t).all():
        raise ValueError('a pose that is no rigid motion')
    return PosedImage(np.asarray(se3.inverse(se3.from_quaternion(np.array(t), q / norm))), camera)


def _read(file: Path, reader: Any) -> Iterator[Any]:
    """All items of a reader; errors inside the file name the file."""
    try:
        yield from reader(file)
    except _PARSE_ERRORS as error:
        raise InputError('is no whole COLMAP file', where=file,
                         got=' '.join(str(error).split()) or type(error).__name__) from None


class _Text:
    """Readers of the text format."""

    @staticmethod
    def cameras(file: Path) -> Iterator[tuple[int, Camera]]:
        for line in _lines(file):
            number, model, width, height, *params = line.split()
            yield int(number), camera_from_colmap(model, int(width), int(height),
                                                  tuple(map(float, params)), file)

    @staticmethod
    def images(file: Path) -> Iterator[tuple[str, PosedImage]]:
        # Two lines an image; the second lists its points and may be empty.
        lines = [line for line in read_text(file).splitlines() if not line.startswith('#')]
        for line in lines[::2]:
            if line.strip():
                words = line.split(maxsplit=9)
                numbers = [float(word) for word in words[1:8]]
                yield words[9].strip(), _posed_image(numbers[:4], numbers[4:], int(words[8]))

    @staticmethod
    def points(file: Path) -> Iterator[tuple[float, ...]]:
        for line in _lines(file):
            words = line.split(maxsplit=8)
            yield float(words[1]), float(words[2]), float(words[3]), float(words[7])


class _Binary:
    """Readers of the binary format: little endian, without padding."""

    @staticmethod
    def cameras(file: Path) -> Iterator[tuple[int, Camera]]:
        data = _Bytes(read_bytes(file))
        for _ in range(data.take('Q')[0]):
            number, kind, width, height = data.take('iiQQ')
            model, count = _MODELS[kind] if 0 <= kind < len(_MODELS) else (f'number {kind}', 0)
            yield number, camera_from_colmap(model, width, height, data.take(f'{count}d'), file)

    @staticmethod
    def images(file: Path) -> Iterator[tuple[str, PosedImage]]:
        data = _Bytes(read_bytes(file))
        for _ in range(data.take('Q')[0]):
            _, *numbers, camera = data.take('I7dI')
            name = data.text()
            data.skip(24 * data.take('Q')[0])  # x y and the number of a point
            yield name, _posed_image(numbers[:4], numbers[4:], camera)

    @staticmethod
    def points(file: Path) -> Iterator[tuple[float, ...]]:
        data = _Bytes(read_bytes(file))
        for _ in range(data.take('Q')[0]):
            _, x, y, z, _, _, _, error, track_length = data.take('Q3d3BdQ')
            data.skip(8 * track_length)  # numbers of an image and a feature each
            yield x, y, z, error


class _Bytes:
    """Reads values from bytes, one after another."""

    def __init__(self, data: bytes) -> None:
        self._data, self._position = data, 0

    def take(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f'<{layout}', self._data, self._position)
        self._position += struct.calcsize(f'<{layout}')
        return values

    def text(self) -> str:
        end = self._data.index(b'\0', self._position)
        start, self._position = self._position, end + 1
        return self._data[start:end].decode('utf-8')

    def skip(self, count: int) -> None:
        self._position += count
        if self._position > len(self._data):
            raise ValueError('the file ends too early')


def _lines(file: Path) -> list[str]:
    return [line for line in read_text(file).splitlines()
            if line.strip() and not line.startswith('#')]

# SPDX-License-Identifier: Apache-2.0
"""Cameras as nerfstudio's keys describe them: `fl_x fl_y cx cy w h k1 .. camera_model`."""

from collections.abc import Callable, Mapping
import math
from typing import Any

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry.camera import Camera, CameraModel

_MODELS = {
    'PINHOLE': CameraModel.PINHOLE, 'SIMPLE_PINHOLE': CameraModel.PINHOLE,
    'OPENCV': CameraModel.OPENCV, 'FULL_OPENCV': CameraModel.OPENCV,
    'SIMPLE_RADIAL': CameraModel.OPENCV, 'RADIAL': CameraModel.OPENCV,
    'OPENCV_FISHEYE': CameraModel.OPENCV_FISHEYE}
_ORDER = {CameraModel.PINHOLE: (), CameraModel.OPENCV: ('k1', 'k2', 'p1', 'p2', 'k3', 'k4', 'k5',
                                                        'k6'),
          CameraModel.OPENCV_FISHEYE: ('k1', 'k2', 'k3', 'k4')}
COEFFICIENT_KEYS = ('k1', 'k2', 'k3', 'k4', 'k5', 'k6', 'p1', 'p2')
DISTORTION_PARAMS = ('k1', 'k2', 'k3', 'k4', 'p1', 'p2')  # nerfstudio's `distortion_params`
INTRINSIC_KEYS = ('fl_x', 'fl_y', 'cx', 'cy', 'w', 'h', 'camera_model', 'camera_angle_x',
                  'camera_angle_y', 'distortion_params', *COEFFICIENT_KEYS)


def camera_from_keys(values: Mapping[str, Any], where: object,
                     image_size: Callable[[], tuple[int, int]] | None = None) -> Camera:
    """
    Build the camera that nerfstudio keys describe.

    `fl_x` wins over `camera_angle_x`; the centre defaults to the middle of the image, and a
    missing size is taken from `image_size() -> (width, height)`.
    """
    if not any(key in values for key in ('fl_x', 'camera_angle_x')):
        raise InputError('camera has no intrinsics', where=where,
                         expected='fl_x (pixels) or camera_angle_x (radians)',
                         got=', '.join(k for k in INTRINSIC_KEYS if k in values) or 'neither',
                         hint='Give them at the top of the file, or in every frame.')
    if image_size is not None and not ('w' in values and 'h' in values):
        width, height = image_size()
    else:
        width, height = (_pixels(values, key, where) for key in ('w', 'h'))
    fx = _focal(values, 'x', width, where)
    fy = (_focal(values, 'y', height, where)
          if 'fl_y' in values or 'camera_angle_y' in values else fx)
    cx = _number(values, 'cx', where, width / 2)
    cy = _number(values, 'cy', where, height / 2)
    model, distortion = _lens(values, where)
    try:
        return Camera(width, height, fx, fy, cx, cy, model, distortion)
    except InputError as error:
        raise InputError(error.what, where=where, expected=error.expected,
                         got=error.got) from None


def keys_from_camera(camera: Camera) -> dict[str, Any]:
    """Describe a camera by nerfstudio's keys."""
    keys = {'camera_model': camera.model.value, 'w': camera.width, 'h': camera.height,
            'fl_x': camera.fx, 'fl_y': camera.fy, 'cx': camera.cx, 'cy': camera.cy}
    return {**keys, **dict(zip(_ORDER[camera.model], camera.distortion, strict=False))}


def _lens(values: Mapping[str, Any], where: object) -> tuple[CameraModel, tuple[float, ...]]:
    name = values.get('camera_model', 'OPENCV')
    if name not in _MODELS:
        raise InputError('unknown camera model', where=where,
                         expected='one of ' + ', '.join(_MODELS), got=repr(name))
    model = _MODELS[name]
    k = {key: _number(values, key, where, 0.0) for key in COEFFICIENT_KEYS}
    if 'distortion_params' in values:
        k |= _distortion_params(values['distortion_params'], where)
    of_other_model = [key for key in COEFFICIENT_KEYS if k[key] and key not in _ORDER[model]]
    if of_other_model:
        raise InputError(f'{name} camera has coefficients of another model', where=where,
                         expected=' '.join(_ORDER[model]) or 'none',
                         got=', '.join(f'{key} = {k[key]:g}' for key in of_other_model))
    if model is CameraModel.OPENCV:
        return _perspective(values, k, name, where)
    return model, tuple(k[key] for key in _ORDER[model])


def _perspective(values: Mapping[str, Any], k: Mapping[str, float], name: str,
                 where: object) -> tuple[CameraModel, tuple[float, ...]]:
    """4, 5 or 8 coefficients: no more than the file names, 8 only for the rational model."""
    rational = name == 'FULL_OPENCV' or 'k5' in values or 'k6' in values
    if k['k4'] and not rational:
        raise InputError('k4 of a perspective camera is ambiguous', where=where,
                         expected='k4 = 0, or k4 k5 k6 of the rational model (FULL_OPENCV)',
                         got=f'k4 = {k["k4"]:g} alone',
                         hint='Elsewhere it stands for an r^8 term, which OpenCV does not have.')
    if rational:
        count = 8
    elif k['k3'] or 'k3' in values:
        count = 5
    else:
        count = 4
    distortion = tuple(k[key] for key in _ORDER[CameraModel.OPENCV][:count])
    return (CameraModel.OPENCV, distortion) if any(distortion) else (CameraModel.PINHOLE, ())


def _distortion_params(listed: Any, where: object) -> dict[str, float]:
    if not isinstance(listed, list) or len(listed) != len(DISTORTION_PARAMS):
        raise InputError('camera has a wrong number of coefficients', where=where,
                         expected='distortion_params of 6 numbers: ' + ' '.join(DISTORTION_PARAMS),
                         got=len(listed) if isinstance(listed, list) else repr(listed))
    named = dict(zip(DISTORTION_PARAMS, listed, strict=True))
    return {key: _number(named, key, where, 0.0) for key in DISTORTION_PARAMS}


def _focal(values: Mapping[str, Any], axis: str, pixels: int, where: object) -> float:
    if f'fl_{axis}' in values:
        return _number(values, f'fl_{axis}', where)
    angle_rad = _number(values, f'camera_angle_{axis}', where)
    if not 0.0 < angle_rad < math.pi:
        raise InputError(f'camera_angle_{axis} is no field of view', where=where,
                         expected='radians between 0 and pi', got=angle_rad)
    return 0.5 * pixels / math.tan(0.5 * angle_rad)


def _number(values: Mapping[str, Any], key: str, where: object,
            default: float | None = None) -> float:
    value = values.get(key, default)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise InputError(f'{key} is no number', where=where, expected='a number', got=repr(value))
    return float(value)


def _pixels(values: Mapping[str, Any], key: str, where: object) -> int:
    value = _number(values, key, where)
    if value != int(value if math.isfinite(value) else 0) or value < 1:
        raise InputError(f'{key} is no image size', where=where, expected='a whole number >= 1',
                         got=value)
    return int(value)

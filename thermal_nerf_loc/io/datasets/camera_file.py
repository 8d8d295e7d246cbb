# SPDX-License-Identifier: Apache-2.0
"""
The cameras of a rig in one YAML file: lenses, mounting, thermal scale and masks.

    rgb:                                      keys as in transforms.json, see `nerfstudio`
      w: 640
      h: 480
      mask_path: arm.png                      0: ignore (the robot's own body); beside this file
      fl_x: 457.0                             cx cy fl_y k1 .. camera_model as needed
    thermal:
      w: 320
      h: 256
      fl_x: 294.7
      celsius_per_count: 0.01                 or planck_*; with neither, no temperatures
      celsius_offset: -273.15
      transform_rgb_thermal: [[..], ..]       p_rgb = transform_rgb_thermal @ p_thermal, OpenCV
                                              axes, metres; the identity where it is missing
    rgb_time_offset_s: 0.0                    seconds added to the stamps of that camera
    thermal_time_offset_s: 0.012

The reference camera is the RGB camera, or, without an extrinsic, the thermal one. A size that is
not given is taken from the image. `read_rig` gives the cameras alone, `load_frame` a frame of
single image files that they took.
"""

from collections.abc import Callable, Mapping
import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
import yaml

from thermal_nerf_loc.common.config import unknown_key
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.geometry.se3 import pose_from_rows
from thermal_nerf_loc.io.atomic_files import read_text, write_atomically
from thermal_nerf_loc.io.datasets.intrinsics import (
    camera_from_keys, INTRINSIC_KEYS, keys_from_camera)
from thermal_nerf_loc.io.datasets.scene import ImageRecord, load_image
from thermal_nerf_loc.io.images import read_size
from thermal_nerf_loc.sensing.frame import Frame, RGB, THERMAL
from thermal_nerf_loc.sensing.thermal import (
    Radiometry, radiometry_from_mapping, RADIOMETRY_KEYS, radiometry_to_mapping)

_EXTRINSIC, _MASK = 'transform_rgb_thermal', 'mask_path'
_KNOWN_KEYS = {RGB: (*INTRINSIC_KEYS, _MASK),
               THERMAL: (*INTRINSIC_KEYS, _MASK, _EXTRINSIC, *RADIOMETRY_KEYS)}
_OFFSETS = {modality: f'{modality}_time_offset_s' for modality in _KNOWN_KEYS}


class RigCamera(NamedTuple):
    """One camera of a rig; None for what its file does not say."""

    camera: Camera | None = None
    T_rgb_sensor: NDArray[np.float64] | None = None
    radiometry: Radiometry | None = None
    mask_path: Path | None = None
    time_offset_ns: int = 0  # added to the camera's stamps


def read_rig(path: Path | None) -> dict[str, RigCamera]:
    """Cameras by modality; those that the file does not have, or without a file, are empty."""
    if path is None:
        return {RGB: RigCamera(), THERMAL: RigCamera()}
    content = _read_content(path)
    blocks = _blocks_of(content, path)
    cameras = {RGB: RigCamera(), THERMAL: RigCamera(),
               **{modality: _rig_camera(path, modality, block)
                  for modality, block in blocks.items()}}
    return {modality: camera._replace(time_offset_ns=_offset_ns(content, modality, path))
            for modality, camera in cameras.items()}


def write_rig(path: Path, rig: Mapping[str, RigCamera], remark: str = '') -> None:
    """Write a camera file that `read_rig` reads; masks are left out."""
    content: dict[str, Any] = {}
    for modality, camera in rig.items():
        block: dict[str, Any] = keys_from_camera(camera.camera) if camera.camera else {}
        if modality == THERMAL:
            block |= radiometry_to_mapping(camera.radiometry)
            if camera.T_rgb_sensor is not None:
                block[_EXTRINSIC] = camera.T_rgb_sensor.tolist()
        content |= {modality: {key: value if isinstance(value, str | list | int) else float(value)
                               for key, value in block.items()}} if block else {}
        if camera.time_offset_ns:
            content[_OFFSETS[modality]] = camera.time_offset_ns / 1e9
    text = ''.join(f'# {line}\n' for line in remark.splitlines())
    write_atomically(path, text + yaml.safe_dump(content, sort_keys=False,
                                                 default_flow_style=None))


def load_frame(cameras: Path, images: Mapping[str, Path]) -> Frame:
    """Read images (path by modality) that the cameras of a YAML file took at one time."""
    if not images:
        raise InputError('no image', expected='an RGB or a thermal image, or both')
    blocks = _blocks_of(_read_content(cameras), cameras)
    loaded = {}
    for modality, path in images.items():
        if modality not in blocks:
            raise InputError(f'camera file has no {modality} camera', where=cameras,
                             expected=f'a block "{modality}" with w, h, fl_x, ...',
                             got=', '.join(blocks))
        camera = _rig_camera(cameras, modality, blocks[modality],
                             functools.partial(read_size, path))
        assert camera.camera is not None
        T_cam_sensor = np.eye(4) if camera.T_rgb_sensor is None else camera.T_rgb_sensor
        loaded[modality] = load_image(modality, ImageRecord(
            path, camera.camera, T_cam_sensor, radiometry=camera.radiometry,
            camera_mask_path=camera.mask_path))
    return Frame(0, loaded, name=next(iter(images.values())).name)


def _read_content(path: Path) -> dict[str, Any]:
    """The file; unknown keys are refused."""
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise InputError('is no YAML', where=path, got=' '.join(str(error).split())) from None
    if not isinstance(content, dict) or not content:
        raise InputError('is no camera file', where=path, expected='blocks "rgb" and "thermal"',
                         got=f'a {type(content).__name__}' if content else 'nothing')
    _check_keys(content, (*_KNOWN_KEYS, *_OFFSETS.values()), str(path))
    return content


def _blocks_of(content: Mapping[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    """Keys of each camera by modality; unknown ones are refused."""
    blocks = {modality: content[modality] for modality in _KNOWN_KEYS if modality in content}
    for modality, block in blocks.items():
        where = f'{path} {modality}'
        if not isinstance(block, dict):
            raise InputError('block holds no keys', where=where, expected='w, h, fl_x, ...',
                             got=repr(block))
        _check_keys(block, _KNOWN_KEYS[modality], where)
    return blocks


def _offset_ns(content: Mapping[str, Any], modality: str, path: Path) -> int:
    value = content.get(_OFFSETS[modality], 0.0)
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e11:
        raise InputError('time offset is no number', where=f'{path} {_OFFSETS[modality]}',
                         expected='seconds', got=repr(value))
    return round(1e9 * value)


def _rig_camera(file: Path, modality: str, block: Mapping[str, Any],
                image_size: Callable[[], tuple[int, int]] | None = None) -> RigCamera:
    """A camera of the file; with `image_size`, to read an image by, its lens is required."""
    where = f'{file} {modality}'
    lens = {key: block[key] for key in INTRINSIC_KEYS if key in block}
    camera = camera_from_keys(lens, where, image_size) if lens or image_size else None
    T_rgb_sensor = (None if block.get(_EXTRINSIC) is None else
                    pose_from_rows(block[_EXTRINSIC], f'{where} {_EXTRINSIC}'))
    return RigCamera(camera, T_rgb_sensor, radiometry_from_mapping(block, where),
                     _mask_path(file, block, where))


def _mask_path(file: Path, block: Mapping[str, Any], where: str) -> Path | None:
    """The mask that a block names, relative to the file's folder."""
    name = block.get(_MASK)
    if name is None:
        return None
    if not isinstance(name, str) or not name:
        raise InputError('path is no text', where=f'{where} {_MASK}', expected='a path',
                         got=repr(name))
    return file.parent / name


def _check_keys(values: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in values:
        if key not in known:
            raise unknown_key(key, known, where)

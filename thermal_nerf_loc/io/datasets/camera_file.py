# SPDX-License-Identifier: Apache-2.0
"""
The cameras of a rig in one YAML file, and a frame of single images that they took.

    rgb:                                      names as in transforms.json, see `nerfstudio`
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

The reference camera is the RGB camera, or, without an extrinsic, the thermal one. A size that is
not given is taken from the image.

A camera file (see `camera_file`) as lenses, mounting and scale, without any image.
"""

from collections.abc import Mapping
from dataclasses import replace
import difflib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
import yaml

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.geometry.se3 import check_pose
from thermal_nerf_loc.io.atomic_files import read_text
from thermal_nerf_loc.io.datasets.intrinsics import camera_from_keys, INTRINSIC_KEYS
from thermal_nerf_loc.io.datasets.scene import ImageRecord, load_image
from thermal_nerf_loc.io.images import read_image
from thermal_nerf_loc.sensing.frame import Frame, RGB, THERMAL
from thermal_nerf_loc.sensing.thermal import Radiometry, radiometry_from_mapping, RADIOMETRY_KEYS

_EXTRINSIC, _MASK = 'transform_rgb_thermal', 'mask_path'


def load_frame(cameras: Path, images: Mapping[str, Path]) -> Frame:
    """Read images (modality: path) that the cameras of one YAML file took at one moment."""
    if not images:
        raise InputError('no image', expected='an RGB or a thermal image, or both')
    blocks = read_blocks(cameras)
    loaded = {}
    for modality, path in images.items():
        if modality not in blocks:
            raise InputError(f'camera file has no {modality} camera', where=cameras,
                             expected=f'a block "{modality}" with w, h, fl_x, ...',
                             got=', '.join(blocks))
        record = _record(modality, path, blocks[modality], f'{cameras} {modality}')
        loaded[modality] = load_image(modality, replace(
            record, camera_mask_path=mask_of(cameras, blocks[modality], modality)))
    return Frame(0, loaded, name=next(iter(images.values())).name)


def read_blocks(path: Path) -> dict[str, dict[str, Any]]:
    """Camera keys by modality; unknown ones are named."""
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise InputError('is no YAML', where=path, got=' '.join(str(error).split())) from None
    if not isinstance(content, dict) or not content:
        raise InputError('is no camera file', where=path, expected='blocks "rgb" and "thermal"',
                         got=f'a {type(content).__name__}' if content else 'nothing')
    _check_keys(content, (RGB, THERMAL), str(path))
    for modality, block in content.items():
        where = f'{path} {modality}'
        if not isinstance(block, dict):
            raise InputError('block holds no keys', where=where, expected='w, h, fl_x, ...',
                             got=repr(block))
        _check_keys(block, (*INTRINSIC_KEYS, _MASK) if modality == RGB else
                    (*INTRINSIC_KEYS, _MASK, _EXTRINSIC, *RADIOMETRY_KEYS), where)
    return content


def mask_of(cameras: Path, block: Mapping[str, Any], modality: str) -> Path | None:
    """The mask that a camera's block names, from the file's own folder."""
    name = block.get(_MASK)
    if name is None:
        return None
    if not isinstance(name, str) or not name:
        raise InputError('path is no text', where=f'{cameras} {modality} {_MASK}',
                         expected='a path', got=repr(name))
    return cameras.parent / name


def _record(modality: str, path: Path, block: Mapping[str, Any], where: str) -> ImageRecord:
    keys = {key: block[key] for key in INTRINSIC_KEYS if key in block}
    camera = camera_from_keys(keys, where, lambda: _size(path))
    if modality == RGB:
        return ImageRecord(path, camera, np.eye(4))
    return ImageRecord(path, camera, _extrinsic(block, f'{where} {_EXTRINSIC}'),
                       radiometry=radiometry_from_mapping(block, where))


def _extrinsic(block: Mapping[str, Any], where: str) -> NDArray[np.float64]:
    if block.get(_EXTRINSIC) is None:
        return np.eye(4)
    try:
        T = np.array(block[_EXTRINSIC], dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError('is no matrix of numbers', where=where, expected='4x4 numbers',
                         got=repr(block[_EXTRINSIC])[:60]) from None
    return check_pose(T, where)


def _size(path: Path) -> tuple[int, int]:
    height, width = read_image(path).shape[:2]
    return width, height


def _check_keys(values: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            raise InputError(f'unknown key {key!r}', where=where,
                             expected='one of ' + ', '.join(known),
                             hint=f'Did you mean {near[0]!r}?' if near else None)


_EXTRINSIC = 'transform_rgb_thermal'


class RigCamera(NamedTuple):
    """One camera of the file; None for what it does not say."""

    camera: Camera | None
    T_rgb_sensor: NDArray[np.float64] | None
    radiometry: Radiometry | None
    mask_path: Path | None = None


def read_rig(path: Path) -> dict[str, RigCamera]:
    """Cameras by modality; a block may leave out the lens, or the mounting."""
    rig = {}
    for modality, block in read_blocks(path).items():
        where = f'{path} {modality}'
        lens = {key: block[key] for key in INTRINSIC_KEYS if key in block}
        mounting = None
        if block.get(_EXTRINSIC) is not None:
            try:
                mounting = np.array(block[_EXTRINSIC], dtype=np.float64)
            except (TypeError, ValueError):
                raise InputError('is no matrix of numbers', where=f'{where} {_EXTRINSIC}',
                                 expected='4x4 numbers') from None
            mounting = check_pose(mounting, f'{where} {_EXTRINSIC}')
        rig[modality] = RigCamera(camera_from_keys(lens, where) if lens else None, mounting,
                                  radiometry_from_mapping(block, where),
                                  mask_of(path, block, modality))
    return rig

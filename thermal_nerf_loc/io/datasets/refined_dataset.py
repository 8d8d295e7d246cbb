# SPDX-License-Identifier: Apache-2.0
"""Copies of a data set's `transforms.json`, with refined poses and rig, or with poses found."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

import numpy as np

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.io.atomic_files import read_json, write_json
from thermal_nerf_loc.io.datasets.camera_file import RigCamera
from thermal_nerf_loc.io.datasets.intrinsics import (
    camera_from_keys, COEFFICIENT_KEYS, DISTORTION_PARAMS, INTRINSIC_KEYS, keys_from_camera)
from thermal_nerf_loc.io.datasets.scene import GL_FROM_CV, Scene, SceneFrame, UnposedFrame
from thermal_nerf_loc.sensing.frame import RGB, THERMAL

_SAME_RIG = 1e-9  # metres, or entries of a rotation


def check_refined_path(source: Path, out: Path) -> None:
    """Refuse a path outside the folder of `source`: image paths in the file are relative to it."""
    file = _file(source)
    if out.resolve().parent != file.resolve().parent:
        raise InputError('poses belong beside the images', where=out,
                         expected=f'a file in {file.parent}',
                         hint='Paths in the file are relative to its own folder.')
    if out.suffix != '.json' or out.resolve() == file.resolve():
        raise InputError('poses need a file of their own', where=out,
                         expected='another name, ending in .json')


def write_refined(source: Path, scene: Scene, out: Path) -> None:
    """Copy the file of `source`, with the poses and cameras of `scene`."""
    content = read_json(_file(source))
    frames: dict[str, SceneFrame | UnposedFrame] = {
        frame.name: frame for frame in scene.frames}
    frames.update({frame.name: frame for frame in scene.unposed})
    records = {name: [frame.records[name] for frame in frames.values() if name in frame.records]
               for name in (RGB, THERMAL)}
    rigs = [record.T_cam_sensor for record in records[THERMAL]]
    same_rig = all(np.abs(T - rigs[0]).max() < _SAME_RIG for T in rigs)
    same = {name: len({record.camera for record in found}) == 1
            for name, found in records.items()}
    for entry in content['frames']:
        frame = frames.get(_name(entry))
        if frame is None:
            continue  # its images are missing
        if isinstance(frame, SceneFrame):
            entry['transform_matrix'] = (frame.T_world_cam @ GL_FROM_CV).tolist()
        if RGB in frame.records:
            _describe(entry, content, same[RGB], frame.records[RGB].camera)
        if THERMAL in frame.records:
            record = frame.records[THERMAL]
            top, own = content.setdefault('thermal', {}), entry.setdefault('thermal', {})
            _describe(own, top, same[THERMAL] and same_rig, record.camera,
                      {'transform_rgb_thermal': record.T_cam_sensor.tolist()})
            if not own:
                del entry['thermal']
    write_json(out, content)


def with_rig(scene: Scene, rig: Mapping[str, RigCamera]) -> Scene:
    """The scene with the lenses and the thermal camera's pose of a rig, as far as it has them."""
    frames = []
    for frame in scene.frames:
        records = dict(frame.records)
        for name, record in records.items():
            camera, T = rig[name].camera or record.camera, rig[name].T_rgb_sensor
            if camera.size != record.camera.size:
                raise InputError(f'{name} images have another size than the calibrated camera',
                                 where=record.path,
                                 expected=f'{camera.width}x{camera.height} pixels',
                                 got=f'{record.camera.width}x{record.camera.height}')
            records[name] = replace(record, camera=camera)
            if name == THERMAL and T is not None and RGB in records:
                records[name] = replace(records[name], T_cam_sensor=T)
        frames.append(replace(frame, records=records))
    return replace(scene, frames=tuple(frames))


def write_found(source: Path, scene: Scene, out: Path, facts: Mapping[str, Mapping[str, Any]],
                ) -> None:
    """
    Copy the file of `source`, and add the poses of frames that had none.

    `facts`, by the names of those frames, become their `pose_found`. The split of `scene` is
    written out, so that the same frames stay held out although there are more of them.
    """
    content = read_json(_file(source))
    poses = {frame.name: frame.T_world_cam for frame in scene.frames if frame.name in facts}
    for entry in content['frames']:
        name = _name(entry)
        if name in poses:
            entry['transform_matrix'] = (poses[name] @ GL_FROM_CV).tolist()
            entry['pose_found'] = dict(facts[name])
    for split in ('train', 'test'):
        content[f'{split}_filenames'] = [scene.frames[i].name for i in scene.split(split)]
    write_json(out, content)


def _describe(entry: dict[str, Any], top: dict[str, Any], shared: bool, camera: Camera,
              more: Mapping[str, Any] = MappingProxyType({})) -> None:
    """
    Write a camera: once for all frames, where it is the same.

    What the file says about it already is left alone where it is not changed.
    """
    target = top if shared and not set(entry) & {*INTRINSIC_KEYS, *more} else entry
    target.update(more)
    if _stated({**top, **entry}) != camera:
        for key in INTRINSIC_KEYS:
            target.pop(key, None)
        keys = keys_from_camera(camera)
        if target is entry and 'distortion_params' in top:  # which would win
            keys['distortion_params'] = [keys.get(key, 0.0) for key in DISTORTION_PARAMS]
        of_top = {key: 0.0 for key in COEFFICIENT_KEYS if target is entry and top.get(key)}
        target.update({**of_top, **keys})


def _stated(values: Mapping[str, Any]) -> Camera | None:
    """The camera that keys describe, None where they do not say all."""
    try:
        return camera_from_keys(values, 'transforms.json')
    except InputError:
        return None


def _name(entry: Mapping[str, Any]) -> str:
    """The frame's name, as the reader gives it."""
    path: str = entry.get('file_path', entry.get('thermal_file_path', ''))
    return str(PurePosixPath(path.replace('\\', '/')))


def _file(source: Path) -> Path:
    return source / 'transforms.json' if source.is_dir() else source

# SPDX-License-Identifier: Apache-2.0
"""Copies of a data set's `transforms.json`, with refined poses and rig, or with poses found."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.io.atomic_files import read_json, write_json
from thermal_nerf_loc.io.datasets.intrinsics import keys_from_camera
from thermal_nerf_loc.io.datasets.scene import GL_FROM_CV, Scene
from thermal_nerf_loc.sensing.frame import THERMAL

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
    frames = {frame.name: frame for frame in scene.frames}
    rigs = {name: frame.records[THERMAL].T_cam_sensor for name, frame in frames.items()
            if THERMAL in frame.records}
    first = next(iter(rigs.values()), np.eye(4))
    shared = all(np.abs(T - first).max() < _SAME_RIG for T in rigs.values())
    for entry in content['frames']:
        name = _name(entry)
        if name not in frames:
            continue  # its images are missing
        frame = frames[name]
        entry['transform_matrix'] = (frame.T_world_cam @ GL_FROM_CV).tolist()
        if name in rigs:
            _describe(entry, content, shared, rigs[name].tolist(), frame.records[THERMAL].camera)
    write_json(out, content)


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


def _describe(entry: dict[str, Any], content: dict[str, Any], shared: bool, rig: Any,
              camera: Any) -> None:
    """Write the thermal camera: once for all frames, where their rig is the same."""
    keys = {**keys_from_camera(camera), 'transform_rgb_thermal': rig}
    if shared and 'thermal' not in entry:
        content['thermal'] = {**content['thermal'], **keys}
    else:
        entry['thermal'] = {**entry.get('thermal', {}), **keys}


def _name(entry: Mapping[str, Any]) -> str:
    """The frame's name, as the reader gives it."""
    path: str = entry.get('file_path', entry.get('thermal_file_path', ''))
    return str(PurePosixPath(path.replace('\\', '/')))


def _file(source: Path) -> Path:
    return source / 'transforms.json' if source.is_dir() else source

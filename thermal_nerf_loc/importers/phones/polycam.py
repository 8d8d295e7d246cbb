# SPDX-License-Identifier: Apache-2.0
"""
Polycam's raw data (developer mode) and data sets of nerfstudio, which other ARKit apps write.

Polycam: `keyframes/` with images/, cameras/ (JSON: fx fy cx cy width height t_00 .. t_23), better
corrected_images/ and corrected_cameras/ where it made them; depth/ (16-bit PNG, millimetres) and
confidence/ (0: low). A frame's name is its time stamp in microseconds.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.geometry.se3 import pose_from_rows
from thermal_nerf_loc.importers.phones.recording import (
    camera_of, fitted_depth, from_arkit, PhoneFrame, PhoneRecording)
from thermal_nerf_loc.io.atomic_files import read_json, reading
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
from thermal_nerf_loc.io.images import read_depth, read_image, read_rgb, read_size
from thermal_nerf_loc.sensing.frame import RGB

_IMAGES = ('.jpg', '.jpeg', '.png')


def find_polycam(root: Path) -> Path | None:
    """The folder that holds images/ and cameras/; None where `root` is no Polycam export."""
    for folder in (root / 'keyframes', root):
        if any((folder / f'{kind}cameras').is_dir() and (folder / f'{kind}images').is_dir()
               for kind in ('corrected_', '')):
            return folder
    return None


def open_polycam(folder: Path) -> PhoneRecording:
    """Find the frames; the poses that Polycam improved are taken where they are."""
    kind = 'corrected_' if (folder / 'corrected_cameras').is_dir() else ''
    cameras, images = folder / f'{kind}cameras', folder / f'{kind}images'
    with reading(images):
        found = {path.stem: path for path in sorted(images.iterdir())
                 if path.suffix.lower() in _IMAGES}
    with reading(cameras):
        described = sorted(path for path in cameras.iterdir() if path.suffix == '.json')
    frames = [_frame(path, found[path.stem], folder) for path in described if path.stem in found]
    if not frames:
        raise InputError('recording has no image with a pose', where=folder,
                         expected=f'{images.name}/NAME.jpg and {cameras.name}/NAME.json',
                         got=f'{len(found)} images, {len(described)} cameras')
    left = len(found) + len(described) - 2 * len(frames)
    notes = ([f'{left} images or cameras of the recording have no partner'] if left else [])
    if not kind:
        notes.append('these are the poses of ARKit; where Polycam has improved them, '
                     'corrected_cameras/ is used')
    frames.sort(key=lambda frame: frame.stamp_ns)
    has_stamps = all(frame.stamp_ns for frame in frames)
    return PhoneRecording(folder, 'Polycam', frames, tuple(notes), has_stamps)


def open_nerfstudio(folder: Path) -> PhoneRecording:
    """The RGB images of a data set (its file); poses and axes are kept."""
    scene = load_scene(folder)
    scene.require(RGB)
    frames = []
    for index, frame in enumerate(scene.frames):
        if RGB not in frame.records:
            continue
        record = frame.records[RGB]
        depth = None
        if record.depth_path is not None:
            depth = _depth(record.depth_path, None, record.camera, record.depth_unit_m)
        frames.append(PhoneFrame(f'{index:05d}', frame.stamp_ns, frame.T_world_cam,
                                 record.camera, _rgb(record.path), depth))
    stamps = [frame.stamp_ns for frame in frames]
    has_stamps = len(set(stamps)) == len(stamps) and all(stamps)
    if has_stamps:
        frames.sort(key=lambda frame: frame.stamp_ns)
    return PhoneRecording(folder, 'nerfstudio', frames, scene.notices, has_stamps)


def _frame(described: Path, image: Path, folder: Path) -> PhoneFrame:
    values = read_json(described)
    if not isinstance(values, Mapping):
        raise InputError('camera of the recording is no JSON object', where=described)
    keys = [f't_{row}{column}' for row in range(3) for column in range(4)]
    missing = [key for key in (*keys, 'fx', 'fy', 'cx', 'cy', 'width', 'height')
               if not isinstance(values.get(key), int | float)]
    if missing:
        raise InputError('camera of the recording lacks numbers', where=described,
                         expected='t_00 .. t_23, fx, fy, cx, cy, width, height',
                         got=f'without {", ".join(missing)}')
    rows = [[values[key] for key in keys[start:start + 4]] for start in (0, 4, 8)]
    camera = camera_of([values['fx'], values['fy']], [values['cx'], values['cy']],
                       (int(values['width']), int(values['height'])), read_size(image), described)
    depth, confidence = (folder / name / f'{described.stem}.png'
                         for name in ('depth', 'confidence'))
    stem = described.stem
    stamp = values.get('timestamp', int(stem) if stem.isdigit() else 0)
    return PhoneFrame(
        stem,
        1000 * int(stamp) if isinstance(stamp, int | float) and np.isfinite(stamp) else 0,
        from_arkit(pose_from_rows(rows, described)), camera, _rgb(image),
        _depth(depth, confidence, camera) if depth.is_file() else None)


def _rgb(path: Path) -> Any:
    return lambda: read_rgb(path).values


def _depth(path: Path, confidence: Path | None, camera: Camera, unit_m: float = 1e-3) -> Any:
    def read() -> NDArray[np.float32]:
        depth = read_depth(path, unit_m)
        if confidence is not None and confidence.is_file():
            sure = read_image(confidence)
            if sure.shape == depth.shape:
                depth = np.where(sure == 0, np.float32(0.0), depth)
        return fitted_depth(depth, camera)
    return read

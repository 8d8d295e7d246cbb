# SPDX-License-Identifier: Apache-2.0
"""
Posed image sets as nerfstudio's `transforms.json`, with a `thermal` block.

`transform_matrix` is the reference camera's pose in the world, in OpenGL axes (x right, y up,
z backwards); it becomes an OpenCV pose here, once. Thermal images (`thermal_file_path` of a frame)
have their own camera in the top-level `thermal` block:

    w h fl_x fl_y cx cy k1 .. camera_model    as at the top level
    celsius_per_count, celsius_offset         deg C = counts * celsius_per_count + celsius_offset
    planck_r1 planck_b planck_f planck_o ..   or FLIR's constants; with neither, no temperatures
    transform_rgb_thermal                     p_rgb = transform_rgb_thermal @ p_thermal, both in
                                              OpenCV axes (x right, y down, z forward), metres;
                                              the identity where it is missing

Where a set has no colour images, the thermal camera sits at `transform_matrix @
transform_rgb_thermal` all the same. A frame may repeat any intrinsic, and may hold a `thermal`
block of its own, to override the common one. Further keys of a frame: `depth_file_path`
(`depth_unit_scale_factor` metres a count, 0.001 by default), `mask_path` (0: ignore), the same
with `thermal_` before them, and `stamp_ns`. A top-level `mask_path` or `thermal_mask_path` holds
for every image of that camera, besides the image's own: the robot's body. Likewise a top-level
`rolling_shutter_s`, or one in the thermal block: see `rolling_shutter.py`. A frame whose
`transform_matrix` is missing or null has no pose: it is in no split, and waits in `Scene.unposed`
to be localized. A top-level `scale` with `metric` false says that lengths are no metres. A
top-level `ground_truth` holds what a simulation knows better: `poses` by file name, and
`transform_rgb_thermal`.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
import functools
import logging
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.geometry.se3 import check_pose
from thermal_nerf_loc.io.atomic_files import read_json, reading
from thermal_nerf_loc.io.datasets.intrinsics import camera_from_keys, INTRINSIC_KEYS
from thermal_nerf_loc.io.datasets.rolling_shutter import with_sweeps
from thermal_nerf_loc.io.datasets.scene import (
    GL_FROM_CV, ImageRecord, load_image, Scene, SceneFrame, UnposedFrame)
from thermal_nerf_loc.io.datasets.scene_writer import SceneWriter
from thermal_nerf_loc.io.images import DEPTH_UNIT_M, read_image
from thermal_nerf_loc.sensing.frame import RGB, THERMAL
from thermal_nerf_loc.sensing.thermal import Radiometry, radiometry_from_mapping

__all__ = ['HOLD_OUT_EVERY', 'SceneWriter', 'load_scene']

HOLD_OUT_EVERY = 8  # frames, where the file names no split

_log = logging.getLogger(__name__)
_PREFIX = {RGB: '', THERMAL: 'thermal_'}
_READOUT = 'rolling_shutter_s'
_CAMERA_KEYS = (*INTRINSIC_KEYS, _READOUT)
_SPLIT_KEYS = ('train_filenames', 'val_filenames', 'test_filenames')


def load_scene(path: Path) -> Scene:
    """
    Read a `transforms.json`, or the folder that holds one.

    Images stay on disk until `Scene.load`. Those that are listed but not there are skipped, and
    counted in `Scene.notices`.
    """
    path = Path(path)
    with reading(path):
        file = path / 'transforms.json' if path.is_dir() else path
    content = _mapping(read_json(file), file)
    entries = content.get('frames')
    if not isinstance(entries, list) or not entries:
        raise InputError('scene has no frames', where=file, expected='a list of frames',
                         got='an empty list' if entries == [] else repr(entries)[:60])
    reader = _Reader(file, content)
    frames = [reader.frame(index, entry) for index, entry in enumerate(entries)]
    _check_names(file, [name for names, _ in frames for name in names])
    present = [(position, frame) for position, (_, frame) in enumerate(frames)
               if isinstance(frame, SceneFrame)]
    unposed = tuple(frame for _, frame in frames if isinstance(frame, UnposedFrame))
    if not present and unposed:
        raise InputError('none of the frames has a pose', where=file, expected='transform_matrix',
                         got=f'{len(unposed)} frames without',
                         hint='import-images finds poses by structure from motion.')
    if not present:
        raise InputError('none of the images is there', where=file,
                         got=f'{len(entries)} frames, first missing {reader.missing[0][1]}',
                         hint='Paths in the file are relative to its own folder.')
    train, test = _split(content, file, frames, [position for position, _ in present])
    posed, still = with_sweeps([frame for _, frame in present], (train, test))
    scene = Scene(file.parent, posed, train, test, reader.notices(len(unposed), still), unposed)
    for notice in scene.notices:
        _log.warning(notice)
    _probe(scene)
    return scene


@dataclass(slots=True)
class _Reader:
    """Reads frames one by one, remembering what was not there."""

    file: Path
    content: Mapping[str, Any]
    missing: list[tuple[str, Path]] = field(default_factory=list)
    listed: Counter[str] = field(default_factory=Counter)
    cameras: dict[tuple[Any, ...], Camera] = field(default_factory=dict)

    def frame(self, index: int, entry: Any,
              ) -> tuple[list[str], SceneFrame | UnposedFrame | None]:
        """Names that the entry goes by, and the frame, unless none of its images is there."""
        where = f'{self.file} frame {index}'
        entry = _mapping(entry, where)
        names = [_relative(entry[f'{prefix}file_path'], where) for prefix in _PREFIX.values()
                 if f'{prefix}file_path' in entry]
        if not names:
            raise InputError('frame names no image', where=where,
                             expected='file_path or thermal_file_path',
                             got=', '.join(entry) or 'nothing')
        where = f'{where} ({names[0]})'
        stamp_ns = _stamp(entry, 'stamp_ns', 0, where)
        records = {}
        for modality, prefix in _PREFIX.items():
            if f'{prefix}file_path' in entry:
                record = self._record(modality, prefix, entry, stamp_ns, where)
                if record is not None:
                    records[modality] = record
        if not records:
            return names, None
        frame = UnposedFrame(names[0], records, stamp_ns, self._true_pose(names[0]))
        rows = entry.get('transform_matrix')
        if rows is None:
            return names, frame
        return names, frame.posed(_pose(rows, f'{where} transform_matrix') @ GL_FROM_CV)

    def _true_pose(self, name: str) -> NDArray[np.float64] | None:
        where = f'{self.file} ground_truth'
        poses = _mapping(_mapping(self.content.get('ground_truth', {}), where).get('poses', {}),
                         where)
        return _pose(poses[name], where) @ GL_FROM_CV if name in poses else None

    def _true_rig(self, modality: str) -> NDArray[np.float64] | None:
        where = f'{self.file} ground_truth'
        rows = _mapping(self.content.get('ground_truth', {}), where).get('transform_rgb_thermal')
        return _pose(rows, where) if rows is not None and modality == THERMAL else None

    def notices(self, unposed: int, still: int) -> tuple[str, ...]:
        """One sentence about all that was not there, and one each about poses and metres."""
        told = self._about_scale()
        if still:
            told = (f'{self.file}: {still} rolling images have no neighbour within a second of '
                    'their stamp_ns, and are taken as if all rows were seen at once', *told)
        if unposed:
            told = (f'{self.file}: {unposed} of {len(self.content["frames"])} frames have no pose '
                    'and are in no split; the command extend finds them in a map', *told)
        if not self.missing:
            return told
        kinds = Counter(kind for kind, _ in self.missing)
        counts = ', '.join(f'{count} of {self.listed[kind]} {kind} files'
                              for kind, count in kinds.items())
        return (f'{self.file}: {counts} are listed but not there and were skipped '
                f'(first: {self.missing[0][1]})', *told)

    def _about_scale(self) -> tuple[str, ...]:
        scale = self.content.get('scale')
        if not isinstance(scale, dict) or scale.get('metric') is not False:
            return ()
        return (f'{self.file}: the scale is arbitrary; what is called metres are units of this '
                'data set',)

    def _record(self, modality: str, prefix: str, entry: Mapping[str, Any], stamp_ns: int,
                where: str) -> ImageRecord | None:
        path = self._existing(modality, entry, f'{prefix}file_path', where)
        mask = self._existing(f'{modality} mask', entry, f'{prefix}mask_path', where)
        depth = self._existing(f'{modality} depth', entry, f'{prefix}depth_file_path', where)
        if path is None or (mask is None and f'{prefix}mask_path' in entry):
            return None  # without its mask an image would teach what it was to leave out
        block = self._block(modality, entry, where)
        unit_m = entry.get('depth_unit_scale_factor',
                           self.content.get('depth_unit_scale_factor', DEPTH_UNIT_M))
        if not isinstance(unit_m, (int, float)) or not 0.0 < unit_m < np.inf:
            raise InputError('depth_unit_scale_factor is no scale', where=where,
                             expected='metres a count, above 0', got=repr(unit_m))
        return ImageRecord(
            path, self._camera(modality, block, path, where), self._extrinsic(block, where),
            mask, depth,
            self._radiometry(block, where) if modality == THERMAL else None, float(unit_m),
            _stamp(entry, f'{prefix}image_stamp_ns', stamp_ns, where), self._true_rig(modality),
            self._camera_mask(f'{prefix}mask_path'),
            readout_s=_readout_s(block, f'{where} {modality}'))

    def _camera_mask(self, key: str) -> Path | None:
        """One file for all images of a camera; that it is there is seen when it is read."""
        if self.content.get(key) is None:
            return None
        return self.file.parent / _relative(self.content[key], f'{self.file} {key}')

    def _block(self, modality: str, entry: Mapping[str, Any], where: str) -> dict[str, Any]:
        """The keys that describe a camera: common ones, overridden by the frame's own."""
        if modality == RGB:
            return {**{key: self.content[key] for key in _CAMERA_KEYS if key in self.content},
                    **{key: entry[key] for key in _CAMERA_KEYS if key in entry}}
        blocks = [_mapping(source['thermal'], f'{place} thermal') for source, place in
                  ((self.content, str(self.file)), (entry, where)) if 'thermal' in source]
        if not blocks:
            raise InputError('thermal images have no camera', where=where,
                             expected='a top-level block "thermal" with fl_x, w, h, ...',
                             hint='For pixel-aligned images repeat the RGB intrinsics there.')
        return functools.reduce(lambda common, own: {**common, **own}, map(dict, blocks))

    def _camera(self, modality: str, block: Mapping[str, Any], path: Path, where: str) -> Camera:
        keys = {key: block[key] for key in INTRINSIC_KEYS if key in block}
        known = (modality, repr(sorted(keys.items())))
        if known not in self.cameras:
            self.cameras[known] = camera_from_keys(keys, f'{where} {modality} camera',
                                                   _size_of(path))
        return self.cameras[known]

    def _extrinsic(self, block: Mapping[str, Any], where: str) -> NDArray[np.float64]:
        if block.get('transform_rgb_thermal') is None:
            return np.eye(4)
        return _pose(block['transform_rgb_thermal'], f'{where} transform_rgb_thermal')

    def _radiometry(self, block: Mapping[str, Any], where: str) -> Radiometry | None:
        try:
            return radiometry_from_mapping(block, f'{where} thermal')
        except InputError as error:
            raise error if error.where else InputError(
                error.what, where=f'{where} thermal', expected=error.expected, got=error.got,
                hint=error.hint) from None

    def _existing(self, kind: str, entry: Mapping[str, Any], key: str,
                  where: str) -> Path | None:
        if entry.get(key) is None:
            return None
        self.listed[kind] += 1
        path = self.file.parent / _relative(entry[key], where)
        if not path.suffix and not path.exists():
            path = path.with_suffix('.png')  # Blender's sets leave it out
        with reading(path):
            if path.is_file():
                return path
        self.missing.append((kind, path))
        return None


def _probe(scene: Scene) -> None:
    """Decode one image of each modality now: a wrong size or kind shows before any long job."""
    for modality in scene.modalities:
        record = next(frame.records[modality] for frame in scene.frames
                      if modality in frame.records)
        load_image(modality, record)


def _split(content: Mapping[str, Any], file: Path,
           frames: Sequence[tuple[list[str], SceneFrame | UnposedFrame | None]],
           present: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Indices (into the posed frames that are there) to train on and to hold out."""
    position = {name: index for index, (names, _) in enumerate(frames) for name in names}
    lists = {key: _named(content[key], f'{file} {key}', position) for key in _SPLIT_KEYS
             if content.get(key) is not None}
    unposed = {index for index, (_, frame) in enumerate(frames)
               if isinstance(frame, UnposedFrame)}
    everything = set(range(len(frames))) - unposed
    if lists:
        train, val, test = (lists.get(key) for key in _SPLIT_KEYS)
        unknown = sorted(unposed & ((val or set()) | (test or set())))
        if unknown:
            raise InputError('a held-out frame has no pose', where=file,
                             expected='transform_matrix', got=frames[unknown[0]][0][0],
                             hint='Nothing can be measured there; take it out of the split.')
        held = test if test is not None else val
        if held is None:
            held = everything - (train or set())
        train = everything - held - (val or set()) if train is None else train
        both = sorted(train & held)
        if both:
            raise InputError('a frame is both for training and held out', where=file,
                             got=frames[both[0]][0][0])
    else:
        held = set(sorted(everything)[::HOLD_OUT_EVERY]) if len(everything) > 1 else set()
        train = everything - held
    return (tuple(new for new, old in enumerate(present) if old in train),
            tuple(new for new, old in enumerate(present) if old in held))


def _named(names: Any, where: str, position: Mapping[str, int]) -> set[int]:
    if not isinstance(names, list):
        raise InputError('split is no list of file names', where=where, got=repr(names)[:60])
    unknown = [name for name in names if _relative(name, where) not in position]
    if unknown:
        raise InputError('split names frames that the scene does not have', where=where,
                         expected='values of file_path',
                         got=f'{len(unknown)} unknown, first {unknown[0]!r}')
    return {position[_relative(name, where)] for name in names}


def _check_names(file: Path, names: Sequence[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError('the same image is listed twice', where=file,
                         got=', '.join(twice[:3]) + (', ...' if len(twice) > 3 else ''))


def _size_of(path: Path) -> Callable[[], tuple[int, int]]:
    def size() -> tuple[int, int]:
        height, width = read_image(path).shape[:2]
        return width, height
    return size


def _pose(rows: Any, where: str) -> NDArray[np.float64]:
    try:
        T = np.array(rows, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError('pose is no matrix of numbers', where=where, expected='4x4 numbers',
                         got=repr(rows)[:60]) from None
    return check_pose(np.vstack([T, [0.0, 0.0, 0.0, 1.0]]) if T.shape == (3, 4) else T, where)


def _mapping(value: Any, where: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InputError('holds no JSON object', where=where, expected='{...}',
                         got=f'a {type(value).__name__}')
    return value


def _relative(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise InputError('path is no text', where=where, expected='a path', got=repr(value))
    return str(PurePosixPath(value.replace('\\', '/')))


def _readout_s(block: Mapping[str, Any], where: str) -> float:
    value = block.get(_READOUT, 0.0)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) < 1.0:
        raise InputError(f'{_READOUT} is no readout time', where=where,
                         expected='seconds from the first row to the last, within +-1',
                         got=repr(value))
    return float(value)


def _stamp(entry: Mapping[str, Any], key: str, default: int, where: str) -> int:
    value = entry.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f'{key} is no time stamp', where=where,
                         expected='whole nanoseconds', got=repr(value))
    return value

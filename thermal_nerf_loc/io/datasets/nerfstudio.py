# SPDX-License-Identifier: Apache-2.0
"""
Read posed image sets: nerfstudio's `transforms.json`, with a `thermal` block.

`transform_matrix` is the reference camera's pose in the world, in OpenGL axes (x right, y up,
z backwards); it is converted to OpenCV axes here. Thermal images (`thermal_file_path` of a frame)
have their own camera in the top-level `thermal` block:

    w h fl_x fl_y cx cy k1 .. camera_model    as at the top level
    celsius_per_count, celsius_offset         deg C = counts * celsius_per_count + celsius_offset
    planck_r1 planck_b planck_f planck_o ..   or FLIR's constants; with neither, no temperatures
    transform_rgb_thermal                     p_rgb = transform_rgb_thermal @ p_thermal, both in
                                              OpenCV axes (x right, y down, z forward), metres;
                                              the identity where it is missing

The thermal camera's pose is `transform_matrix @ transform_rgb_thermal`, also in a set without
colour images.

A frame may repeat any intrinsic, and may hold a `thermal` block of its own, to override the common
one. Further keys of a frame: `depth_file_path` (`depth_unit_scale_factor` metres a count, 0.001 by
default), `mask_path` (0: ignore), the same with `thermal_` before them, and `stamp_ns`. A frame
whose `transform_matrix` is missing or null has no pose: it is in no split, but in `Scene.unposed`.

Further keys at the top level:

    mask_path, thermal_mask_path    of every image of that camera, besides the image's own mask:
                                    they hide the robot's body
    rolling_shutter_s               readout time of the RGB camera; in the thermal block that of
                                    the thermal camera: see `rolling_shutter.py`
    scale                           with `metric` false: lengths are no metres
    geo_anchor                      latitude_deg, longitude_deg and height_m of the origin; the
                                    world's x points east, y north, z up
    ground_truth                    true `poses` by file name and `transform_rgb_thermal`, of a
                                    simulation whose given poses are perturbed
    depth_is_truth                  true for a simulation: its depth maps are for evaluation; a
                                    training uses them only with --depth-from measured
    train_filenames, val_filenames, test_filenames
                                    the split; without it every 8th frame is held out
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
import functools
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.geometry.geodesy import GeoAnchor
from thermal_nerf_loc.geometry.se3 import pose_from_rows
from thermal_nerf_loc.io.atomic_files import read_json, reading
from thermal_nerf_loc.io.datasets.intrinsics import camera_from_keys, INTRINSIC_KEYS
from thermal_nerf_loc.io.datasets.rolling_shutter import with_sweeps
from thermal_nerf_loc.io.datasets.scene import (
    GL_FROM_CV, ImageRecord, load_image, Scene, SceneFrame, UnposedFrame)
from thermal_nerf_loc.io.datasets.scene_writer import SceneWriter
from thermal_nerf_loc.io.datasets.splits import file_name, read_split
from thermal_nerf_loc.io.images import DEPTH_UNIT_M, read_size
from thermal_nerf_loc.sensing.frame import RGB, THERMAL
from thermal_nerf_loc.sensing.thermal import Radiometry, radiometry_from_mapping

__all__ = ['SceneWriter', 'load_scene']

_log = logging.getLogger(__name__)
_PREFIX = {RGB: '', THERMAL: 'thermal_'}
_READOUT = 'rolling_shutter_s'
_CAMERA_KEYS = (*INTRINSIC_KEYS, _READOUT)


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
    train, test = read_split(content, file, [names for names, _ in frames],
                             posed=[position for position, _ in present],
                             unposed=[position for position, (_, frame) in enumerate(frames)
                                      if isinstance(frame, UnposedFrame)])
    posed, without_sweep = with_sweeps([frame for _, frame in present], (train, test))
    scene = Scene(file.parent, posed, train, test, reader.notices(len(unposed), without_sweep),
                  unposed, _geo_anchor(content, file))
    for notice in scene.notices:
        _log.warning(notice)
    _decode_first_images(scene)
    return scene


@dataclass(slots=True)
class _Reader:
    """Reads frames one by one; collects the files that are listed but missing."""

    file: Path
    content: Mapping[str, Any]
    missing: list[tuple[str, Path]] = field(default_factory=list)
    listed: Counter[str] = field(default_factory=Counter)
    cameras: dict[tuple[Any, ...], Camera] = field(default_factory=dict)

    def frame(self, index: int, entry: Any,
              ) -> tuple[list[str], SceneFrame | UnposedFrame | None]:
        """File names of an entry, and its frame; None where none of its images is there."""
        where = f'{self.file} frame {index}'
        entry = _mapping(entry, where)
        names = [file_name(entry[f'{prefix}file_path'], where) for prefix in _PREFIX.values()
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
        return names, frame.posed(pose_from_rows(rows, f'{where} transform_matrix') @ GL_FROM_CV)

    def _true_pose(self, name: str) -> NDArray[np.float64] | None:
        where = f'{self.file} ground_truth'
        poses = _mapping(_mapping(self.content.get('ground_truth', {}), where).get('poses', {}),
                         where)
        return pose_from_rows(poses[name], where) @ GL_FROM_CV if name in poses else None

    def _true_rig(self, modality: str) -> NDArray[np.float64] | None:
        where = f'{self.file} ground_truth'
        rows = _mapping(self.content.get('ground_truth', {}), where).get('transform_rgb_thermal')
        return pose_from_rows(rows, where) if rows is not None and modality == THERMAL else None

    def notices(self, unposed: int, without_sweep: int) -> tuple[str, ...]:
        """Remarks about missing files, missing poses, rolling images and an arbitrary scale."""
        notices = []
        if self.missing:
            kinds = Counter(kind for kind, _ in self.missing)
            counts = ', '.join(f'{count} of {self.listed[kind]} {kind} files'
                               for kind, count in kinds.items())
            notices.append(f'{counts} are listed but not there and were skipped (first: '
                           f'{self.missing[0][1]})')
        if unposed:
            notices.append(f'{unposed} of {len(self.content["frames"])} frames have no pose and '
                           'are in no split; the command extend finds them in a map')
        if without_sweep:
            notices.append(f'{without_sweep} rolling images have no neighbour within a second of '
                           'their stamp_ns, and are taken as if all rows were seen at once')
        scale = self.content.get('scale')
        if isinstance(scale, dict) and scale.get('metric') is False:
            notices.append('the scale is arbitrary; what is called metres are units of this data '
                           'set')
        return tuple(f'{self.file}: {notice}' for notice in notices)

    def _record(self, modality: str, prefix: str, entry: Mapping[str, Any], stamp_ns: int,
                where: str) -> ImageRecord | None:
        path = self._existing(modality, entry, f'{prefix}file_path', where)
        mask = self._existing(f'{modality} mask', entry, f'{prefix}mask_path', where)
        depth = self._existing(f'{modality} depth', entry, f'{prefix}depth_file_path', where)
        if path is None or (mask is None and f'{prefix}mask_path' in entry):
            return None  # without its mask, a map would be trained on hidden pixels
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
            readout_s=_readout_s(block, f'{where} {modality}'),
            depth_is_truth=self.content.get('depth_is_truth') is True)

    def _camera_mask(self, key: str) -> Path | None:
        """The mask of all images of a camera; a missing one is an error of `load_image`."""
        if self.content.get(key) is None:
            return None
        return self.file.parent / file_name(self.content[key], f'{self.file} {key}')

    def _block(self, modality: str, entry: Mapping[str, Any], where: str) -> dict[str, Any]:
        """The keys of a camera: those of the top level, overridden by the frame's own."""
        if modality == RGB:
            return {**{key: self.content[key] for key in _CAMERA_KEYS if key in self.content},
                    **{key: entry[key] for key in _CAMERA_KEYS if key in entry}}
        blocks = [_mapping(source['thermal'], f'{source_name} thermal') for source, source_name in
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
                                                   functools.partial(read_size, path))
        return self.cameras[known]

    def _extrinsic(self, block: Mapping[str, Any], where: str) -> NDArray[np.float64]:
        if block.get('transform_rgb_thermal') is None:
            return np.eye(4)
        return pose_from_rows(block['transform_rgb_thermal'], f'{where} transform_rgb_thermal')

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
        path = self.file.parent / file_name(entry[key], where)
        if not path.suffix and not path.exists():
            path = path.with_suffix('.png')  # Blender's sets leave it out
        with reading(path):
            if path.is_file():
                return path
        self.missing.append((kind, path))
        return None


def _geo_anchor(content: Mapping[str, Any], file: Path) -> GeoAnchor | None:
    if content.get('geo_anchor') is None:
        return None
    block = _mapping(content['geo_anchor'], f'{file} geo_anchor')
    values: list[Any] = [block.get(name) for name in GeoAnchor._fields]
    if (not all(isinstance(value, (int, float)) and np.isfinite(value) for value in values)
            or abs(values[0]) > 90.0 or abs(values[1]) > 180.0):
        raise InputError('geo_anchor is no position', where=file,
                         expected=', '.join(GeoAnchor._fields), got=dict(block))
    return GeoAnchor(*(float(value) for value in values))


def _decode_first_images(scene: Scene) -> None:
    """Decode one image of each modality, to find a wrong size or kind before a long job."""
    for modality in scene.modalities:
        record = next(frame.records[modality] for frame in scene.frames
                      if modality in frame.records)
        load_image(modality, record)


def _check_names(file: Path, names: Sequence[str]) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise InputError('the same image is listed twice', where=file,
                         got=', '.join(repeated[:3]) + (', ...' if len(repeated) > 3 else ''))


def _mapping(value: Any, where: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InputError('holds no JSON object', where=where, expected='{...}',
                         got=f'a {type(value).__name__}')
    return value


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

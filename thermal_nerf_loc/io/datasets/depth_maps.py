# SPDX-License-Identifier: Apache-2.0
"""
Depth maps for a training: the data set's own, or a folder with one map for each image.

A map has the name of its image: `train_00000.png` (16 bits, millimetres), `.npy` or `.tiff`
(floats: metres), in the same subfolder as the image, or at the top of the folder. Beside it may be
`train_00000.confidence.png` (or `.npy`, `.tiff`), 0 to 1. Depth is along z, 0 where unknown. An
optional `depth_maps.json` says to which camera the maps belong.

Held-out frames keep their depth, with which maps are evaluated.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.io.atomic_files import directory_beside, read_json, write_inside, write_json
from thermal_nerf_loc.io.datasets.scene import ImageRecord, Scene, SceneFrame
from thermal_nerf_loc.io.datasets.scene_writer import depth_counts
from thermal_nerf_loc.io.images import DEPTH_UNIT_M, encode, read_depth, read_image
from thermal_nerf_loc.sensing.frame import RGB, THERMAL

AUTO, MEASURED, STEREO, POINTS, NONE = 'auto', 'measured', 'stereo', 'points', 'none'
SOURCES = AUTO, MEASURED, STEREO, POINTS, NONE  # a folder counts as measured
_log = logging.getLogger(__name__)
_INFO_FILE = 'depth_maps.json'
_SUFFIXES = ('.png', '.npy', '.tiff', '.tif')
_CONFIDENCE = '.confidence'
_CHECKED_MAPS = 12  # of which the unit is checked
# Median depth over the spread of the cameras, or its inverse: from here on the unit is doubtful,
# and impossible.
_DOUBTFUL_RATIO, _IMPOSSIBLE_RATIO = 50.0, 300.0


@dataclass(frozen=True, slots=True)
class DepthSource:
    """Options of `--depth-from`."""

    source: str  # one of `SOURCES`, or a folder
    camera: str | None = None  # 'rgb' or 'thermal'; None: that of the source
    unit_m: float | None = None  # metres a count; None: 0.001 of integers, 1 of floats
    metric: bool = True  # False: depth up to a scale, so that no unit can be wrong


def with_depth(scene: Scene, request: DepthSource) -> Scene:
    """
    The scene with the depth of this source, and no other, in its training frames.

    'auto' takes measured depth where there is any; else, and of the other sources, the trainer
    finds the depth. The depth of a simulation is no measurement: it is for evaluation.
    """
    if request.unit_m is not None and not 0.0 < request.unit_m < np.inf:
        raise InputError('is no scale', where='--depth-unit', expected='metres a count, above 0',
                         got=request.unit_m)
    if request.camera is not None:
        scene.require(request.camera)
    source = request.source
    if source == AUTO:
        source = MEASURED if has_measured_depth(scene) else STEREO
    if source in (STEREO, POINTS, NONE):
        return _without_maps(scene, request)
    if source == MEASURED:
        found = _measured(scene, request)
    else:
        found = _from_folder(scene, Path(request.source), request)
    _check_unit(found, request)
    return found


def write_depth_maps(folder: Path, maps: Iterable[tuple[str, NDArray[Any], NDArray[Any]]],
                     camera: str, facts: Mapping[str, Any]) -> int:
    """Write (name, depth in metres, confidence) for `with_depth` to read; returns their number."""
    count = 0
    with directory_beside(folder) as out:
        for name, depth_m, confidence in maps:
            write_inside(out / f'{name}.png', encode(depth_counts(depth_m), '.png'))
            confidence_counts = np.rint(np.clip(confidence, 0.0, 1.0) * 255.0).astype(np.uint8)
            write_inside(out / f'{name}{_CONFIDENCE}.png', encode(confidence_counts, '.png'))
            count += 1
        write_json(out / _INFO_FILE, {**facts, 'camera': camera, 'metres_per_count': DEPTH_UNIT_M})
    return count


def _measured(scene: Scene, request: DepthSource) -> Scene:
    cameras = (request.camera,) if request.camera else scene.modalities

    def own(frame: SceneFrame) -> SceneFrame:
        return replace(frame, records={
            name: (replace(record, depth_unit_m=request.unit_m or record.depth_unit_m)
                   if name in cameras else record.without_depth())
            for name, record in frame.records.items()})

    found = _with_training_frames(scene, own)
    if not _records(found):
        raise InputError('data set has no depth maps', where=scene.root,
                         expected='depth_file_path or thermal_depth_file_path of training frames',
                         hint='--depth-from FOLDER takes maps that lie elsewhere.')
    return found


def has_measured_depth(scene: Scene) -> bool:
    """Whether training frames have depth maps of a sensor."""
    return any(not record.depth_is_truth for record in _records(scene))


def _without_maps(scene: Scene, request: DepthSource) -> Scene:
    """The scene without depth maps: depth is found between the images, if at all."""
    if request.camera is not None or request.unit_m is not None or not request.metric:
        raise InputError('says something about depth maps that are not used',
                         where=f'--depth-from {request.source}',
                         expected='no --depth-camera, --depth-unit or --depth-kind')
    return _with_training_frames(scene, lambda frame: replace(frame, records={
        name: record.without_depth() for name, record in frame.records.items()}))


def _from_folder(scene: Scene, folder: Path, request: DepthSource) -> Scene:
    if not folder.is_dir():
        raise InputError('no such folder of depth maps', where=folder,
                         expected=f'{", ".join(SOURCES)} or a folder')
    camera, unit_m = _camera_and_unit(scene, folder, request)
    scene.require(camera)
    train = [scene.frames[i].records[camera] for i in scene.train
             if camera in scene.frames[i].records]
    stems = Counter(record.path.stem for record in train)
    units: dict[str, float] = {}
    missing: list[Path] = []

    def new(frame: SceneFrame) -> SceneFrame:
        records = {name: record.without_depth() for name, record in frame.records.items()}
        if camera in records:
            record = records[camera]
            path = _map_of(record, scene.root, folder, stems)
            if path is None:
                missing.append(record.path)
            else:
                records[camera] = replace(
                    record, depth_path=path, depth_unit_m=unit_m or _unit(path, units),
                    depth_confidence_path=_existing(path.with_suffix(_CONFIDENCE)))
        return replace(frame, records=records)

    found = _with_training_frames(scene, new)
    if len(missing) == len(train):
        there = sorted(path.name for path in folder.iterdir())
        raise InputError(f'holds no depth map of any {camera} image', where=folder,
                         expected=f'{train[0].path.stem}.png, .npy or .tiff' if train else None,
                         got=', '.join(there[:3]) or 'an empty folder',
                         hint='--depth-camera says whose maps they are.')
    if missing:
        _log.warning('%s: depth maps of %d of %d %s training images are missing (first: %s)',
                     folder, len(missing), len(train), camera, missing[0].stem)
    return found


def _camera_and_unit(scene: Scene, folder: Path, request: DepthSource) -> tuple[str, float | None]:
    """The camera that the maps of a folder belong to, and their unit if it is given."""
    file = folder / _INFO_FILE
    info = read_json(file) if file.is_file() else {}
    camera = info.get('camera') if isinstance(info, dict) else None
    if camera not in (None, RGB, THERMAL):
        raise InputError('names an unknown camera', where=file, expected=f'{RGB} or {THERMAL}',
                         got=repr(camera))
    if camera and request.camera and camera != request.camera:
        raise InputError('depth maps belong to the other camera', where=folder, expected=camera,
                         got=f'--depth-camera {request.camera}')
    unit_m = request.unit_m or (info.get('metres_per_count') if camera else None)
    if unit_m is not None and not (isinstance(unit_m, (int, float)) and 0.0 < unit_m < np.inf):
        raise InputError('metres_per_count is no scale', where=file, got=repr(unit_m))
    return request.camera or camera or scene.modalities[0], unit_m


def _map_of(record: ImageRecord, root: Path, folder: Path, stems: Mapping[str, int],
            ) -> Path | None:
    """The depth map of an image: in the subfolder of the image, or at the top of the folder."""
    inside = record.path.relative_to(root) if record.path.is_relative_to(root) else None
    found = _existing(folder / inside.with_suffix('')) if inside else None
    if found is None and stems[record.path.stem] == 1:
        found = _existing(folder / record.path.stem)
    return found


def _existing(path: Path) -> Path | None:
    """The file of this name in any format."""
    candidates = (path.parent / f'{path.name}{suffix}' for suffix in _SUFFIXES)
    return next((file for file in candidates if file.is_file()), None)


def _unit(path: Path, known: dict[str, float]) -> float:
    """Metres a count, by the first file of each format."""
    if path.suffix not in known:
        floats = np.issubdtype(read_image(path).dtype, np.floating)
        known[path.suffix] = 1.0 if floats else DEPTH_UNIT_M
    return known[path.suffix]


def _with_training_frames(scene: Scene, change: Callable[[SceneFrame], SceneFrame]) -> Scene:
    """The scene, its training frames changed."""
    frames = list(scene.frames)
    for i in scene.train:
        frames[i] = change(frames[i])
    return replace(scene, frames=tuple(frames))


def _records(scene: Scene) -> list[ImageRecord]:
    return [record for i in scene.train for record in scene.frames[i].records.values()
            if record.depth_path is not None]


def _check_unit(scene: Scene, request: DepthSource) -> None:
    """Compare the depth of a few maps with the distances between the cameras."""
    records = _records(scene)
    checked = records[::max(1, len(records) // _CHECKED_MAPS)]
    depths = [read_depth(record.depth_path, record.depth_unit_m) for record in checked
              if record.depth_path is not None]
    known = np.concatenate([depth[depth > 0.0] for depth in depths])
    if not known.size:
        raise InputError('depth maps are empty: every pixel is 0 or not finite',
                         where=checked[0].depth_path, expected='depth along z, 0 where unknown')
    centers = np.array([scene.frames[i].T_world_cam[:3, 3] for i in scene.train])
    spread_m = float(np.sqrt(((centers - centers.mean(axis=0))**2).sum(axis=1).mean()))
    median_m = float(np.median(known))
    if not request.metric or spread_m < 1e-9:
        return
    ratio = max(median_m / spread_m, spread_m / median_m)
    got = f'a median depth of {median_m:.3g} m'
    expected = f'metres: the cameras lie within {spread_m:.3g} m'
    hint = '--depth-unit says how many metres a count is.'
    if ratio > _IMPOSSIBLE_RATIO and request.unit_m is None:
        raise InputError('depth is in another unit than the poses', where=checked[0].depth_path,
                         expected=expected, got=got, hint=hint)
    if ratio > _DOUBTFUL_RATIO:
        _log.warning('depth maps may be in another unit than the poses: %s, %s. %s', got, expected,
                     hint)

# SPDX-License-Identifier: Apache-2.0
"""Load a scene's training images as pixel sources, one image in memory at a time."""

from dataclasses import replace
import logging

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.progress import Progress
from thermal_nerf_loc.io.atomic_files import Allocate, in_memory, on_disk, read_bytes
from thermal_nerf_loc.io.datasets.depth_maps import MEASURED, NONE
from thermal_nerf_loc.io.datasets.scene import ImageRecord, load_image, Scene
from thermal_nerf_loc.mapping.camera_poses.pose_initialization import AdjustedCameras
from thermal_nerf_loc.mapping.stereo.scene_depth import find_depth, ImageDepth, SceneDepth
from thermal_nerf_loc.mapping.training.config import TrainConfig
from thermal_nerf_loc.mapping.training.ray_sampler import bytes_needed, NoPixelsError, PixelSource
from thermal_nerf_loc.sensing.frame import RGB, SensorImage, THERMAL
from thermal_nerf_loc.sensing.frozen_images import FreezeDetector
from thermal_nerf_loc.sensing.thermal import TemperatureRange

_Records = dict[int, ImageRecord]  # by frame
_DEPTH_SHARE = 0.4  # of the time limit that finding depth may take
_log = logging.getLogger(__name__)


def modalities_of(scene: Scene, config: TrainConfig) -> tuple[str, ...]:
    """The modalities to train on, colour first: `finetune` begins with it."""
    wanted = scene.modalities if config.modality == 'both' else (config.modality,)
    scene.require(*wanted)
    return tuple(sorted(wanted, key=lambda name: name != RGB))


def load_sources(scene: Scene, config: TrainConfig, depth: SceneDepth = SceneDepth(MEASURED),
                 ) -> tuple[dict[str, PixelSource], TemperatureRange | None]:
    """Training pixels of each modality, and the range that thermal values were scaled by."""
    uses_maps = depth.source == MEASURED and config.depth_weight > 0.0
    members = {name: _records(scene, name, uses_maps) for name in modalities_of(scene, config)}
    temperatures = _temperature_range(members[THERMAL]) if THERMAL in members else None
    found = depth.images
    needed = sum(bytes_needed([record.camera for record in records.values()], _channels(name),
                              name in found or _has_depth(records),
                              name in found or _has_confidence(records))
                 for name, records in members.items())
    allocate = on_disk if needed > config.memory_limit_mb * 2**20 else in_memory
    return {name: _source(scene, name, records, temperatures, allocate, found.get(name))
            for name, records in members.items()}, temperatures


def without_frozen(scene: Scene) -> Scene:
    """
    The scene without thermal training images that repeat the one before, bit by bit.

    While its shutter is closed a thermal camera gives out its last image again; with the pose of
    the later stamp it would be learned at the wrong place.
    """
    frames, detector, frozen = list(scene.frames), FreezeDetector(), []
    for i in sorted(scene.train, key=lambda i: scene.frames[i].stamp_ns):
        record = frames[i].records.get(THERMAL)
        if record is None or not record.path.is_file():
            continue
        if detector.is_frozen(read_bytes(record.path)):
            frozen.append(frames[i].name)
            frames[i] = replace(frames[i], records={
                name: one for name, one in frames[i].records.items() if name != THERMAL})
    if frozen:
        _log.warning('%s: %d thermal training images repeat the one before, as with a closed '
                     'shutter, and are left out (first: %s)', scene.root, len(frozen), frozen[0])
    return replace(scene, frames=tuple(frames))


def thermal_stamps_ns(scene: Scene) -> NDArray[np.int64]:
    """Stamps of the thermal training images."""
    return np.array([scene.frames[i].records[THERMAL].stamp_ns for i in scene.train
                     if THERMAL in scene.frames[i].records])


def _source(scene: Scene, name: str, members: _Records, temperatures: TemperatureRange | None,
            allocate: Allocate, depth: ImageDepth | None) -> PixelSource:
    """Pixels of a modality, temperatures scaled to [0, 1]."""
    records, frames = list(members.values()), list(members)

    def load(i: int) -> SensorImage:
        image = load_image(name, records[i])
        if name == THERMAL and temperatures is not None:
            image = replace(image, values=temperatures.to_field(image.values))
        found = depth(frames[i], image.camera) if depth is not None else None
        if found is not None:
            image = replace(image, depth_m=found[0], depth_confidence=found[1])
        return image

    poses = [scene.frames[index].T_world_cam @ record.T_cam_sensor
             for index, record in members.items()]
    try:
        return PixelSource([record.camera for record in records], poses, load, _channels(name),
                           depth is not None or _has_depth(members), allocate,
                           depth is not None or _has_confidence(members))
    except NoPixelsError as error:
        other = THERMAL if name == RGB else RGB
        raise NoPixelsError(
            f'masks and NaN leave no pixel of the {name} images to train on', where=scene.root,
            hint=f'Look at the masks, or train with --modality {other}.') from error


def _records(scene: Scene, name: str, with_depth: bool) -> _Records:
    """Training images of a modality by frame; depth that has no weight is not loaded."""
    found = {index: scene.frames[index].records[name] for index in scene.train
             if name in scene.frames[index].records}
    return found if with_depth else {
        index: record.without_depth()
        for index, record in found.items()}


def _temperature_range(records: _Records) -> TemperatureRange:
    """All temperatures of the training split, with head room for other days."""
    extremes: list[float] = []
    least = 1e-3  # span of images that were stretched to [0, 1]
    for record in records.values():
        image = load_image(THERMAL, record)
        extremes += [float(np.nanmin(image.values)), float(np.nanmax(image.values))]
        least = 0.5 if image.radiometric else least
    span = max(extremes) - min(extremes) if extremes else 0.0
    return TemperatureRange.covering(extremes, max(0.1 * span, least))


def _channels(name: str) -> int:
    return 3 if name == RGB else 1


def _has_depth(records: _Records) -> bool:
    return any(record.depth_path is not None for record in records.values())


def _has_confidence(records: _Records) -> bool:
    return any(record.depth_confidence_path is not None for record in records.values())


def depth_of(adjusted: AdjustedCameras, config: TrainConfig, progress: Progress) -> SceneDepth:
    """Depth of the training images as their cameras are adjusted, unless it has no weight."""
    source = config.depth_from if config.depth_weight > 0.0 else NONE
    unknown = config.refine.what if adjusted.cameras is None else ()
    seconds = None if config.max_seconds is None else _DEPTH_SHARE * config.max_seconds
    return find_depth(adjusted.scene, modalities_of(adjusted.scene, config), source, config.stereo,
                      config.refine.features, unknown, progress, seconds, config.memory_limit_mb)

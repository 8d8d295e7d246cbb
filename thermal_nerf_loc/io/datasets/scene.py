# SPDX-License-Identifier: Apache-2.0
"""Posed frames on disk: records of their files, and the scene that they make."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.geometry.geodesy import GeoAnchor
from thermal_nerf_loc.io.datasets.image_cache import ImageCache, reader
from thermal_nerf_loc.io.images import (
    CountImage, DEPTH_UNIT_M, read_confidence, read_depth, read_mask)
from thermal_nerf_loc.sensing.frame import fill_unknown, Frame, RGB, SensorImage
from thermal_nerf_loc.sensing.thermal import decode_thermal, Radiometry

# OpenCV camera axes in OpenGL ones (x right, y up, z backwards, as in data sets), and back
GL_FROM_CV = np.diag([1.0, -1.0, -1.0, 1.0])


@dataclass(frozen=True, slots=True, eq=False)
class ImageRecord:
    """One image of one frame, still on disk."""

    path: Path
    camera: Camera
    T_cam_sensor: NDArray[np.float64]
    mask_path: Path | None = None
    depth_path: Path | None = None
    radiometry: Radiometry | None = None  # thermal only; None: values are no temperatures
    depth_unit_m: float = DEPTH_UNIT_M  # metres a count of the depth file
    stamp_ns: int = 0
    T_cam_sensor_true: NDArray[np.float64] | None = None  # of a simulation
    camera_mask_path: Path | None = None  # hides the robot's own body in all images of a camera
    depth_confidence_path: Path | None = None
    readout_s: float = 0.0  # from the first row to the last; negative: the last comes first
    sweep: NDArray[np.float64] | None = None  # (6,) motion during it, see `rolling_shutter.py`
    depth_is_truth: bool = False  # of a simulation: for evaluation
    cache: ImageCache | None = None  # of decoded images

    def without_depth(self) -> 'ImageRecord':
        """The same without its depth map."""
        return replace(self, depth_path=None, depth_confidence_path=None)


@dataclass(frozen=True, slots=True, eq=False)
class SceneFrame:
    """A frame with its pose; `records` by modality."""

    name: str
    T_world_cam: NDArray[np.float64]
    records: Mapping[str, ImageRecord]
    stamp_ns: int = 0
    T_world_cam_true: NDArray[np.float64] | None = None  # of a simulation


@dataclass(frozen=True, slots=True, eq=False)
class UnposedFrame:
    """A frame whose pose is unknown; `records` by modality."""

    name: str
    records: Mapping[str, ImageRecord]
    stamp_ns: int = 0
    T_world_cam_true: NDArray[np.float64] | None = None  # of a simulation

    def load(self) -> Frame:
        """Read and decode its images."""
        return Frame(self.stamp_ns, _images(self.records), None, self.name)

    def posed(self, T_world_cam: NDArray[np.float64]) -> SceneFrame:
        """The frame with its pose."""
        return SceneFrame(self.name, T_world_cam, self.records, self.stamp_ns,
                          self.T_world_cam_true)


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """
    A posed image set with its split; `notices` are remarks of its reader for the user.

    Frames without a pose are in `unposed` and belong to no split.
    """

    root: Path
    frames: tuple[SceneFrame, ...]
    train: tuple[int, ...]
    test: tuple[int, ...]
    notices: tuple[str, ...] = ()
    unposed: tuple[UnposedFrame, ...] = ()
    geo_anchor: GeoAnchor | None = None  # then the world is east, north, up

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities of the frames, 'rgb' first; a frame may lack some of them."""
        present = {modality for frame in self.frames for modality in frame.records}
        return tuple(sorted(present))

    def split(self, name: str) -> tuple[int, ...]:
        """Indices of the 'train', 'test' or 'all' frames."""
        if name == 'all':
            return tuple(range(len(self.frames)))
        if name not in ('train', 'test'):
            raise InputError('unknown split', where=self.root, expected='train, test or all',
                             got=repr(name))
        return self.train if name == 'train' else self.test

    def require(self, *modalities: str) -> None:
        """Refuse a scene that lacks one of these modalities."""
        missing = [modality for modality in modalities if modality not in self.modalities]
        if missing:
            raise InputError(f'scene has no {" and no ".join(missing)} images', where=self.root,
                             expected=', '.join(modalities), got=', '.join(self.modalities))

    def load(self, index: int) -> Frame:
        """Read and decode one frame's images; safe to call from several threads at once."""
        if not 0 <= index < len(self.frames):
            raise InputError('no such frame', where=self.root,
                             expected=f'0 to {len(self.frames) - 1}', got=index)
        frame = self.frames[index]
        return Frame(frame.stamp_ns, _images(frame.records), frame.T_world_cam, frame.name)

    def with_cache(self, cache: ImageCache) -> 'Scene':
        """The scene with its images read through a cache."""
        return replace(self, frames=tuple(
            replace(frame, records={name: replace(record, cache=cache)
                                    for name, record in frame.records.items()})
            for frame in self.frames))

    def with_poses(self, poses: Mapping[str, NDArray[np.float64]]) -> 'Scene':
        """The scene with these poses, by name, of unposed frames, which join the training."""
        found = tuple(frame.posed(poses[frame.name]) for frame in self.unposed
                      if frame.name in poses)
        count = len(self.frames)
        return replace(self, frames=self.frames + found,
                       train=self.train + tuple(range(count, count + len(found))),
                       unposed=tuple(frame for frame in self.unposed if frame.name not in poses))


def _images(records: Mapping[str, ImageRecord]) -> dict[str, SensorImage]:
    return {modality: load_image(modality, record) for modality, record in records.items()}


def load_image(modality: str, record: ImageRecord) -> SensorImage:
    """Read one image with its mask and depth; each must have the camera's size."""
    radiometric = True
    read_colours, read_thermal = reader(record.cache)
    if modality == RGB:
        values, valid = read_colours(record.path)
    else:
        counts = read_thermal(record.path)
        values, radiometric = _thermal_values(counts, record)
        values, valid = fill_unknown(values[..., None], counts.valid)
    _check_size(values.shape[:2], record.camera, record.path, f'{modality} image')
    for path in filter(None, (record.mask_path, record.camera_mask_path)):
        mask = read_mask(path)
        _check_size(mask.shape, record.camera, path, 'mask')
        valid = mask if valid is None else valid & mask
    depth_m, confidence = _depth(record)
    return SensorImage(record.camera, values, record.stamp_ns, record.T_cam_sensor, valid,
                       depth_m, radiometric, confidence, record.sweep)


def _depth(record: ImageRecord) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
    """Depth in metres and its confidence, None where there is none."""
    if record.depth_path is None:
        return None, None
    depth_m = read_depth(record.depth_path, record.depth_unit_m)
    _check_size(depth_m.shape, record.camera, record.depth_path, 'depth image')
    if record.depth_confidence_path is None:
        return depth_m, None
    confidence = read_confidence(record.depth_confidence_path)
    _check_size(confidence.shape, record.camera, record.depth_confidence_path, 'confidence')
    return depth_m, confidence


def _thermal_values(image: CountImage, record: ImageRecord) -> tuple[NDArray[np.float32], bool]:
    """Counts to deg C; floating-point pixels need a scale, as they may be kelvin."""
    if np.issubdtype(image.counts.dtype, np.floating):
        if record.radiometry is None:
            raise InputError('floating-point thermal image has no scale', where=record.path,
                             expected='celsius_per_count and celsius_offset',
                             hint='For deg C give 1 and 0, for kelvin 1 and -273.15.')
        return record.radiometry.to_celsius(image.counts), True
    return decode_thermal(image.counts, record.radiometry, record.path)


def _check_size(shape: tuple[int, ...], camera: Camera, path: Path, what: str) -> None:
    if shape != (camera.height, camera.width):
        raise InputError(f'{what} does not fit its camera', where=path,
                         expected=f'{camera.width}x{camera.height} pixels',
                         got=f'{shape[1]}x{shape[0]}',
                         hint='Intrinsics belong to one resolution.')

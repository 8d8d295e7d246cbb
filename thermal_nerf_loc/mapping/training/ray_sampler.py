# SPDX-License-Identifier: Apache-2.0
"""
All training pixels of one modality as flat arrays, and random batches of rays from them.

`PixelSource` holds them in memory or on disk, `DevicePixels` on a torch device.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.field.device import DeviceRandom, Random
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.geometry.lie_torch import se3_exp
from thermal_nerf_loc.io.atomic_files import Allocate, in_memory
from thermal_nerf_loc.sensing.flat_field import across
from thermal_nerf_loc.sensing.frame import row_poses, SensorImage

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]

_STEPS = np.float32(65535.0)  # 16 bits: 8-bit colour exactly, 1/60000 of a temperature range


@dataclass(frozen=True, slots=True, eq=False)
class RayBatch:
    """Rays with the pixels they go through; depth along the ray, confidence 0 where unknown."""

    origins: Array32  # (n, 3)
    directions: Array32  # (n, 3) unit
    truth: Tensor  # (n, channels) field values
    depth_m: Tensor  # (n,)
    confidence: Tensor  # (n,)
    image: Tensor  # (n,) which training image of this modality
    across: Tensor  # (n, 2) -1 to 1 from left to right, from top to bottom
    directions_cam: Array32  # (n, 3) unit, in the camera's frame
    row_motion: NDArray[np.float64] | None = None  # (n, 4, 4) to each ray's row: rolling shutter

    def on(self, device: torch.device) -> 'DeviceBatch':
        """The same as tensors on a device; on the CPU they share the arrays' memory."""
        parts = {part.name: getattr(self, part.name) for part in fields(self)}
        return DeviceBatch(**{name: (torch.from_numpy(part) if isinstance(part, np.ndarray)
                                     else part).to(device)
                              for name, part in parts.items() if part is not None})


@dataclass(frozen=True, slots=True, eq=False)
class DeviceBatch:
    """A `RayBatch` whose members all lie on one device."""

    origins: Tensor
    directions: Tensor
    truth: Tensor
    depth_m: Tensor
    confidence: Tensor
    image: Tensor
    across: Tensor
    directions_cam: Tensor
    row_motion: Tensor | None = None

    def on(self, device: torch.device) -> 'DeviceBatch':
        """It is there."""
        assert self.truth.device.type == device.type
        return self


class NoPixelsError(InputError):
    """All pixels of a modality are masked or NaN."""


class PixelSource:
    """Pixels of the posed images of one modality, to draw random rays from."""

    def __init__(self, cameras: Sequence[Camera], poses: Sequence[NDArray[np.float64]],
                 load: Callable[[int], SensorImage], channels: int, has_depth: bool = False,
                 allocate: Allocate = in_memory, has_confidence: bool = False) -> None:
        """
        Load one image after the other, with values in [0, 1]; none is kept.

        `poses` are T_world_sensor; `allocate` makes the arrays, in memory or on disk.
        """
        if not cameras:
            raise InputError('no training image of this modality')
        self.channels, self.images = channels, len(cameras)
        self.radiometric = True  # all images, see `SensorImage`
        self.pixel_rad = float(np.median([1.0 / camera.fx for camera in cameras]))
        self._sizes = np.array([camera.size for camera in cameras])
        self._poses = np.stack(list(poses)).astype(np.float32)
        self._starts = np.concatenate([[0], np.cumsum(self._sizes.prod(axis=1))])
        self._tables, self._table_start = _direction_tables(cameras, allocate)
        pixels = int(self._starts[-1])
        self._values = allocate((pixels, channels), np.uint16)
        self._depths = allocate((pixels,), np.float32) if has_depth else None
        self._confidence = allocate((pixels,), np.uint8) if has_confidence else None
        self._sweeps = np.zeros((len(cameras), 6))
        self._fill(cameras, load, allocate)

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height of all images, None where they differ."""
        width, height = self._sizes[0].tolist()
        return (width, height) if (self._sizes == self._sizes[0]).all() else None

    def __len__(self) -> int:
        """Number of usable pixels."""
        return len(self._values) if self._usable is None else len(self._usable)

    def draw(self, count: int, rng: Random) -> RayBatch:
        """Random rays, each pixel equally likely."""
        assert isinstance(rng, np.random.Generator)
        chosen = rng.integers(0, len(self), count)
        return self.at(chosen if self._usable is None else self._usable[chosen])

    def at(self, index: NDArray[np.int64]) -> RayBatch:
        """Rays through given pixels of the flat order."""
        image = np.searchsorted(self._starts, index, side='right') - 1
        inside = index - self._starts[image]
        pose, size = self._poses[image], self._sizes[image]
        row_motion = None
        if self._sweeps.any():
            row_motion = row_poses(self._sweeps[image], inside // size[:, 0] + 0.5, size[:, 1])
            pose = (pose @ row_motion).astype(np.float32)
        directions_cam = self._tables[self._table_start[image] + inside]
        directions = np.einsum('nij,nj->ni', pose[:, :3, :3], directions_cam)
        pixels = np.stack([inside % size[:, 0], inside // size[:, 0]], axis=-1) + 0.5
        truth = torch.from_numpy(self._values[index].astype(np.float32) / _STEPS)
        depth = (np.full(len(index), np.nan, np.float32) if self._depths is None
                 else np.asarray(self._depths[index]))
        known = np.isfinite(depth)
        confidence = known.astype(np.float32)
        if self._confidence is not None:
            confidence *= self._confidence[index] / np.float32(255.0)
        return RayBatch(np.ascontiguousarray(pose[:, :3, 3]), directions, truth,
                        torch.from_numpy(np.where(known, depth, 0.0).astype(np.float32)),
                        torch.from_numpy(confidence), torch.from_numpy(image),
                        torch.from_numpy(across(pixels, size)), directions_cam, row_motion)

    @property
    def has_depth(self) -> bool:
        """Whether any pixel may have depth."""
        return self._depths is not None

    def on(self, device: torch.device) -> 'DevicePixels':
        """Copy of all on a device."""
        return DevicePixels(
            device, self._values, self._poses, self._starts, self._sizes, self._tables,
            self._table_start, self._usable, self._depths, self._confidence,
            self._sweeps if self._sweeps.any() else None)

    def known_depth(self) -> Array:
        """Share of the usable pixels of each image (images,) whose depth is known."""
        return np.array([len(self._known(i)) / max(len(self._usable_of(i)), 1)
                         for i in range(self.images)])

    def rays_of_known_depth(self, most: int) -> Iterator[RayBatch]:
        """Evenly spread rays of known depth, at most about so many, image by image."""
        if self._depths is None:
            return
        stride = max(1, round(sum(len(self._known(i)) for i in range(self.images)) / most))
        for i in range(self.images):
            chosen = self._known(i)[i % stride::stride]
            if len(chosen):
                yield self.at(chosen)

    def _known(self, i: int) -> NDArray[np.int64]:
        """Flat indices of the usable pixels of an image whose depth is known."""
        index = self._usable_of(i)
        if self._depths is None:
            return index[:0]
        known = np.isfinite(self._depths[index])
        if self._confidence is not None:
            known &= self._confidence[index] > 0
        return index[known]

    def _usable_of(self, i: int) -> NDArray[np.int64]:
        """Flat indices of the usable pixels of an image."""
        first, end = self._starts[i], self._starts[i + 1]
        if self._usable is None:
            return np.arange(first, end)
        return np.asarray(self._usable[slice(*np.searchsorted(self._usable, (first, end)))])

    def _fill(self, cameras: Sequence[Camera], load: Callable[[int], SensorImage],
              allocate: Allocate) -> None:
        """One image at a time into the flat arrays, and all of it into the digest."""
        digest = hashlib.sha256(repr(cameras).encode() + self._poses.tobytes())
        usable = allocate((len(self._values),), np.bool_)
        sums = np.zeros((3, self.channels))  # of the usable values: count, sum, squares
        for i in range(len(cameras)):
            part = slice(self._starts[i], self._starts[i + 1])
            image = load(i)
            self.radiometric &= image.radiometric
            if image.sweep is not None:
                self._sweeps[i] = image.sweep
                digest.update(self._sweeps[i].data)
            steps = np.nan_to_num(image.values) * _STEPS + np.float32(0.5)
            self._values[part] = np.clip(steps, 0.0, _STEPS).reshape(-1, self.channels)
            usable[part] = _usable(image)
            used = image.values.reshape(-1, self.channels)[usable[part]].astype(np.float64)
            sums += (np.full(self.channels, len(used)), used.sum(axis=0), (used**2).sum(axis=0))
            if self._depths is not None:
                forward = self._tables[self._table_start[i]:][:part.stop - part.start, 2]
                self._depths[part] = _along_rays(image, forward)
                digest.update(self._depths[part].data)
            if self._confidence is not None:
                self._confidence[part] = _confidence_steps(image)
                digest.update(self._confidence[part].data)
            digest.update(self._values[part].data)
            digest.update(usable[part].data)
        self.digest = digest.hexdigest()  # of all that training reads of these images
        mean, square = sums[1:] / np.maximum(sums[0], 1.0)
        self.variance = float((square - mean**2).mean())  # over all images
        self._usable = self._usable_pixels(usable, allocate)

    def _usable_pixels(self, usable: NDArray[np.bool_], allocate: Allocate,
                       ) -> NDArray[np.int64] | None:
        """Flat indices of usable pixels; None where all are."""
        count = int(np.count_nonzero(usable))
        if count == 0:
            raise NoPixelsError('masks and NaN leave no pixel to train on')
        if count == len(usable):
            return None
        indices, filled = allocate((count,), np.int64), 0
        for start, stop in zip(self._starts[:-1], self._starts[1:], strict=True):
            found = start + np.flatnonzero(usable[start:stop])
            indices[filled:filled + len(found)] = found
            filled += len(found)
        return indices


class DevicePixels:
    """The pixels of a `PixelSource` on a device: batches are drawn there, nothing is sent."""

    def __init__(self, device: torch.device, values: NDArray[np.uint16], poses: Array32,
                 starts: NDArray[np.int64], sizes: NDArray[np.int64], tables: Array32,
                 table_start: NDArray[np.int64], usable: NDArray[np.int64] | None,
                 depths: Array32 | None, confidence: NDArray[np.uint8] | None,
                 sweeps: Array | None) -> None:
        """Send all arrays once; members are those of `PixelSource`."""
        def send(array: NDArray[Any] | None) -> Any:
            return None if array is None else torch.from_numpy(np.array(array)).to(device)

        self._values = send(np.asarray(values).view(np.int16))  # torch indexes no 16 bits unsigned
        self._poses, self._starts, self._sizes = send(poses), send(starts), send(sizes)
        self._tables, self._table_start, self._usable = send(tables), send(table_start), send(
            usable)
        self._depths, self._confidence, self._sweeps = send(depths), send(confidence), send(sweeps)
        self._count = len(values) if usable is None else len(usable)

    def draw(self, count: int, rng: Random) -> DeviceBatch:
        """Random rays, each pixel equally likely."""
        assert isinstance(rng, DeviceRandom)
        chosen = rng.integers(self._count, count)
        return self.at(chosen if self._usable is None else self._usable[chosen])

    def at(self, index: Tensor) -> DeviceBatch:
        """Rays through given pixels of the flat order, as `PixelSource.at`."""
        image = torch.searchsorted(self._starts, index, right=True) - 1
        inside = index - self._starts[image]
        pose, size = self._poses[image], self._sizes[image]
        column, row = inside % size[:, 0], inside // size[:, 0]
        row_motion = None
        if self._sweeps is not None:
            twists = self._sweeps[image] * ((row + 0.5) / size[:, 1] - 0.5)[:, None]
            row_motion = se3_exp(twists)
            pose = (pose.double() @ row_motion).float()
        directions_cam = self._tables[self._table_start[image] + inside]
        directions = torch.einsum('nij,nj->ni', pose[:, :3, :3], directions_cam)
        truth = (self._values[index].int() & 0xffff).float() / float(_STEPS)
        if self._depths is None:
            depth, confidence = torch.zeros_like(truth[:, 0]), torch.zeros_like(truth[:, 0])
        else:
            depth = self._depths[index]
            known = torch.isfinite(depth)
            depth, confidence = torch.where(known, depth, 0.0), known.float()
            if self._confidence is not None:
                confidence = confidence * (self._confidence[index].float() / 255.0)
        pixels = torch.stack([column, row], dim=1) + 0.5
        return DeviceBatch(pose[:, :3, 3].contiguous(), directions, truth, depth, confidence,
                           image, 2.0 * pixels / size - 1.0, directions_cam, row_motion)


def bytes_needed(cameras: Sequence[Camera], channels: int, has_depth: bool,
                 has_confidence: bool = False) -> int:
    """Size of a source's arrays, where every pixel is usable."""
    pixels, direction_count = (sum(camera.width * camera.height for camera in group)
                               for group in (cameras, set(cameras)))
    return pixels * (2 * channels + 4 * has_depth + has_confidence + 1) + 12 * direction_count


def _direction_tables(cameras: Sequence[Camera], allocate: Allocate,
                      ) -> tuple[Array32, NDArray[np.int64]]:
    """Each distinct camera's ray directions once, and where each image's table starts."""
    distinct = list(dict.fromkeys(cameras))
    ends = np.cumsum([camera.width * camera.height for camera in distinct])
    tables: NDArray[Any] = allocate((int(ends[-1]), 3), np.float32)
    start: dict[Camera, int] = {}
    for camera, end in zip(distinct, ends, strict=True):
        start[camera] = int(end) - camera.width * camera.height
        tables[start[camera]:end] = camera.rays()
    return tables, np.array([start[camera] for camera in cameras])


def _along_rays(image: SensorImage, forward: Array32) -> Array32:
    """Depth along the ray of every pixel, NaN where unknown; `forward` is z of its direction."""
    if image.depth_m is None:
        return np.full(len(forward), np.nan, np.float32)
    z = image.depth_m.reshape(-1)
    return np.where(z > 0.0, z / forward, np.nan).astype(np.float32)


def _confidence_steps(image: SensorImage) -> NDArray[np.uint8]:
    """Confidence of each pixel's depth in 255ths."""
    if image.depth_confidence is None:
        return np.full(image.camera.width * image.camera.height, 255, np.uint8)
    return np.asarray(np.rint(image.depth_confidence.reshape(-1) * 255.0), np.uint8)


def _usable(image: SensorImage) -> NDArray[np.bool_]:
    """Valid, finite pixels of an image, flat."""
    finite = np.isfinite(image.values).all(axis=2)
    return (finite if image.valid is None else finite & image.valid).reshape(-1)

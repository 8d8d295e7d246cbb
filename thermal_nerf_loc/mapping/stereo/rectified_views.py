# SPDX-License-Identifier: Apache-2.0
"""
Rectified views: the training images of a modality as small grey pinhole images, for stereo.

Lens distortion is taken out, a wide lens is cut to the field that a plane can hold, and what stays
in the picture of a thermal camera wherever it points (columns, vignetting) is subtracted: it would
match itself at the same pixel of every image. Depth is carried back to the pixels of the image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.batches import in_batches
from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.geometry.undistort import Rectifier
from thermal_nerf_loc.io.atomic_files import Allocate, in_memory
from thermal_nerf_loc.mapping.camera_poses.features import pixel_noise
from thermal_nerf_loc.sensing.frame import RGB, SensorImage

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]

_WIDEST = np.tan(np.deg2rad(55.0))  # of a pinhole view: x / z; pixels grow with 1 / cos^2 beyond
_LARGEST_GROWTH = 1.5  # of the width, where distortion pulls the corners outwards
_PATTERN_IMAGES = 24  # whose median is the fixed pattern
_FEWEST_FOR_PATTERN = 8
_HIGH_PASS_SHARE = 0.05  # of the width: what is smoother is no pattern
_LEAST_NOISE = 1e-3  # standard deviations of an image: rounding, where images have no noise
_ALL = 0.999  # share of a pixel's area that is valid
_SAME_SURFACE = 1.03  # ratio of depths of neighbouring pixels up to which one lies between them


@dataclass(frozen=True, slots=True, eq=False)
class RectifiedViews:
    """Views of one modality, one image after the other in flat arrays; all float32."""

    cameras: tuple[Camera, ...]  # pinhole
    poses: Array  # (n, 4, 4) T_world_view
    images: Array32  # mean 0, standard deviation 1
    valid: NDArray[np.bool_]
    starts: NDArray[np.int64]  # (n + 1,)
    noise: float  # standard deviation, in the unit of the images

    def __len__(self) -> int:
        """Number of views."""
        return len(self.cameras)

    def shape(self, i: int) -> tuple[int, int]:
        """Height and width of a view."""
        return self.cameras[i].height, self.cameras[i].width

    def part(self, values: NDArray[Any], i: int) -> NDArray[Any]:
        """The pixels (h, w) of a view in a flat array of all."""
        return values[self.starts[i]:self.starts[i + 1]].reshape(self.shape(i))

    def image(self, i: int) -> Array32:
        """One view (h, w)."""
        return np.asarray(self.part(self.images, i), np.float32)

    def reduced(self, width: int, allocate: Allocate = in_memory) -> 'RectifiedViews':
        """The same views, `width` pixels across at most."""
        cameras = tuple(_reduced_to(camera, width) for camera in self.cameras)
        starts = _starts(cameras)
        images: NDArray[Any] = allocate((int(starts[-1]),), np.float32)
        valid = allocate((int(starts[-1]),), np.bool_)
        out = RectifiedViews(cameras, self.poses, images, valid, starts, self.noise)
        for i, camera in enumerate(cameras):
            out.part(images, i)[:] = cv2.resize(self.image(i), camera.size,
                                                interpolation=cv2.INTER_AREA)
            share = cv2.resize(self.part(self.valid, i).astype(np.float32), camera.size,
                               interpolation=cv2.INTER_AREA)
            out.part(valid, i)[:] = share > _ALL
        noise = np.median([pixel_noise(out.image(i)) for i in range(len(out))])
        return replace(out, noise=max(float(noise), _LEAST_NOISE))


def rectified_camera(camera: Camera, width: int) -> Camera:
    """The pinhole camera that sees what `camera` does, in images about `width` pixels wide."""
    uv = camera.pixel_centers().reshape(camera.height, camera.width, 2)
    border = np.concatenate([uv[0], uv[-1], uv[:, 0], uv[:, -1]])
    rays = camera.unproject(border)
    flat = rays[:, :2] / np.maximum(rays[:, 2:], 1e-3)
    low, high = (np.clip(part, -_WIDEST, _WIDEST) for part in (flat.min(axis=0), flat.max(axis=0)))
    scale = min(1.0, width / camera.width)
    fx, fy = camera.fx * scale, camera.fy * scale
    shrink = min(1.0, _LARGEST_GROWTH * scale * camera.width / ((high[0] - low[0]) * fx))
    fx, fy = fx * shrink, fy * shrink
    # the border runs through pixel centres: half a pixel more on either side
    size = np.maximum(np.rint((high - low) * (fx, fy) + scale * shrink), 8).astype(int)
    center = 0.5 * size - 0.5 * (low + high) * (fx, fy)
    return Camera(int(size[0]), int(size[1]), float(fx), float(fy), float(center[0]),
                  float(center[1]))


def load_views(name: str, cameras: Sequence[Camera], poses: Sequence[Array],
               load: Callable[[int], SensorImage], width: int, allocate: Allocate = in_memory,
               progress: Progress = silent) -> RectifiedViews:
    """Read, rectify and normalise the images of a modality; `poses` are T_world_sensor."""
    targets = {camera: rectified_camera(camera, width) for camera in dict.fromkeys(cameras)}
    small = {camera: _reduced(camera, target) for camera, target in targets.items()}
    rectifiers = {camera: Rectifier(small[camera], target) for camera, target in targets.items()}
    views = tuple(targets[camera] for camera in cameras)
    starts = _starts(views)
    images: NDArray[Any] = allocate((int(starts[-1]),), np.float32)
    valid = allocate((int(starts[-1]),), np.bool_)

    def fill(i: int) -> tuple[float, float, float]:
        image, lens = load(i), small[cameras[i]]
        usable: NDArray[np.bool_] = np.asarray(np.isfinite(image.values).all(axis=-1))
        grey = _grey(np.where(usable[..., None], image.values, np.float32(0.0)))
        if image.valid is not None:
            usable &= image.valid
        if lens.size != cameras[i].size:
            grey = np.asarray(cv2.resize(grey, lens.size, interpolation=cv2.INTER_AREA),
                              np.float32)
            usable = np.asarray(cv2.resize(usable.astype(np.float32), lens.size,
                                           interpolation=cv2.INTER_AREA) > _ALL)
        out = rectifiers[cameras[i]](grey[..., None], usable)
        part = slice(starts[i], starts[i + 1])
        images[part], valid[part] = out.values.reshape(-1), out.valid.reshape(-1)
        shown = out.values[out.valid]
        return pixel_noise(out.values[..., 0]), *(
            (float(shown.mean()), float(shown.std())) if shown.size else (np.nan, np.nan))

    found = np.array(in_batches(fill, len(views), progress, f'stereo, {name}: reading images'))
    shown = found[np.isfinite(found[:, 1])]  # some pixels of these images are valid
    noise, mean, spread = np.median(shown, axis=0) if len(shown) else (0.0, 0.0, 1.0)
    spread = max(float(spread), 1e-6)
    out = RectifiedViews(views, np.stack(list(poses)), images, valid, starts,
                         max(float(noise) / spread, _LEAST_NOISE))
    for i in range(len(out)):
        view = out.part(images, i)
        np.divide(view - np.float32(mean), np.float32(spread), out=view)
    if name != RGB:
        _subtract_pattern(out)
    return out


class ImagePixels:
    """Where the pixels of an image with its own lens lie in its rectified view."""

    def __init__(self, camera: Camera, view: Camera) -> None:
        """Project the ray of every pixel."""
        uv, inside = view.project(camera.rays())
        at = np.where(inside[:, None], uv - 0.5, -1.0)
        self._at = at.reshape(camera.height, camera.width, 2).astype(np.float32)

    def depth(self, depth: Array32, confidence: Array32) -> tuple[Array32, Array32]:
        """
        Depth along z and confidence (h, w) of the image's pixels, from those of the view.

        A pixel gets the depth between the four of the view around it, where these lie on one
        surface: in inverse depth, which is linear on planes. Next to an edge it stays unknown.
        """
        from thermal_nerf_loc.mapping.stereo import consistency
        z, sure = (np.zeros(self._at.shape[:2], np.float32) for _ in range(2))
        consistency.interpolate(depth, confidence, self._at, _SAME_SURFACE, z, sure)
        return z, sure


def _starts(cameras: Sequence[Camera]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum([c.width * c.height for c in cameras])]).astype(np.int64)


def _reduced_to(camera: Camera, width: int) -> Camera:
    scale = min(1.0, width / camera.width)
    return camera.resized(*(max(8, round(size * scale)) for size in camera.size))


def _reduced(camera: Camera, target: Camera) -> Camera:
    """The lens on a smaller sensor, about as fine as the target, so that nothing aliases."""
    scale = target.fx / camera.fx
    if scale > 0.95:
        return camera
    return camera.resized(*(max(8, round(size * scale)) for size in camera.size))


def _grey(values: Array32) -> Array32:
    if values.shape[2] == 3:
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(values, np.float32),
                                       cv2.COLOR_RGB2GRAY), np.float32)
    return np.asarray(values[..., 0], np.float32)


def _subtract_pattern(views: RectifiedViews) -> None:
    """Take the fixed pattern of the detector out of all images, where it can be told."""
    chosen = range(0, len(views), 1 + len(views) // _PATTERN_IMAGES)
    if len(chosen) < _FEWEST_FOR_PATTERN or len(set(views.cameras)) > 1:
        return
    sigma = _HIGH_PASS_SHARE * views.cameras[0].width
    details = [image - cv2.GaussianBlur(image, (0, 0), sigma)
               for image in (views.image(i) for i in chosen)]
    pattern = np.median(details, axis=0).astype(np.float32)
    for i in range(len(views)):
        part = views.part(views.images, i)
        np.subtract(part, pattern, out=part)

# SPDX-License-Identifier: Apache-2.0
"""
A share of the pixels of many views, rendered and seen, instead of all pixels of few.

Pixels are drawn one from each cell of a grid, at a random place in it: their mean is that of the
image, with little noise, whatever pattern the image has. Scores of windows (SSIM) need whole
windows: they get square patches, spread evenly over image and views. An image that has no more
pixels than were asked for is rendered whole. The choice depends on the view alone, so that two
maps are compared at the same pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
import time

import cv2
import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.mapping.map.localization_map import LocalizationMap
from thermal_nerf_loc.sensing.frame import pixel_rays, SensorImage
from thermal_nerf_loc.sensing.rendering import RayRendering

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]
Whole = NDArray[np.int64]
Tick = Callable[[float], None]  # called with the share of a view that is done

PATCH_PX = 48  # width of a patch
_PATCH_SHARE = 0.5  # of the rays
_FEWEST_PATCHES = 2
_CHUNK_RAYS = 65_536  # between two reports of progress: about a second
_STEP = np.array([0.6180339887, 0.4142135624])  # golden ratio and sqrt(2): even in x and in y


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """A rectangle of an image, rendered and seen."""

    rendered: Array32  # (height, width, channels)
    seen: Array32
    valid: NDArray[np.bool_] | None  # (height, width)
    is_whole: bool  # the whole image, borders included


@dataclass(frozen=True, slots=True, eq=False)
class ViewSample:
    """Some pixels of one view, rendered and seen, and patches."""

    name: str
    modality: str
    rendered: Array32  # (n, channels), units of the frame
    seen: Array32
    valid: NDArray[np.bool_]  # (n,) neither masked nor unknown
    depth_m: Array32  # (n,) rendered, along z
    true_depth_m: Array32 | None  # (n,) 0 or NaN: unknown
    patches: tuple[Patch, ...]
    radiometric: bool
    rays: int
    share: float  # of the image's pixels, in `rendered`
    seconds: float


def sample_view(renderer: LocalizationMap, name: str, modality: str, image: SensorImage,
                T_world_sensor: Array, order: int, most_rays: int | None,
                tick: Tick = lambda share: None) -> ViewSample:
    """Render at most about `most_rays` of a view's pixels (None: all); `order` counts views."""
    camera, valid = image.camera, image.valid
    offset = renderer.flat_field_offset(modality, camera.size)
    pixels, corners = choose_pixels(camera.size, order, most_rays)
    drawn = np.concatenate([pixels, *(corner + patch_pixels() for corner in corners)])
    found, seconds = _render(renderer, modality, image, T_world_sensor, drawn, tick)
    column, row = drawn.T
    rendered = found.values
    if offset is not None:
        rendered = np.asarray(rendered + offset[row, column], np.float32)
    seen, count = image.values[row, column], len(pixels)
    known = np.ones(len(drawn), np.bool_) if valid is None else valid[row, column]
    rays_z = camera.unproject(pixels + 0.5)[:, 2]
    whole = count == camera.width * camera.height
    if whole:
        shape = (camera.height, camera.width)
        patches: tuple[Patch, ...] = (
            Patch(rendered.reshape(*shape, -1), image.values, valid, True),)
    else:
        shape = (PATCH_PX, PATCH_PX)
        patches = tuple(Patch(rendered[part].reshape(*shape, -1), seen[part].reshape(*shape, -1),
                              known[part].reshape(shape), False)
                        for part in np.split(np.arange(count, len(drawn)), len(corners)))
    return ViewSample(
        name, modality, rendered[:count], seen[:count], known[:count],
        (found.distance_m[:count] * rays_z).astype(np.float32),
        None if image.depth_m is None else image.depth_m[row[:count], column[:count]], patches,
        image.radiometric, len(drawn), count / (camera.width * camera.height), seconds)


def choose_pixels(size: tuple[int, int], order: int, most_rays: int | None) -> tuple[Whole, Whole]:
    """Pixels (n, 2), and upper left corners of patches (m, 2); all pixels and none of an image."""
    width, height = size
    if most_rays is None or width * height <= most_rays or min(size) < 2 * PATCH_PX:
        x, y = np.meshgrid(np.arange(width), np.arange(height))
        return np.stack([x.ravel(), y.ravel()], axis=1), np.empty((0, 2), np.int64)
    count = max(_FEWEST_PATCHES, round(_PATCH_SHARE * most_rays / PATCH_PX**2))
    left = max(most_rays - count * PATCH_PX**2, most_rays // 4)
    cell = int(np.ceil(np.sqrt(width * height / left)))
    pixels = grid_pixels(size, cell, order)
    along = np.mod(0.5 + (order * count + np.arange(count))[:, None] * _STEP, 1.0)
    # a patch that would hang over the border by half is moved in: borders count as the middle does
    last, over = np.array(size) - PATCH_PX, PATCH_PX // 2 - 5
    corners = np.clip(np.floor(along * (last + 2 * over + 1)).astype(np.int64) - over, 0, last)
    return pixels, corners


def grid_pixels(size: tuple[int, int], cell: int, order: int) -> Whole:
    """One pixel (n, 2) of each cell of a grid, at a random place in it."""
    x, y = np.meshgrid(np.arange(0, size[0], cell), np.arange(0, size[1], cell))
    corner = np.stack([x.ravel(), y.ravel()], axis=1)
    drawn = corner + np.random.default_rng(order).integers(0, cell, corner.shape)
    return drawn[(drawn < size).all(axis=1)]


def patch_pixels() -> Whole:
    """Pixels of a patch, row by row, from its corner."""
    x, y = np.meshgrid(np.arange(PATCH_PX), np.arange(PATCH_PX))
    return np.stack([x.ravel(), y.ravel()], axis=1)


def shrunk(image: SensorImage, widest: int) -> SensorImage:
    """The image at most so many pixels wide, as a smaller sensor behind the same lens sees it."""
    camera = image.camera
    if camera.width <= widest:
        return image
    size = widest, max(1, round(camera.height * widest / camera.width))

    def nearest(values: Array32) -> Array32:
        return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_NEAREST), np.float32)

    values = np.asarray(cv2.resize(image.values, size, interpolation=cv2.INTER_AREA), np.float32)
    return replace(
        image, camera=camera.resized(*size), values=values.reshape(size[1], size[0], -1),
        valid=(None if image.valid is None else nearest(image.valid.astype(np.float32)) > 0.5),
        depth_m=None if image.depth_m is None else nearest(image.depth_m), depth_confidence=None)


def _render(renderer: LocalizationMap, modality: str, image: SensorImage, T_world_sensor: Array,
            pixels: Whole, tick: Tick) -> tuple[RayRendering, float]:
    """What the map shows at these pixels, and the seconds that it took."""
    origins, directions = (np.ascontiguousarray(part, np.float32) for part in pixel_rays(
        image.camera, T_world_sensor, image.sweep, np.asarray(pixels + 0.5, np.float64)))
    parts, started = [], time.perf_counter()
    for i in range(0, len(pixels), _CHUNK_RAYS):
        parts.append(renderer.render_rays(modality, origins[i:i + _CHUNK_RAYS],
                                          directions[i:i + _CHUNK_RAYS]))
        tick(min(1.0, (i + _CHUNK_RAYS) / len(pixels)))
    seconds = time.perf_counter() - started
    return RayRendering(*(np.concatenate([getattr(part, name) for part in parts])
                          for name in ('values', 'distance_m', 'spread_m', 'opacity'))), seconds

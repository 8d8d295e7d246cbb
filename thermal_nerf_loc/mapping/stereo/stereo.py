# SPDX-License-Identifier: Apache-2.0
"""
Dense depth of posed images of one modality, by multi-view stereo.

1. Survey: a few views are swept at low resolution between generous depths; their points say what
   each view sees, how near and how far.
2. Each view is swept through planes between these depths against its neighbours (`plane_sweep`),
   aggregated semi-globally (`semi_global`): depth with fractions of a plane.
3. Depths of neighbouring views are compared (`consistency`): what agrees is kept, and averaged.
4. What a depth is worth becomes a confidence (`confidence`).

Views are worked on in parallel, one in each thread; memory holds the views, their depths and one
cost volume a thread, or only the latter where the views lie on disk.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
import time

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.batches import in_batches
from thermal_nerf_loc.common.config import setting
from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.io.atomic_files import Allocate, in_memory
from thermal_nerf_loc.mapping.stereo.confidence import confidence_of, Evidence
from thermal_nerf_loc.mapping.stereo.neighbours import (
    guessed_depths, Neighbourhood, neighbourhood)
from thermal_nerf_loc.mapping.stereo.rectified_views import (
    ImagePixels, load_views, rectified_camera, RectifiedViews)
from thermal_nerf_loc.sensing.frame import SensorImage

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]

_SLANT_COST, _JUMP_COST = np.float32(0.06), np.float32(0.5)  # P1 and P2 of the aggregation
_EDGE = np.float32(0.3)  # a step between pixels that halves P2, in standard deviations
_SURVEY_WIDTH = 80
_SURVEY_VIEWS = (8, 32)  # in two rounds: by guessed depths, then by those found
_SURVEY_NEIGHBOURS, _SURVEY_PLANES, _SURVEY_POINTS = 4, 96, 300
_SURVEY_COST, _SURVEY_MARGIN = 0.4, 0.08  # highest cost, least margin of its points
_TIMED_VIEWS = 4  # swept to learn how long all will take
_CELLS = 16  # of a view, along each axis, in which the nearest survey point hides those behind
_HIDDEN = 1.5  # times the depth of the nearest one
_GUESS_PIXELS = 97  # between pixels whose depth is guessed
_FEWEST_POINTS = 30  # that tell the depths of a view
_QUANTILE, _NEARER, _FARTHER = 0.02, 0.6, 2.5  # range of depths: beyond the points that were found
_TRUSTED, _LEAST_SHARE = 0.3, 0.02  # confidence; share of the pixels of at least that
_LEAST_WIDTH = 96  # of views that are made smaller to save time
_BYTES_A_PIXEL = 21  # image and validity; depth, margin; depth and confidence


@dataclass(frozen=True, slots=True)
class StereoConfig:
    """Settings of stereo."""

    width: int = setting(320, 'pixels across the views that are compared', 64, 1024)
    planes: int = setting(128, 'planes of a sweep, at most', 24, 512)
    neighbours: int = setting(6, 'views that a view is compared with', 1, 16)
    tolerance: float = setting(0.02, 'relative difference of depths that agree', 1e-4, 0.5)


@dataclass(frozen=True, slots=True, eq=False)
class StereoDepth:
    """Depth along z in metres and confidence of each view of a modality; 0 where unknown."""

    views: RectifiedViews
    depth_m: Array32  # flat, as the images of the views
    confidence: Array32
    disagreement: float  # between views, relative: median of their RMS
    seconds: float

    @property
    def share(self) -> float:
        """Share of the pixels whose depth is known."""
        return float((self.confidence > 0.0).mean())

    @property
    def matches(self) -> bool:
        """False where hardly any depth can be trusted: wrong poses leave matches by chance."""
        return bool((self.confidence > _TRUSTED).mean() > _LEAST_SHARE)

    def at_view(self, i: int) -> tuple[Array32, Array32]:
        """Depth and confidence (h, w) of a view."""
        return (np.asarray(self.views.part(self.depth_m, i), np.float32),
                np.asarray(self.views.part(self.confidence, i), np.float32))

    def fill(self, i: int, where: NDArray[np.bool_], depth_m: Array32, confidence: Array32,
             ) -> None:
        """Set depth and confidence (h, w) of some pixels of a view."""
        self.views.part(self.depth_m, i)[where] = depth_m[where]
        self.views.part(self.confidence, i)[where] = confidence[where]

    def at_image(self, i: int, camera: Camera) -> tuple[Array32, Array32]:
        """Depth and confidence (h, w) at the pixels of an image with its own lens."""
        return _pixels(camera, self.views.cameras[i]).depth(*self.at_view(i))


def stereo_depth(name: str, cameras: Sequence[Camera], poses: Sequence[Array],
                 load: Callable[[int], SensorImage], config: StereoConfig = StereoConfig(),
                 progress: Progress = silent, allocate: Allocate = in_memory,
                 max_seconds: float | None = None) -> StereoDepth:
    """
    Depth of the images of a modality; `poses` are T_world_sensor.

    With `max_seconds` the views are made as small as the time asks for.
    """
    started = time.monotonic()
    views = load_views(name, cameras, poses, load, config.width, allocate, progress)
    points = survey(views, name, config, progress)
    message = f'stereo, {name}'
    if max_seconds is not None:
        needed = _seconds_needed(views, points, config)
        left = max_seconds - (time.monotonic() - started)
        widest = max(camera.width for camera in views.cameras)
        width = _affordable_width(widest, max(left, 0.0) / needed)
        if width < widest:
            message += f', {width} px wide to save time'
            views = views.reduced(width, allocate)
    regions = [_region(views, i, points, config) for i in range(len(views))]
    raw = _swept_all(views, regions, progress, message, allocate)
    depth, confidence, disagreement = _checked(views, regions, raw, name, config, progress,
                                               allocate)
    return StereoDepth(views, depth, confidence, disagreement, time.monotonic() - started)


def bytes_needed(cameras: Sequence[Camera], config: StereoConfig) -> int:
    """Memory of the views of these cameras, and of what is found in them."""
    pixels = {camera: rectified_camera(camera, config.width) for camera in set(cameras)}
    return _BYTES_A_PIXEL * sum(pixels[camera].width * pixels[camera].height for camera in cameras)


def survey(views: RectifiedViews, name: str, config: StereoConfig, progress: Progress) -> Array:
    """Surface points (n, 3) of the world, from sweeps of some views at low resolution."""
    views = views.reduced(_SURVEY_WIDTH)
    config = replace(config, neighbours=min(config.neighbours, _SURVEY_NEIGHBOURS),
                     planes=_SURVEY_PLANES)
    points: Array = np.empty((0, 3))
    is_compiled = False
    for count in _SURVEY_VIEWS:
        chosen = range(0, len(views), max(1, len(views) // count))
        regions = {i: _region(views, i, points, config) for i in chosen}
        if not is_compiled:  # in one thread
            _swept(views, chosen[0], regions[chosen[0]])
            is_compiled = True
        found = in_batches(lambda k, chosen=chosen, regions=regions: _points_of(  # type: ignore[misc]
            views, chosen[k], *_swept(views, chosen[k], regions[chosen[k]])), len(chosen),
            progress, f'stereo, {name}: how far the views see')
        points = np.concatenate([part for part in found if len(part)] or [np.empty((0, 3))])
    return points


def _seconds_needed(views: RectifiedViews, points: Array, config: StereoConfig) -> float:
    """Seconds that sweeping all views will take, from sweeps of some."""
    chosen = range(0, len(views), max(1, len(views) // _TIMED_VIEWS))[:_TIMED_VIEWS]
    regions = {i: _region(views, i, points, config) for i in chosen}
    started = time.monotonic()
    in_batches(lambda k: _swept(views, chosen[k], regions[chosen[k]]), len(chosen), silent, '')
    return max(time.monotonic() - started, 1e-6) * len(views) / len(chosen)


def _affordable_width(widest: int, share: float) -> int:
    """The width of views at which sweeping takes about this share of the time it takes now."""
    return int(np.clip(widest * np.sqrt(share), min(_LEAST_WIDTH, widest), widest))


@lru_cache(maxsize=4)
def _pixels(camera: Camera, view: Camera) -> ImagePixels:
    return ImagePixels(camera, view)


def _region(views: RectifiedViews, i: int, points: Array, config: StereoConfig,
            ) -> Neighbourhood:
    """Neighbours and planes of a view, by the survey points that it sees; else by a guess."""
    seen, depth = _surface(views, i, points)
    if len(seen) >= _FEWEST_POINTS:
        near, far = np.quantile(depth, (_QUANTILE, 1.0 - _QUANTILE)) * (_NEARER, _FARTHER)
    else:
        near, far = guessed_depths(views.poses)
        rays = views.cameras[i].rays()[::_GUESS_PIXELS]
        depth = np.geomspace(near, far, len(rays))[np.random.default_rng(0).permutation(len(rays))]
        seen = se3.transform(views.poses[i], rays / rays[:, 2:] * depth[:, None])
    return neighbourhood(views, i, seen, (float(near), float(far)), config.neighbours,
                         config.planes)


def _surface(views: RectifiedViews, i: int, points: Array) -> tuple[Array, Array]:
    """The points that a view sees, without those behind nearer ones, and their depths."""
    if not len(points):
        return points, np.empty(0)
    camera = views.cameras[i]
    local = se3.transform(se3.inverse(views.poses[i]), points)
    uv, visible = camera.project(local)
    points, uv, depth = points[visible], uv[visible], local[visible, 2]
    x, y = (np.clip(uv.T * _CELLS / np.array(camera.size)[:, None], 0, _CELLS - 1)).astype(int)
    nearest = np.full((_CELLS, _CELLS), np.inf)
    np.minimum.at(nearest, (y, x), depth)
    open_ = depth < _HIDDEN * nearest[y, x]
    return points[open_], depth[open_]


def _swept(views: RectifiedViews, i: int, region: Neighbourhood,
           ) -> tuple[Array32, Array32, Array32]:
    """Depth, cost and margin (h, w) of one view; depth 0 where there are no neighbours."""
    from thermal_nerf_loc.mapping.stereo import plane_sweep, semi_global
    shape = views.shape(i)
    plane, least, margin = (np.zeros(shape, np.float32) for _ in range(3))
    if not region.views:
        return plane, least, margin
    A, b = _homographies(views, i, region.views)
    flat, starts, sizes = _stacked(views, views.images, region.views)
    inverse = region.planes.inverse_depths()
    cost = np.empty((*shape, len(inverse)), np.uint16)
    image = views.image(i)
    plane_sweep.sweep(image, flat, starts, sizes, A, b, inverse, np.float32(views.noise**2),
                      cost)
    summed = np.zeros(cost.shape, np.float32)
    for forward in (True, False):
        semi_global.aggregate(cost, image, _SLANT_COST, _JUMP_COST, _EDGE, summed, forward)
    semi_global.select(summed, cost, plane, least, margin)
    step = (inverse[-1] - inverse[0]) / (len(inverse) - 1)
    depth = np.where(views.part(views.valid, i), 1.0 / (inverse[0] + step * plane), 0.0)
    return depth.astype(np.float32), least, margin


def _homographies(views: RectifiedViews, i: int, others: Sequence[int]) -> tuple[Array, Array]:
    """A (n, 3, 3) and b (n, 3) of `plane_sweep`."""
    back = np.linalg.inv(views.cameras[i].matrix)
    A, b = [], []
    for j in others:
        T = se3.inverse(views.poses[j]) @ views.poses[i]
        A.append(views.cameras[j].matrix @ T[:3, :3] @ back)
        b.append(views.cameras[j].matrix @ T[:3, 3])
    return np.stack(A), np.stack(b)


def _stacked(views: RectifiedViews, values: Array32, chosen: Sequence[int],
             ) -> tuple[Array32, NDArray[np.int64], NDArray[np.int64]]:
    """Some views' pixels one after the other, with their starts and sizes (height, width)."""
    parts = [views.part(values, j).reshape(-1) for j in chosen]
    starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])])[:-1]
    return (np.concatenate(parts).astype(np.float32), starts.astype(np.int64),
            np.array([views.shape(j) for j in chosen], np.int64))


def _swept_all(views: RectifiedViews, regions: Sequence[Neighbourhood], progress: Progress,
               message: str, allocate: Allocate) -> tuple[Array32, Array32]:
    """Depth and margin of all views, flat."""
    depth, margin = (allocate(views.images.shape, np.float32) for _ in range(2))

    def fill(i: int) -> None:
        found, _, sure = _swept(views, i, regions[i])
        views.part(depth, i)[:], views.part(margin, i)[:] = found, sure

    in_batches(fill, len(views), progress, message)
    return depth, margin


def _checked(views: RectifiedViews, regions: Sequence[Neighbourhood],
             raw: tuple[Array32, Array32], name: str, config: StereoConfig, progress: Progress,
             allocate: Allocate) -> tuple[Array32, Array32, float]:
    """Depth averaged over the views that agree, its confidence, both flat; and disagreement."""
    from thermal_nerf_loc.mapping.stereo import consistency
    intrinsics = np.array([(c.fx, c.fy, c.cx, c.cy) for c in views.cameras])
    depth, confidence = (allocate(views.images.shape, np.float32) for _ in range(2))
    depth[:], confidence[:] = 0.0, 0.0

    def check(i: int) -> float:
        own, margin = (np.ascontiguousarray(views.part(values, i)) for values in raw)
        chosen = regions[i].views
        if not chosen:
            return np.nan
        others, starts, sizes = _stacked(views, raw[0], chosen)
        T = np.stack([se3.inverse(views.poses[j]) @ views.poses[i] for j in chosen])
        fused, spread = np.empty_like(own), np.empty_like(own)
        agreeing, conflicting = np.empty(own.shape, np.int32), np.empty(own.shape, np.int32)
        consistency.compare(own, intrinsics[i], others, starts, sizes, intrinsics[list(chosen)],
                            T, config.tolerance, fused, agreeing, conflicting, spread)
        sure = confidence_of(Evidence(fused, agreeing, conflicting, spread, margin), name)
        views.part(depth, i)[:] = np.where(sure > 0.0, fused, 0.0)
        views.part(confidence, i)[:] = sure
        return float(np.median(spread[sure > 0.0])) if (sure > 0.0).any() else np.nan

    spreads = np.array(in_batches(check, len(views), progress, f'stereo, {name}: comparing views'))
    known = spreads[np.isfinite(spreads)]
    return depth, confidence, float(np.median(known)) if known.size else float('nan')


def _points_of(views: RectifiedViews, i: int, depth: Array32, cost: Array32, margin: Array32,
               ) -> Array:
    """Some world points (n, 3) of a surveyed view that stand out."""
    good = np.flatnonzero((depth > 0.0) & (cost < _SURVEY_COST) & (margin > _SURVEY_MARGIN))
    good = good[::1 + len(good) // _SURVEY_POINTS]
    rays = views.cameras[i].rays()[good]
    return se3.transform(views.poses[i], rays / rays[:, 2:] * depth.reshape(-1)[good, None])

# SPDX-License-Identifier: Apache-2.0
"""
What a thermal depth network is taught: depth in the thermal camera, and how far to trust it.

The map itself is a teacher: it renders depth where the thermal camera stood, and its spread along
each ray is its doubt; it also shows views that nobody took. A monocular RGB network is another:
its depth lies in the RGB camera, is trusted as far as neighbouring frames tell the same of the
same surface, and is warped into the thermal camera, to fractions of a pixel and with occlusions.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.io.datasets.scene import load_image, Scene
from thermal_nerf_loc.mapping.map.panoramas import Panoramas, places_of
from thermal_nerf_loc.mapping.thermal_depth.depth_warp import warp_depth
from thermal_nerf_loc.mapping.thermal_depth.model import shrunk
from thermal_nerf_loc.mapping.training.config import INVERSE, METRIC
from thermal_nerf_loc.sensing.frame import RGB, SensorImage, THERMAL
from thermal_nerf_loc.sensing.rendering import Renderer, sureness

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]
RgbModel = Callable[[Array32], Array32]  # an image (h, w, 3) to what it has for depth (h, w)

_SAME = 0.1  # frames agree on a surface: logarithms of its depth
_NEIGHBOURS = 3
_UNSEEN = 0.3  # trust where no neighbour looks
_PATH_SHARE = 0.4  # of the views that nobody took: around training cameras
_JITTER_M, _JITTER_RAD = 0.2, np.deg2rad(8.0)  # sigma of these
_BESIDE_M, _TILT_RAD = 0.1, np.deg2rad(5.0)  # sigma of those around places
_CLEARANCE_M, _LEAST_SURE = 0.2, 0.8
# a spread of this share of the distance halves the trust in a map: its doubt weighs in the
# likelihood already, and even there it knows more than the network will
_SPREAD_SHARE = 0.2
_FIT_ROUNDS = 5


@dataclass(frozen=True, slots=True, eq=False)
class DepthExample:
    """A small thermal image and what is said of its depth; all (height, width)."""

    celsius: Array32
    depth_m: Array32  # along z; anything where trust is 0
    trust: Array32  # in [0, 1]
    doubt: Array32  # the teacher's own standard deviation, a share of the depth


def labelled(scene: Scene, indices: tuple[int, ...], camera: Camera) -> list[DepthExample]:
    """Measured depth of the thermal camera; frames without it teach nothing."""
    lessons = []
    for index in indices:
        image = load_image(THERMAL, scene.frames[index].records[THERMAL])
        depth = np.zeros(camera.size[::-1], np.float32)
        if image.depth_m is not None:
            depth = _sampled(np.nan_to_num(image.depth_m), camera)
        lessons.append(_lesson(image, camera, depth, (depth > 0.0).astype(np.float32)))
    return lessons


def from_map(renderer: Renderer, scene: Scene, indices: tuple[int, ...], camera: Camera,
             progress: Progress = silent) -> list[DepthExample]:
    """The map's own depth where thermal images were taken."""
    lessons = []
    for done, index in enumerate(indices):
        record = scene.frames[index].records[THERMAL]
        seen = look(renderer, THERMAL, camera,
                     scene.frames[index].T_world_cam @ record.T_cam_sensor)
        lessons.append(_lesson(load_image(THERMAL, record), camera, *seen[1:]))
        progress(done + 1, len(indices), 'depth of training views')
    return lessons


def unseen_views(renderer: Renderer, scene: Scene, indices: tuple[int, ...], camera: Camera,
                 count: int, rng: np.random.Generator, progress: Progress = silent,
                 ) -> list[DepthExample]:
    """Thermal images and depth that the map shows around its training cameras and places."""
    lessons: list[DepthExample] = []
    if count == 0:
        return lessons
    places = places_of(renderer, progress)
    for _ in range(4 * count):
        if len(lessons) == count:
            break
        frame = scene.frames[indices[int(rng.integers(len(indices)))]]
        T = _new_pose(frame.T_world_cam, places, rng)
        values, depth, trust, doubt = look(renderer, THERMAL, camera,
                                           T @ frame.records[THERMAL].T_cam_sensor)
        if np.quantile(depth, 0.02) > _CLEARANCE_M and trust.mean() > _LEAST_SURE:
            lessons.append(DepthExample(values, depth, trust, doubt))
        progress(len(lessons), count, 'views that nobody took')
    return lessons


def _new_pose(T_world_cam: Array, places: Panoramas, rng: np.random.Generator) -> Array:
    """Around a training camera; or around a place in free space, with any heading."""
    if rng.random() < _PATH_SHARE:
        sigma = np.repeat((_JITTER_M, _JITTER_RAD), 3)
        return se3.plus(T_world_cam, sigma * rng.normal(size=6))
    heading = se3.so3_exp(rng.uniform(0.0, 2.0 * np.pi) * places.up)
    position = places.positions[int(rng.integers(len(places)))] + _BESIDE_M * rng.normal(size=3)
    tilt = se3.so3_exp(_TILT_RAD * rng.normal(size=3))
    return se3.from_parts(heading @ T_world_cam[:3, :3] @ tilt, position)


def from_rgb(model: RgbModel, kind: str, renderer: Renderer, scene: Scene,
             indices: tuple[int, ...], camera: Camera, progress: Progress = silent,
             ) -> list[DepthExample]:
    """
    Depth that an RGB network sees, in the thermal camera.

    `kind` is 'metric', or 'affine' (depth) or 'inverse' (1 / depth) up to a scale and a shift,
    which the map's own depth tells for each image.
    """
    depths: dict[int, Array32] = {}
    for done, index in enumerate(indices):
        record = scene.frames[index].records[RGB]
        found = model(load_image(RGB, record).values)
        depths[index] = found if kind == METRIC else fit_depth_scale(found, kind, *look(
            renderer, RGB, record.camera,
            scene.frames[index].T_world_cam @ record.T_cam_sensor)[1:3])
        progress(done + 1, len(indices), 'depth of RGB images')
    lessons = []
    for index in indices:
        rgb, thermal = (scene.frames[index].records[name] for name in (RGB, THERMAL))
        trust = agreement(scene, index, depths)
        warped = warp_depth(depths[index], trust, rgb.camera, thermal.camera,
                            np.linalg.inv(thermal.T_cam_sensor) @ rgb.T_cam_sensor)
        depth, trust = (_sampled(part, camera) for part in warped)
        trust = np.where(depth > 0.0, trust, np.float32(0.0))
        lessons.append(_lesson(load_image(THERMAL, thermal), camera, depth, trust))
    return lessons


def agreement(scene: Scene, index: int, depths: dict[int, Array32]) -> Array32:
    """How well neighbouring frames' depth tells the same: (h, w) in [0, 1]."""
    here = scene.frames[index]
    record, depth = here.records[RGB], depths[index]
    votes, weight = np.zeros(depth.shape), np.zeros(depth.shape)
    for other in _neighbours(scene, index, depths):
        frame = scene.frames[other]
        T = (np.linalg.inv(here.T_world_cam @ record.T_cam_sensor)
             @ frame.T_world_cam @ frame.records[RGB].T_cam_sensor)
        seen, _ = warp_depth(depths[other], np.ones_like(depths[other]),
                             frame.records[RGB].camera, record.camera, T)
        both = (seen > 0.0) & (depth > 0.0)
        off = np.log(np.where(both, seen, 1.0) / np.where(both, depth, 1.0))
        votes += both * np.exp(-0.5 * (off / _SAME)**2)
        weight += both
    trust = np.where(weight > 0.0, votes / np.maximum(weight, 1.0), _UNSEEN)
    return np.where(depth > 0.0, trust, 0.0).astype(np.float32)


def fit_depth_scale(found: Array32, kind: str, depth_m: Array32, trust: Array32) -> Array32:
    """Metres: scale and shift by robust least squares against depth that is trusted."""
    x, y, weight = (np.asarray(part, np.float64).ravel() for part in (found, depth_m, trust))
    y = 1.0 / np.maximum(y, 1e-6) if kind == INVERSE else y
    good = np.isfinite(x)
    x, weight = np.where(good, x, 0.0), weight * good
    used = weight > 0.0
    if not used.any():
        return np.zeros(found.shape, np.float32)
    A = np.stack([x, np.ones_like(x)], axis=1)
    line = _matched(x[used], y[used])
    for _ in range(_FIT_ROUNDS):
        off = np.abs(y - A @ line)
        scale = 1.48 * np.median(off[used])
        root = np.sqrt(weight / (1.0 + (off / max(scale, 1e-9))**2))
        line = np.asarray(np.linalg.lstsq(A * root[:, None], y * root, rcond=None)[0])
    z = A @ line
    usable = good & (z > 1e-3 * np.abs(y).max()) & (line[0] > 0.0)
    z = np.where(usable, z, 1.0)
    return np.where(usable, 1.0 / z if kind == INVERSE else z, 0.0).reshape(found.shape).astype(
        np.float32)


def _matched(x: Array, y: Array) -> Array:
    """Slope and shift that give both the same quartiles: wild values have no say in them."""
    (a, b, c), (d, e, f) = (np.quantile(part, (0.25, 0.5, 0.75)) for part in (x, y))
    slope = (f - d) / max(c - a, 1e-12)
    return np.array([slope, e - slope * b])


def look(renderer: Any, modality: str, camera: Camera, T: Array,
          ) -> tuple[Array32, Array32, Array32, Array32]:
    """First channel, depth along z, trust and relative doubt (h, w) as the map shows them."""
    rays = camera.rays()
    along = (rays @ T[:3, :3].T).astype(np.float32)
    origins = np.broadcast_to(T[:3, 3].astype(np.float32), along.shape).copy()
    seen = renderer.render_rays(modality, origins, along)
    values = seen.values
    added = renderer.added(modality, camera.size) if hasattr(renderer, 'added') else None
    if added is not None:
        values = values + added.reshape(-1, 1)
    good = np.isfinite(seen.distance_m) & (seen.distance_m > 0.0)
    trust = sureness(seen.distance_m, seen.spread_m, seen.opacity, good, _SPREAD_SHARE)
    doubt = seen.spread_m / np.maximum(seen.distance_m, 1e-6)
    shape = camera.size[::-1]
    return tuple(np.asarray(part, np.float32).reshape(shape) for part in (  # type: ignore[return-value]
        values[:, 0], seen.distance_m * rays[:, 2], trust, doubt))


def _lesson(image: SensorImage, camera: Camera, depth_m: Array32, trust: Array32,
            doubt: Array32 | None = None) -> DepthExample:
    """Where the image is masked (the robot's own body), nothing is taught."""
    if image.valid is not None:
        trust = trust * _sampled(image.valid, camera)
    return DepthExample(shrunk(image, camera), depth_m, trust,
                  np.zeros_like(depth_m) if doubt is None else doubt)


def _neighbours(scene: Scene, index: int, depths: dict[int, Array32]) -> Iterator[int]:
    """Frames that look at the same: near, and turned little."""
    here = scene.frames[index].T_world_cam

    def apart(other: int) -> float:
        metres, degrees = se3.distance(here, scene.frames[other].T_world_cam)
        return float(metres + degrees / 30.0)

    return iter(sorted((other for other in depths if other != index), key=apart)[:_NEIGHBOURS])


def _sampled(values: NDArray[Any], camera: Camera) -> Array32:
    """Nearest pixels at a small camera's size: depth is never averaged over an edge."""
    h, w = values.shape
    rows = ((np.arange(camera.height) + 0.5) * h / camera.height).astype(np.intp)
    columns = ((np.arange(camera.width) + 0.5) * w / camera.width).astype(np.intp)
    return np.asarray(values[rows[:, None], columns], np.float32)

# SPDX-License-Identifier: Apache-2.0
"""
Training examples of a thermal depth network: thermal images with depth and its confidence.

The map itself is a teacher: it renders depth where the thermal camera was, and its spread along
each ray is the depth's uncertainty; it also renders novel views. A monocular RGB network is
another: its depth is in the RGB camera, has the confidence that neighbouring frames agree on the
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
from thermal_nerf_loc.mapping.map.localization_map import LocalizationMap, panoramas_of
from thermal_nerf_loc.mapping.map.panoramas import Panoramas
from thermal_nerf_loc.mapping.stereo.depth_warp import warp_depth
from thermal_nerf_loc.mapping.thermal_depth.model import reduced
from thermal_nerf_loc.mapping.training.config import INVERSE, METRIC
from thermal_nerf_loc.sensing.frame import RGB, SensorImage, THERMAL
from thermal_nerf_loc.sensing.rendering import render_image, sureness

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]
RgbModel = Callable[[Array32], Array32]  # an image (h, w, 3) to depth of some kind (h, w)

_CONSISTENCY_SIGMA = 0.1  # of log depth, between frames that see the same surface
_NEIGHBOURS = 3
_UNSEEN_CONFIDENCE = 0.3  # where no neighbour has depth
_PATH_SHARE = 0.4  # of the novel views: around training cameras
_JITTER_M, _JITTER_RAD = 0.2, np.deg2rad(8.0)  # sigma of these
_PANORAMA_JITTER_M, _TILT_RAD = 0.1, np.deg2rad(5.0)  # sigma of those around panoramas
_CLEARANCE_M, _LEAST_CONFIDENCE = 0.2, 0.8  # of a novel view
# A spread of this share of the distance halves the confidence in a map. It is large, because the
# likelihood takes the spread into account already, and even such depth is better than the
# network's.
_SPREAD_SHARE = 0.2
_FIT_ROUNDS = 5


@dataclass(frozen=True, slots=True, eq=False)
class DepthExample:
    """A reduced thermal image with depth; all (height, width)."""

    celsius: Array32
    depth_m: Array32  # along z; arbitrary where the confidence is 0
    confidence: Array32  # in [0, 1]
    relative_spread: Array32  # the teacher's standard deviation, a share of the depth


def measured_examples(scene: Scene, indices: tuple[int, ...],
                      camera: Camera) -> list[DepthExample]:
    """Measured depth of the thermal camera; confidence 0 for frames without it."""
    examples = []
    for index in indices:
        image = load_image(THERMAL, scene.frames[index].records[THERMAL])
        depth = np.zeros(camera.size[::-1], np.float32)
        if image.depth_m is not None:
            depth = _sampled(np.nan_to_num(image.depth_m), camera)
        examples.append(_example(image, camera, depth, (depth > 0.0).astype(np.float32)))
    return examples


def map_examples(renderer: LocalizationMap, scene: Scene, indices: tuple[int, ...],
                 camera: Camera, progress: Progress = silent) -> list[DepthExample]:
    """Depth rendered by the map where thermal images were taken."""
    examples = []
    for done, index in enumerate(indices):
        record = scene.frames[index].records[THERMAL]
        rendered = render_view(renderer, THERMAL, camera,
                               scene.frames[index].T_world_cam @ record.T_cam_sensor)
        examples.append(_example(load_image(THERMAL, record), camera, *rendered[1:]))
        progress(done + 1, len(indices), 'depth of training views')
    return examples


def novel_view_examples(renderer: LocalizationMap, scene: Scene, indices: tuple[int, ...],
                        camera: Camera, count: int, rng: np.random.Generator,
                        progress: Progress = silent) -> list[DepthExample]:
    """Thermal images and depth rendered around training cameras and the map's panoramas."""
    examples: list[DepthExample] = []
    if count == 0:
        return examples
    panoramas = panoramas_of(renderer, progress)
    for _ in range(4 * count):
        if len(examples) == count:
            break
        frame = scene.frames[indices[int(rng.integers(len(indices)))]]
        T = _novel_pose(frame.T_world_cam, panoramas, rng)
        values, depth, confidence, relative_spread = render_view(
            renderer, THERMAL, camera, T @ frame.records[THERMAL].T_cam_sensor)
        if np.quantile(depth, 0.02) > _CLEARANCE_M and confidence.mean() > _LEAST_CONFIDENCE:
            examples.append(DepthExample(values, depth, confidence, relative_spread))
        progress(len(examples), count, 'novel views')
    return examples


def _novel_pose(T_world_cam: Array, panoramas: Panoramas, rng: np.random.Generator) -> Array:
    """Around a training camera; or around a panorama in free space, with any heading."""
    if rng.random() < _PATH_SHARE:
        sigma = np.repeat((_JITTER_M, _JITTER_RAD), 3)
        return se3.plus(T_world_cam, sigma * rng.normal(size=6))
    heading = se3.so3_exp(rng.uniform(0.0, 2.0 * np.pi) * panoramas.up)
    center = panoramas.positions[int(rng.integers(len(panoramas)))]
    position = center + _PANORAMA_JITTER_M * rng.normal(size=3)
    tilt = se3.so3_exp(_TILT_RAD * rng.normal(size=3))
    return se3.from_parts(heading @ T_world_cam[:3, :3] @ tilt, position)


def rgb_examples(model: RgbModel, kind: str, renderer: LocalizationMap, scene: Scene,
                 indices: tuple[int, ...], camera: Camera, progress: Progress = silent,
                 ) -> list[DepthExample]:
    """
    Depth predicted by an RGB network, warped into the thermal camera.

    `kind` is 'metric', or 'affine' (depth) or 'inverse' (1 / depth) up to a scale and a shift,
    which are fitted to the map's depth for each image.
    """
    depths: dict[int, Array32] = {}
    for done, index in enumerate(indices):
        record = scene.frames[index].records[RGB]
        found = model(load_image(RGB, record).values)
        depths[index] = found if kind == METRIC else fit_depth_scale(found, kind, *render_view(
            renderer, RGB, record.camera,
            scene.frames[index].T_world_cam @ record.T_cam_sensor)[1:3])
        progress(done + 1, len(indices), 'depth of RGB images')
    examples = []
    for index in indices:
        rgb, thermal = (scene.frames[index].records[name] for name in (RGB, THERMAL))
        confidence = depth_consistency(scene, index, depths)
        warped = warp_depth(depths[index], confidence, rgb.camera, thermal.camera,
                            np.linalg.inv(thermal.T_cam_sensor) @ rgb.T_cam_sensor)
        depth, confidence = (_sampled(part, camera) for part in warped)
        confidence = np.where(depth > 0.0, confidence, np.float32(0.0))
        examples.append(_example(load_image(THERMAL, thermal), camera, depth, confidence))
    return examples


def depth_consistency(scene: Scene, index: int, depths: dict[int, Array32]) -> Array32:
    """How well the depth of neighbouring frames agrees: (h, w) in [0, 1]."""
    target = scene.frames[index]
    record, depth = target.records[RGB], depths[index]
    votes, weight = np.zeros(depth.shape), np.zeros(depth.shape)
    for other in _nearest_frames(scene, index, depths):
        frame = scene.frames[other]
        T = (np.linalg.inv(target.T_world_cam @ record.T_cam_sensor)
             @ frame.T_world_cam @ frame.records[RGB].T_cam_sensor)
        warped, _ = warp_depth(depths[other], np.ones_like(depths[other]),
                               frame.records[RGB].camera, record.camera, T)
        both = (warped > 0.0) & (depth > 0.0)
        log_ratio = np.log(np.where(both, warped, 1.0) / np.where(both, depth, 1.0))
        votes += both * np.exp(-0.5 * (log_ratio / _CONSISTENCY_SIGMA)**2)
        weight += both
    confidence = np.where(weight > 0.0, votes / np.maximum(weight, 1.0), _UNSEEN_CONFIDENCE)
    return np.where(depth > 0.0, confidence, 0.0).astype(np.float32)


def fit_depth_scale(found: Array32, kind: str, depth_m: Array32, confidence: Array32) -> Array32:
    """Metres: scale and shift by robust least squares against depth with confidence."""
    x, y, weight = (np.asarray(part, np.float64).ravel() for part in (found, depth_m, confidence))
    y = 1.0 / np.maximum(y, 1e-6) if kind == INVERSE else y
    good = np.isfinite(x)
    x, weight = np.where(good, x, 0.0), weight * good
    used = weight > 0.0
    if not used.any():
        return np.zeros(found.shape, np.float32)
    A = np.stack([x, np.ones_like(x)], axis=1)
    line = _quartile_line(x[used], y[used])
    for _ in range(_FIT_ROUNDS):
        residual = np.abs(y - A @ line)
        scale = 1.48 * np.median(residual[used])
        root = np.sqrt(weight / (1.0 + (residual / max(scale, 1e-9))**2))
        line = np.asarray(np.linalg.lstsq(A * root[:, None], y * root, rcond=None)[0])
    z = A @ line
    usable = good & (z > 1e-3 * np.abs(y).max()) & (line[0] > 0.0)
    z = np.where(usable, z, 1.0)
    return np.where(usable, 1.0 / z if kind == INVERSE else z, 0.0).reshape(found.shape).astype(
        np.float32)


def _quartile_line(x: Array, y: Array) -> Array:
    """Slope and shift that give both the same quartiles: robust to outliers."""
    (a, b, c), (d, e, f) = (np.quantile(part, (0.25, 0.5, 0.75)) for part in (x, y))
    slope = (f - d) / max(c - a, 1e-12)
    return np.array([slope, e - slope * b])


def render_view(renderer: LocalizationMap, modality: str, camera: Camera, T: Array,
                ) -> tuple[Array32, Array32, Array32, Array32]:
    """First channel, depth along z, its confidence and relative spread (h, w) at a pose T."""
    image = render_image(renderer, modality, camera, T,
                         offset=renderer.flat_field_offset(modality, camera.size))
    rays = image.rays
    good = np.isfinite(rays.distance_m) & (rays.distance_m > 0.0)
    confidence = sureness(rays.distance_m, rays.spread_m, rays.opacity, good, _SPREAD_SHARE)
    relative_spread = rays.spread_m / np.maximum(rays.distance_m, 1e-6)
    return (image.values[..., 0], image.depth_m,
            np.asarray(image.per_pixel(confidence), np.float32),
            np.asarray(image.per_pixel(relative_spread), np.float32))


def _example(image: SensorImage, camera: Camera, depth_m: Array32, confidence: Array32,
             relative_spread: Array32 | None = None) -> DepthExample:
    """With confidence 0 where the image is masked (the robot's own body)."""
    if image.valid is not None:
        confidence = confidence * _sampled(image.valid, camera)
    return DepthExample(reduced(image, camera), depth_m, confidence,
                        np.zeros_like(depth_m) if relative_spread is None else relative_spread)


def _nearest_frames(scene: Scene, index: int, depths: dict[int, Array32]) -> Iterator[int]:
    """Frames that probably see the same: near, and turned little."""
    T_world_cam = scene.frames[index].T_world_cam

    def apart(other: int) -> float:
        metres, degrees = se3.distance(T_world_cam, scene.frames[other].T_world_cam)
        return float(metres + degrees / 30.0)

    return iter(sorted((other for other in depths if other != index), key=apart)[:_NEIGHBOURS])


def _sampled(values: NDArray[Any], camera: Camera) -> Array32:
    """Nearest pixels at a small camera's size: depth is never averaged over an edge."""
    h, w = values.shape
    rows = ((np.arange(camera.height) + 0.5) * h / camera.height).astype(np.intp)
    columns = ((np.arange(camera.width) + 0.5) * w / camera.width).astype(np.intp)
    return np.asarray(values[rows[:, None], columns], np.float32)

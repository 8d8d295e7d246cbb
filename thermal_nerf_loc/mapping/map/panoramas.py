# SPDX-License-Identifier: Apache-2.0
"""
Panoramas of a map, rendered from free space on and beside the training path; retrieval reads them.

A panorama is a sphere of rays: for each one the values of each modality, the distance of the
surface and the map's confidence. Space is free where a training camera stood, and where a panorama
sees past it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.config import setting
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.sensing.rendering import render_all, Renderer, sureness

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]

_BLOCKING_RAYS = 4  # of a panorama around a direction: the nearest surface among them counts
_BATCH = 8  # panoramas rendered at once
_SCOUTS, _SCOUT_RAYS = 16, 200  # coarse panoramas that measure how far away surfaces are
_MIN_SURFACE_WEIGHT = 0.1


@dataclass(frozen=True, slots=True)
class PanoramaConfig:
    """How many panoramas are rendered, and where."""

    # Lengths are shares of the median distance of what the training path sees: a map need not be
    # in metres, and neighbouring panoramas shall differ equally little in any map.
    spacing: float = setting(0.22, 'between two panoramas', 0.02, 10.0)
    clearance: float = setting(0.137, 'of a panorama from any surface', 0.0, 10.0)
    above: float = setting(0.165, 'how far above and below the training path panoramas lie',
                           0., 10.)
    rays: int = setting(1000, 'of a panorama', 100, 20_000)
    most: int = setting(1500, 'panoramas; in larger maps they lie further apart', 1, 100_000)
    min_sure: float = setting(0.6, 'mean weight of a panorama, as a share of the median on the '
                              'training path: below, the map shows artefacts', 0.0, 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class Panoramas:
    """Panoramas (n) of rays (m) along `directions(m)`, and how the cameras were held."""

    positions: Array32  # (n, 3) world
    distance_m: Array32  # (n, m)
    weight: Array32  # (n, m) in [0, 1]: confidence of the map
    values: Mapping[str, Array32]  # (n, m, channels), in the sensors' units
    up: Array  # (3,) world: the mean of the training cameras' upward axes
    camera_ups: Array  # (k, 3) the same direction as training cameras saw it, in their axes

    def __post_init__(self) -> None:
        """Check the shapes."""
        n, m = self.distance_m.shape
        fits = (self.positions.shape == (n, 3) and self.weight.shape == (n, m)
                and self.up.shape == (3,) and self.camera_ups.shape[1:] == (3,)
                and len(self.camera_ups) > 0
                and all(v.ndim == 3 and v.shape[:2] == (n, m) for v in self.values.values()))
        if not fits:
            raise ValueError('panoramas have parts of different sizes')

    def __len__(self) -> int:
        """Number of panoramas."""
        return len(self.positions)

    @property
    def directions(self) -> Array32:
        """Unit vectors (m, 3) in the world."""
        return sphere(self.distance_m.shape[1]).astype(np.float32)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """All arrays by name, for a file; images and distances as 16-bit floats."""
        halves = {f'value.{name}': v for name, v in self.values.items()}
        halves |= {'distance': self.distance_m, 'weight': self.weight}
        return {'position': self.positions, 'up': self.up, 'camera_ups': self.camera_ups,
                **{name: array.astype(np.float16) for name, array in halves.items()}}

    @classmethod
    def from_tensors(cls, parts: Mapping[str, NDArray[Any]]) -> 'Panoramas':
        """Inverse of `tensors`."""
        values = {name.removeprefix('value.'): part.astype(np.float32)
                  for name, part in parts.items() if name.startswith('value.')}
        return cls(parts['position'], parts['distance'].astype(np.float32),
                   parts['weight'].astype(np.float32), values, parts['up'], parts['camera_ups'])


def sphere(count: int) -> Array:
    """Unit directions (count, 3) spread evenly: a Fibonacci lattice."""
    k = np.arange(count) + 0.5
    z = 1.0 - 2.0 * k / count
    angle = k * np.pi * (3.0 - np.sqrt(5.0))
    radius = np.sqrt(1.0 - z**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=-1)


def find_panoramas(renderer: Renderer, viewpoints: Array,
                   config: PanoramaConfig = PanoramaConfig(),
                   progress: Progress = silent) -> Panoramas:
    """Render panoramas on the training path (poses (n, 4, 4)) and from free space beside it."""
    poses = np.asarray(viewpoints, dtype=np.float64)
    if poses.ndim != 3 or not len(poses):
        raise InputError('no training pose to render panoramas from', expected='poses (n, 4, 4)',
                         got=f'shape {poses.shape}')
    up = _mean_direction(-poses[:, :3, 1])
    distance_m = _median_distance(renderer, poses[:, :3, 3])
    clearance_m = config.clearance * distance_m
    on_path = _thinned(poses[:, :3, 3], config.spacing * distance_m)
    progress(0.0, 1.0, f'{len(on_path)} panoramas of the training path')
    path_batch = _rendered(renderer, on_path, config.rays)
    lattice, spacing_m = _lattice(poses[:, :3, 3], up, path_batch, config, distance_m)
    beside = _free(lattice, path_batch, clearance_m)
    beside = beside[_apart_from(beside, on_path, 0.5 * spacing_m)]
    batches = [path_batch]
    for begin in range(0, len(beside), _BATCH):
        batches.append(_rendered(renderer, beside[begin:begin + _BATCH], config.rays))
        progress(begin / len(beside), 1.0, f'{len(beside)} panoramas beside it')
    positions, distance, weight = (np.concatenate([batch[i] for batch in batches])
                                   for i in range(3))
    values = {name: np.concatenate([batch[3][name] for batch in batches])
              for name in renderer.modalities}
    path_weight = float(np.median(path_batch[2].mean(axis=1)))
    good = (weight.mean(axis=1) >= config.min_sure * path_weight) & (
        np.quantile(distance, 0.01, axis=1) >= clearance_m)
    good[:len(on_path)] = True
    return Panoramas(positions[good], distance[good], weight[good],
                     {name: value[good] for name, value in values.items()}, up,
                     np.einsum('nji,j->ni', poses[:, :3, :3], up))


# positions, distance, weight and values of some panoramas, as in `Panoramas`
_Batch = tuple[Array32, Array32, Array32, dict[str, Array32]]


def _rendered(renderer: Renderer, positions: Array, rays: int) -> _Batch:
    """Panoramas at `positions` (n, 3); of two modalities, the more confident one's distance."""
    directions = sphere(rays).astype(np.float32)
    n = len(positions)
    positions_m = positions.astype(np.float32)
    origins = np.repeat(positions_m, rays, axis=0)
    all_directions = np.tile(directions, (n, 1))
    distance = weight = np.zeros((n, rays), np.float32)
    values = {}
    for name, rendering in render_all(renderer, origins, all_directions).items():
        far_m = rendering.distance_m.reshape(n, rays)
        good = np.isfinite(far_m) & (far_m > 0.0)
        good &= np.isfinite(rendering.values).all(-1).reshape(n, rays)
        confidence = sureness(far_m, rendering.spread_m.reshape(n, rays),
                              rendering.opacity.reshape(n, rays), good)
        distance = np.where(confidence > weight, far_m, distance).astype(np.float32)
        weight = np.maximum(weight, confidence).astype(np.float32)
        values[name] = np.nan_to_num(rendering.values).reshape(n, rays, -1).astype(np.float32)
    return positions_m, distance, weight, values


def _median_distance(renderer: Renderer, path: Array) -> float:
    """Median distance of surfaces seen from the path; of anything, where all is fog still."""
    scouts = path[np.unique(np.linspace(0, len(path) - 1, _SCOUTS).round().astype(np.intp))]
    _, distance, weight, _ = _rendered(renderer, scouts, _SCOUT_RAYS)
    surfaces = distance[weight > _MIN_SURFACE_WEIGHT]
    distances = surfaces if len(surfaces) else distance[np.isfinite(distance) & (distance > 0.0)]
    if not len(distances):
        raise InputError('map shows nothing from where its cameras stood',
                         hint='Train it longer.')
    return float(np.median(distances))


def _lattice(path: Array, up: Array, batch: _Batch, config: PanoramaConfig, distance_m: float,
             ) -> tuple[Array, float]:
    """Regular lattice over what the path sees, in the path's own band of heights; its spacing."""
    origins, distance = batch[0].astype(np.float64), batch[1]
    surfaces = origins[:, None] + sphere(distance.shape[1]) * distance[..., None]
    axes = _axes(up)
    low, high = (np.quantile(surfaces.reshape(-1, 3) @ axes.T, q, axis=0) for q in (0.02, 0.98))
    heights = path @ up
    above_m, spacing_m = config.above * distance_m, config.spacing * distance_m
    low[2], high[2] = heights.min() - above_m, heights.max() + above_m
    layers = max(int((high[2] - low[2]) / spacing_m), 1)
    area = float(np.prod(high[:2] - low[:2]))
    spacing_m = max(spacing_m, float(np.sqrt(area * layers / config.most)))
    lines = [np.arange(a + 0.5 * ((b - a) % spacing_m), b, spacing_m)
             for a, b in zip(low[:2], high[:2])]
    lines.append(low[2] + (np.arange(layers) + 0.5) * (high[2] - low[2]) / layers)
    return np.stack(np.meshgrid(*lines, indexing='ij'), -1).reshape(-1, 3) @ axes, spacing_m


def _free(points: Array, batch: _Batch, clearance_m: float) -> Array:
    """Points that some panorama sees past, this far from the surface behind."""
    directions = sphere(batch[1].shape[1])
    free = np.zeros(len(points), dtype=np.bool_)
    for origin, distance in zip(batch[0].astype(np.float64), batch[1]):
        offsets = points - origin
        length = np.linalg.norm(offsets, axis=1)
        cosines = (offsets / np.maximum(length, 1e-9)[:, None]) @ directions.T
        near = np.argpartition(-cosines, _BLOCKING_RAYS, axis=1)[:, :_BLOCKING_RAYS]
        free |= distance[near].min(axis=1) > length + clearance_m
    return points[free]


def _thinned(points: Array, spacing_m: float) -> Array:
    """Some of the points, no two closer than about the spacing, in their order."""
    kept: list[Array] = []
    for point in points:
        if not kept or np.linalg.norm(np.array(kept) - point, axis=1).min() >= spacing_m:
            kept.append(point)
    return np.array(kept)


def _apart_from(points: Array, others: Array, least_m: float) -> NDArray[np.bool_]:
    return np.asarray(
        np.linalg.norm(points[:, None] - others[None], axis=-1).min(axis=1) >= least_m)


def _mean_direction(vectors: Array) -> Array:
    mean = vectors.mean(axis=0)
    size = float(np.linalg.norm(mean))
    return np.asarray(mean / size) if size > 1e-6 else np.array([0.0, 0.0, 1.0])


def _axes(up: Array) -> Array:
    """Rows: two directions across, and up; the world's own where up is its z."""
    across = np.eye(3)[int(np.argmin(np.abs(up)))]
    x = across - up * float(across @ up)
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(up, x), up])

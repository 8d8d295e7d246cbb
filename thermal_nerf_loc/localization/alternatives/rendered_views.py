# SPDX-License-Identifier: Apache-2.0
"""
Small views rendered from new poses in a map, for the training of pose regressors.

Some poses lie around those of the training cameras. The others lie around the map's panoramas, all
over free space, with any heading and tilted as in training. Views of which the map is unsure, or
that are too close to a surface, are left out.

Each view is rendered wider than the camera sees, so that `crop` can take what the camera would see
after a small rotation about any axis: one rendering gives many views, and a network learns to
distinguish rotations from translations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor

from thermal_nerf_loc.common.config import setting
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.mapping.map.localization_map import (
    LocalizationMap, panoramas_of, with_panoramas)
from thermal_nerf_loc.mapping.map.panoramas import Panoramas
from thermal_nerf_loc.sensing.frame import Frame, RGB
from thermal_nerf_loc.sensing.rendering import sureness

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]

_BATCH = 64  # views rendered at once
_TILT_SIGMA_RAD = np.deg2rad(4.0)
_BLUR_PX = 0.8  # of a thumbnail: rays are points, pixels are means
_JUMP_M, _JUMP_RAD = 1.0, np.deg2rad(45.0)  # between neighbours: the path is interrupted
_NEAR_RAYS = 4  # of a panorama around a direction
_MARGIN_RAD = np.deg2rad(10.0)  # rendered beyond what the camera sees, on all sides
_WIDEST_RAD = np.deg2rad(75.0)  # half of what is rendered, at most


@dataclass(frozen=True, slots=True)
class ViewsConfig:
    """What is rendered."""

    count: int = setting(6000, 'views', 50, 1_000_000)
    width_px: int = setting(24, 'of a view', 8, 320)
    path_share: float = setting(0.5, 'share of the views around training cameras', 0.0, 1.0)
    path_m: float = setting(0.1, 'sigma of these, in each axis', 0.0, 10.0)
    path_deg: float = setting(6.0, 'sigma of these, about each axis', 0.0, 180.0)
    reach_m: float = setting(0.3, 'of a view from its panorama, at most', 0.0, 10.0)
    clearance_m: float = setting(0.15, 'of a view from any surface, at least', 0.0, 10.0)
    max_uncertainty: float = setting(10.0, 'mean uncertainty of the surfaces in a view: '
                                     'base-10 logarithm of sigma; 10: any', -10.0, 10.0)
    min_sure: float = setting(0.35, 'mean weight of a view: below, the map shows artefacts',
                              0.0, 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class ThumbnailCamera:
    """One camera of the rig, as small as a thumbnail."""

    camera: Camera
    T_cam_sensor: Array

    @property
    def wide(self) -> Camera:
        """The camera that is rendered: a pinhole of the same focal length with a wider view."""
        rays, f = self.camera.rays(), self.camera.fx
        ahead = rays[rays[:, 2] > 0.1]
        most = np.abs(ahead[:, :2] / ahead[:, 2:]).max(axis=0)
        reach = np.tan(np.minimum(np.arctan(most) + _MARGIN_RAD, _WIDEST_RAD))
        width, height = (2 * int(np.ceil(f * side)) for side in reach)
        return Camera(width, height, f, f, 0.5 * width, 0.5 * height)


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """Poses (n, 4, 4), and wide images (n, channels, height, width) by modality."""

    poses: Array
    images: Mapping[str, Tensor]
    cameras: Mapping[str, ThumbnailCamera]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.poses)

    def chosen(self, rows: NDArray[Any]) -> 'Views':
        """Some of them, by mask or index."""
        which = torch.from_numpy(np.arange(len(self))[rows])
        return Views(self.poses[rows], {name: part[which] for name, part in self.images.items()},
                     self.cameras)

    def only(self, modalities: Sequence[str]) -> 'Views':
        """Some of the images."""
        return Views(self.poses, {name: self.images[name] for name in modalities},
                     {name: self.cameras[name] for name in modalities})


def thumbnail_cameras(frame: Frame, modalities: tuple[str, ...], width_px: int,
                      ) -> dict[str, ThumbnailCamera]:
    """The cameras of a frame, reduced to a width of `width_px`."""
    return {name: ThumbnailCamera(frame.images[name].camera.resized(width_px, max(round(
        width_px * frame.images[name].camera.height / frame.images[name].camera.width), 8)),
        frame.images[name].T_cam_sensor) for name in modalities if name in frame.images}


def thumbnails(frames: Sequence[Frame], cameras: Mapping[str, ThumbnailCamera],
               ) -> dict[str, Tensor]:
    """Images (n, channels, height, width) at the cameras' size, normalised as in `crop`."""
    return {name: normalised(torch.from_numpy(blurred(np.stack(
        [_shrunk(frame.images[name].values, small.camera) for frame in frames]))), name)
        for name, small in cameras.items()}


def _shrunk(values: Array32, camera: Camera) -> Array32:
    mean = np.nanmean(values) if np.isfinite(values).any() else 0.0
    small = cv2.resize(np.nan_to_num(values, nan=float(mean)), camera.size,
                       interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32).reshape(camera.height, camera.width, -1)


def blurred(images: Array32) -> Array32:
    """Images (n, height, width, channels) as (n, channels, height, width), smoothed."""
    return np.stack([np.moveaxis(cv2.GaussianBlur(image, (0, 0), _BLUR_PX).reshape(image.shape),
                                 -1, 0) for image in images]).astype(np.float32)


def normalised(images: Tensor, modality: str) -> Tensor:
    """Subtract the image's own mean (thermal cameras drift); divide colours by their contrast."""
    level = images - images.mean(dim=(1, 2, 3), keepdim=True)
    return (level / (level.std(dim=(1, 2, 3), keepdim=True) + 0.05) if modality == RGB else level)


def crop(views: Views, rows: Tensor | None = None, turns: Array | None = None,
         ) -> dict[str, Tensor]:
    """
    What the cameras see (n, channels, height, width), each view turned by its rotation (n, 3, 3).

    Every camera of the rig turns about its own centre; that they stand some centimetres apart is
    neglected (they would move by millimetres).
    """
    rows = torch.arange(len(views)) if rows is None else rows
    found = {}
    for name, small in views.cameras.items():
        S = small.T_cam_sensor[:3, :3]
        R = S[None].transpose(0, 2, 1) @ (np.eye(3)[None] if turns is None else turns) @ S
        turned = torch.from_numpy(R).float()
        directions = torch.from_numpy(small.camera.rays()).float() @ turned.transpose(1, 2)
        camera = small.wide
        half = directions.new_tensor((0.5 * camera.width / camera.fx,
                                      0.5 * camera.height / camera.fy))
        grid = (directions[..., :2] / directions[..., 2:].clamp(min=0.1) / half).reshape(
            -1, small.camera.height, small.camera.width, 2).expand(len(rows), -1, -1, -1)
        found[name] = normalised(nn.functional.grid_sample(
            views.images[name][rows], grid, padding_mode='border', align_corners=False), name)
    return found


def draw_poses(renderer: LocalizationMap, count: int, config: ViewsConfig,
               rng: np.random.Generator) -> Array:
    """Draw poses around training cameras, and all over free space, tilted as in training."""
    viewpoints = renderer.viewpoints
    if not len(viewpoints):
        raise InputError('map does not say how its cameras were held',
                         hint='Train the map again.')
    on_path_count = int((rng.random(count) < config.path_share).sum())
    sigma = np.repeat((config.path_m, np.deg2rad(config.path_deg)), 3)
    on_path = se3.plus(_between(viewpoints, on_path_count, rng),
                       sigma * rng.normal(size=(on_path_count, 6)))
    count -= on_path_count
    if not count:
        return np.asarray(on_path)
    panoramas = panoramas_of(renderer)
    positions = _positions(panoramas, count, config, rng)
    headings = se3.so3_exp(rng.uniform(0.0, 2.0 * np.pi, (count, 1)) * panoramas.up)
    tilts = se3.so3_exp(rng.normal(0.0, _TILT_SIGMA_RAD, (count, 3)))
    R = viewpoints[rng.integers(0, len(viewpoints), count), :3, :3]
    free = se3.from_parts(headings @ R @ tilts, positions)
    return np.concatenate([on_path, free])


def _between(path: Array, count: int, rng: np.random.Generator) -> Array:
    """Poses on the path; it is not interpolated where it jumps."""
    k = rng.integers(0, len(path), count)
    step = se3.minus(path[np.minimum(k + 1, len(path) - 1)], path[k])
    jumps = ((np.linalg.norm(step[:, :3], axis=1) > _JUMP_M)
             | (np.linalg.norm(step[:, 3:], axis=1) > _JUMP_RAD))
    return np.asarray(se3.plus(path[k], np.where(jumps, 0.0, rng.random(count))[:, None] * step))


def render_views(renderer: LocalizationMap, cameras: Mapping[str, ThumbnailCamera],
                 config: ViewsConfig, seed: int, progress: Progress = silent) -> Views:
    """Render views, wide, and keep those of which the map is sure."""
    if config.path_share < 1.0:
        renderer = with_panoramas(renderer)  # once, not for each batch
    rng = np.random.default_rng(seed)
    poses: list[Array] = []
    images: dict[str, list[Array32]] = {name: [] for name in cameras}
    wide = {name: ThumbnailCamera(small.wide, small.T_cam_sensor)
            for name, small in cameras.items()}
    done = tried = 0
    while done < config.count:
        if tried > 20 * config.count:
            raise InputError('map shows hardly anything that it is sure of',
                             where='regression', expected=f'{config.count} views',
                             got=f'{done} of {tried}', hint='Train the map longer.')
        batch = draw_poses(renderer, _BATCH, config, rng)
        shown, sure = _render(renderer, wide, batch, config)
        poses.append(batch[sure])
        for name, part in shown.items() if sure.any() else ():
            images[name].append(blurred(part[sure]))
        done, tried = done + int(sure.sum()), tried + _BATCH
        progress(min(done, config.count), config.count, f'{config.count} views rendered')
    return Views(np.concatenate(poses)[:config.count],
                 {name: torch.from_numpy(np.concatenate(part)[:config.count])
                  for name, part in images.items()}, cameras)


def _render(renderer: LocalizationMap, cameras: Mapping[str, ThumbnailCamera], poses: Array,
            config: ViewsConfig) -> tuple[dict[str, Array32], NDArray[np.bool_]]:
    """Images (n, h, w, c) by modality, and the poses (n,) where the map is sure."""
    shown, sure = {}, np.ones(len(poses), np.bool_)
    for name, thumbnail in cameras.items():
        camera, n = thumbnail.camera, len(poses)
        T = poses @ thumbnail.T_cam_sensor
        directions = np.einsum('nij,mj->nmi', T[:, :3, :3], camera.rays())
        origins = np.repeat(T[:, :3, 3], directions.shape[1], axis=0).astype(np.float32)
        rendering = renderer.render_rays(name, origins,
                                         directions.reshape(-1, 3).astype(np.float32))
        distances = np.maximum(rendering.distance_m.reshape(n, -1), 1e-6)
        weight = sureness(distances, rendering.spread_m.reshape(n, -1),
                          rendering.opacity.reshape(n, -1), np.ones(distances.shape, np.bool_))
        sure &= (weight.mean(axis=1) >= config.min_sure) & (
            np.quantile(distances, 0.02, axis=1) >= config.clearance_m)
        if renderer.uncertainty is not None:
            surface = origins + directions.reshape(-1, 3) * distances.reshape(-1, 1)
            log_sigma = renderer.uncertainty.at(surface).reshape(n, -1).mean(axis=1)
            sure &= log_sigma <= config.max_uncertainty
        values = np.nan_to_num(rendering.values).reshape(n, camera.height, camera.width, -1)
        shown[name] = values.astype(np.float32)
    return shown, sure


def _positions(panoramas: Panoramas, count: int, config: ViewsConfig, rng: np.random.Generator,
               ) -> Array:
    """Positions (n, 3) around those of panoramas, as far as these see free space."""
    k = rng.integers(0, len(panoramas), count)
    direction = rng.normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    cosines = direction @ panoramas.directions.T
    nearest = np.argpartition(-cosines, _NEAR_RAYS, axis=1)[:, :_NEAR_RAYS]
    free = np.take_along_axis(panoramas.distance_m[k], nearest, axis=1).min(axis=1)
    reach = np.clip(free - config.clearance_m, 0.0, config.reach_m)
    distance = reach * rng.random(count)**(1 / 3)
    return np.asarray(panoramas.positions[k] + direction * distance[:, None])

# SPDX-License-Identifier: Apache-2.0
"""Render some rays at a pose and lift their surfaces to 3D points."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera, CameraModel
from thermal_nerf_loc.mapping.map.localization_map import LocalizationMap
from thermal_nerf_loc.sensing.rendering import Renderer, sureness

Array = NDArray[np.float64]

_MIN_OPACITY = 0.5  # with less a ray has no surface
_WIDEST_RAD = np.deg2rad(85.0)


@dataclass(frozen=True, slots=True, eq=False)
class RenderedPoints:
    """Surface points in the reference camera of the pose they were rendered at."""

    points_cam: Array  # (n, 3)
    values: Array  # (n, channels)
    weight: Array  # (n,) in [0, 1]: how sure the map is of the surface

    def __len__(self) -> int:
        """How many there are."""
        return len(self.weight)

    def seen_from(self, T_cam_own: Array) -> 'RenderedPoints':
        """The same points in another camera; `T_cam_own` is the pose of their own in it."""
        return replace(self, points_cam=se3.transform(T_cam_own, self.points_cam))


def render_points(renderer: Renderer, modality: str, T_world_cam: Array, T_cam_sensor: Array,
                  camera: Camera, uv: Array) -> RenderedPoints:
    """Render the pixels `uv` (n, 2) of one sensor."""
    directions = camera.unproject(uv)
    T_world_sensor = T_world_cam @ T_cam_sensor
    origins = np.broadcast_to(T_world_sensor[:3, 3], directions.shape)
    rendering = renderer.render_rays(modality, np.ascontiguousarray(origins, dtype=np.float32),
                                     (directions @ T_world_sensor[:3, :3].T).astype(np.float32))
    distance, spread, opacity = (np.asarray(x, dtype=np.float64) for x in
                                 (rendering.distance_m, rendering.spread_m, rendering.opacity))
    values = np.asarray(rendering.values, dtype=np.float64)
    good = (opacity >= _MIN_OPACITY) & (distance > 0.0) & np.isfinite(values).all(axis=-1)
    good &= np.isfinite(distance) & np.isfinite(spread)
    weight = sureness(distance, spread, opacity, good)
    if camera.distortion:  # beyond the fold of the distortion there is no such ray
        weight = np.where(camera.reached(uv), weight, 0.0)
    points = se3.transform(T_cam_sensor, directions * np.where(good, distance, 1.0)[:, None])
    return RenderedPoints(points, np.where(good[:, None], values, 0.0), weight)


def weighed(points: RenderedPoints, T_world_cam: Array, renderer: LocalizationMap,
            ) -> RenderedPoints:
    """
    Lower the weight of points where the map is uncertain: by median sigma of the view over sigma.

    Maps without a field of uncertainty leave the points as they are.
    """
    if renderer.uncertainty is None or not len(points):
        return points
    log_sigma = renderer.uncertainty.at(se3.transform(T_world_cam, points.points_cam))
    share = np.minimum(10.0**(np.median(log_sigma) - log_sigma), 1.0)
    return replace(points, weight=points.weight * share)


@dataclass(frozen=True, slots=True, eq=False)
class RenderedGrid:
    """A regular grid of rays, which can be blurred like the observed image."""

    points: RenderedPoints
    rows: int
    step_px: float

    def __len__(self) -> int:
        """How many rays there are."""
        return len(self.points)

    def blurred(self, sigma_px: float) -> RenderedPoints:
        """Points with values as an image of that blur (pixels) has them."""
        remaining_px = np.sqrt(max((sigma_px / self.step_px)**2 - 1 / 12, 0.0))
        if remaining_px < 0.3:
            return self.points
        points = self.points
        share = points.weight.reshape(self.rows, -1, 1)
        image = points.values.reshape(*share.shape[:2], -1) * share
        blurred = cv2.GaussianBlur(np.concatenate([image, share], axis=-1), (0, 0), remaining_px)
        values = blurred[..., :-1] / np.maximum(blurred[..., -1:], 1e-9)
        return replace(points, values=values.reshape(len(points), -1))


def render_grid(renderer: Renderer, modality: str, T_world_cam: Array, T_cam_sensor: Array,
                camera: Camera, rays: int) -> RenderedGrid:
    """Render a regular grid of about `rays` pixels."""
    step = np.sqrt(camera.width * camera.height / rays)
    columns, rows = (max(round(size / step), 4) for size in camera.size)
    u = (np.arange(columns) + 0.5) * camera.width / columns
    v = (np.arange(rows) + 0.5) * camera.height / rows
    uv = np.stack(np.meshgrid(u, v), axis=-1).reshape(-1, 2)
    return RenderedGrid(render_points(renderer, modality, T_world_cam, T_cam_sensor, camera, uv),
                        rows, float(step))


def wider_camera(camera: Camera, reach_rad: float) -> Camera:
    """Fisheye camera with the same resolution in its middle and a wider view on every side."""
    corners = np.array([[0.0, 0.5 * camera.height], [0.5 * camera.width, 0.0]])
    half = np.arccos(np.clip(camera.unproject(corners)[:, 2], -1.0, 1.0)) + reach_rad
    half = np.minimum(half, _WIDEST_RAD)
    width, height = (max(round(2.0 * f * angle), 8)
                     for f, angle in zip((camera.fx, camera.fy), half))
    return Camera(width, height, camera.fx, camera.fy, 0.5 * width, 0.5 * height,
                  CameraModel.OPENCV_FISHEYE, (0.0, 0.0, 0.0, 0.0))

# SPDX-License-Identifier: Apache-2.0
"""
Rendering, in the units of `Frame`: what a map returns for rays, and the image of a whole camera.

`render_image` turns a camera and its pose into rays, the rays into an image, and distances along
rays into depth along z. Code that needs only some pixels, or a batch of poses, calls
`Renderer.render_rays`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
import time
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.sensing.frame import pixel_rays

Array32 = NDArray[np.float32]

_SPREAD_SHARE = 0.05  # of the distance: the spread that halves the confidence


@dataclass(frozen=True, slots=True, eq=False)
class RayRendering:
    """One row for each ray; distances run along the ray (not along the camera's z)."""

    values: Array32  # (n, channels): sRGB in [0, 1], thermal in deg C
    distance_m: Array32  # (n,) expected distance of the surface
    spread_m: Array32  # (n,) standard deviation of the weight along the ray
    opacity: Array32  # (n,) in [0, 1]


class Renderer(Protocol):
    """Anything that renders rays: a radiance map, or a simulated world."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names such as 'rgb' and 'thermal'."""

    def render_rays(self, modality: str, origins: Array32, directions: Array32) -> RayRendering:
        """Render from `origins` (n, 3) along unit `directions` (n, 3), both in the world frame."""


@runtime_checkable
class JointRenderer(Protocol):
    """A renderer that sees all its modalities along the same rays for little more than one."""

    def render_together(self, origins: Array32, directions: Array32) -> dict[str, RayRendering]:
        """All modalities along the same rays, as `Renderer.render_rays`."""


def render_all(renderer: Renderer, origins: Array32, directions: Array32,
               ) -> dict[str, RayRendering]:
    """All modalities along the same rays, together where the renderer can."""
    if isinstance(renderer, JointRenderer):
        return renderer.render_together(origins, directions)
    return {name: renderer.render_rays(name, origins, directions)
            for name in renderer.modalities}


def sureness(distance_m: NDArray[Any], spread_m: NDArray[Any], opacity: NDArray[Any],
             good: NDArray[np.bool_], share: float = _SPREAD_SHARE) -> NDArray[Any]:
    """
    Confidence of rendered rays, in [0, 1]: opacity^2 / (1 + (spread / (share distance))^2).

    A spread of `share` of the distance halves it; rays that are not `good` have none.
    """
    ratio = spread_m / np.where(good, share * distance_m, 1.0)
    return np.where(good, opacity**2 / (1.0 + ratio**2), 0.0)


Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class RenderedImage:
    """One rendered image; `rays` holds what the renderer returned for each pixel, row by row."""

    values: Array32  # (height, width, channels), units of `Frame`
    depth_m: Array32  # (height, width) along the camera's z
    rays: RayRendering
    seconds: float  # that the renderer took

    def per_pixel(self, values: NDArray[Any]) -> NDArray[Any]:
        """Bring one value a ray (n,) into the shape of the image (height, width)."""
        return values.reshape(self.depth_m.shape)


def render_image(renderer: Renderer, modality: str, camera: Camera, T_world_sensor: Array, *,
                 sweep: Array | None = None, offset: Array32 | None = None) -> RenderedImage:
    """
    Render what `camera` sees at `T_world_sensor` (4, 4), one ray through each pixel centre.

    `sweep` (6,) is the sensor's motion from the first row to the last (rolling shutter), as in
    `SensorImage`; the pose is then that of the middle row. `offset` (height, width, 1) is added
    to the values: the flat field of a real camera, for comparisons with its images.
    """
    origins, directions = (np.array(part, np.float32)
                           for part in pixel_rays(camera, T_world_sensor, sweep))
    started = time.perf_counter()
    found = renderer.render_rays(modality, origins, directions)
    return _as_image(found, camera, time.perf_counter() - started, offset)


def render_images(renderer: Renderer, modalities: Sequence[str], camera: Camera,
                  T_world_sensor: Array) -> dict[str, RenderedImage]:
    """What `camera` sees in each of these modalities; of all of them, together."""
    if set(modalities) != set(renderer.modalities) or len(modalities) < 2:
        return {name: render_image(renderer, name, camera, T_world_sensor)
                for name in modalities}
    origins, directions = (np.array(part, np.float32)
                           for part in pixel_rays(camera, T_world_sensor))
    started = time.perf_counter()
    found = render_all(renderer, origins, directions)
    seconds = (time.perf_counter() - started) / len(found)
    return {name: _as_image(found[name], camera, seconds) for name in modalities}


def _as_image(found: RayRendering, camera: Camera, seconds: float,
              offset: Array32 | None = None) -> RenderedImage:
    """Rows of rays in the shape of the camera's image."""
    values = found.values
    if offset is not None:
        values = np.asarray(values + offset.reshape(-1, 1), np.float32)
    depth_m = (found.distance_m * camera.rays()[:, 2]).astype(np.float32)
    shape = (camera.height, camera.width)
    return RenderedImage(values.reshape(*shape, -1), depth_m.reshape(shape), found, seconds)

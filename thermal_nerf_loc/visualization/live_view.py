# SPDX-License-Identifier: Apache-2.0
"""
Render the map live in a browser: coarse while its camera moves, then sharper step by step.

The first image after a move has as many pixels as can be rendered in about a tenth of a second;
for that the rays per second of this machine and map are measured continuously. `CameraFollower`
does so for one browser, in a thread of its own.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
import threading
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.mapping.map.localization_map import LocalizationMap, WrappedMap
from thermal_nerf_loc.sensing.frame import THERMAL
from thermal_nerf_loc.sensing.rendering import RayRendering
from thermal_nerf_loc.visualization.colour_map import ColourScale, Picture
from thermal_nerf_loc.visualization.panels import DISTANCE, paint, render_kinds
from thermal_nerf_loc.visualization.surface import is_surface

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]

_MOVING_S = 0.12  # rendering time of an image while the camera moves
_PART_RAYS = 4096  # rendered between two checks whether the camera has moved
_LEAST_PX, _MOST_PX = 40, 640  # width of an image
_STEP = 2.0  # in width, from one image to the next
_RATE_SMOOTHING = 0.3  # weight of the newest measurement of the rate
_JPEG_QUALITY = 85


class CameraMoved(Exception):
    """The camera has moved, so the image is outdated."""


@dataclass(frozen=True, slots=True)
class ViewerCamera:
    """Pose and field of view of a browser's camera."""

    T_world_cam: Array
    vertical_rad: float
    aspect: float  # width / height

    def camera(self, width: int) -> Camera:
        """A pinhole camera of that many columns."""
        height = max(2, round(width / self.aspect))
        f = 0.5 * height / np.tan(0.5 * self.vertical_rad)
        return Camera(width, height, f, f, 0.5 * width, 0.5 * height)


@dataclass(frozen=True, slots=True, eq=False)
class LiveImage:
    """One rendered image and its depth along z, by which nearer surfaces hide lines."""

    picture: Picture
    depth_m: Array32
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class SurfacePoint:
    """A point on a surface, and its temperature where the map knows one."""

    position_m: Array  # (3,)
    celsius: float | None


class LiveView:
    """Renders images of one map; may be called from several threads."""

    def __init__(self, renderer: LocalizationMap, scales: dict[str, ColourScale]) -> None:
        """`scales` colour temperature, depth and uncertainty."""
        self.scales = scales
        self._renderer, self._lock = renderer, threading.Lock()
        self._rays_per_second = 10_000.0

    @property
    def rays_per_second(self) -> float:
        """The measured rate, smoothed."""
        return self._rays_per_second

    def images(self, kind: str, view: ViewerCamera,
               moved: Callable[[], bool]) -> Iterator[LiveImage]:
        """Images of growing width, up to the largest or until the camera has `moved`."""
        width = self.quick_width(view.aspect)
        try:
            while True:
                yield self._render(kind, view, width, moved)
                if width >= _MOST_PX:
                    return
                width = min(_MOST_PX, round(width * _STEP))
        except CameraMoved:
            return

    def quick_width(self, aspect: float) -> int:
        """Columns of an image that is rendered in `_MOVING_S`."""
        width = int(np.sqrt(self._rays_per_second * _MOVING_S * aspect))
        return min(_MOST_PX, max(_LEAST_PX, width))

    def point_on_ray(self, origin: Array, direction: Array) -> SurfacePoint | None:
        """The surface point that a single ray hits; None where it hits none."""
        rays = [np.asarray(ray, np.float32).reshape(1, 3) for ray in (origin, direction)]
        with self._lock:
            rendered = {modality: self._renderer.render_rays(modality, *rays)
                        for modality in self._renderer.modalities}
        first = next(iter(rendered.values()))
        if not is_surface(first)[0]:
            return None
        position_m = origin + float(first.distance_m[0]) * direction
        return SurfacePoint(position_m,
                            float(rendered[THERMAL].values[0, 0]) if THERMAL in rendered else None)

    def _render(self, kind: str, view: ViewerCamera, width: int,
                moved: Callable[[], bool]) -> LiveImage:
        camera, start = view.camera(width), time.perf_counter()
        with self._lock:
            images = render_kinds(_InterruptibleMap(self._renderer, moved), camera,
                                  view.T_world_cam,
                                  tuple(dict.fromkeys((kind, DISTANCE))))
        seconds = time.perf_counter() - start
        rate = camera.width * camera.height / max(seconds, 1e-6)
        self._rays_per_second += _RATE_SMOOTHING * (rate - self._rays_per_second)
        return LiveImage(paint(kind, images[kind], self.scales), images[DISTANCE], seconds)


class _InterruptibleMap(WrappedMap):
    """Renders in parts; raises `CameraMoved` between two of them when the camera has moved."""

    def __init__(self, renderer: LocalizationMap, moved: Callable[[], bool]) -> None:
        super().__init__(renderer)
        self._moved = moved

    def render_rays(self, modality: str, origins: Array32, directions: Array32) -> RayRendering:
        parts = []
        for i in range(0, len(origins), _PART_RAYS):
            if i and self._moved():
                raise CameraMoved
            some = slice(i, i + _PART_RAYS)
            parts.append(super().render_rays(modality, origins[some], directions[some]))
        return RayRendering(*(np.concatenate([getattr(part, name) for part in parts]) for name in
                              ('values', 'distance_m', 'spread_m', 'opacity')))


class CameraFollower:
    """Renders for one browser, in a thread of its own; outdated images are cancelled."""

    def __init__(self, live: LiveView, client: Any, kind: Callable[[], str | None],
                 show_status: Callable[[str], None]) -> None:
        """`kind` returns what to render now, None: nothing; `client` is viser's."""
        self._live, self._client, self._kind = live, client, kind
        self._show_status = show_status
        self._changed, self._stopped = threading.Event(), threading.Event()
        client.camera.on_update(lambda _: self.update())
        self._thread = threading.Thread(target=self._run, name='live view', daemon=True)
        self._thread.start()

    def update(self) -> None:
        """Render anew: the camera or the kind of image has changed."""
        self._changed.set()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._changed.set()
        self._thread.join(timeout=10.0)

    def _run(self) -> None:
        while True:
            self._changed.wait()
            self._changed.clear()
            if self._stopped.is_set():
                return
            kind = self._kind()
            if kind is not None:
                self._draw(kind)

    def _draw(self, kind: str) -> None:
        """Send images of growing width."""
        camera = self._client.camera
        w, x, y, z = camera.wxyz
        view = ViewerCamera(se3.from_quaternion(camera.position, (x, y, z, w)), camera.fov,
                            camera.aspect)
        for image in self._live.images(kind, view, self._changed.is_set):
            if self._kind() != kind:
                return
            self._client.scene.set_background_image(
                image.picture, format='jpeg', jpeg_quality=_JPEG_QUALITY, depth=image.depth_m)
            rows, columns = image.picture.shape[:2]
            self._show_status(f'{columns} x {rows} in {1000.0 * image.seconds:.0f} ms, '
                              f'{self._live.rays_per_second / 1000.0:.0f}k rays/s')


def go_to(client: Any, T_world_cam: NDArray[np.float64]) -> None:
    """Put a browser's camera at a pose."""
    x, y, z, w = se3.quaternion_from_matrix(T_world_cam[:3, :3])
    with client.atomic():
        client.camera.wxyz = np.array([w, x, y, z])
        client.camera.position = T_world_cam[:3, 3]

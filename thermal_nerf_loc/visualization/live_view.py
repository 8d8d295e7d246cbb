# SPDX-License-Identifier: Apache-2.0
"""
A view that keeps up with a moving camera: as sharp as the time allows, sharper when it rests.

How many rays a second this machine and this map give is measured all the time.

One browser's camera: whenever it has moved, the map is drawn anew behind the scene.
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
from thermal_nerf_loc.visualization.panels import DISTANCE, look, paint
from thermal_nerf_loc.visualization.surface import is_surface

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]

_MOVING_S = 0.12  # for a picture while the camera moves
_PART_RAYS = 4096  # between two looks at whether the camera moved
_LEAST_PX, _MOST_PX = 40, 640
_STEP = 2.0  # from one sharpness to the next
_FORGET = 0.3


class CameraMoved(Exception):
    """The camera is elsewhere by now; the picture is of no use."""


@dataclass(frozen=True, slots=True)
class ViewerCamera:
    """Where a viewer's camera is and how wide it sees."""

    T_world_cam: Array
    vertical_rad: float
    aspect: float  # width / height

    def camera(self, width: int) -> Camera:
        """A pinhole camera of that many columns."""
        height = max(2, round(width / self.aspect))
        f = 0.5 * height / np.tan(0.5 * self.vertical_rad)
        return Camera(width, height, f, f, 0.5 * width, 0.5 * height)


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """One picture, and how far away what it shows is, along z."""

    picture: Picture
    depth_m: Array32
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class SurfacePoint:
    """A point on a surface, and its temperature where the map knows one."""

    place_m: Array  # (3,)
    celsius: float | None


class LiveView:
    """Renders for one map; several threads may ask."""

    def __init__(self, renderer: LocalizationMap, scales: dict[str, ColourScale]) -> None:
        """`scales` colour temperature, depth and uncertainty."""
        self.scales = scales
        self._renderer, self._lock = renderer, threading.Lock()
        self._rays_per_second = 10_000.0

    @property
    def rays_per_second(self) -> float:
        """As measured lately."""
        return self._rays_per_second

    def shots(self, kind: str, eye: ViewerCamera, moved: Callable[[], bool]) -> Iterator[Shot]:
        """Ever sharper pictures, until the sharpest, or until the camera has moved."""
        width = self.quick_width(eye.aspect)
        try:
            while True:
                yield self._shoot(kind, eye, width, moved)
                if width >= _MOST_PX:
                    return
                width = min(_MOST_PX, round(width * _STEP))
        except CameraMoved:
            return

    def quick_width(self, aspect: float) -> int:
        """Columns of a picture that is there before one has to wait for it."""
        width = int(np.sqrt(self._rays_per_second * _MOVING_S * aspect))
        return min(_MOST_PX, max(_LEAST_PX, width))

    def probe(self, origin: Array, direction: Array) -> SurfacePoint | None:
        """Where a single ray ends, None where it ends nowhere in particular."""
        rays = [np.asarray(ray, np.float32).reshape(1, 3) for ray in (origin, direction)]
        with self._lock:
            seen = {modality: self._renderer.render_rays(modality, *rays)
                    for modality in self._renderer.modalities}
        first = next(iter(seen.values()))
        if not is_surface(first)[0]:
            return None
        place_m = origin + float(first.distance_m[0]) * direction
        return SurfacePoint(place_m,
                            float(seen[THERMAL].values[0, 0]) if THERMAL in seen else None)

    def _shoot(self, kind: str, eye: ViewerCamera, width: int, moved: Callable[[], bool]) -> Shot:
        camera, start = eye.camera(width), time.perf_counter()
        with self._lock:
            images = look(_Parts(self._renderer, moved), camera, eye.T_world_cam,
                          tuple(dict.fromkeys((kind, DISTANCE))))
        seconds = time.perf_counter() - start
        rate = camera.width * camera.height / max(seconds, 1e-6)
        self._rays_per_second += _FORGET * (rate - self._rays_per_second)
        return Shot(paint(kind, images[kind], self.scales), images[DISTANCE], seconds)


class _Parts(WrappedMap):
    """A map that gives up between two parts of a picture when the camera has moved."""

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


_JPEG_QUALITY = 85


class CameraFollower:
    """Draws in a thread of its own; a picture that is no longer due is given up."""

    def __init__(self, live: LiveView, client: Any, kind: Callable[[], str | None],
                 tell: Callable[[str], None]) -> None:
        """`kind` says what to draw now, None: nothing; `client` is viser's."""
        self._live, self._client, self._kind, self._tell = live, client, kind, tell
        self._news, self._over = threading.Event(), threading.Event()
        client.camera.on_update(lambda _: self.move())
        self._thread = threading.Thread(target=self._run, name='live view', daemon=True)
        self._thread.start()

    def move(self) -> None:
        """Something has changed."""
        self._news.set()

    def stop(self) -> None:
        """End the thread."""
        self._over.set()
        self._news.set()
        self._thread.join(timeout=10.0)

    def _run(self) -> None:
        while True:
            self._news.wait()
            self._news.clear()
            if self._over.is_set():
                return
            kind = self._kind()
            if kind is not None:
                self._draw(kind)

    def _draw(self, kind: str) -> None:
        """Send ever sharper pictures."""
        view = self._client.camera
        w, x, y, z = view.wxyz
        eye = ViewerCamera(se3.from_quaternion(view.position, (x, y, z, w)), view.fov, view.aspect)
        for shot in self._live.shots(kind, eye, self._news.is_set):
            if self._kind() != kind:
                return
            self._client.scene.set_background_image(
                shot.picture, format='jpeg', jpeg_quality=_JPEG_QUALITY, depth=shot.depth_m)
            rows, columns = shot.picture.shape[:2]
            self._tell(f'{columns} x {rows} in {1000.0 * shot.seconds:.0f} ms, '
                       f'{self._live.rays_per_second / 1000.0:.0f}k rays/s')


def go_to(client: Any, T_world_cam: NDArray[np.float64]) -> None:
    """Put a browser's camera at a pose."""
    x, y, z, w = se3.quaternion_from_matrix(T_world_cam[:3, :3])
    with client.atomic():
        client.camera.wxyz = np.array([w, x, y, z])
        client.camera.position = T_world_cam[:3, 3]

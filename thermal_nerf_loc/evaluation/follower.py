# SPDX-License-Identifier: Apache-2.0
"""One browser's camera: whenever it has moved, the map is drawn anew behind the scene."""

from collections.abc import Callable
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.evaluation.live_view import Eye, LiveView
from thermal_nerf_loc.geometry import se3

_JPEG_QUALITY = 85


class Follower:
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
        eye = Eye(se3.from_quaternion(view.position, (x, y, z, w)), view.fov, view.aspect)
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

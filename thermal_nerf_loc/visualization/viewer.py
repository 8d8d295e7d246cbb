# SPDX-License-Identifier: Apache-2.0
"""
An interactive page of a map: points, keyframes, trajectories, and a live view.

viser makes and serves the page; nothing is fetched from elsewhere.
"""

from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
import importlib
import io
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import RunError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera, R_BASE_CAM
from thermal_nerf_loc.io.trajectory import Trajectory
from thermal_nerf_loc.sensing.frame import RGB, THERMAL
from thermal_nerf_loc.visualization.camera_path import cameras_facing, up_direction
from thermal_nerf_loc.visualization.colour_map import draw_bar
from thermal_nerf_loc.visualization.live_view import CameraFollower, go_to, LiveView, SurfacePoint
from thermal_nerf_loc.visualization.panels import (
    all_kinds, KINDS, scales_for, TEMPERATURE, thermal_unit, UNCERTAINTY, uncertainty_at)
from thermal_nerf_loc.visualization.surface import SurfacePoints

Array = NDArray[np.float64]

POINTS = 'off (points)'
INSTALL = "pip install 'viser>=1.1'"  # the extra `view`
_SCALE_CAMERA = Camera.from_fov(48, 36, 70.0)
_MOST_FRUSTUMS = 60
_FRUSTUM_FOV_RAD, _FRUSTUM_ASPECT = 0.9, 4.0 / 3.0  # map files have no lenses of keyframes
_PATH_COLOURS = ((31, 111, 180), (194, 87, 26), (46, 158, 91), (150, 60, 160))
_BAR_PX = (300, 52)
_CLICK_RAD = 0.006  # a few pixels
_SHOWN_SHARE = 0.85  # of the height, so that a ceiling does not hide the room


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """What is shown."""

    renderer: Any  # a radiance map
    surface: SurfacePoints
    trajectories: Mapping[str, Trajectory]


def find_viser() -> Any:
    """Import viser, or say how to get it."""
    try:
        return importlib.import_module('viser')
    except ImportError as error:
        raise RunError('the interactive page needs viser, which does not import here',
                       got=str(error), hint=f'Install it with: {INSTALL}') from None


class Viewer:
    """A running page; it serves until it is closed."""

    def __init__(self, content: Content, host: str, port: int) -> None:
        """Serve on the first free port from `port` on."""
        viser = find_viser()
        self._content, self._map = content, content.renderer
        poses = self._map.keyframes.poses
        self._poses = poses if len(poses) else _middle_pose(self._map.bounds)[None]
        self._kinds = all_kinds(self._map)
        scales = scales_for(self._map, _SCALE_CAMERA, self._poses, self._kinds)
        self.live = LiveView(self._map, scales)
        self._up = up_direction(self._poses)
        self._heights = content.surface.points_m @ self._up
        with redirect_stdout(io.StringIO()):  # viser prints a banner
            self.server = viser.ViserServer(host=host, port=port, label=f'map {self._map.name}',
                                            verbose=False)
        self._followers: dict[int, CameraFollower] = {}
        self._events_lock = threading.RLock()  # events come in threads of their own
        self._hidden_frustum: Any = None  # the keyframe that the camera stands in
        self._size_m = float(np.ptp(self._map.bounds, axis=0).max())
        self._build_page()

    @property
    def port(self) -> int:
        """The port that it serves on."""
        return int(self.server.get_port())

    def close(self) -> None:
        """Stop serving."""
        for follower in list(self._followers.values()):
            follower.stop()
        with redirect_stdout(io.StringIO()):
            self.server.stop()

    def _build_page(self) -> None:
        server = self.server
        server.gui.configure_theme(show_logo=False, show_share_button=False)
        server.scene.set_up_direction(self._up)
        low, high = np.quantile(self._content.surface.points_m, (0.01, 0.99), axis=0)
        self._inside = low, high
        middle, aside = 0.5 * (low + high), np.cross(self._up, self._poses[0, :3, 0])
        # From above and aside.
        away = 0.9 * self._up + 0.6 * aside / max(float(np.linalg.norm(aside)), 1e-6)
        start = middle + 0.75 * np.linalg.norm(high - low) * away
        self._overview = cameras_facing(start[None], (middle - start)[None], self._up)[0]
        server.initial_camera.position = tuple(map(float, start))
        server.initial_camera.look_at = tuple(map(float, middle))
        server.initial_camera.up = tuple(map(float, self._up))
        self._add_controls()
        self._show_points()
        self._frustums = self._add_frustums()
        self._add_trajectories()
        server.on_client_connect(self._on_connect)
        server.on_client_disconnect(self._on_disconnect)
        server.scene.on_click()(self._on_click)

    def _add_controls(self) -> None:
        gui = self.server.gui
        coloured_by = [kind for kind in self._kinds if KINDS[kind] or kind == UNCERTAINTY]
        live, size = [POINTS, *self._kinds], round(0.7 * self._size_m, 1)  # cm
        self._live = gui.add_dropdown('Live view', live, initial_value=POINTS,
                                      hint='Let the map render what the camera sees')
        self._by = gui.add_dropdown('Points show', coloured_by,
                                    initial_value=coloured_by[0])
        self._point_size = gui.add_slider('Point size, cm', 0.0, round(3.0 * size, 1), 0.1, size)
        low, high = np.round((self._heights.min() - 0.01, self._heights.max() + 0.01), 2)
        self._cut = gui.add_slider('Show up to, m', low, high, 0.01,
                                   round(low + _SHOWN_SHARE * (high - low), 2),
                                   hint='Takes the ceiling off: height along the vertical')
        self._cameras = gui.add_checkbox('Keyframes', True,
                                         hint='Click on one to look from there')
        self._bars = {kind: gui.add_image(draw_bar(scale, _BAR_PX, upright=False), label=kind,
                                          visible=False)
                      for kind, scale in self.live.scales.items()}
        overview = gui.add_button('Overview')
        overview.on_click(lambda event: go_to(event.client, self._overview))
        self._readout = gui.add_markdown('Click on a surface for its position and temperature.')
        self._rate = gui.add_markdown('')
        self._live.on_update(lambda _: self._on_live_view_change())
        self._by.on_update(lambda _: self._recolour())
        self._point_size.on_update(lambda _: setattr(self._cloud, 'point_size',
                                                     0.01 * self._point_size.value))
        self._cut.on_update(lambda _: self._show_cut())
        self._cameras.on_update(lambda _: self._show_frustums())
        self._show_bars()

    def _show_points(self) -> None:
        """Send the points, cut and coloured as the controls say."""
        self._shown_cut = self._cut.value
        surface, kept = self._content.surface, self._heights <= self._shown_cut
        if self._by.value == TEMPERATURE and surface.celsius is not None:
            colours = self.live.scales[TEMPERATURE].paint(surface.celsius)
        elif self._by.value == UNCERTAINTY:
            colours = self.live.scales[UNCERTAINTY].paint(
                uncertainty_at(self._map, surface.points_m))
        else:
            assert surface.colours is not None
            colours = np.rint(255.0 * np.clip(surface.colours, 0.0, 1.0)).astype(np.uint8)
        self._cloud = self.server.scene.add_point_cloud(
            '/points', surface.points_m[kept], colours[kept],
            point_size=0.01 * self._point_size.value, point_shape='rounded', precision='float32',
            point_shading='flat', visible=self._live.value == POINTS)
        self._show_bars()

    def _recolour(self) -> None:
        """Colour points and keyframes as the controls say."""
        with self._events_lock:
            self._show_points()
            for handle, i in self._frustums:
                handle.image = self._thumbnail(i)

    def _show_cut(self) -> None:
        """Draw only if the slider has moved since the last drawing: it sends many events."""
        with self._events_lock:
            if self._shown_cut != self._cut.value:
                self._show_points()

    def _add_frustums(self) -> list[tuple[Any, int]]:
        frames = self._map.keyframes
        step = max(1, -(-len(frames) // _MOST_FRUSTUMS))
        out = []
        for i in range(0, len(frames), step):
            T = frames.poses[i]
            x, y, z, w = se3.quaternion_from_matrix(T[:3, :3])
            handle = self.server.scene.add_camera_frustum(
                f'/keyframes/{i}', _FRUSTUM_FOV_RAD, _FRUSTUM_ASPECT, scale=0.03 * self._size_m,
                thickness=0.0006 * self._size_m, color=(90, 90, 90), wxyz=(w, x, y, z),
                position=tuple(T[:3, 3]), image=self._thumbnail(i))
            handle.on_click(lambda event, handle=handle,
                            T=T: self._enter_keyframe(event, handle, T))
            out.append((handle, i))
        return out

    def _enter_keyframe(self, event: Any, frustum: Any, T_world_cam: Array) -> None:
        """Go to a keyframe, and hide its frustum, which would be in the way."""
        self._hidden_frustum = frustum
        self._show_frustums()
        go_to(event.client, T_world_cam)

    def _thumbnail(self, i: int) -> NDArray[np.uint8] | None:
        images = self._map.keyframes.thumbnails
        if self._by.value == TEMPERATURE and THERMAL in images:
            return self.live.scales[TEMPERATURE].paint(images[THERMAL][i][..., 0])
        if RGB in images:
            return np.asarray(np.rint(255.0 * np.clip(images[RGB][i], 0.0, 1.0)), np.uint8)
        return None

    def _show_frustums(self) -> None:
        with self._events_lock:
            for handle, _ in self._frustums:
                handle.visible = (self._cameras.value and self._live.value == POINTS
                                  and handle is not self._hidden_frustum)

    def _add_trajectories(self) -> None:
        """A line for each trajectory, and a checkbox that hides it."""
        for k, (name, trajectory) in enumerate(self._content.trajectories.items()):
            p = trajectory.poses[:, :3, 3].astype(np.float32)
            line = self.server.scene.add_line_segments(
                f'/trajectories/{k}', np.stack([p[:-1], p[1:]], axis=1),
                _PATH_COLOURS[k % len(_PATH_COLOURS)], thickness=3.0,
                thickness_units='screen')  # a tube would fill the view of a camera on the path
            box = self.server.gui.add_checkbox(name, True)
            box.on_update(lambda _, line=line, box=box: setattr(line, 'visible', box.value))

    def _show_bars(self) -> None:
        shown = self._live.value if self._live.value != POINTS else self._by.value
        for kind, bar in self._bars.items():
            bar.visible = kind == shown

    def _on_live_view_change(self) -> None:
        """Switch between points and live view; for it, cameras outside are moved inside."""
        with self._events_lock:
            self._cloud.visible = self._live.value == POINTS
            self._show_bars()
            self._show_frustums()
        if self._live.value == POINTS:
            self._rate.content = ''
            for client in self.server.get_clients().values():
                client.scene.set_background_image(None)
        for client in self.server.get_clients().values():
            low, high = self._inside
            outside = ((client.camera.position < low) | (client.camera.position > high)).any()
            if self._live.value != POINTS and outside:  # from there walls hide everything
                go_to(client, self._poses[0])
        for follower in list(self._followers.values()):
            follower.update()

    def _on_connect(self, client: Any) -> None:
        def kind() -> str | None:
            return None if self._live.value == POINTS else str(self._live.value)

        def show_status(text: str) -> None:
            self._rate.content = text

        self._followers[client.client_id] = CameraFollower(self.live, client, kind, show_status)

    def _on_disconnect(self, client: Any) -> None:
        follower = self._followers.pop(client.client_id, None)
        if follower is not None:
            follower.stop()

    def _on_click(self, event: Any) -> None:
        """Show position, distance and temperature of the point that was clicked."""
        origin, direction = np.array(event.ray_origin), np.array(event.ray_direction)
        found = (self._point_at(origin, direction) if self._live.value == POINTS
                 else self.live.point_on_ray(origin, direction))
        if found is None:
            self._readout.content = 'No surface there.'
            return
        lines = ['**' + ', '.join(f'{value:.2f}' for value in found.position_m) + '** m',
                 f'{float(np.linalg.norm(found.position_m - origin)):.2f} m from the camera']
        if found.celsius is not None:
            lines.append(f'{found.celsius:.1f} {thermal_unit(self._map)}')
        if UNCERTAINTY in self._kinds:
            sigma = uncertainty_at(self._map, found.position_m[None].astype(np.float32))
            lines.append(f'uncertainty: log sigma {float(sigma[0]):.2f}')
        self._readout.content = '<br>'.join(lines)
        self.server.scene.add_icosphere('/probe', 0.008 * self._size_m, color=(0, 200, 90),
                                        position=tuple(map(float, found.position_m)))

    def _point_at(self, origin: Array, direction: Array) -> SurfacePoint | None:
        """The first of the shown points near a ray."""
        surface = self._content.surface
        offset = surface.points_m - origin
        along = offset @ direction
        beside = np.linalg.norm(offset - along[:, None] * direction, axis=1)
        reach = np.maximum(0.01 * self._point_size.value, _CLICK_RAD * along)
        hit = np.flatnonzero((along > 0.0) & (beside < reach) & (self._heights <= self._cut.value))
        if not len(hit):
            return None
        first = hit[np.argmin(along[hit])]
        heat = surface.celsius
        return SurfacePoint(surface.points_m[first].astype(np.float64),
                            None if heat is None else float(heat[first]))


def _middle_pose(bounds: Array) -> Array:
    """In the middle of the map, looking along x, z up."""
    return np.asarray(se3.from_parts(R_BASE_CAM, np.mean(bounds, axis=0)))

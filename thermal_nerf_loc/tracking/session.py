# SPDX-License-Identifier: Apache-2.0
"""
What a configured node works with: map, tracker, synchronizer, tf; and how they are changed.

The map is shared by several threads behind a lock: the compiled renderers are not all reentrant.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
import threading

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError, RunError, UserError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.atomic_files import check_writable
from thermal_nerf_loc.io.bags.transform_tree import TfBuffer
from thermal_nerf_loc.localization.localizer import Localizer
from thermal_nerf_loc.localization.ray_budget import RayBudget
from thermal_nerf_loc.localization.warm_up import (
    compiled_in_background, render_from_middle, warm_up_localizer)
from thermal_nerf_loc.mapping.map.localization_map import LocalizationMap, WrappedMap
from thermal_nerf_loc.sensing.rendering import Array32, RayRendering
from thermal_nerf_loc.tracking.background_search import BackgroundSearch, ThreadRunner
from thermal_nerf_loc.tracking.frame_synchronizer import FrameSynchronizer
from thermal_nerf_loc.tracking.health import NodeHealth
from thermal_nerf_loc.tracking.node_config import NodeConfig
from thermal_nerf_loc.tracking.robot_tracker import (read_pose, RobotTracker, RobotUpdate,
                                                     save_pose)
from thermal_nerf_loc.tracking.tracker import Tracker
from thermal_nerf_loc.tracking.tracker_config import TRACKING

Array = NDArray[np.float64]

LoadMap = Callable[[Path], LocalizationMap]


class SharedMap(WrappedMap):
    """A map behind a lock; threads in the background must render few rays at once."""

    def __init__(self, inner: LocalizationMap) -> None:
        """Wrap `inner`, which must only be rendered through this object from now on."""
        super().__init__(inner)
        self._lock = threading.Lock()
        self._closed = False

    def close(self) -> None:
        """Render nothing any more, so that threads which work with the map end soon."""
        self._closed = True

    def render_rays(self, modality: str, origins: Array32, directions: Array32) -> RayRendering:
        """Render as soon as no other thread does."""
        with self._lock:
            if self._closed:
                raise RunError('the map is closed')
            return super().render_rays(modality, origins, directions)


@dataclass(frozen=True, slots=True, eq=False)
class LoadedMap:
    """A map that is ready: read, and its kernels compiled."""

    renderer: SharedMap
    name: str  # of the file
    identity: str  # name of the scene: saved poses belong to it
    modalities: tuple[str, ...]  # to be used


def load_radiance_map(path: Path) -> LocalizationMap:
    """Read a map or its tiles; torch, which takes seconds to import, is imported only now."""
    from thermal_nerf_loc.mapping.tiles.map_loading import load_map
    return load_map(path, waits=False)


def load(config: NodeConfig, load_map: LoadMap) -> LoadedMap:
    """Load and warm up the map."""
    if not config.map:
        raise InputError('no map given', where='parameter map', expected='a map file',
                         hint='Make one: thermal-nerf-loc train DATA --map FILE. If one was '
                              'given: an empty `map` in a parameter file that comes after it '
                              'wins; give the file first.')
    path = Path(config.map)
    with compiled_in_background():
        from thermal_nerf_loc.field.device import find_device  # imports torch
        renderer = SharedMap(load_map(path).on(find_device(config.device, 'parameter device')))
        renderer.keep_within(config.memory_mb)
        modalities = config.chosen_modalities(renderer.modalities)
        rendered = render_from_middle(renderer, modalities)
    warm_up_localizer(Localizer(renderer, config.localizer), rendered)
    return LoadedMap(renderer, path.name, renderer.scene_name or path.name, modalities)


class Session:
    """Lives from configure to cleanup; its methods belong to the executor's thread."""

    def __init__(self, config: NodeConfig, loaded: LoadedMap, tf: TfBuffer,
                 warn: Callable[[str], None], on_fault: Callable[[Exception], None]) -> None:
        """Build tracker and synchronizer; subscriptions are made when the node is activated."""
        self.loaded, self._config = loaded, config
        if config.pose_file:
            check_writable(Path(config.pose_file))
        self._saved_ns = 0
        self._localizer = Localizer(loaded.renderer, config.localizer)
        self._searches = ThreadRunner(on_fault)
        self.inertial = config.inertial()
        tracker = Tracker(self._localizer, config.tracker, BackgroundSearch(self._searches),
                          self.inertial)
        self.robot = RobotTracker(tracker, self._initial_pose(warn), config.floor_z_m,
                                  self.inertial)
        self.synchronizer = FrameSynchronizer(
            config.synchronizer, tf, loaded.modalities, config.thermal_scale.radiometry(),
            masks=config.masks(), time_offsets_s=config.time_offsets_s(),
            max_rate_hz=config.max_rate_hz)
        self.health = NodeHealth(loaded.name)
        self.health.facts['odometry'] = config.odometry
        self._budget = RayBudget()
        self._lock = threading.Lock()  # settings come from one thread, what frames cost from one

    def reconfigure(self, config: NodeConfig) -> bool:
        """Use other settings from the next frame on; returns whether the cameras changed."""
        with self._lock:
            self._config = config
            if not config.adaptive_effort:
                self._budget.reset()
            self._use_localizer(self._localizer.with_config(self._budget.apply(
                config.localizer)))
        self.robot.floor_z_m = config.floor_z_m
        self.synchronizer.config = config.synchronizer
        self.synchronizer.radiometry = config.thermal_scale.radiometry()
        self.synchronizer.time_offsets_s = config.time_offsets_s()
        self.synchronizer.max_rate_hz = config.max_rate_hz
        return self._use_cameras(config.chosen_modalities(self.loaded.renderer.modalities))

    def replace_map(self, loaded: LoadedMap, config: NodeConfig) -> bool:
        """
        Go on in another map, from the pose in the old one, which has to be confirmed.

        Returns whether the cameras changed: the map may have other modalities than the old one.
        """
        modalities = config.chosen_modalities(loaded.renderer.modalities)  # may have changed
        same_place = loaded.identity == self.loaded.identity
        self.loaded, self.health.map_name = loaded, loaded.name
        with self._lock:
            self._config = config
            self._use_localizer(Localizer(loaded.renderer, self._budget.apply(config.localizer)))
        if same_place:
            self.robot.restart_at_last_pose()
        else:
            self.robot.reset()
        return self._use_cameras(modalities)

    def note_step(self, update: RobotUpdate, latency_s: float, step_s: float) -> None:
        """Note what a frame cost (in the tracking thread), and adapt the effort for the next."""
        self.health.note_update(update, latency_s, step_s)
        with self._lock:
            if (self._config.adaptive_effort and update.state == TRACKING
                    and self._budget.note(step_s, self.synchronizer.frame_period_s)):
                self._use_localizer(self._localizer.with_config(self._budget.apply(
                    self._config.localizer)))
            self.health.effort = self._budget.share

    def save_pose(self) -> None:
        """Write the newest pose to `pose_file`, where there is one and it is not yet written."""
        last = self.robot.last
        if (not self._config.pose_file or last is None or last.T_map_base is None
                or last.state != TRACKING or last.stamp_ns == self._saved_ns):
            return
        self._saved_ns = last.stamp_ns
        save_pose(Path(self._config.pose_file), self.loaded.identity, last.T_map_base,
                  last.stamp_ns)

    def close(self) -> None:
        """End what works with the map; the session is of no use afterwards."""
        self.loaded.renderer.close()
        self._searches.close()

    def _use_localizer(self, localizer: Localizer) -> None:
        self._localizer = localizer
        self.robot.reconfigure(localizer, self._config.tracker)

    def _use_cameras(self, modalities: tuple[str, ...]) -> bool:
        self.loaded = replace(self.loaded, modalities=modalities)
        if modalities == self.synchronizer.modalities:
            return False
        self.synchronizer.use_cameras(modalities)
        return True

    def _initial_pose(self, warn: Callable[[str], None]) -> Array | None:
        """The saved pose, else the given one, else none."""
        if self._config.pose_file:
            try:
                saved = read_pose(Path(self._config.pose_file), self.loaded.identity)
            except UserError as error:
                warn(f'the saved pose is not used: {error}')
            else:
                if saved is not None:
                    return saved
        pose = self._config.initial_pose
        return se3.from_quaternion(pose[:3], pose[3:]) if pose else None

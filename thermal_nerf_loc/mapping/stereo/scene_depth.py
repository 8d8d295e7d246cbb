# SPDX-License-Identifier: Apache-2.0
"""
Depth of a scene's training images from the best source there is.

Measured depth where the data set has it, else stereo, else points that images share, else none.
Where both modalities see the same surfaces at once, each fills what the other could not match.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
import logging
import time
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import RunError
from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.io.atomic_files import in_memory, on_disk
from thermal_nerf_loc.io.datasets.depth_maps import (
    AUTO, has_measured_depth, MEASURED, NONE, POINTS, STEREO)
from thermal_nerf_loc.io.datasets.scene import load_image, Scene
from thermal_nerf_loc.mapping.camera_poses.features import FeatureConfig
from thermal_nerf_loc.mapping.camera_poses.sparse_depth import (
    depth_map, SparseDepth, triangulated_depth)
from thermal_nerf_loc.mapping.stereo.depth_warp import warp_depth
from thermal_nerf_loc.mapping.stereo.stereo import (
    bytes_needed, stereo_depth, StereoConfig, StereoDepth)
from thermal_nerf_loc.mapping.training.config import POSES, RIG, TIME
from thermal_nerf_loc.sensing.frame import RGB, SensorImage, THERMAL

Array32 = NDArray[np.float32]

_STANDS_STILL_M = 1e-3  # cameras nearer to each other than this have no parallax
_CARRIED = 0.9  # factor of the confidence of depth that came from the other camera
_log = logging.getLogger(__name__)


class ImageDepth(Protocol):
    """Depth of the images of one modality."""

    def __call__(self, frame: int, camera: Camera) -> tuple[Array32, Array32] | None:
        """Depth along z in metres and confidence (h, w), None where a frame has none."""


@dataclass(frozen=True, slots=True, eq=False)
class SceneDepth:
    """Depth by modality, where it comes from, and what it cost."""

    source: str  # of `SOURCES`, without 'auto'
    images: Mapping[str, ImageDepth] = field(default_factory=dict)  # {}: the records' own, or none
    share: Mapping[str, float] = field(default_factory=dict)  # of the pixels, by modality
    disagreement: Mapping[str, float] = field(default_factory=dict)  # relative, between views
    seconds: float = 0.0

    def facts(self) -> dict[str, Any]:
        """What the map file and `--json` record."""
        return {'source': self.source, 'share': dict(self.share), 'seconds': self.seconds,
                'disagreement': dict(self.disagreement)}


def find_depth(scene: Scene, modalities: tuple[str, ...], source: str,
               stereo: StereoConfig = StereoConfig(), features: FeatureConfig = FeatureConfig(),
               refined: tuple[str, ...] = (), progress: Progress = silent,
               seconds: float | None = None, memory_limit_mb: float = np.inf) -> SceneDepth:
    """
    Depth of the training images from `source`; `auto` takes the first that there is.

    `refined` names what of the cameras is still to be refined (`RefineConfig.what`): poses are
    adjusted for points, and depth is not carried through a rig that is not known yet. Stereo takes
    about so many `seconds` at most, and beyond `memory_limit_mb` it works in temporary files.
    """
    started = time.monotonic()
    found = SceneDepth(NONE)
    if source == MEASURED or (source == AUTO and has_measured_depth(scene)):
        return SceneDepth(MEASURED)
    if source in (AUTO, STEREO):
        found = _by_stereo(scene, modalities, stereo, not {RIG, TIME} & set(refined), progress,
                           seconds, memory_limit_mb)
        if found.source == NONE and source == STEREO:
            _log.warning('%s: stereo finds no depth: %s; the map is trained without', scene.root,
                         _why_none(scene, modalities[0]))
    if source == POINTS or (source == AUTO and found.source == NONE):
        try:
            found = _by_points(scene, modalities[0], features, POSES in refined, progress)
        except RunError:
            if source == POINTS:
                raise
            _log.warning('%s: neither stereo nor points tell depth: %s; the map is trained '
                         'without', scene.root, _why_none(scene, modalities[0]))
    return SceneDepth(found.source, found.images, found.share, found.disagreement,
                      time.monotonic() - started)


def _by_stereo(scene: Scene, modalities: tuple[str, ...], config: StereoConfig,
               rig_is_known: bool, progress: Progress, seconds: float | None,
               memory_limit_mb: float) -> SceneDepth:
    """Stereo of each modality, carried into the other; `NONE` where hardly anything matches."""
    started, depths = time.monotonic(), {}
    pairs = [name for name in modalities if len(_members(scene, name)) > 1]
    for k, name in enumerate(pairs):
        left = None if seconds is None else max(
            seconds - (time.monotonic() - started), 0.0) / (len(pairs) - k)
        depths[name] = _StereoOfScene(scene, name, config, progress, left,
                                      memory_limit_mb / len(pairs))
    if rig_is_known and len(depths) == 2:
        depths[RGB].fill_from(depths[THERMAL])
        depths[THERMAL].fill_from(depths[RGB])
    good = {name: depth for name, depth in depths.items() if depth.stereo.matches}
    if not good:
        return SceneDepth(NONE)
    return SceneDepth(STEREO, good, {name: depth.stereo.share for name, depth in good.items()},
                      {name: depth.stereo.disagreement for name, depth in good.items()})


def _why_none(scene: Scene, modality: str) -> str:
    """What keeps images from telling depth."""
    members = _members(scene, modality)
    if len(members) < 2:
        return f'one {modality} image alone shows none'
    positions = np.array([scene.frames[i].T_world_cam[:3, 3] for i in members])
    if float(np.ptp(positions, axis=0).max()) < _STANDS_STILL_M:
        return f'the cameras only turn, and all {len(members)} stand at one point (no parallax)'
    return ('too little parallax, overlap or texture, or poses that contradict the images '
            '(--refine poses)')


def _members(scene: Scene, name: str) -> list[int]:
    """Training frames with an image of this modality."""
    return [i for i in scene.train if name in scene.frames[i].records]


def _by_points(scene: Scene, modality: str, features: FeatureConfig, free_poses: bool,
               progress: Progress) -> SceneDepth:
    sparse = triangulated_depth(scene, modality, free_poses, progress, features)
    images = _PointsOfScene(sparse)
    pixels = sum(scene.frames[i].records[modality].camera.width
                 * scene.frames[i].records[modality].camera.height for i in sparse)
    share = sum(len(found.pixels) for found in sparse.values()) / max(pixels, 1)
    return SceneDepth(POINTS, {modality: images}, {modality: share})


@lru_cache(maxsize=4)
def _forward(camera: Camera) -> Array32:
    """Z of the unit direction of every pixel (h, w)."""
    return camera.rays()[:, 2].reshape(camera.height, camera.width).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class _PointsOfScene:
    sparse: Mapping[int, SparseDepth]

    def __call__(self, frame: int, camera: Camera) -> tuple[Array32, Array32] | None:
        return depth_map(self.sparse[frame], camera) if frame in self.sparse else None


class _StereoOfScene:
    """Stereo depth of one modality, by frame."""

    def __init__(self, scene: Scene, name: str, config: StereoConfig, progress: Progress,
                 seconds: float | None, memory_limit_mb: float) -> None:
        members = _members(scene, name)
        records = [scene.frames[i].records[name] for i in members]
        self.poses = {i: scene.frames[i].T_world_cam @ record.T_cam_sensor
                      for i, record in zip(members, records, strict=True)}
        self.index = {i: k for k, i in enumerate(members)}
        self.cameras = {i: record.camera for i, record in zip(members, records, strict=True)}

        def load(k: int) -> SensorImage:
            return load_image(name, records[k].without_depth())

        cameras = [record.camera for record in records]
        is_large = bytes_needed(cameras, config) > memory_limit_mb * 2**20
        self.stereo: StereoDepth = stereo_depth(
            name, cameras, list(self.poses.values()), load, config, progress,
            on_disk if is_large else in_memory, seconds)

    def __call__(self, frame: int, camera: Camera) -> tuple[Array32, Array32] | None:
        if frame not in self.index:
            return None
        found = self.cameras[frame]  # of an adjusted lens
        depth_m, confidence = self.stereo.at_image(self.index[frame], found)
        if found != camera:  # the same distance along the ray, whose z is another
            depth_m = depth_m * (_forward(camera) / _forward(found))
        return depth_m, confidence

    def fill_from(self, other: '_StereoOfScene') -> None:
        """Take the other camera's depth of the same frame where there is none."""
        for frame, k in self.index.items():
            if frame not in other.index:
                continue
            source, target = (stereo.stereo.views.cameras[stereo.index[frame]]
                              for stereo in (other, self))
            T = se3.inverse(self.poses[frame]) @ other.poses[frame]
            theirs = warp_depth(*other.stereo.at_view(other.index[frame]), source, target, T)
            own = self.stereo.at_view(k)
            self.stereo.fill(k, (own[0] <= 0.0) & (theirs[0] > 0.0), theirs[0],
                             theirs[1] * np.float32(_CARRIED))

# SPDX-License-Identifier: Apache-2.0
"""
Judge a map's geometry where no true depth is known: a map may look right and stand wrong.

Two figures for each modality, both of held-out views and bounded in time. Against matched points
(`matched_points.py`): how far rendered depth is off where keypoints were triangulated. Between
views: a pixel of a held-out view ends at a point; another view that should see this point renders
the ray through it, and both distances should be the same. The first tells whether surfaces stand
where they are, but only where images have corners; the second covers every pixel, bare walls
too, but a surface that is wrong in the same way from all sides passes it.

Occlusion. The other view may end nearer because something stands between. That is accepted as an
occlusion only if it is nearer by more than 10 % and the first view sees what stands there (to
2 %), or has something before that, too. An occluder that the first view looks through is fog, and
counts as disagreement; so does a step of less than 10 %, of which few are real edges. Whoever sees
through a point that the first view shows always disagrees.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.evaluation.matched_points import (
    MatchedPoints, measure_points, nearest_views, spread)
from thermal_nerf_loc.evaluation.sampled_views import grid_pixels
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.datasets.depth_maps import POINTS
from thermal_nerf_loc.io.datasets.scene import load_image, Scene
from thermal_nerf_loc.mapping.map.localization_map import LocalizationMap
from thermal_nerf_loc.sensing.frame import RGB, SensorImage

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]

_VIEWS, _OTHERS = 6, 2  # held-out views, and how many others each is compared with
_PIXELS = 2000  # of each view: a grid
_CANDIDATES = 24  # nearest views that stand apart: the best of them are taken
_PARALLAX_RAD = np.deg2rad(10.0)  # that is aimed at; half of it is good enough
_LEAST_PARALLAX_RAD = np.deg2rad(1.0)  # of a point: with less, both rays are nearly the same
_OCCLUDED = 0.10  # nearer by this share: something may stand between
_SEES = 0.02  # a surface is seen where it is met to this share
_FEWEST_POINTS, _FEWEST_PIXELS = 20, 200


@dataclass(frozen=True, slots=True)
class PointErrors:
    """Relative errors of rendered depth at matched points of held-out images."""

    count: int
    median: float  # |rendered / measured - 1|
    p90: float
    within_2pct: float  # share of the points
    within_5pct: float
    sigma: float  # median standard deviation of the points themselves


@dataclass(frozen=True, slots=True)
class ViewAgreement:
    """Relative differences between the distances that two views render to one point."""

    pairs: int
    pixels: int
    median: float
    within_1pct: float  # share of the pixels that are not occluded
    within_2pct: float
    occluded: float  # share of the pixels that both views could see


@dataclass(frozen=True, slots=True)
class GeometryQuality:
    """Both figures of one modality; None where they could not be measured, and why."""

    points: PointErrors | None = None
    views: ViewAgreement | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class ViewPair:
    """A held-out view and another one of the same camera, by position in the scene."""

    frame: int
    other: int


def check_geometry(renderer: LocalizationMap, scene: Scene, progress: Progress = silent,
                   ) -> dict[str, Any]:
    """Figures by modality, ready for JSON, with the seconds that they took."""
    started = time.monotonic()
    shown = [modality for modality in scene.modalities if modality in renderer.modalities]
    found: dict[str, Any] = {}
    for n, modality in enumerate(shown):
        found[modality] = asdict(judge_geometry(
            renderer, scene, modality, _part(progress, n / len(shown), (n + 1) / len(shown))))
    return {**found, 'seconds': time.monotonic() - started}


def judge_geometry(renderer: LocalizationMap, scene: Scene, modality: str,
                   progress: Progress = silent) -> GeometryQuality:
    """Measure one modality."""
    tests = [i for i in scene.test if modality in scene.frames[i].records]
    if not tests:
        return GeometryQuality(notes=('no image is held out',))
    notes = []
    trained = knows_points(renderer)
    measured = measure_points(scene, modality, unseen_by_training=trained,
                              progress=_part(progress, 0.0, 0.6))
    points = None
    if len(measured) >= _FEWEST_POINTS:
        points = point_errors(renderer, modality, measured)
    else:
        notes.append(f'{len(measured)} points matched' + ' that training could not know' * trained
                     + f', {_FEWEST_POINTS} are needed: images have few corners in common, or '
                     'poses and lens are off')
    views = view_agreement(renderer, scene, modality,
                           choose_pairs(renderer, scene, modality), _part(progress, 0.6, 1.0))
    if views is None:
        notes.append('views share too few pixels')
    return GeometryQuality(points, views, tuple(notes))


def knows_points(renderer: LocalizationMap) -> bool:
    """Whether matched points were depth in the training of the map."""
    info = renderer.info
    if info is None:
        return False
    formerly: bool = info.training.get('depth_points', False)  # in maps of earlier versions
    return formerly or info.geometry.get('source') == POINTS


def point_errors(renderer: LocalizationMap, modality: str, measured: MatchedPoints) -> PointErrors:
    """Render the rays of the points, and compare."""
    distance = _distances(renderer, modality, measured.origins, measured.directions)
    off = np.abs(distance / measured.distance_m - 1.0)
    return PointErrors(len(off), float(np.median(off)), float(np.quantile(off, 0.9)),
                       float((off <= 0.02).mean()), float((off <= 0.05).mean()),
                       float(np.median(measured.sigma)))


def choose_pairs(renderer: LocalizationMap, scene: Scene, modality: str) -> list[ViewPair]:
    """
    Pair held-out views with others that see the same from some degrees aside.

    The map tells one thing: how far away the scene is, as a median over each view.
    """
    members = [i for i, frame in enumerate(scene.frames) if modality in frame.records]
    poses = np.stack([sensor_pose(scene, i, modality) for i in members] or [np.eye(4)])
    tests = [members.index(i) for i in scene.test if i in set(members)]
    pairs = []
    for k in (tests[n] for n in spread(len(tests), _VIEWS)):
        camera = scene.frames[members[k]].records[modality].camera
        rays = camera.unproject(np.stack(np.meshgrid(
            (np.arange(8) + 0.5) / 8 * camera.width, (np.arange(6) + 0.5) / 6 * camera.height),
            axis=-1).reshape(-1, 2)) @ poses[k, :3, :3].T
        origins = np.broadcast_to(poses[k, :3, 3], rays.shape)
        middle = float(np.median(_distances(renderer, modality, origins, rays)))
        points = poses[k, :3, 3] + middle * rays
        scored = []
        for j in nearest_views(poses, k, _CANDIDATES):
            _, inside = scene.frames[members[j]].records[modality].camera.project(
                se3.transform(se3.inverse(poses[j]), points))
            parallax = np.linalg.norm(poses[j, :3, 3] - poses[k, :3, 3]) / middle
            scored.append((-inside.mean() * min(parallax / _PARALLAX_RAD, 1.0), j))
        pairs += [ViewPair(members[k], members[j]) for score, j in sorted(scored)[:_OTHERS]
                  if score < 0.0]
    return pairs


def view_agreement(renderer: LocalizationMap, scene: Scene, modality: str, pairs: list[ViewPair],
                   progress: Progress = silent) -> ViewAgreement | None:
    """Compare the views of each pair at a grid of pixels; None: they share too few."""
    off, occluded, used = [], 0, 0
    for done, pair in enumerate(pairs):
        progress(done, len(pairs), f'{modality} views, pair {done + 1} of {len(pairs)}')
        found, hidden = compare_views(renderer, scene, modality, pair)
        off.append(found)
        occluded, used = occluded + hidden, used + bool(len(found))
    joined = np.concatenate([np.empty(0), *off])
    if len(joined) < _FEWEST_PIXELS:
        return None
    return ViewAgreement(used, len(joined), float(np.median(joined)),
                         float((joined <= 0.01).mean()), float((joined <= 0.02).mean()),
                         occluded / (len(joined) + occluded))


def compare_views(renderer: LocalizationMap, scene: Scene, modality: str, pair: ViewPair,
                  ) -> tuple[Array, int]:
    """Relative differences where the other view should see the point; how many are occluded."""
    image = load_image(modality, scene.frames[pair.frame].records[modality])
    T, T_other = (sensor_pose(scene, i, modality) for i in (pair.frame, pair.other))
    eye, eye_other = T[:3, 3], T_other[:3, 3]
    directions = _grid(image) @ T[:3, :3].T
    distance = _distances(renderer, modality, np.broadcast_to(eye, directions.shape), directions)
    points = eye + distance[:, None] * directions
    _, inside = scene.frames[pair.other].records[modality].camera.project(
        se3.transform(se3.inverse(T_other), points))
    to_other = points - eye_other
    expected = np.linalg.norm(to_other, axis=1)
    towards = to_other / np.maximum(expected, 1e-9)[:, None]
    parallax = np.arccos(np.clip((towards * directions).sum(axis=1), -1.0, 1.0))
    kept = inside & (parallax >= _LEAST_PARALLAX_RAD) & np.isfinite(expected)
    if not kept.any():
        return np.empty(0), 0
    expected, towards = expected[kept], towards[kept]
    seen = _distances(renderer, modality, np.broadcast_to(eye_other, towards.shape), towards)
    off = np.abs(seen / expected - 1.0)
    hidden = seen < (1.0 - _OCCLUDED) * expected
    if hidden.any():
        hidden[hidden] = _is_surface(renderer, modality, eye,
                                     eye_other + seen[hidden, None] * towards[hidden])
    return off[~hidden], int(hidden.sum())


def _is_surface(renderer: LocalizationMap, modality: str, eye: Array, points: Array) -> Bools:
    """Whether a view from `eye` does not look through these points (n, 3)."""
    away = points - eye
    length = np.linalg.norm(away, axis=1)
    seen = _distances(renderer, modality, np.broadcast_to(eye, away.shape),
                      away / np.maximum(length, 1e-9)[:, None])
    return np.asarray(seen <= (1.0 + _SEES) * length)


def geometry_lines(found: Mapping[str, Any]) -> list[str]:
    """Sentences for people, of what `check_geometry` returned."""
    lines = []
    for modality, figures in found.items():
        if not isinstance(figures, Mapping):
            continue
        name = 'RGB' if modality == RGB else modality
        points, views = figures['points'], figures['views']
        if points is not None:
            lines.append(f'{name} depth at {points["count"]} matched points that were held out: '
                         f'{100 * points["median"]:.1f} % off (90 %: {100 * points["p90"]:.1f} %),'
                         f' {100 * points["within_2pct"]:.0f} % within 2 %')
        if views is not None:
            lines.append(f'{name} depth between held-out views: '
                         f'{100 * views["within_1pct"]:.0f} % of the pixels agree to 1 %, '
                         f'{100 * views["within_2pct"]:.0f} % to 2 %')
        lines += [f'{name} geometry: {note}' for note in figures['notes']]
    return lines


def _part(progress: Progress, start: float, end: float) -> Progress:
    """Report a job that is a part of another one."""
    def report(done: float, total: float, message: str = '') -> None:
        progress(start + (end - start) * done / (total or 1.0), 1.0, message)

    return report


def sensor_pose(scene: Scene, frame: int, modality: str) -> Array:
    """T_world_sensor of one camera of a frame."""
    found = scene.frames[frame]
    return np.asarray(found.T_world_cam @ found.records[modality].T_cam_sensor)


def _grid(image: SensorImage) -> Array:
    """Directions (n, 3) in the camera of about `_PIXELS` valid pixels of a grid."""
    camera = image.camera
    cell = max(1, round(np.sqrt(camera.width * camera.height / _PIXELS)))
    pixels = grid_pixels(camera.size, cell, 0)
    if image.valid is not None:
        pixels = pixels[image.valid[pixels[:, 1], pixels[:, 0]]]
    return camera.unproject(pixels + 0.5)


def _distances(renderer: LocalizationMap, modality: str, origins: Array, directions: Array,
               ) -> Array:
    """Rendered distances (n,) along rays; a renderer takes a few thousand rays at once."""
    found = renderer.render_rays(modality, np.ascontiguousarray(origins, np.float32),
                                 np.ascontiguousarray(directions, np.float32))
    return np.asarray(found.distance_m, np.float64)

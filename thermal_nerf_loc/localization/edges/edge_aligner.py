# SPDX-License-Identifier: Apache-2.0
"""
Align edges instead of values: for scenes that warm and cool, and are lit anew.

Where a machine is off or the sun has moved, values do not fit the map, whatever gain and offset;
but surfaces still end where they ended. An edge image is the length of the gradient over its own
mean nearby: the rims of a hot pipe, of a cold one, and of one darker than its wall are alike.
Rendered and observed edge images are aligned as values are: the same normal equations, robust
weights, covariance and agreement.

Edges are thin, but, unlike values, have one sign: blurred, they still attract from afar.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.config import setting
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.geometry.pose_separation import PoseSeparation, SAME_ANSWER
from thermal_nerf_loc.localization.confidence.fit_statistics import summarize
from thermal_nerf_loc.localization.confidence.verdict import agreement
from thermal_nerf_loc.localization.refinement.aligner import (
    align, align_many, AlignConfig, Alignment, ModalityView, PosePrior)
from thermal_nerf_loc.localization.refinement.image_prior import GainOffset, ImagePrior
from thermal_nerf_loc.localization.refinement.image_pyramid import (
    make_level, noise_sigma, ObservedImage)
from thermal_nerf_loc.localization.refinement.pose_hypotheses import rotation_lattice, score_poses
from thermal_nerf_loc.localization.refinement.rendered_points import (
    render_grid, RenderedGrid, RenderedPoints, wider_camera)
from thermal_nerf_loc.mapping.map.localization_map import LocalizationMap

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]

_NEARBY_PX = 2.5  # over which the gradient is averaged
_NOISES = 2.0  # of the gradient: shorter ones are hardly edges
_FLOORS = 0.5  # of the map's own error: likewise
_PRIOR = GainOffset(None, 0.3, None, 1e3)
_FLOOR = 0.05  # least error of an edge image; an edge has about 3
_SEARCH_BLUR_PX, _RANK_BLUR_PX, _FINE_BLURS_PX = 4.0, 2.0, (1.5, 0.7)  # of the grid's pixels
_THIN_PX = 2.0  # points are as far apart as the blur over this
_MAX_STEP_RAD = np.deg2rad(4.0)  # between turned poses
_MIN_SCORE_SHARE = 0.7  # of the best one's score: others are not refined
_STARTS, _KEPT = 8, 3  # poses aligned, and refined
_SEARCH_SIGMAS = 1.3  # how far the search reaches, in sigmas of the guess
_MIN_REACH_RAD, _MAX_REACH_RAD = np.deg2rad(3.0), np.deg2rad(40.0)
_START_M, _START_RAD = 0.1, np.deg2rad(5.0)  # how far off a start may be
_ALIKE = 6.0  # neighbours in a grid that err alike, and what was moved: by measured errors
_RIVAL_SHARE = 0.9  # of the best agreement
_LAST_ROUNDS = 2  # of the pose that was chosen


@dataclass(frozen=True, slots=True)
class EdgeConfig:
    """Edges, where values do not fit."""

    when: str = setting('search', 'when they are tried: always (a second for a frame that values '
                        'do not fit), only in a search of the whole map, or never',
                        choices=('always', 'search', 'never'))
    rays: int = setting(12000, 'most rays for each image and rendering', 100, 1_000_000)
    search_rays: int = setting(10000, 'the same for the search around a guess, for an image '
                               'without its wider surroundings', 100, 1_000_000)
    blur_px: float = setting(0.8, 'blur before the gradient, in pixels of the rendering', 0.1, 10.)


class FrameImages(Protocol):
    """The images of one frame, and what is expected of them; `CoarseToFine` is one."""

    renderer: LocalizationMap
    images: Mapping[str, ObservedImage]
    rays: int

    def prior(self, name: str) -> ImagePrior:
        """Gain, offset and noise floor that are expected of an image."""


def edge_image(values: Array32, blur_px: float, floor: float) -> Array32:
    """Lengths of the gradient (height, width, 1) over their mean nearby; `floor`: of none."""
    smooth = cv2.GaussianBlur(np.asarray(values, np.float32), (0, 0), blur_px)
    smooth = smooth.reshape(*values.shape[:2], -1)
    energy = np.zeros(values.shape[:2], np.float32)
    for channel in np.moveaxis(smooth, -1, 0):
        channel = np.ascontiguousarray(channel)
        energy += (cv2.Scharr(channel, cv2.CV_32F, 1, 0, scale=1 / 32)**2
                   + cv2.Scharr(channel, cv2.CV_32F, 0, 1, scale=1 / 32)**2)
    length = np.sqrt(energy / smooth.shape[-1])
    nearby = cv2.GaussianBlur(length, (0, 0), _NEARBY_PX)
    return np.asarray((length / (nearby + floor))[..., None])


class EdgeAligner:
    """Finds and refines the pose of one frame by edges alone."""

    def __init__(self, frame: FrameImages, config: EdgeConfig, aligning: AlignConfig) -> None:
        """Make the edge images of the frame, at the resolution in which the map is rendered."""
        self.frame, self.config, self.aligning = frame, config, aligning
        self._floors: dict[str, float] = {}

    def _observed(self, rays: int) -> dict[str, ObservedImage]:
        """Edge images of the frame, of about so many pixels."""
        return {name: self._edges(name, image, rays)
                for name, image in self.frame.images.items()}

    def _edges(self, name: str, image: ObservedImage, rays: int) -> ObservedImage:
        step = np.sqrt(image.camera.width * image.camera.height / rays)
        width, height = (max(round(size / max(step, 1.0)), 8) for size in image.camera.size)
        values = cv2.resize(image.values, (width, height), interpolation=cv2.INTER_AREA)
        noise = float(image.noise.mean()) * width / image.camera.width
        self._floors[name] = max(_NOISES * 0.3 * noise / self.config.blur_px**2,
                                 _FLOORS * self.frame.prior(name).noise_floor)
        edges = edge_image(values.reshape(height, width, -1).astype(np.float32),
                           self.config.blur_px, self._floors[name])
        valid = None if image.valid is None else cv2.resize(
            image.valid.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
        return ObservedImage(image.camera.resized(width, height), edges, valid,
                             image.T_cam_sensor, noise_sigma(edges, valid), False)

    def best_of(self, starts: Sequence[Array], guess: tuple[Array, float, float] | None = None,
                ) -> tuple[Alignment, list[Array]]:
        """
        Refine poses by edges, and once more the one whose edges agree best; and its rivals.

        The poses are `starts` and those found around a `guess`, with its sigmas (m, rad). A rival
        lies elsewhere, and its edges agree nearly as well.
        """
        poses = [*starts, *(self._around(*guess) if guess else ())]
        found = [self._align_at(T, _FINE_BLURS_PX, _prior_around(T, _START_M, _START_RAD))
                 for T in poses]
        agreement = [self._agreement(one) for one in found]
        most = max(agreement)
        best = found[agreement.index(most)]
        rivals = [one.T_world_cam for one, share in zip(found, agreement)
                  if share > _RIVAL_SHARE * most
                  and SAME_ANSWER.apart(one.T_world_cam, best.T_world_cam)]
        for _ in range(_LAST_ROUNDS):
            T = best.T_world_cam
            best = self._align_at(T, _FINE_BLURS_PX[-1:], _prior_around(T, _START_M, _START_RAD))
        return best, rivals

    def _around(self, T: Array, sigma_m: float, sigma_rad: float) -> list[Array]:
        """Poses turned and aligned around a guess, those first whose edges fit best."""
        reach_rad = min(max(_SEARCH_SIGMAS * sigma_rad, _MIN_REACH_RAD), _MAX_REACH_RAD)
        images = self._observed(self.config.search_rays)
        grids = {name: self._render(name, T, wider_camera(image.camera, reach_rad))
                 for name, image in images.items()}
        coarse = self._views(images, grids, _SEARCH_BLUR_PX)
        step = float(np.clip(0.4 * reach_rad, np.deg2rad(2.0), _MAX_STEP_RAD))
        lattice = rotation_lattice(T, reach_rad, step)
        starts = PoseSeparation(np.inf, 1.5 * step).best(
            lattice, score_poses(coarse, T, lattice), _STARTS)
        prior = _prior_around(T, sigma_m, sigma_rad)
        poses = align_many(coarse, T, lattice[starts], self.aligning, prior)
        ranked = self._views(images, grids, _RANK_BLUR_PX)
        poses = align_many(ranked, T, poses, self.aligning, prior)
        scores = score_poses(ranked, T, poses)
        return [poses[k] for k in SAME_ANSWER.best(poses, scores)[:_KEPT]
                if scores[k] >= _MIN_SCORE_SHARE * scores.max()]

    def _align_at(self, T: Array, blurs_px: Sequence[float], prior: PosePrior) -> Alignment:
        """Render at a pose and align, with less and less blur."""
        images, T_render = self._observed(self.config.rays), T
        grids = {name: self._render(name, T, image.camera) for name, image in images.items()}
        for blur_px in blurs_px:
            found = align(self._views(images, grids, blur_px), T_render, T, self.aligning, prior)
            T = found.T_world_cam
        return found

    def _agreement(self, found: Alignment) -> float:
        """How well rendered and observed edges agree."""
        fits, _ = summarize(found, self.aligning)
        return 0.0 if found.failed else agreement(dict(zip(self.frame.images, fits)))[0]

    def _render(self, name: str, T: Array, camera: Camera) -> RenderedGrid:
        """A grid of edges, one ray to a pixel of the camera."""
        grid = render_grid(self.frame.renderer, name, T, self.frame.images[name].T_cam_sensor,
                           camera, camera.width * camera.height)
        self.frame.rays += len(grid)
        values = grid.points.values.reshape(grid.rows, -1, grid.points.values.shape[-1])
        edges = edge_image(values.astype(np.float32), self.config.blur_px, self._floors[name])
        points = replace(grid.points, values=edges.reshape(-1, 1).astype(np.float64))
        return replace(grid, points=points)

    def _views(self, images: Mapping[str, ObservedImage], grids: Mapping[str, RenderedGrid],
               blur_px: float) -> list[ModalityView]:
        """Rendered and observed edges, both blurred."""
        views = []
        for name, grid in grids.items():
            image = images[name]
            level = make_level(image, blur_px)
            points = _thinned(grid.blurred(blur_px), grid.rows, max(int(blur_px / _THIN_PX), 1))
            trust = min(1.0, 1000.0 / len(points)) / _ALIKE
            views.append(ModalityView(level, points, image.T_cam_sensor, _PRIOR, _FLOOR, trust))
        return views


def _prior_around(T: Array, sigma_m: float, sigma_rad: float) -> PosePrior:
    """A wide prior: it holds what the edges do not."""
    return PosePrior(T, np.diag(np.repeat((1.0 / (3.0 * sigma_m + 1e-3)**2,
                                           1.0 / (3.0 * sigma_rad + 1e-3)**2), 3)))


def _thinned(points: RenderedPoints, rows: int, step: int) -> RenderedPoints:
    """Every so many points of a grid each way; those at its border have no whole gradient."""
    kept = np.arange(len(points)).reshape(rows, -1)[1:-1:step, 1:-1:step].ravel()
    return RenderedPoints(points.points_cam[kept], points.values[kept], points.weight[kept])

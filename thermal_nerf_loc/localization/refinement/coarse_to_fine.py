# SPDX-License-Identifier: Apache-2.0
"""
One frame's way from a guess to the pose: render, align, render again, with ever less blur.

A rough guess is searched around first: points rendered once with a wide view are scored at many
turned poses, the best are aligned, and rivals are refined only while none convinces.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.config import setting
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.localization.refinement import pose_hypotheses
from thermal_nerf_loc.localization.refinement.aligner import (
    align, align_many, AlignConfig, Aligned, GainOffset, ModalityView, PosePrior)
from thermal_nerf_loc.localization.refinement.image_pyramid import make_layer, ObservedImage
from thermal_nerf_loc.localization.refinement.pixel_sampling import (
    draw_pixels, preferred_pixels, SAMPLERS)
from thermal_nerf_loc.localization.refinement.rendered_points import (
    render_grid, render_points, RenderedGrid, RenderedPoints, weighed, widened)
from thermal_nerf_loc.sensing.frame import RGB
from thermal_nerf_loc.sensing.rendering import Renderer

Array = NDArray[np.float64]

_NOMINAL_WIDTH_PX = 160  # `sigmas_px` are meant for images of this width
_MIN_SIGMA_PX = 0.2
_DETAIL_PX = 1.0  # of an image's own pixels: less blur shows no more
_NOMINAL_DEPTH_M = 2.0  # turns a shift of the guess into a motion of the image
_UNKNOWN = 1e3
_SEARCH_SIGMAS = 1.3  # how far the search reaches, in sigmas of the guess
_MAX_REACH_RAD = np.deg2rad(65.0)
_MAX_WIDE_RAYS = 4.0  # times `grid_rays`
_WIDE_REACH_RAD = np.deg2rad(20.0)  # beyond, twice as many hypotheses
_QUICK_ITERATIONS = 6  # of hypotheses: enough to rank them
_QUICK_STEP_PX = 0.2
_CLOSER, _CLOSER_RAYS, _CLOSER_HYPOTHESES = 0.5, 4, 2  # second look: blur, rays, hypotheses
_LATTICE_SIGMAS = 2.0  # of its blur between turned poses,
_LATTICE_STEPS = 6.5  # but no more of them from the guess to the end of the reach
_CONTENDER_SHARE = 0.6  # of the best score, for a rival to be looked at again


@dataclass(frozen=True, slots=True)
class RefinementConfig:
    """From coarse to fine."""

    sigmas_px: tuple[float, ...] = setting(
        (6.0, 3.0, 0.6), 'blur of each round, coarse to fine, for images 160 px wide')
    rays: int = setting(500, 'rays for each image and fine round but the last', 20, 100000)
    last_rays: int = setting(1000, 'rays for each image and the last round', 20, 100000)
    thorough_rays: int = setting(4000, 'rays for each image and the round that follows where a '
                                 'pose was found without a guess, with half the blur', 20, 100000)
    grid_rays: int = setting(300, 'rays for each image and coarse round', 20, 100000)
    grid_above_px: float = setting(2.0, 'rounds blurred more than this use a regular grid', 0.0)
    sampler: str = setting('random', 'pixels of the fine rounds, spread evenly', choices=SAMPLERS)
    hypotheses: int = setting(4, 'poses aligned in the search around a rough guess', 1, 50)
    contenders: int = setting(3, 'of them refined, while none convinces', 1, 20)
    trust_celsius: bool = setting(False, 'the thermal camera has no drift: its offset is zero')
    rgb_floor: float = setting(0.02, 'the map is never exact to less than this', 1e-6, 1.0)
    thermal_floor_celsius: float = setting(0.1, 'the same for temperatures', 1e-6, 10.0)
    use_uncertainty: bool = setting(True, 'points count less where the map says that its images '
                                    'do not hold it')
    align: AlignConfig = setting(AlignConfig(), 'one alignment')


@dataclass(frozen=True, slots=True, eq=False)
class Contender:
    """A coarse pose to be refined; `rival` is the share of its score that another reached."""

    T_world_cam: Array
    rounds: tuple[float, ...]
    prior: PosePrior
    rival: float
    searched: bool = False  # the best of many poses, not the guess itself


class CoarseToFine:
    """Renders and aligns for one frame; counts its rays."""

    def __init__(self, renderer: Renderer, config: RefinementConfig,
                 images: Mapping[str, ObservedImage], seed: int) -> None:
        """Nothing is rendered yet."""
        self.renderer, self.config, self.images = renderer, config, images
        self.rays = 0
        self._rng = np.random.default_rng(seed)
        self._preferred: dict[str, NDArray[np.bool_]] = {}

    def contenders(self, T: Array, sigma_m: float, sigma_rad: float, closely: bool = False,
                   ) -> list[Contender]:
        """
        Where the pose may be, most likely first.

        `closely` looks with half the blur, at more points and from more directions: what is large
        and smooth in an image is often light, not the scene.
        """
        motion_px = self._motion_px(sigma_m, sigma_rad)
        rounds = needed_rounds(self.config.sigmas_px, motion_px)
        prior = PosePrior(T, np.diag(np.repeat(
            (1.0 / (3 * sigma_m + 1e-3)**2, 1.0 / (3 * sigma_rad + 1e-3)**2), 3)))
        if motion_px <= 1.5 * rounds[0]:
            return [Contender(T, rounds, prior, 0.0)]
        reach = min(_SEARCH_SIGMAS * sigma_rad, _MAX_REACH_RAD)
        times = _CLOSER if closely else 1.0
        grids = self._look_around(T, reach, _CLOSER_RAYS if closely else 1)
        views = self._blurred(grids, times * rounds[0])
        found = self._search(views, T, reach, prior, times * rounds[0] if closely else None)
        scores = pose_hypotheses.scores(views, T, found)
        kept = distinct(found, scores)
        rival = float(scores[kept[1]] / max(scores[kept[0]], 1e-9)) if len(kept) > 1 else 0.0
        kept = kept[:self.config.contenders * (_CLOSER_HYPOTHESES if closely else 1)]
        closer = found[kept] if len(rounds) < 3 else align_many(
            self._blurred(grids, times * rounds[1]), T, found[kept], self.config.align, prior)
        rounds = self.detailed(rounds[2:] or rounds[1:] or rounds)
        return [Contender(pose, rounds, prior, rival, True) for pose in closer]

    def detailed(self, rounds: tuple[float, ...]) -> tuple[float, ...]:
        """Go on with half the blur, until it hides nothing that the widest image shows."""
        widest = max(image.camera.width for image in self.images.values())
        while rounds[-1] * widest / _NOMINAL_WIDTH_PX > _DETAIL_PX:
            rounds = (*rounds, 0.5 * rounds[-1])
        return rounds

    def refine(self, contender: Contender) -> Aligned:
        """Finish one contender, round by round."""
        T = contender.T_world_cam
        for sigma_px in contender.rounds:
            views = self.look(T, sigma_px)
            found = align(views, T, T, self.config.align, contender.prior)
            T = found.T_world_cam
        return found

    def measure(self, T: Array) -> tuple[Aligned, float]:
        """How well a pose fits, unmoved; and how many pixels the aligner would move it."""
        views = self.look(T, self.config.sigmas_px[-1])
        left = se3.minus(align(views, T, T, self.config.align).T_world_cam, T)
        left_px = self._motion_px(*(float(np.linalg.norm(part)) for part in (left[:3], left[3:])))
        return align(views, T, T, replace(self.config.align, iterations=0)), left_px

    def look(self, T: Array, sigma_px: float) -> list[ModalityView]:
        """Render what one round needs; the last one's pixels decide how exact the pose is."""
        views, count = [], self._rays(sigma_px)
        for name, image in self.images.items():
            sigma = self._own_sigma(image, sigma_px)
            where = self.renderer, name, T, image.T_cam_sensor, image.camera
            if sigma_px > self.config.grid_above_px:
                points = render_grid(*where, self.config.grid_rays).blurred(sigma)
            else:
                points = render_points(*where, self._pixels(name, image, count))
                if self.config.use_uncertainty:
                    points = weighed(points, T, self.renderer)
            self.rays += len(points)
            views.append(self._view(name, image, sigma, points))
        return views

    def _rays(self, sigma_px: float) -> int:
        """How many rays a round with this blur is worth."""
        config, last = self.config, self.config.sigmas_px[-1]
        return (config.rays if sigma_px > last else config.last_rays if sigma_px == last
                else config.thorough_rays)

    def _look_around(self, T: Array, reach_rad: float, times: int) -> dict[str, RenderedGrid]:
        """Render the view and its surroundings."""
        grids = {}
        for name, image in self.images.items():
            camera = widened(image.camera, reach_rad)
            share = camera.width * camera.height / (image.camera.width * image.camera.height)
            rays = round(times * self.config.grid_rays * min(share, _MAX_WIDE_RAYS))
            grids[name] = render_grid(self.renderer, name, T, image.T_cam_sensor, camera, rays)
            self.rays += len(grids[name])
        return grids

    def _blurred(self, grids: Mapping[str, RenderedGrid], sigma_px: float) -> list[ModalityView]:
        """Surroundings as they look in images of that blur."""
        views = []
        for name, grid in grids.items():
            image = self.images[name]
            sigma = self._own_sigma(image, sigma_px)
            views.append(self._view(name, image, sigma, grid.blurred(sigma)))
        return views

    def _view(self, name: str, image: ObservedImage, sigma: float,
              points: RenderedPoints) -> ModalityView:
        layer, floor = make_layer(image, sigma), self.floor(name)
        factor, _ = getattr(self.renderer, 'calibration', {}).get(name, (1.0, 0.0))
        factor *= max(1.0, len(points) / self.config.last_rays)  # what is wrong stays as wrong
        return ModalityView(layer, points, image.T_cam_sensor, self._nuisance(name, image), floor,
                    1.0 / factor)

    def floor(self, name: str) -> float:
        """What the map is never exact to, in the units of this image."""
        return (self.config.rgb_floor if name == RGB or not self.images[name].radiometric
                else self.config.thermal_floor_celsius)

    def _own_sigma(self, image: ObservedImage, sigma_px: float) -> float:
        return max(sigma_px * image.camera.width / _NOMINAL_WIDTH_PX, _MIN_SIGMA_PX)

    def _pixels(self, name: str, image: ObservedImage, count: int) -> Array:
        if name not in self._preferred:
            self._preferred[name] = preferred_pixels(self.config.sampler, image)
        return draw_pixels(self._preferred[name], image, count, self._rng, balanced=True)

    def _nuisance(self, name: str, image: ObservedImage) -> GainOffset:
        if name == RGB or not image.radiometric:
            return GainOffset(None, 0.3, None, _UNKNOWN)
        if self.config.trust_celsius:
            return GainOffset(1.0, 0.02, 0.0, 0.1)
        return GainOffset(1.0, 0.1, None, _UNKNOWN)

    def _motion_px(self, sigma_m: float, sigma_rad: float) -> float:
        """How far the guess' error moves the image, were it 160 px wide."""
        camera = next(iter(self.images.values())).camera
        return (camera.fx * _NOMINAL_WIDTH_PX / camera.width
                * float(np.hypot(sigma_rad, sigma_m / _NOMINAL_DEPTH_M)))

    def _search(self, views: Sequence[ModalityView], T: Array, reach_rad: float, prior: PosePrior,
                blur_px: float | None) -> Array:
        """Aligned from the best turned poses; those lie as close as `blur_px` asks, if given."""
        step = float(np.clip(0.4 * reach_rad, np.deg2rad(2.0), np.deg2rad(5.0)))
        if blur_px is not None:
            camera = next(iter(self.images.values())).camera
            blur_rad = blur_px * camera.width / (_NOMINAL_WIDTH_PX * camera.fx)
            step = max(min(step, _LATTICE_SIGMAS * blur_rad), reach_rad / _LATTICE_STEPS)
        poses = pose_hypotheses.turned_poses(T, reach_rad, step)
        score = pose_hypotheses.scores(views, T, poses)
        count = self.config.hypotheses * (2 if reach_rad > _WIDE_REACH_RAD else 1)
        count *= 1 if blur_px is None else _CLOSER_HYPOTHESES
        starts = pose_hypotheses.best_apart(poses, score, count, 1.5 * step)
        quick = replace(self.config.align, iterations=_QUICK_ITERATIONS, step_px=_QUICK_STEP_PX)
        return align_many(views, T, poses[starts], quick, prior)


def needed_rounds(sigmas_px: tuple[float, ...], motion_px: float) -> tuple[float, ...]:
    """Leave out the coarse rounds that a good guess does not need."""
    first = 0
    while first + 1 < len(sigmas_px) and sigmas_px[first + 1] >= 0.7 * motion_px:
        first += 1
    return sigmas_px[first:]


def distinct(poses: Array, scores: Array) -> list[int]:
    """Poses that score nearly as well as the best and are answers of their own, best first."""
    order = np.argsort(-scores, kind='stable')
    kept: list[int] = []
    for k in order:
        if scores[k] >= _CONTENDER_SHARE * scores[order[0]] and all(
                apart(poses[k], poses[j]) for j in kept):
            kept.append(int(k))
    return kept


def apart(T_a: Array, T_b: Array) -> bool:
    """Whether two poses are different answers."""
    metres, degrees = se3.distance(T_a, T_b)
    return metres > 0.1 or degrees > 5.0

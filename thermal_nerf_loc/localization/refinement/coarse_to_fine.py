# SPDX-License-Identifier: Apache-2.0
"""
Refine one frame's pose from coarse to fine: render, align, render again with less blur.

A rough guess is first replaced by hypotheses: points rendered once with a wide view are scored
from many poses turned around the guess, and the best are aligned. Blurs (`sigmas_px`) are in
pixels of an image 160 px wide.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.config import setting
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.pose_separation import PoseSeparation, SAME_ANSWER
from thermal_nerf_loc.localization.refinement.aligner import (
    align, align_many, AlignConfig, Alignment, ModalityView, PosePrior)
from thermal_nerf_loc.localization.refinement.exact_round import align_exactly, ExactConfig
from thermal_nerf_loc.localization.refinement.image_prior import image_prior, ImagePrior
from thermal_nerf_loc.localization.refinement.image_pyramid import (
    make_level, NOMINAL_WIDTH_PX, ObservedImage)
from thermal_nerf_loc.localization.refinement.pixel_sampling import (
    draw_pixels, preferred_pixels, SAMPLERS)
from thermal_nerf_loc.localization.refinement.pose_hypotheses import (
    PoseHypothesis, rotation_lattice, score_poses)
from thermal_nerf_loc.localization.refinement.rendered_points import (
    render_grid, render_points, RenderedGrid, RenderedPoints, weighed, wider_camera)
from thermal_nerf_loc.mapping.map.localization_map import LocalizationMap

Array = NDArray[np.float64]

_MIN_SIGMA_PX = 0.2
_FINEST_SIGMA_PX = 1.0  # of an image's own pixels: less blur shows no more
_NOMINAL_DEPTH_M = 2.0  # turns a shift of the guess into a motion of the image
_SEARCH_SIGMAS = 1.3  # how far the search reaches, in sigmas of the guess
_MAX_REACH_RAD = np.deg2rad(65.0)
_MAX_WIDE_RAYS = 4.0  # times `grid_rays`
_WIDE_REACH_RAD = np.deg2rad(20.0)  # beyond, twice as many hypotheses
_RANKING_ITERATIONS = 6  # of the hypotheses' alignment: enough to rank them
_RANKING_STEP_PX = 0.2
_DENSE_BLUR, _DENSE_RAYS, _DENSE_HYPOTHESES = 0.5, 4, 2  # factors of the dense search
_LATTICE_SIGMAS = 2.0  # dense search: steps between turned poses, in sigmas of the blur,
_LATTICE_STEPS = 6.5  # but no more than this from the guess to the end of the reach
_EXACT_PRIOR_SIGMAS = 3.0  # of the pose that was found: holds what the images do not
_MIN_SCORE_SHARE = 0.6  # of the best hypothesis' score; those below are dropped


@dataclass(frozen=True, slots=True)
class RefinementConfig:
    """How a pose is refined from coarse to fine."""

    sigmas_px: tuple[float, ...] = setting(
        (6.0, 3.0, 0.6), 'blur of each round, coarse to fine, for images 160 px wide')
    rays: int = setting(500, 'rays for each image and fine round but the last', 20, 100000)
    last_rays: int = setting(1000, 'rays for each image and the last round', 20, 100000)
    thorough_rays: int = setting(4000, 'rays for each image and the extra round, with half the '
                                 'blur, of a pose that was found without a guess', 20, 100000)
    grid_rays: int = setting(300, 'rays for each image and coarse round', 20, 100000)
    grid_above_px: float = setting(2.0, 'rounds blurred more than this use a regular grid', 0.0)
    sampler: str = setting('random', 'pixels of the fine rounds, spread evenly', choices=SAMPLERS)
    hypotheses: int = setting(4, 'poses aligned in the search around a rough guess', 1, 50)
    refined: int = setting(3, 'of the hypotheses refined, until one is accepted', 1, 20,
                           formerly='contenders')
    trust_celsius: bool = setting(False, 'the thermal camera has no drift: its offset is zero')
    rgb_floor: float = setting(0.02, 'least error of rendered colours (sRGB, 0 to 1), and of '
                               'thermal images that are no temperatures', 1e-6, 1.0)
    thermal_floor_celsius: float = setting(0.1, 'least error of rendered temperatures', 1e-6, 10.)
    use_uncertainty: bool = setting(True, 'points count less where the map says that its images '
                                    'do not hold it')
    exact: ExactConfig = setting(ExactConfig(), 'extra rounds for the pose that was found')
    align: AlignConfig = setting(AlignConfig(), 'one alignment')


class CoarseToFine:
    """Renders and aligns for one frame; counts the rays rendered (`rays`)."""

    def __init__(self, renderer: LocalizationMap, config: RefinementConfig,
                 images: Mapping[str, ObservedImage], seed: int) -> None:
        """Keep the frame's images; `seed` is that of the drawn pixels."""
        self.renderer, self.config, self.images = renderer, config, images
        self.rays, self.seed = 0, seed
        self.rng = np.random.default_rng(seed)
        self._preferred: dict[str, NDArray[np.bool_]] = {}

    def hypotheses(self, T: Array, sigma_m: float, sigma_rad: float, dense: bool = False,
                   ) -> list[PoseHypothesis]:
        """
        Poses to refine for a guess and its standard deviations, most likely first.

        A good guess is its own only hypothesis. The `dense` search uses half the blur, more
        points and more orientations: large smooth structures are often light, not the scene.
        """
        motion_px = self._motion_px(sigma_m, sigma_rad)
        sigmas_px = skip_coarse_rounds(self.config.sigmas_px, motion_px)
        prior = PosePrior(T, np.diag(np.repeat(
            (1.0 / (3 * sigma_m + 1e-3)**2, 1.0 / (3 * sigma_rad + 1e-3)**2), 3)))
        if motion_px <= 1.5 * sigmas_px[0]:
            return [PoseHypothesis(T, sigmas_px, prior, 0.0)]
        reach = min(_SEARCH_SIGMAS * sigma_rad, _MAX_REACH_RAD)
        blur = _DENSE_BLUR if dense else 1.0
        grids = self._render_wide(T, reach, _DENSE_RAYS if dense else 1)
        views = self._wide_views(grids, blur * sigmas_px[0])
        found = self._search(views, T, reach, prior, blur * sigmas_px[0] if dense else None)
        scores = score_poses(views, T, found)
        kept = _distinct(found, scores)
        rival_share = (float(scores[kept[1]] / max(scores[kept[0]], 1e-9)) if len(kept) > 1
                       else 0.0)
        kept = kept[:self.config.refined * (_DENSE_HYPOTHESES if dense else 1)]
        poses = found[kept] if len(sigmas_px) < 3 else align_many(
            self._wide_views(grids, blur * sigmas_px[1]), T, found[kept], self.config.align, prior)
        sigmas_px = self.with_finer_rounds(sigmas_px[2:] or sigmas_px[1:] or sigmas_px)
        return [PoseHypothesis(pose, sigmas_px, prior, rival_share, True) for pose in poses]

    def with_finer_rounds(self, sigmas_px: tuple[float, ...]) -> tuple[float, ...]:
        """Add rounds, each with half the blur, down to a pixel of the widest image."""
        widest = max(image.camera.width for image in self.images.values())
        while sigmas_px[-1] * widest / NOMINAL_WIDTH_PX > _FINEST_SIGMA_PX:
            sigmas_px = (*sigmas_px, 0.5 * sigmas_px[-1])
        return sigmas_px

    def refine(self, hypothesis: PoseHypothesis) -> Alignment:
        """Render and align, round by round."""
        T = hypothesis.T_world_cam
        for sigma_px in hypothesis.sigmas_px:
            views = self.render(T, sigma_px)
            found = align(views, T, T, self.config.align, hypothesis.prior)
            T = found.T_world_cam
        return found

    def refine_exactly(self, T: Array, covariance: Array, images: Mapping[str, ObservedImage],
                       ) -> Alignment:
        """Align a pose that was found once more: many pixels, `images` as large as they are."""
        finer = CoarseToFine(self.renderer, self.config, images, self.seed)
        information = np.asarray(np.linalg.inv(_EXACT_PRIOR_SIGMAS**2 * covariance), np.float64)
        found = align_exactly(finer, self.config.exact, self.config.align, T,
                              PosePrior(T, information))
        self.rays += finer.rays
        return found

    def measure(self, T: Array) -> tuple[Alignment, float]:
        """The fit at a pose as it is, and how many pixels the aligner would move the image."""
        views = self.render(T, self.config.sigmas_px[-1])
        step = se3.minus(align(views, T, T, self.config.align).T_world_cam, T)
        remaining_px = self._motion_px(float(np.linalg.norm(step[:3])),
                                       float(np.linalg.norm(step[3:])))
        return align(views, T, T, replace(self.config.align, iterations=0)), remaining_px

    def render(self, T: Array, sigma_px: float) -> list[ModalityView]:
        """
        Render the points of one round: a blurred grid, or drawn pixels where the blur is small.

        The last round has the most pixels: they decide how exact the pose is.
        """
        views, count = [], self._ray_count(sigma_px)
        for name, image in self.images.items():
            own_px = self._own_pixels(image, sigma_px)
            view = self.renderer, name, T, image.T_cam_sensor, image.camera
            if sigma_px > self.config.grid_above_px:
                points = render_grid(*view, self.config.grid_rays).blurred(own_px)
                self.rays += len(points)
            else:
                points = self.render_pixels(name, T, self._pixels(name, image, count))
            views.append(self.view(name, own_px, points))
        return views

    def render_pixels(self, name: str, T: Array, uv: Array) -> RenderedPoints:
        """Render pixels (n, 2) of one image at a pose, weighed by how sure the map is there."""
        image = self.images[name]
        points = render_points(self.renderer, name, T, image.T_cam_sensor, image.camera, uv)
        self.rays += len(points)
        return weighed(points, T, self.renderer) if self.config.use_uncertainty else points

    def prior(self, name: str) -> ImagePrior:
        """Gain, offset and noise floor that are expected of an image."""
        config = self.config
        return image_prior(name, self.images[name].radiometric, config.rgb_floor,
                           config.thermal_floor_celsius, config.trust_celsius)

    def _ray_count(self, sigma_px: float) -> int:
        """How many rays a round with this blur renders for each image."""
        config, last = self.config, self.config.sigmas_px[-1]
        return (config.rays if sigma_px > last else config.last_rays if sigma_px == last
                else config.thorough_rays)

    def _render_wide(self, T: Array, reach_rad: float, factor: int) -> dict[str, RenderedGrid]:
        """Render grids that reach beyond each image by `reach_rad` on every side."""
        grids = {}
        for name, image in self.images.items():
            camera = wider_camera(image.camera, reach_rad)
            share = camera.width * camera.height / (image.camera.width * image.camera.height)
            rays = round(factor * self.config.grid_rays * min(share, _MAX_WIDE_RAYS))
            grids[name] = render_grid(self.renderer, name, T, image.T_cam_sensor, camera, rays)
            self.rays += len(grids[name])
        return grids

    def _wide_views(self, grids: Mapping[str, RenderedGrid], sigma_px: float,
                    ) -> list[ModalityView]:
        """The grids and images, blurred."""
        views = []
        for name, grid in grids.items():
            image = self.images[name]
            own_px = self._own_pixels(image, sigma_px)
            views.append(self.view(name, own_px, grid.blurred(own_px)))
        return views

    def view(self, name: str, own_px: float, points: RenderedPoints) -> ModalityView:
        """Rendered points beside their image, blurred by so many of its own pixels."""
        image = self.images[name]
        level, prior = make_level(image, own_px), self.prior(name)
        factor, _ = self.renderer.calibration.get(name, (1.0, 0.0))
        factor *= max(1.0, len(points) / self.config.last_rays)  # the map's errors do not average
        return ModalityView(level, points, image.T_cam_sensor, prior.gain_offset,
                            prior.noise_floor, 1.0 / factor)

    def _own_pixels(self, image: ObservedImage, sigma_px: float) -> float:
        """A blur in the image's own pixels."""
        return max(sigma_px * image.camera.width / NOMINAL_WIDTH_PX, _MIN_SIGMA_PX)

    def _pixels(self, name: str, image: ObservedImage, count: int) -> Array:
        if name not in self._preferred:
            self._preferred[name] = preferred_pixels(self.config.sampler, image)
        return draw_pixels(self._preferred[name], image, count, self.rng, balanced=True)

    def _motion_px(self, sigma_m: float, sigma_rad: float) -> float:
        """How far an error of the pose moves the image, were it 160 px wide."""
        camera = next(iter(self.images.values())).camera
        return (camera.fx * NOMINAL_WIDTH_PX / camera.width
                * float(np.hypot(sigma_rad, sigma_m / _NOMINAL_DEPTH_M)))

    def _search(self, views: Sequence[ModalityView], T: Array, reach_rad: float, prior: PosePrior,
                dense_sigma_px: float | None) -> Array:
        """
        Score turned poses, and align the best (n, 4, 4) some steps.

        `dense_sigma_px`: the blur that limits the step between poses in the dense search.
        """
        step = float(np.clip(0.4 * reach_rad, np.deg2rad(2.0), np.deg2rad(5.0)))
        if dense_sigma_px is not None:
            camera = next(iter(self.images.values())).camera
            sigma_rad = dense_sigma_px * camera.width / (NOMINAL_WIDTH_PX * camera.fx)
            step = max(min(step, _LATTICE_SIGMAS * sigma_rad), reach_rad / _LATTICE_STEPS)
        poses = rotation_lattice(T, reach_rad, step)
        count = self.config.hypotheses * (2 if reach_rad > _WIDE_REACH_RAD else 1)
        count *= 1 if dense_sigma_px is None else _DENSE_HYPOTHESES
        starts = PoseSeparation(np.inf, 1.5 * step).best(poses, score_poses(views, T, poses),
                                                         count)
        ranking = replace(self.config.align, iterations=_RANKING_ITERATIONS,
                          step_px=_RANKING_STEP_PX)
        return align_many(views, T, poses[starts], ranking, prior)


def skip_coarse_rounds(sigmas_px: tuple[float, ...], motion_px: float) -> tuple[float, ...]:
    """Leave out the coarse rounds that a good guess does not need."""
    first = 0
    while first + 1 < len(sigmas_px) and sigmas_px[first + 1] >= 0.7 * motion_px:
        first += 1
    return sigmas_px[first:]


def _distinct(poses: Array, scores: Array) -> list[int]:
    """Different poses that score nearly as well as the best, the best first."""
    return [k for k in SAME_ANSWER.best(poses, scores)
            if scores[k] >= _MIN_SCORE_SHARE * scores.max()]

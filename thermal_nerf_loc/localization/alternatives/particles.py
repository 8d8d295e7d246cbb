# SPDX-License-Identifier: Apache-2.0
"""
Candidates from particles: poses drawn all over free space, weighted by a few rays of each.

`filter` is Monte-Carlo localization in a radiance map (Maggio et al., "Loc-NeRF", 2023): weight,
resample, add noise that shrinks from round to round. Given odometry, particles move with it from
frame to frame. `inversion` is parallel inversion with resampling (Lin et al., "Parallel Inversion
of Neural Radiance Fields for Robust Pose Estimation", 2023): many poses are refined in parallel,
and the worse half starts again around the better one; one Gauss-Newton alignment takes the place
of its gradient steps. Weights are the correlation likelihood of `pose_hypotheses`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.config import setting
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.pose_separation import PoseSeparation
from thermal_nerf_loc.localization.alternatives.rendered_views import draw_poses, ViewsConfig
from thermal_nerf_loc.localization.global_search.candidates import Candidate
from thermal_nerf_loc.localization.global_search.verification import align_coarsely
from thermal_nerf_loc.localization.refinement.coarse_to_fine import CoarseToFine, RefinementConfig
from thermal_nerf_loc.localization.refinement.image_pyramid import (
    make_level, NOMINAL_WIDTH_PX, observe, ObservedImage)
from thermal_nerf_loc.localization.refinement.pose_hypotheses import correlation_likelihood
from thermal_nerf_loc.mapping.map.localization_map import LocalizationMap, with_panoramas
from thermal_nerf_loc.sensing.frame import Frame

Array = NDArray[np.float64]

_MAX_CORRELATION = 0.99
_SEPARATION = PoseSeparation(0.25, float(np.deg2rad(8.0)))  # of candidates
_COARSE_ITERATIONS = 6


@dataclass(frozen=True, slots=True)
class ParticleConfig:
    """How many particles there are, and the noise added to them."""

    method: str = setting('filter', 'filter or inversion', choices=('filter', 'inversion'))
    initial_particles: int = setting(3000, 'particles drawn all over free space', 10, 1_000_000,
                                     formerly='first')
    particles: int = setting(300, 'particles after the first resampling', 4, 100_000)
    inversion_poses: int = setting(32, 'poses refined in parallel by inversion', 4, 10_000,
                                   formerly='inverted')
    rays: int = setting(40, 'of a particle and image', 8, 10_000)
    rounds: int = setting(6, 'of weighting and resampling for a frame', 1, 100)
    temperature: float = setting(2.0, 'log-likelihoods are divided by: rays share errors', 0.1,
                                 1000.0)
    scatter_m: float = setting(0.25, 'sigma of the noise after the first round', 0.0, 10.0)
    scatter_deg: float = setting(10.0, 'the same of the orientation', 0.0, 90.0)
    shrinkage: float = setting(0.65, 'factor on noise and blur, each round', 0.1, 1.0)
    blur_px: float = setting(8.0, 'of the images in the first round, were they 160 px wide',
                             0.5, 50.0)
    seed: int = setting(0, 'of every random draw', 0)
    views: ViewsConfig = setting(ViewsConfig(path_share=0.0), 'where particles are drawn')


@dataclass(frozen=True, slots=True, eq=False)
class _Cloud:
    """Particles (n, 4, 4) and their log-likelihoods (n,)."""

    poses: Array
    scores: Array
    width: float = field(default=1.0)  # factor on the noise of the next round


class ParticleSearch:
    """A `CandidateSource`: Monte-Carlo localization, or parallel inversion."""

    def __init__(self, renderer: LocalizationMap, config: ParticleConfig | None = None) -> None:
        """Keep map and settings; particles are drawn for each frame."""
        self.renderer = renderer
        self.config = ParticleConfig() if config is None else config

    def candidates(self, frame: Frame, count: int) -> list[Candidate]:
        """See `CandidateSource`."""
        return self.follow([frame], [np.eye(4)], count)

    def follow(self, frames: Sequence[Frame], T_odom_cam: Sequence[Array], count: int,
               ) -> list[Candidate]:
        """Poses of the last of several frames, given the odometry (4, 4) of each."""
        if not frames or len(frames) != len(T_odom_cam):
            raise InputError('particles need a pose of odometry for every frame',
                             expected=f'{max(len(frames), 1)} poses', got=len(T_odom_cam))
        if self.config.views.path_share < 1.0:
            self.renderer = with_panoramas(self.renderer)  # kept for the next frame
        config, rng = self.config, np.random.default_rng(self.config.seed)
        rounds = max(config.rounds // len(frames), 1)
        cloud, before = None, T_odom_cam[0]
        for frame, T_odom in zip(frames, T_odom_cam):
            images, _ = observe(frame, self.renderer.modalities)
            if cloud is None:
                poses = draw_poses(self.renderer, config.initial_particles, config.views, rng)
                cloud = _Cloud(poses, self.scores(images, poses, 1.0, rng))
            else:
                cloud = replace(cloud, poses=cloud.poses @ se3.inverse(before) @ T_odom)
            before = T_odom
            for _ in range(rounds):
                cloud = self._round(images, cloud, rng)
        assert cloud is not None
        kept = _SEPARATION.best(cloud.poses, cloud.scores, count)
        return [Candidate(cloud.poses[k], float(cloud.scores[k])) for k in kept]

    def scores(self, images: Mapping[str, ObservedImage], poses: Array, width: float,
               rng: np.random.Generator) -> Array:
        """Log-likelihood of each pose (n, 4, 4), from a few rays each; `width` scales the blur."""
        total = np.zeros(len(poses))
        for name, image in images.items():
            blur = max(self.config.blur_px * width, 1.0) * image.camera.width / NOMINAL_WIDTH_PX
            level = make_level(image, blur)
            rays = level.camera.rays()
            good = np.flatnonzero(np.isfinite(level.samples[..., 0]).all(axis=-1).ravel())
            if len(good) < 4:
                continue
            pixels = np.sort(rng.permutation(good)[:self.config.rays])
            observed = level.samples[..., 0].reshape(len(rays), -1)[pixels]
            T = poses @ image.T_cam_sensor
            directions = np.einsum('nij,mj->nmi', T[:, :3, :3], rays[pixels]).reshape(-1, 3)
            rendering = self.renderer.render_rays(
                name, np.repeat(T[:, :3, 3], len(pixels), axis=0).astype(np.float32),
                directions.astype(np.float32))
            values = np.nan_to_num(rendering.values).reshape(len(poses), len(pixels), -1)
            rho = _correlation(values.astype(np.float64), observed.astype(np.float64))
            likelihood = correlation_likelihood(rho, _MAX_CORRELATION)
            total += len(pixels) * (likelihood @ level.signal) / len(level.signal)
        return total

    def _round(self, images: Mapping[str, ObservedImage], cloud: _Cloud, rng: np.random.Generator,
               ) -> _Cloud:
        if self.config.method == 'inversion':
            return self._inverted(images, cloud, rng)
        drawn = resampled(cloud.scores / self.config.temperature, self.config.particles, rng)
        poses = self._scattered(cloud.poses[drawn], cloud.width, rng)
        width = cloud.width * self.config.shrinkage
        return _Cloud(poses, self.scores(images, poses, width, rng), width)

    def _inverted(self, images: Mapping[str, ObservedImage], cloud: _Cloud,
                  rng: np.random.Generator) -> _Cloud:
        """Refine all; the worse half starts again around the better one."""
        count = self.config.inversion_poses
        if len(cloud.poses) > count:  # the first round
            poses = cloud.poses[_SEPARATION.best(cloud.poses, cloud.scores, count)]
        else:
            order = np.argsort(-cloud.scores)
            better = cloud.poses[order[:(len(order) + 1) // 2]]
            poses = np.concatenate([better, self._scattered(better, cloud.width, rng)])[:count]
        refiner = CoarseToFine(self.renderer, RefinementConfig(), images, self.config.seed)
        found, scores = align_coarsely(refiner, list(poses), _COARSE_ITERATIONS)
        return _Cloud(found, scores, cloud.width * self.config.shrinkage)

    def _scattered(self, poses: Array, width: float, rng: np.random.Generator) -> Array:
        sigma = width * np.repeat((self.config.scatter_m, np.deg2rad(self.config.scatter_deg)), 3)
        return se3.plus(poses, sigma * rng.normal(size=(len(poses), 6)))


def resampled(log_weights: Array, count: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Indices of particles, each drawn in proportion to its weight (systematic resampling)."""
    weights = np.exp(log_weights - log_weights.max())
    cumulative = np.cumsum(weights / weights.sum())
    drawn = (rng.random() + np.arange(count)) / count * cumulative[-1]
    return np.asarray(np.searchsorted(cumulative, drawn).clip(max=len(weights) - 1), np.intp)


def _correlation(rendered: Array, observed: Array) -> Array:
    """Of (n, rays, channels) with (rays, channels): (n, channels)."""
    a = rendered - rendered.mean(axis=1, keepdims=True)
    b = observed - observed.mean(axis=0)
    return np.asarray((a * b).sum(axis=1) / np.sqrt(
        (a * a).sum(axis=1) * (b * b).sum(axis=0) + 1e-12))

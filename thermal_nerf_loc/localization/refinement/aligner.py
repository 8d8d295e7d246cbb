# SPDX-License-Identifier: Apache-2.0
"""
Align rendered points to observed images: damped Gauss-Newton on SE(3), all modalities at once.

Residual of point X with rendered value C: `I(project(T^-1 X)) - gain C - offset`, its Jacobian
from the observed image's own gradient. Gain and offset of each channel are nuisances, eliminated
from the normal equations by their Schur complement (cameras drift and change their gain). Each
channel is scaled by its own robust residual, so that it weighs by the information it carries.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.config import setting
from thermal_nerf_loc.common.threads import parallel_map
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.localization.refinement import alignment_kernels, gauss_newton
from thermal_nerf_loc.localization.refinement.image_prior import GainOffset
from thermal_nerf_loc.localization.refinement.image_pyramid import PyramidLevel
from thermal_nerf_loc.localization.refinement.rendered_points import RenderedPoints

Array = NDArray[np.float64]

_MIN_IN_VIEW = 0.15  # of the points' weight; with less the alignment has failed


@dataclass(frozen=True, slots=True)
class AlignConfig:
    """How points are aligned to one pyramid level."""

    iterations: int = setting(15, 'Gauss-Newton steps at most; 0: only measure', 0, 200)
    damping: float = setting(1e-3, 'initial Levenberg-Marquardt damping', 0.0, 10.0)
    cutoff: float = setting(3.0, 'residuals beyond this many sigmas count as outliers', 0.5, 20.0)
    edge_px: float = setting(0.8, 'edges are only trusted to this many pixels of a level', 0., 10.)
    step_px: float = setting(0.03, 'stop when a step moves the image by less', 0.0, 10.0)


@dataclass(frozen=True, slots=True, eq=False)
class ModalityView:
    """One modality's observed image, blurred, and the points rendered for it."""

    level: PyramidLevel
    points: RenderedPoints
    T_cam_sensor: Array
    prior: GainOffset
    noise_floor: float  # least scale of the residuals, in the image's unit
    trust: float = 1.0  # weight of this modality against others, from the map's calibration

    @property
    def floor(self) -> Array:
        """Least scale of each channel's residuals."""
        return np.maximum(self.level.noise, self.noise_floor)


@dataclass(frozen=True, slots=True, eq=False)
class PosePrior:
    """A Gaussian around a pose: it holds directions that the images do not constrain."""

    T_world_cam: Array
    information: Array


@dataclass(frozen=True, slots=True, eq=False)
class LinearizedView:
    """One view at one pose: sampled values, their derivatives, nuisances and variances."""

    view: ModalityView
    T_cam_point: Array
    values: Array  # (n, channels)
    J: Array  # (n, channels, 6)
    gradient_energy: Array  # (n, channels) squared gradients
    seen: NDArray[np.bool_]  # (n,) the point is in view
    nuisance: Array  # (channels, 2): gain and offset
    nuisance_prior: Array  # (channels, 2, 2): weight and centre of their priors
    scale: Array  # (channels,) of the residuals
    variance: Array  # (n, channels)


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """The pose where the minimization ended, and all views linearized there."""

    T_world_cam: Array
    views: tuple[LinearizedView, ...]
    iterations: int

    @property
    def failed(self) -> bool:
        """Whether no point, or hardly any, is in view."""
        shares = [one.view.points.weight[one.seen].sum() / max(one.view.points.weight.sum(), 1e-9)
                  for one in self.views]
        return bool(max(shares, default=0.0) < _MIN_IN_VIEW)


def align(views: Sequence[ModalityView], T_render: Array, T_start: Array, config: AlignConfig,
          prior: PosePrior | None = None) -> Alignment:
    """Move `T_start` until the points rendered at `T_render` fit the observed images."""
    T, iterations, nuisance, nuisance_prior, scale = gauss_newton.minimize(
        T_render, T_start, *pack_views(views, config, prior))
    linearized = tuple(_linearize(view, T_render, T, nuisance[v], nuisance_prior[v], scale[v],
                                  config) for v, view in enumerate(views))
    return Alignment(T, linearized, iterations)


def align_many(views: Sequence[ModalityView], T_render: Array, starts: Array, config: AlignConfig,
               prior: PosePrior | None = None) -> Array:
    """Where `align` ends from each of the starts (n, 4, 4), in parallel threads."""
    arguments = pack_views(views, config, prior)
    return np.stack(parallel_map(
        lambda T: gauss_newton.minimize(T_render, T, *arguments)[0], starts))


def pack_views(views: Sequence[ModalityView], config: AlignConfig, prior: PosePrior | None,
               ) -> tuple[gauss_newton.PackedViews, gauss_newton.Limits, Array, Array]:
    """Views, settings and prior (pose and information) as `gauss_newton.minimize` takes them."""
    images = [view.level.samples for view in views]
    packed = gauss_newton.PackedViews(
        np.concatenate([view.points.points_cam for view in views]),
        np.concatenate([_pad_channels(view.points.values) for view in views]),
        np.concatenate([view.points.weight for view in views]),
        _starts_of([len(view.points) for view in views]),
        np.concatenate([image.ravel() for image in images]),
        _starts_of([image.size for image in images]),
        np.array([image.shape[:3] for image in images], np.int64),
        np.stack([alignment_kernels.lens(view.level.camera) for view in views]),
        np.stack([se3.inverse(view.T_cam_sensor) for view in views]),
        np.stack([view.prior.as_row() for view in views]),
        np.stack([_pad_channels(view.floor) for view in views]),
        np.stack([_pad_channels(view.level.signal * view.trust) for view in views]))
    limits = gauss_newton.Limits(config.iterations, config.damping, config.cutoff, config.edge_px,
                                 config.step_px, _image_motion(views))
    if prior is None:
        return packed, limits, np.eye(4), np.zeros((6, 6))
    return packed, limits, prior.T_world_cam, prior.information


def _linearize(view: ModalityView, T_render: Array, T: Array, nuisance: Array,
               nuisance_prior: Array, scale: Array, config: AlignConfig) -> LinearizedView:
    """Sample the view's image once more, at the final pose."""
    T_cam_point, T_sensor_cam = se3.inverse(T) @ T_render, se3.inverse(view.T_cam_sensor)
    values, J, gradient_energy, seen = alignment_kernels.sample_image(
        view.points.points_cam, T_cam_point[:3, :3], T_cam_point[:3, 3], T_sensor_cam[:3, :3],
        T_sensor_cam[:3, 3], alignment_kernels.lens(view.level.camera), view.level.samples)
    channels = values.shape[1]
    scale = scale[:channels]
    return LinearizedView(view, T_cam_point, values, J, gradient_energy, seen,
                          nuisance[:channels], nuisance_prior[:channels], scale,
                          scale**2 + config.edge_px**2 * gradient_energy)


def normal_equations(linearized: LinearizedView, config: AlignConfig, signal: Array,
                     ) -> tuple[Array, Array, Array, float, float, float]:
    """See `kernels.accumulate`."""
    points = linearized.view.points
    out: tuple[Array, Array, Array, float, float, float] = alignment_kernels.accumulate(
        linearized.values, linearized.J, linearized.seen, points.values, points.weight,
        linearized.variance, linearized.nuisance, linearized.nuisance_prior, signal,
        config.cutoff)
    return out


def _image_motion(views: Sequence[ModalityView]) -> Array:
    """About how many pixels of a level the image moves for each component of a step (6,)."""
    motion = np.zeros(6)
    for view in views:
        if len(view.points):
            depth = max(float(np.median(np.abs(view.points.points_cam[:, 2]))), 1e-3)
            per_unit = np.repeat((1.0 / depth, 1.0), 3)
            motion = np.maximum(motion, view.level.camera.fx * per_unit)
    return motion


def _starts_of(counts: Sequence[int]) -> NDArray[np.int64]:
    """Where each of several concatenated parts begins, and where the last ends."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _pad_channels(values: Array) -> Array:
    """Channels in the last axis filled up to three."""
    out = np.zeros((*values.shape[:-1], gauss_newton.MAX_CHANNELS))
    out[..., :values.shape[-1]] = values
    return out

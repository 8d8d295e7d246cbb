# SPDX-License-Identifier: Apache-2.0
"""
Align rendered points to observed images: damped Gauss-Newton on SE(3), all modalities at once.

Residual of point X with rendered value C: `I(project(T^-1 X)) - gain C - offset`, its Jacobian
from the observed image's own gradient. Gain and offset of each channel are nuisances, eliminated
from the normal equations by their Schur complement (cameras drift and re-gain). Each channel is
scaled by its own robust residual, so that it weighs by what it carries.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.config import setting
from thermal_nerf_loc.common.threads import side_by_side
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.localization.refinement import gauss_newton, kernels
from thermal_nerf_loc.localization.refinement.image_pyramid import Layer
from thermal_nerf_loc.localization.refinement.rendered_points import RenderedPoints

Array = NDArray[np.float64]

_MIN_IN_VIEW = 0.15  # of the points' weight; fewer leave nothing to align


@dataclass(frozen=True, slots=True)
class AlignConfig:
    """How one layer is aligned."""

    iterations: int = setting(15, 'Gauss-Newton steps at most; 0: only measure', 0, 200)
    damping: float = setting(1e-3, 'initial Levenberg-Marquardt damping', 0.0, 10.0)
    cutoff: float = setting(3.0, 'residuals beyond this many sigmas count as outliers', 0.5, 20.0)
    edge_px: float = setting(0.8, 'edges are only trusted to this many pixels of a layer', 0., 10.)
    step_px: float = setting(0.03, 'stop when a step moves the image by less', 0.0, 10.0)


@dataclass(frozen=True, slots=True)
class GainOffset:
    """What is believed of `observed = gain rendered + offset`; None: taken from the images."""

    gain: float | None
    gain_sigma: float  # relative
    offset: float | None
    offset_sigma: float  # in the image's unit

    def as_row(self) -> Array:
        """Four numbers, NaN for None."""
        return np.array([np.nan if value is None else value for value in (
            self.gain, self.gain_sigma, self.offset, self.offset_sigma)])


@dataclass(frozen=True, slots=True, eq=False)
class ModalityView:
    """One modality's observed layer and the points rendered for it."""

    layer: Layer
    points: RenderedPoints
    T_cam_sensor: Array
    prior: GainOffset
    noise_floor: float  # residuals are never trusted below
    trust: float = 1.0  # weight of this modality against others, from the map's calibration

    @property
    def floor(self) -> Array:
        """Least scale of each channel's residuals."""
        return np.maximum(self.layer.noise, self.noise_floor)


@dataclass(frozen=True, slots=True, eq=False)
class PosePrior:
    """A Gaussian around a pose, keeping directions that no image constrains where they were."""

    T_world_cam: Array
    information: Array


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """One view from one pose: what was looked up, and how it is believed."""

    view: ModalityView
    T_cam_point: Array
    values: Array  # (n, channels)
    J: Array  # (n, channels, 6)
    steepness: Array  # (n, channels) squared gradients
    seen: NDArray[np.bool_]
    nuisance: Array  # (channels, 2): gain and offset
    pull: Array  # (channels, 2, 2): weight and centre of their priors
    scale: Array  # (channels,) of the residuals
    variance: Array  # (n, channels)


@dataclass(frozen=True, slots=True, eq=False)
class Aligned:
    """Where the descent ended, and all views from there."""

    T_world_cam: Array
    sights: tuple[Sight, ...]
    iterations: int

    @property
    def failed(self) -> bool:
        """Whether no point, or hardly any, is in view."""
        shares = [s.view.points.weight[s.seen].sum() / max(s.view.points.weight.sum(), 1e-9)
                  for s in self.sights]
        return bool(max(shares, default=0.0) < _MIN_IN_VIEW)


def align(views: Sequence[ModalityView], T_render: Array, T_start: Array, config: AlignConfig,
          prior: PosePrior | None = None) -> Aligned:
    """Move `T_start` until the points rendered at `T_render` fit the layers."""
    T, taken, nuisance, pull, scale = gauss_newton.descend(
        T_render, T_start, *packed(views, config, prior))
    sights = tuple(_sight(view, T_render, T, nuisance[v], pull[v], scale[v], config)
                   for v, view in enumerate(views))
    return Aligned(T, sights, taken)


def align_many(views: Sequence[ModalityView], T_render: Array, starts: Array, config: AlignConfig,
               prior: PosePrior | None = None) -> Array:
    """Where `align` ends from each of the starts (n, 4, 4), side by side."""
    arguments = packed(views, config, prior)
    return np.stack(side_by_side(
        lambda T: gauss_newton.descend(T_render, T, *arguments)[0], starts))


def packed(views: Sequence[ModalityView], config: AlignConfig, prior: PosePrior | None,
           ) -> tuple[gauss_newton.Packed, gauss_newton.Limits, Array, Array]:
    """Views, settings and prior (pose and information) as the compiled descent takes them."""
    layers = [view.layer.samples for view in views]
    everything = gauss_newton.Packed(
        np.concatenate([view.points.points_cam for view in views]),
        np.concatenate([_padded(view.points.values) for view in views]),
        np.concatenate([view.points.weight for view in views]),
        _firsts([len(view.points) for view in views]),
        np.concatenate([layer.ravel() for layer in layers]),
        _firsts([layer.size for layer in layers]),
        np.array([layer.shape[:3] for layer in layers], np.int64),
        np.stack([kernels.lens(view.layer.camera) for view in views]),
        np.stack([se3.inverse(view.T_cam_sensor) for view in views]),
        np.stack([view.prior.as_row() for view in views]),
        np.stack([_padded(view.floor) for view in views]),
        np.stack([_padded(view.layer.signal * view.trust) for view in views]))
    limits = gauss_newton.Limits(config.iterations, config.damping, config.cutoff, config.edge_px,
                                 config.step_px, _image_motion(views))
    if prior is None:
        return everything, limits, np.eye(4), np.zeros((6, 6))
    return everything, limits, prior.T_world_cam, prior.information


def _sight(view: ModalityView, T_render: Array, T: Array, nuisance: Array, pull: Array,
           scale: Array,
           config: AlignConfig) -> Sight:
    """Look once more where the descent ended."""
    T_cam_point, T_sensor_cam = se3.inverse(T) @ T_render, se3.inverse(view.T_cam_sensor)
    values, J, steepness, seen = kernels.look_up(
        view.points.points_cam, T_cam_point[:3, :3], T_cam_point[:3, 3], T_sensor_cam[:3, :3],
        T_sensor_cam[:3, 3], kernels.lens(view.layer.camera), view.layer.samples)
    channels = values.shape[1]
    scale = scale[:channels]
    return Sight(view, T_cam_point, values, J, steepness, seen, nuisance[:channels],
                 pull[:channels], scale, scale**2 + config.edge_px**2 * steepness)


def normal_equations(sight: Sight, config: AlignConfig, signal: Array,
                     ) -> tuple[Array, Array, Array, float, float, float]:
    """See `kernels.accumulate`."""
    points = sight.view.points
    out: tuple[Array, Array, Array, float, float, float] = kernels.accumulate(
        sight.values, sight.J, sight.seen, points.values, points.weight, sight.variance,
        sight.nuisance, sight.pull, signal, config.cutoff)
    return out


def _image_motion(views: Sequence[ModalityView]) -> Array:
    """How far the image moves, in a layer's pixels, for each component of a step, about."""
    motion = np.zeros(6)
    for view in views:
        if len(view.points):
            depth = max(float(np.median(np.abs(view.points.points_cam[:, 2]))), 1e-3)
            per_unit = np.repeat((1.0 / depth, 1.0), 3)
            motion = np.maximum(motion, view.layer.camera.fx * per_unit)
    return motion


def _firsts(counts: Sequence[int]) -> NDArray[np.int64]:
    """Where each of several parts begins, and where the last ends."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _padded(values: Array) -> Array:
    """Channels in the last axis filled up to three."""
    out = np.zeros((*values.shape[:-1], gauss_newton.MAX_CHANNELS))
    out[..., :values.shape[-1]] = values
    return out

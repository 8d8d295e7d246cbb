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

from thermal_nerf_loc.config import setting
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.localization import kernels
from thermal_nerf_loc.localization.lifting import RenderedPoints
from thermal_nerf_loc.localization.observation import Layer

Array = NDArray[np.float64]

_MIN_POINTS = 8  # fewer say nothing about gain and offset
_MIN_IN_VIEW = 0.15  # of the points' weight; fewer leave nothing to align
_MAX_DAMPING = 1e4


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


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One modality's observed layer and the points rendered for it."""

    layer: Layer
    points: RenderedPoints
    T_cam_sensor: Array
    prior: GainOffset
    noise_floor: float  # residuals are never trusted below
    trust: float = 1.0  # weight of this modality against others, from the map's calibration


@dataclass(frozen=True, slots=True, eq=False)
class PosePrior:
    """A Gaussian around a pose, keeping directions that no image constrains where they were."""

    T_world_cam: Array
    information: Array

    def tangent(self, T: Array) -> Array:
        """First order of `T (-) T_world_cam`: good enough for a weak prior."""
        R = self.T_world_cam[:3, :3].T @ T[:3, :3]
        w = 0.5 * np.array([R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]])
        v = self.T_world_cam[:3, :3].T @ (T[:3, 3] - self.T_world_cam[:3, 3])
        return np.concatenate([v, w])


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """One view from one pose: what was looked up, and how it is believed."""

    view: View
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
class _Normal:
    """Normal equations of one sight."""

    H: Array
    g: Array
    back: Array  # (channels, 2, 7): gain and offset from a step
    cost: float


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


def align(views: Sequence[View], T_render: Array, T_start: Array, config: AlignConfig,
          prior: PosePrior | None = None) -> Aligned:
    """Move `T_start` until the points rendered at `T_render` fit the layers."""
    T, damping, iteration = T_start, config.damping, 0
    sights = [_first_sight(view, T_render, T, config) for view in views]
    normals = [_normal(sight, config) for sight in sights]
    pull = _pull(prior, T)
    px_per_unit = _image_motion(views)
    for iteration in range(1, config.iterations + 1):  # noqa: B007
        H = pull[0] + np.sum([normal.H for normal in normals], axis=0)
        g = pull[1] + np.sum([normal.g for normal in normals], axis=0)
        H.flat[::7] += damping * H.flat[::7] + 1e-12
        step = np.asarray(np.linalg.solve(H, g), dtype=np.float64)
        T_next = se3.plus(T, step)
        trial = [_next_sight(sight, normal, step, T_render, T_next, config)
                 for sight, normal in zip(sights, normals)]
        pull_next = _pull(prior, T_next)
        before = pull[2] + sum(normal.cost for normal in normals)
        after = pull_next[2] + sum(_normal(sight, config).cost for sight in trial)
        if after <= before:
            T, pull, damping = T_next, pull_next, max(damping / 4.0, 1e-6)
            sights = [_rescaled(sight, config) for sight in trial]
            normals = [_normal(sight, config) for sight in sights]
        else:
            damping *= 10.0
        if float(px_per_unit @ np.abs(step)) < config.step_px or damping > _MAX_DAMPING:
            break
    return Aligned(T, tuple(sights), iteration)


def _first_sight(view: View, T_render: Array, T: Array, config: AlignConfig) -> Sight:
    """Look the points up and take first gains, offsets and scales from the images."""
    T_cam_point = se3.inverse(T) @ T_render
    values, J, steepness, seen = _look_up(view, T_cam_point)
    channels, prior = values.shape[1], view.prior
    chosen = seen & (view.points.weight > 0.0)
    gain, offset = np.ones(channels), np.zeros(channels)
    if chosen.sum() >= _MIN_POINTS:
        observed, rendered = values[chosen], view.points.values[chosen]
        gain = gain * prior.gain if prior.gain is not None else _contrast_ratio(observed, rendered)
        offset = np.asarray(offset + prior.offset if prior.offset is not None
                            else np.median(observed - gain * rendered, axis=0))
    pull = np.empty((channels, 2, 2))
    pull[:, 0, 0] = np.maximum(prior.gain_sigma * np.abs(gain), 1e-6)**-2.0
    pull[:, 1, 0] = prior.offset_sigma**-2.0
    nuisance = np.stack([gain, offset], axis=-1).astype(np.float64)
    pull[:, :, 1] = nuisance
    return _rescaled(Sight(view, T_cam_point, values, J, steepness, seen, nuisance, pull,
                           np.ones(channels), np.ones(values.shape)), config)


def _next_sight(sight: Sight, normal: _Normal, step: Array, T_render: Array, T: Array,
                config: AlignConfig) -> Sight:
    """The sight after a step, gain and offset solved along, residual scales kept."""
    T_cam_point = se3.inverse(T) @ T_render
    values, J, steepness, seen = _look_up(sight.view, T_cam_point)
    nuisance = sight.nuisance + normal.back[:, :, 0] - normal.back[:, :, 1:] @ step
    fresh = sight.scale**2 + config.edge_px**2 * steepness  # for points that come into view
    variance = np.where(sight.seen[:, None], sight.variance, fresh)
    return Sight(sight.view, T_cam_point, values, J, steepness, seen, nuisance, sight.pull,
                 sight.scale, variance)


def _rescaled(sight: Sight, config: AlignConfig) -> Sight:
    """Measure the residual scales anew."""
    view = sight.view
    floor = np.maximum(view.layer.noise, view.noise_floor)
    scale, variance = kernels.residual_scale(
        sight.values, sight.steepness, sight.seen, view.points.values, view.points.weight,
        sight.nuisance, floor, config.edge_px)
    return Sight(view, sight.T_cam_point, sight.values, sight.J, sight.steepness, sight.seen,
                 sight.nuisance, sight.pull, scale, variance)


def _normal(sight: Sight, config: AlignConfig) -> _Normal:
    """Normal equations and cost, points out of view counted as fitting like those in view."""
    H, g, back, robust, priors, in_view = normal_equations(sight, config,
                                                           sight.view.layer.signal
                                                           * sight.view.trust)
    everything = float(sight.view.points.weight.sum())
    if in_view <= 1e-3 * everything:
        return _Normal(H, g, back, float('inf') if everything > 0.0 else 0.0)
    return _Normal(H, g, back, robust * config.cutoff**2 * everything / in_view + priors)


def normal_equations(sight: Sight, config: AlignConfig, signal: Array,
                     ) -> tuple[Array, Array, Array, float, float, float]:
    """See `kernels.accumulate`."""
    points = sight.view.points
    out: tuple[Array, Array, Array, float, float, float] = kernels.accumulate(
        sight.values, sight.J, sight.seen, points.values, points.weight, sight.variance,
        sight.nuisance, sight.pull, signal, config.cutoff)
    return out


def _pull(prior: PosePrior | None, T: Array) -> tuple[Array, Array, float]:
    """The prior's part of normal matrix, right side and cost."""
    if prior is None:
        return np.zeros((6, 6)), np.zeros(6), 0.0
    xi = prior.tangent(T)
    force = prior.information @ xi
    return prior.information, -force, float(xi @ force)


def _look_up(view: View, T_cam_point: Array) -> tuple[Array, Array, Array, NDArray[np.bool_]]:
    T_sensor_cam = se3.inverse(view.T_cam_sensor)
    out: tuple[Array, Array, Array, NDArray[np.bool_]] = kernels.look_up(
        view.points.points_cam, T_cam_point[:3, :3], T_cam_point[:3, 3], T_sensor_cam[:3, :3],
        T_sensor_cam[:3, 3], kernels.lens(view.layer.camera), view.layer.samples)
    return out


def _contrast_ratio(observed: Array, rendered: Array) -> Array:
    """Gain that makes the two contrasts equal; unlike a regression, not biased by misalignment."""
    spans = [np.subtract(*np.quantile(x, (0.9, 0.1), axis=0)) for x in (observed, rendered)]
    return np.asarray(np.maximum(spans[0], 1e-6) / np.maximum(spans[1], 1e-6))


def _image_motion(views: Sequence[View]) -> Array:
    """How far the image moves, in a layer's pixels, for each component of a step, about."""
    motion = np.zeros(6)
    for view in views:
        if len(view.points):
            depth = max(float(np.median(np.abs(view.points.points_cam[:, 2]))), 1e-3)
            per_unit = np.repeat((1.0 / depth, 1.0), 3)
            motion = np.maximum(motion, view.layer.camera.fx * per_unit)
    return motion

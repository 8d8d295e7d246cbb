# SPDX-License-Identifier: Apache-2.0
"""The aligner's descent in plain numpy: slow, obvious; `gauss_newton.minimize` must equal it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import kernels_reference as kernels
from kernels_reference import Array, Flags
import numpy as np

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.localization.refinement.aligner import AlignConfig, ModalityView, PosePrior
from thermal_nerf_loc.localization.refinement.gauss_newton import MIN_POINTS

_MAX_DAMPING = 1e4


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """One view at one pose: sampled values, derivatives, nuisances and variances."""

    values: Array
    J: Array
    gradient_energy: Array
    seen: Flags
    nuisance: Array
    nuisance_prior: Array
    scale: Array
    variance: Array


def minimize(views: Sequence[ModalityView], T_render: Array, T: Array, config: AlignConfig,
             px_per_unit: Array, prior: PosePrior | None = None) -> tuple[Array, int, list[Array]]:
    """Pose, steps taken, and each view's gains and offsets."""
    damping, iteration = config.damping, 0
    states = [_initial_state(view, T_render, T, config) for view in views]
    H, g, nuisance_steps, cost = _normal_equations(views, states, config)
    prior_terms = _pose_prior_terms(prior, T)
    for iteration in range(1, config.iterations + 1):  # noqa: B007
        A = H + prior_terms[0]
        A.flat[::7] += damping * A.flat[::7] + 1e-12
        step: Array = np.asarray(np.linalg.solve(A, g + prior_terms[1]), np.float64)
        T_next = se3.plus(T, step)
        trial = [_state_after_step(view, state, nuisance_step, step, T_render, T_next, config)
                 for view, state, nuisance_step in zip(views, states, nuisance_steps, strict=True)]
        terms_next = _pose_prior_terms(prior, T_next)
        trial_cost = _normal_equations(views, trial, config)[3]
        if trial_cost + terms_next[2] <= cost + prior_terms[2]:
            T, prior_terms, damping = T_next, terms_next, max(damping / 4.0, 1e-6)
            states = [_update_scale(view, state, config)
                      for view, state in zip(views, trial, strict=True)]
            H, g, nuisance_steps, cost = _normal_equations(views, states, config)
        else:
            damping *= 10.0
        if float(px_per_unit @ np.abs(step)) < config.step_px or damping > _MAX_DAMPING:
            break
    return T, iteration, [state.nuisance for state in states]


def _initial_state(view: ModalityView, T_render: Array, T: Array, config: AlignConfig) -> _State:
    """Take first gains and offsets from the prior, else from the images."""
    values, J, gradient_energy, seen = _sample_view(view, T_render, T)
    gain, offset = np.ones(values.shape[1]), np.zeros(values.shape[1])
    chosen = seen & (view.points.weight > 0.0)
    if chosen.sum() >= MIN_POINTS:
        observed, rendered = values[chosen], view.points.values[chosen]
        if view.prior.gain is None:
            spans = [_quantile(x, 0.9) - _quantile(x, 0.1) for x in (observed, rendered)]
            gain = np.maximum(spans[0], 1e-6) / np.maximum(spans[1], 1e-6)
        else:
            gain = gain * view.prior.gain
        offset = (_quantile(observed - gain * rendered, 0.5) if view.prior.offset is None
                  else offset + view.prior.offset)
    nuisance = np.stack([gain, offset], axis=-1)
    weights = np.stack([np.maximum(view.prior.gain_sigma * np.abs(gain), 1e-6)**-2.0,
                        np.full(len(gain), view.prior.offset_sigma**-2.0)], axis=-1)
    state = _State(values, J, gradient_energy, seen, nuisance,
                   np.stack([weights, nuisance], axis=-1), np.ones(len(gain)),
                   np.ones_like(values))
    return _update_scale(view, state, config)


def _state_after_step(view: ModalityView, state: _State, nuisance_step: Array, step: Array,
                      T_render: Array, T: Array, config: AlignConfig) -> _State:
    """Sample at the pose after a step; gain and offset take their step, scales are kept."""
    values, J, gradient_energy, seen = _sample_view(view, T_render, T)
    fresh = state.scale**2 + config.edge_px**2 * gradient_energy  # of points that come into view
    nuisance = state.nuisance + nuisance_step[:, :, 0] - nuisance_step[:, :, 1:] @ step
    return replace(state, values=values, J=J, gradient_energy=gradient_energy, seen=seen,
                   nuisance=nuisance,
                   variance=np.where(state.seen[:, None], state.variance, fresh))


def _update_scale(view: ModalityView, state: _State, config: AlignConfig) -> _State:
    scale, variance = kernels.residual_scale(
        state.values, state.gradient_energy, state.seen, view.points.values, view.points.weight,
        state.nuisance, view.floor, config.edge_px)
    return replace(state, scale=scale, variance=variance)


def _normal_equations(views: Sequence[ModalityView], states: Sequence[_State],
                      config: AlignConfig) -> tuple[Array, Array, list[Array], float]:
    """Sum the normal equations; points out of view cost as much as those in view."""
    H, g, nuisance_steps, cost = np.zeros((6, 6)), np.zeros(6), [], 0.0
    for view, state in zip(views, states, strict=True):
        own_H, own_g, nuisance_step, robust, priors, in_view = kernels.accumulate(
            state.values, state.J, state.seen, view.points.values, view.points.weight,
            state.variance, state.nuisance, state.nuisance_prior, view.level.signal * view.trust,
            config.cutoff)
        H, g = H + own_H, g + own_g
        nuisance_steps.append(nuisance_step)
        everything = float(view.points.weight.sum())
        if in_view > 1e-3 * everything:
            cost += robust * config.cutoff**2 * everything / in_view + priors
        elif everything > 0.0:
            cost = float('inf')
    return H, g, nuisance_steps, cost


def _pose_prior_terms(prior: PosePrior | None, T: Array) -> tuple[Array, Array, float]:
    """The pose prior's part of normal matrix, right side and cost, to first order."""
    if prior is None:
        return np.zeros((6, 6)), np.zeros(6), 0.0
    T_prior_cam = se3.inverse(prior.T_world_cam) @ T
    R = T_prior_cam[:3, :3]
    w = 0.5 * np.array([R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]])
    xi = np.concatenate([T_prior_cam[:3, 3], w])
    force = prior.information @ xi
    return prior.information, -force, float(xi @ force)


def _sample_view(view: ModalityView, T_render: Array, T: Array,
                 ) -> tuple[Array, Array, Array, Flags]:
    T_cam_point, T_sensor_cam = se3.inverse(T) @ T_render, se3.inverse(view.T_cam_sensor)
    return kernels.sample_image(view.points.points_cam, T_cam_point[:3, :3], T_cam_point[:3, 3],
                                T_sensor_cam[:3, :3], T_sensor_cam[:3, 3], view.level.camera,
                                view.level.samples)


def _quantile(values: Array, share: float) -> Array:
    """Quantile of each column, not interpolated."""
    return np.asarray(np.sort(values, axis=0)[int(share * len(values))])

# SPDX-License-Identifier: Apache-2.0
"""
INeRF as published: invert the map by gradient descent on SE(3).

Yen-Chen et al., "iNeRF: Inverting Neural Radiance Fields for Pose Estimation", 2021. The pose is
`exp([S] theta) T_0` in exponential coordinates; each step renders a fresh batch of rays, compares
them with the image in the mean square and steps theta by Adam (betas 0.9, 0.999), whose rate
decays as `rate * 0.8^(step / 100)`. Rays come from the samplers of `pixel_sampling`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.config import setting
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.localization.refinement.image_pyramid import ObservedImage
from thermal_nerf_loc.localization.refinement.pixel_sampling import (
    draw_pixels, preferred_pixels, SAMPLERS)
from thermal_nerf_loc.mapping.map.localization_map import LocalizationMap
from thermal_nerf_loc.sensing.frame import RGB

Array = NDArray[np.float64]

_DECAY = 0.8  # of the rate, each
_DECAY_STEPS = 100.0


@dataclass(frozen=True, slots=True)
class InerfConfig:
    """The published settings."""

    steps: int = setting(300, 'gradient steps', 1, 100000)
    rays: int = setting(1024, 'rays of a step, shared by the images', 8, 1000000)
    rate: float = setting(0.01, 'initial step of Adam', 1e-6, 10.0)
    sampler: str = setting('interest_regions', 'where rays are drawn', choices=SAMPLERS)
    dilations: int = setting(3, 'rounds of 5x5 dilation of the interest regions', 0, 50)


@dataclass(frozen=True, slots=True, eq=False)
class InerfResult:
    """The final pose, the loss of each step, and the rays rendered."""

    T_world_cam: Array
    losses: tuple[float, ...]
    rays: int


@dataclass(frozen=True, slots=True, eq=False)
class _Target:
    """One image's rays, the values that they should render, and its contrast."""

    modality: str
    directions: Any  # (pixels, 3) in the reference camera
    origin: Any  # (3,) of the sensor in the reference camera
    values: Any  # (pixels, channels)
    contrast: float


def refine(renderer: LocalizationMap, images: Mapping[str, ObservedImage], T_guess: Array,
           config: InerfConfig, seed: int = 0) -> InerfResult:
    """Refine the pose from `T_guess` by `config.steps` steps of Adam."""
    import torch
    rng = np.random.default_rng(seed)
    device = renderer.device or torch.device('cpu')
    targets = [_make_target(name, image, device) for name, image in images.items()]
    preferred = [preferred_pixels(config.sampler, image, config.dilations)
                 for image in images.values()]
    share = max(config.rays // len(targets), 4)
    pixels = [[_index(draw_pixels(mask, image, share, rng), image.camera.width)
               for mask, image in zip(preferred, images.values())] for _ in range(config.steps)]
    drawn = [torch.from_numpy(np.stack(part)).to(device) for part in zip(*pixels)]  # sent once
    theta = torch.zeros(6, dtype=torch.float64, device=device, requires_grad=True)
    base = torch.tensor(T_guess, dtype=torch.float64, device=device)
    optimizer = torch.optim.Adam([theta], lr=config.rate, betas=(0.9, 0.999))
    losses = []
    for step in range(config.steps):
        optimizer.param_groups[0]['lr'] = config.rate * _DECAY**(step / _DECAY_STEPS)
        T = _exp(theta) @ base
        loss = torch.zeros((), dtype=torch.float64, device=device)
        for target, chosen in zip(targets, drawn):
            loss = loss + _loss(renderer, target, chosen[step], T)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.detach())
    T_final = se3.exp(theta.detach().cpu().numpy()) @ T_guess
    return InerfResult(T_final, tuple(torch.stack(losses).tolist()),
                       sum(part.numel() for part in drawn))


def _make_target(name: str, image: ObservedImage, device: Any) -> _Target:
    import torch
    directions = image.camera.rays() @ image.T_cam_sensor[:3, :3].T
    values = image.values.reshape(len(directions), -1)
    contrast = 1.0 if name == RGB else max(float(np.subtract(
        *np.quantile(values, (0.99, 0.01)))), 1e-6)  # deg C to about [0, 1], as colours are
    rays, origin, pixels = (torch.tensor(part, dtype=torch.float64, device=device)
                            for part in (directions, image.T_cam_sensor[:3, 3].copy(), values))
    return _Target(name, rays, origin, pixels, contrast)


def _loss(renderer: LocalizationMap, target: _Target, pixels: Any, T: Any) -> Any:
    """Mean squared photometric error of a batch."""
    R, t = T[:3, :3], T[:3, 3]
    directions = target.directions[pixels] @ R.T
    origins = (R @ target.origin + t).expand(len(directions), 3)
    rendered = renderer.render_differentiable(target.modality, origins.float(),
                                              directions.float())
    error = (rendered.double() - target.values[pixels]) / target.contrast
    return (error**2).mean()


def _exp(theta: Any) -> Any:
    """Exponential of the twist (v, w), differentiable also at zero."""
    from thermal_nerf_loc.geometry.lie_torch import se3_exp
    return se3_exp(theta[None])[0]


def _index(uv: Array, width: int) -> NDArray[np.intp]:
    return (uv[:, 1].astype(np.intp) * width + uv[:, 0].astype(np.intp)).astype(np.intp)

# SPDX-License-Identifier: Apache-2.0
"""
Distil a small thermal depth network for one scene, after MonoTher-Depth (Zuo et al., RA-L 2025).

    L = mean c (|mu - log d| / (b + s) + log (b + s))  +  consistency |mu' - mu - shift|

d is the depth of a teacher or a label, s its relative spread, c its confidence; mu and b are what
the network predicts, a Laplace distribution of log depth. Every image is used twice, each time
rotated a little (exact for depth: z' = z / r_z for the ray r that moves onto the pixel) and with
other noise and offset; both predictions must agree, also where no depth is known. Without examples
of a teacher the same function trains on labels alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
import time

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor
from torch.nn import functional

from thermal_nerf_loc.common.config import setting
from thermal_nerf_loc.common.errors import InputError, RunError
from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.field.device import has_bfloat16
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.mapping.thermal_depth.model import TemperatureScaling, ThermalDepth
from thermal_nerf_loc.mapping.thermal_depth.network import DepthNetwork
from thermal_nerf_loc.mapping.thermal_depth.teacher import DepthExample

_REPORT_STEPS = 10
_ROTATIONS = 128  # drawn once, then chosen from
_LEAST_STD_CELSIUS = 0.1
_WEIGHT_DECAY = 1e-4
_WARM_UP_STEPS = 30
_LARGEST_GRADIENT = 5.0  # norm; larger ones are clipped
_CELLS = 15, 20  # rows and columns in which predictions are compared
_FEWEST_PIXELS = 4  # more than these in a cell


@dataclass(frozen=True, slots=True)
class DistillConfig:
    """How a thermal depth network is trained."""

    steps: int = setting(1500, 'of training', 1, 1_000_000)
    max_seconds: float | None = setting(None, 'stop after this time', 1.0)
    images: int = setting(8, 'images a step, each used twice', 1, 1024)
    rate: float = setting(1.5e-3, 'of Adam, at first', 1e-6, 1.0)
    label_share: float = setting(0.25, 'of the images of a step: those with measured depth, '
                                 'where there is a teacher', 0.0, 1.0)
    alone_share: float = setting(0.5, 'the same, without a teacher', 0.0, 1.0)
    consistency: float = setting(0.3, 'weight of agreement between the two predictions', 0.0,
                                 100.0)
    turn_deg: float = setting(4.0, 'sigma of the rotations, about each axis', 0.0, 30.0)
    offset_celsius: float = setting(0.5, 'sigma of what is added: cameras drift', 0.0, 50.0)
    noise_celsius: float = setting(0.1, 'sigma of noise', 0.0, 10.0)
    seed: int = setting(0, 'of every random choice', 0)


@dataclass(frozen=True, slots=True, eq=False)
class _Pool:
    """Examples as tensors (n, h, w)."""

    images: Tensor
    log_depth: Tensor
    confidence: Tensor
    relative_spread: Tensor

    @classmethod
    def of(cls, examples: Sequence[DepthExample], scale: TemperatureScaling) -> '_Pool':
        """Images as the network reads them; depth in logarithms."""
        def stack(parts: list[NDArray[np.float32]]) -> Tensor:
            return torch.from_numpy(np.stack(parts).astype(np.float32))

        confidence = stack([example.confidence for example in examples])
        depth = stack([example.depth_m for example in examples])
        return cls(stack([scale(example.celsius) for example in examples]),
                   torch.log(torch.where(confidence > 0.0, depth, 1.0).clamp(min=1e-3)),
                   confidence,
                   stack([example.relative_spread for example in examples]).clamp(max=1.0))


@dataclass(frozen=True, slots=True, eq=False)
class _Rotations:
    """Random rotations: grids (n, h, w, 2) and shifts of log depth (n, h, w); see `rotated`."""

    grid: Tensor
    shift: Tensor

    @classmethod
    def of(cls, camera: Camera, rng: np.random.Generator, sigma_deg: float) -> '_Rotations':
        """Draw them."""
        grids, shifts = zip(*(rotated(camera, rng, sigma_deg) for _ in range(_ROTATIONS)))
        return cls(torch.stack(grids), torch.stack(shifts))


def distill(labels: Sequence[DepthExample], examples: Sequence[DepthExample], camera: Camera,
            config: DistillConfig = DistillConfig(), progress: Progress = silent,
            ) -> tuple[ThermalDepth, int]:
    """
    Train on labels and on other examples (a teacher's, or images without depth).

    Returns the network and the number of steps.
    """
    together = [*labels, *examples]
    depths = [example.depth_m[example.confidence > 0.0] for example in together]
    if not any(part.size for part in depths):
        raise InputError('no depth to learn from', where='distill-depth',
                         expected='a teacher, or frames with measured thermal depth')
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    celsius = np.concatenate([example.celsius.ravel() for example in together])
    scale = TemperatureScaling(float(celsius.mean()),
                               max(float(celsius.std()), _LEAST_STD_CELSIUS))
    network = DepthNetwork(float(np.log(np.median(np.concatenate(depths)))))
    pool = _Pool.of(together, scale)
    steps = _train(network, pool, len(labels), camera, scale, config, rng, progress)
    return ThermalDepth(network.eval(), camera, scale), steps


def _train(network: DepthNetwork, pool: _Pool, labels: int, camera: Camera,
           scale: TemperatureScaling, config: DistillConfig, rng: np.random.Generator,
           progress: Progress) -> int:
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.rate, weight_decay=_WEIGHT_DECAY,
                                  fused=True)
    rotations = _Rotations.of(camera, rng, config.turn_deg)
    with_label_share = _label_share(pool, labels, config)
    began, step = time.monotonic(), 0
    while step < config.steps:
        share = step / config.steps
        if config.max_seconds is not None:
            share = max(share, (time.monotonic() - began) / config.max_seconds)
            if share >= 1.0:
                break
        for group in optimizer.param_groups:
            group['lr'] = config.rate * min(1.0, (step + 1) / _WARM_UP_STEPS) * 0.5 * (
                1.0 + np.cos(np.pi * share))
        images = _chosen(labels, len(pool.images), with_label_share, config, rng)
        loss = _loss(network, pool, images, rotations, scale, config, rng)
        if not torch.isfinite(loss):
            raise RunError('distillation diverged: the loss is not finite', where=f'step {step}',
                           hint='Lower the learning rate.')
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), _LARGEST_GRADIENT)
        optimizer.step()
        step += 1
        if step % _REPORT_STEPS == 0:
            progress(step, config.steps, f'loss {float(loss.detach()):.3f}')
    return step


def _label_share(pool: _Pool, labels: int, config: DistillConfig) -> float:
    """Share of a step's images that have labels: all, where there are no others."""
    if labels in (0, len(pool.images)):
        return float(labels > 0)
    has_teacher = bool(pool.confidence[labels:].any())
    return config.label_share if has_teacher else config.alone_share


def _chosen(labels: int, count: int, share: float, config: DistillConfig,
            rng: np.random.Generator) -> Tensor:
    """Indices of the images of a step: labelled ones and others by their shares."""
    with_label = round(share * config.images)
    return torch.from_numpy(np.concatenate([
        rng.integers(0, max(labels, 1), with_label),
        rng.integers(labels, max(count, labels + 1), config.images - with_label)]))


def _loss(network: DepthNetwork, pool: _Pool, index: Tensor, rotations: _Rotations,
          scale: TemperatureScaling, config: DistillConfig, rng: np.random.Generator) -> Tensor:
    """Negative log likelihood of known depth over both predictions, and their disagreement."""
    twice = torch.cat([index, index])
    chosen = torch.from_numpy(rng.integers(0, len(rotations.grid), len(twice)))
    grid, shift = rotations.grid[chosen], rotations.shift[chosen]
    inside = (grid.abs() <= 1.0).all(dim=-1)
    images = _sample(pool.images[twice], grid, 'bilinear')
    unit = scale.std_celsius
    offset = torch.from_numpy(rng.normal(0.0, config.offset_celsius / unit, (len(twice), 1, 1)))
    noise = torch.from_numpy(rng.normal(0.0, config.noise_celsius / unit, images.shape))
    half = has_bfloat16(images.device)
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=half):
        mean, log_scale = network((images + offset + noise).float())
    mean, log_scale = mean.float(), log_scale.float()
    target = _sample(pool.log_depth[twice], grid, 'nearest') + shift
    confidence = _sample(pool.confidence[twice], grid, 'nearest') * inside
    relative_spread = _sample(pool.relative_spread[twice], grid, 'nearest')
    b = torch.exp(log_scale) + relative_spread
    likelihood = confidence * ((mean - target).abs() / b + torch.log(b))
    loss: Tensor = likelihood.sum() / confidence.sum().clamp(min=1.0)
    if config.consistency > 0.0:
        loss = loss + config.consistency * _disagreement(mean, grid, shift, inside)
    return loss


def _disagreement(mean: Tensor, grid: Tensor, shift: Tensor, inside: Tensor) -> Tensor:
    """
    Mean difference of both predictions of log depth, each rotated back to the original image.

    Sampling each prediction in the original image needs the inverse rotation; comparing coarse
    cells (mean log depth of what falls in each) needs only the forward one.
    """
    n = len(mean) // 2
    back = mean - shift
    rows, columns = _CELLS
    u = ((grid[..., 0] + 1.0) * 0.5 * columns).long().clamp(0, columns - 1)
    v = ((grid[..., 1] + 1.0) * 0.5 * rows).long().clamp(0, rows - 1)
    cell = (v * columns + u).flatten(1)
    weight = inside.float().flatten(1)
    zeros = torch.zeros(2 * n, rows * columns)
    count = zeros.scatter_add(1, cell, weight)
    total = zeros.scatter_add(1, cell, weight * back.flatten(1))
    both = ((count[:n] > _FEWEST_PIXELS) & (count[n:] > _FEWEST_PIXELS)).float()
    mean_of_cell = total / count.clamp(min=1.0)
    difference = (mean_of_cell[:n] - mean_of_cell[n:]).abs() * both
    mean_difference: Tensor = difference.sum() / both.sum().clamp(min=1.0)
    return mean_difference


def rotated(camera: Camera, rng: np.random.Generator, sigma_deg: float) -> tuple[Tensor, Tensor]:
    """
    Where in the original image each pixel of a randomly rotated camera lies.

    A grid (h, w, 2) in -1 to 1, and by how much log depth along z changes (h, w).
    """
    R = se3.so3_exp(np.deg2rad(sigma_deg) * rng.normal(size=3))
    rays = camera.rays()
    rays = rays / rays[:, 2:]
    before = rays @ R.T  # in the original camera
    uv, _ = camera.project(before)
    uv = np.where(before[:, 2:] > 1e-6, uv, -1e6)
    grid = 2.0 * uv / camera.size - 1.0
    shape = camera.size[::-1]
    shift = -np.log(np.maximum(before[:, 2], 1e-6))
    return (torch.from_numpy(grid.reshape(*shape, 2).astype(np.float32)),
            torch.from_numpy(shift.reshape(shape).astype(np.float32)))


def _sample(images: Tensor, grid: Tensor, mode: str) -> Tensor:
    return functional.grid_sample(images[:, None], grid, mode=mode, padding_mode='border',
                                  align_corners=False)[:, 0]

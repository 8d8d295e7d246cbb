# SPDX-License-Identifier: Apache-2.0
"""
Teaching a small thermal depth network a place, after MonoTher-Depth (Zuo et al., RA-L 2025).

    L = mean trust (|mu - log d| / (b + s) + log (b + s))  +  consistency |mu' - mu - shift|

d is what a teacher or a label says, s its own doubt, trust how far it is believed; mu and b are
what the network predicts, a Laplace distribution of log depth. Every image is seen twice, each
time turned a little (a pure rotation, exact for depth: z' = z / r_z for the ray r that moves onto
the pixel) and with other noise, gain and offset; both predictions must agree, also where nobody
said anything. Without lessons of a teacher the same function trains on labels alone.
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
from thermal_nerf_loc.field.cpu_renderer import has_bfloat16
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.mapping.thermal_depth.model import Scale, ThermalDepth
from thermal_nerf_loc.mapping.thermal_depth.network import DepthNetwork
from thermal_nerf_loc.mapping.thermal_depth.teacher import DepthExample

_REPORT_STEPS = 10
_TURNS = 128
_LEAST_STD_CELSIUS = 0.1
_DECAY = 1e-4


@dataclass(frozen=True, slots=True)
class DistillConfig:
    """How a thermal depth network is trained."""

    steps: int = setting(1500, 'of training', 1, 1_000_000)
    max_seconds: float | None = setting(None, 'stop after this time', 1.0)
    images: int = setting(8, 'images a step, each seen twice', 1, 1024)
    rate: float = setting(1.5e-3, 'of Adam, at first', 1e-6, 1.0)
    label_share: float = setting(0.25, 'of the images of a step: those with measured depth, '
                                 'beside a teacher', 0.0, 1.0)
    alone_share: float = setting(0.5, 'the same, without a teacher', 0.0, 1.0)
    consistency: float = setting(0.3, 'weight of agreement between the two looks', 0.0, 100.0)
    turn_deg: float = setting(4.0, 'sigma of the turns, about each axis', 0.0, 30.0)
    offset_celsius: float = setting(0.5, 'sigma of what is added: cameras drift', 0.0, 50.0)
    noise_celsius: float = setting(0.1, 'sigma of noise', 0.0, 10.0)
    seed: int = setting(0, 'of every random choice', 0)


@dataclass(frozen=True, slots=True, eq=False)
class _Pool:
    """Lessons as tensors (n, h, w)."""

    images: Tensor
    log_depth: Tensor
    trust: Tensor
    doubt: Tensor

    @classmethod
    def of(cls, lessons: Sequence[DepthExample], scale: Scale) -> '_Pool':
        """Images as the network reads them; depth in logarithms."""
        def stack(parts: list[NDArray[np.float32]]) -> Tensor:
            return torch.from_numpy(np.stack(parts).astype(np.float32))

        trust = stack([lesson.trust for lesson in lessons])
        depth = stack([lesson.depth_m for lesson in lessons])
        return cls(stack([scale(lesson.celsius) for lesson in lessons]),
                   torch.log(torch.where(trust > 0.0, depth, 1.0).clamp(min=1e-3)), trust,
                   stack([lesson.doubt for lesson in lessons]).clamp(max=1.0))


@dataclass(frozen=True, slots=True, eq=False)
class _Turns:
    """A stock of turns to draw from: grids (n, h, w, 2) and shifts of log depth (n, h, w)."""

    grid: Tensor
    shift: Tensor

    @classmethod
    def of(cls, camera: Camera, rng: np.random.Generator, sigma_deg: float) -> '_Turns':
        """Draw them."""
        grids, shifts = zip(*(turned(camera, rng, sigma_deg) for _ in range(_TURNS)))
        return cls(torch.stack(grids), torch.stack(shifts))


def distill(labels: Sequence[DepthExample], lessons: Sequence[DepthExample], camera: Camera,
            config: DistillConfig = DistillConfig(), progress: Progress = silent,
            ) -> tuple[ThermalDepth, int]:
    """
    Train on labels and on lessons (a teacher's, or images about which nobody says anything).

    Returns the network and the steps that were run.
    """
    everything = [*labels, *lessons]
    told = [lesson.depth_m[lesson.trust > 0.0] for lesson in everything]
    if not any(part.size for part in told):
        raise InputError('nobody says anything about depth', where='distill-depth',
                         expected='a teacher, or frames with measured thermal depth')
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    celsius = np.concatenate([lesson.celsius.ravel() for lesson in everything])
    scale = Scale(float(celsius.mean()), max(float(celsius.std()), _LEAST_STD_CELSIUS))
    network = DepthNetwork(float(np.log(np.median(np.concatenate(told)))))
    pool = _Pool.of(everything, scale)
    steps = _train(network, pool, len(labels), camera, scale, config, rng, progress)
    return ThermalDepth(network.eval(), camera, scale), steps


def _train(network: DepthNetwork, pool: _Pool, labels: int, camera: Camera, scale: Scale,
           config: DistillConfig, rng: np.random.Generator, progress: Progress) -> int:
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.rate, weight_decay=_DECAY,
                                  fused=True)
    turns = _Turns.of(camera, rng, config.turn_deg)
    labelled = _label_share(pool, labels, config)
    began, step = time.monotonic(), 0
    while step < config.steps:
        share = step / config.steps
        if config.max_seconds is not None:
            share = max(share, (time.monotonic() - began) / config.max_seconds)
            if share >= 1.0:
                break
        for group in optimizer.param_groups:
            group['lr'] = config.rate * min(1.0, (step + 1) / 30) * 0.5 * (
                1.0 + np.cos(np.pi * share))
        images = _chosen(labels, len(pool.images), labelled, config, rng)
        loss = _loss(network, pool, images, turns, scale, config, rng)
        if not torch.isfinite(loss):
            raise RunError('distillation diverged: the loss is not finite', where=f'step {step}',
                           hint='Lower the learning rate.')
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        step += 1
        if step % _REPORT_STEPS == 0:
            progress(step, config.steps, f'loss {float(loss.detach()):.3f}')
    return step


def _label_share(pool: _Pool, labels: int, config: DistillConfig) -> float:
    """How many of a step's images have labels: as many as there is nobody else to learn from."""
    if labels in (0, len(pool.images)):
        return float(labels > 0)
    taught = bool(pool.trust[labels:].any())
    return config.label_share if taught else config.alone_share


def _chosen(labels: int, count: int, share: float, config: DistillConfig,
            rng: np.random.Generator) -> Tensor:
    """Indices of the images of a step: labelled ones and others by their shares."""
    with_label = round(share * config.images)
    return torch.from_numpy(np.concatenate([
        rng.integers(0, max(labels, 1), with_label),
        rng.integers(labels, max(count, labels + 1), config.images - with_label)]))


def _loss(network: DepthNetwork, pool: _Pool, index: Tensor, turns: _Turns, scale: Scale,
          config: DistillConfig, rng: np.random.Generator) -> Tensor:
    """Likelihood of what was said, over both looks, and their agreement."""
    twice = torch.cat([index, index])
    chosen = torch.from_numpy(rng.integers(0, len(turns.grid), len(twice)))
    grid, shift = turns.grid[chosen], turns.shift[chosen]
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
    trust = _sample(pool.trust[twice], grid, 'nearest') * inside
    doubt = _sample(pool.doubt[twice], grid, 'nearest')
    b = torch.exp(log_scale) + doubt
    likelihood = trust * ((mean - target).abs() / b + torch.log(b))
    loss: Tensor = likelihood.sum() / trust.sum().clamp(min=1.0)
    if config.consistency > 0.0:
        loss = loss + config.consistency * _disagreement(mean, grid, shift, inside)
    return loss


def _disagreement(mean: Tensor, grid: Tensor, shift: Tensor, inside: Tensor) -> Tensor:
    """
    Mean difference of both looks' log depth, each turned back to the untouched image.

    Scattering each prediction to where it was sampled from needs the inverse turn; comparing
    coarse cells (mean log depth of what falls in each) needs only the forward one.
    """
    n = len(mean) // 2
    back = mean - shift
    rows, columns = 15, 20
    u = ((grid[..., 0] + 1.0) * 0.5 * columns).long().clamp(0, columns - 1)
    v = ((grid[..., 1] + 1.0) * 0.5 * rows).long().clamp(0, rows - 1)
    cell = (v * columns + u).flatten(1)
    weight = inside.float().flatten(1)
    zeros = torch.zeros(2 * n, rows * columns)
    count = zeros.scatter_add(1, cell, weight)
    total = zeros.scatter_add(1, cell, weight * back.flatten(1))
    both = ((count[:n] > 4) & (count[n:] > 4)).float()
    mine = total / count.clamp(min=1.0)
    apart: Tensor = ((mine[:n] - mine[n:]).abs() * both).sum() / both.sum().clamp(min=1.0)
    return apart


def turned(camera: Camera, rng: np.random.Generator, sigma_deg: float) -> tuple[Tensor, Tensor]:
    """
    Where each pixel of a camera that is turned a little looks in the untouched image.

    A grid (h, w, 2) in -1 to 1, and what log depth along z changes by (h, w).
    """
    R = se3.so3_exp(np.deg2rad(sigma_deg) * rng.normal(size=3))
    rays = camera.rays()
    rays = rays / rays[:, 2:]
    before = rays @ R.T  # in the untouched camera
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

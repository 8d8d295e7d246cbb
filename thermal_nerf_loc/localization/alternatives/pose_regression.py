# SPDX-License-Identifier: Apache-2.0
"""
Regress poses from thumbnails by networks that are trained on views rendered from the map.

Targets are the position, scaled to unit variance in each axis, and the first two columns of the
rotation (6D: continuous, unlike angles and quaternions; Zhou et al., 2019). Every view is rotated
at random each time it is used, against overfitting. A regressor is rough: its predictions are
only candidates.
"""

from collections.abc import Mapping
from dataclasses import dataclass
import logging
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor

from thermal_nerf_loc.common.config import setting
from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.localization.alternatives.rendered_views import (
    crop, render_views, thumbnail_cameras, ThumbnailCamera, thumbnails, Views, ViewsConfig)
from thermal_nerf_loc.localization.global_search.candidates import Candidate
from thermal_nerf_loc.mapping.map.localization_map import LocalizationMap, with_panoramas
from thermal_nerf_loc.sensing.frame import Frame

Array = NDArray[np.float64]

_LOG = logging.getLogger(__name__)
_Cameras = tuple[tuple[Any, ...], ...]
_NETWORKS = ('pca_mlp', 'mlp', 'cnn')
_ROTATION_WEIGHT = 1.0  # of unit columns against positions of unit variance
_NOISE = 0.05  # on inputs of unit variance
_WEIGHT_DECAY = 1e-3
_MAX_TURN = 1.5  # sigmas about each axis: as far as the wide views reach
_SCALED_VIEWS = 4000  # that scale and principal components are taken from


@dataclass(frozen=True, slots=True)
class RegressionConfig:
    """How a regressor is built and trained."""

    network: str = setting('cnn', 'pca_mlp, mlp or cnn', choices=_NETWORKS)
    components: int = setting(192, 'principal components that pca_mlp reads', 1, 10_000)
    width: int = setting(256, 'hidden units', 8, 4096)
    max_seconds: float = setting(300.0, 'of training, after the views are rendered', 0.1, 1e5)
    steps: int = setting(8000, 'of training', 1, 10_000_000)
    batch: int = setting(128, 'views of a step', 8, 100_000)
    rate: float = setting(2e-3, 'initial step of Adam', 1e-6, 1.0)
    turn_deg: float = setting(6.0, 'sigma of the random rotation of views, about each axis',
                              0.0, 90.0)
    validation_share: float = setting(0.05, 'of the views, to measure the errors', 0.01, 0.5,
                                      formerly='aside_share')
    seed: int = setting(0, 'of views, weights and order', 0)
    views: ViewsConfig = setting(ViewsConfig(), 'views rendered for the training')


@dataclass(frozen=True, slots=True, eq=False)
class Scaling:
    """Scaling of the images and of the positions to unit variance."""

    images: Mapping[str, float]  # standard deviation of each modality's thumbnails
    center_m: Array
    spread_m: Array

    def targets(self, poses: Array, turns: Array) -> Tensor:
        """Nine numbers for each pose (n, 9), after its random rotation."""
        found = np.concatenate([(poses[:, :3, 3] - self.center_m) / self.spread_m,
                                columns(poses[:, :3, :3] @ turns)], axis=1)
        return torch.from_numpy(found).float()

    def positions(self, found: Array) -> Array:
        """The first three of these numbers in metres (n, 3)."""
        return found * self.spread_m + self.center_m


@dataclass(frozen=True, slots=True, eq=False)
class Regressor:
    """A trained network with the scaling of its inputs and targets."""

    network: nn.Module
    scaling: Scaling
    residual: Array  # (6,) standard deviations (m, rad) on validation views
    seconds: float

    @property
    def parameters(self) -> int:
        """How many numbers the network consists of."""
        return sum(part.numel() for part in self.network.state_dict().values())

    def predict(self, images: Mapping[str, Tensor]) -> Array:
        """Poses (n, 4, 4) of thumbnails (n, channels, height, width)."""
        with torch.no_grad():
            out = self.network(packed(images, self.scaling.images)).double().numpy()
        return se3.from_parts(rotations(out[:, 3:]), self.scaling.positions(out[:, :3]))


class PoseRegression:
    """A `CandidateSource`: trained for a frame's cameras when such a frame first comes."""

    def __init__(self, renderer: LocalizationMap, config: RegressionConfig | None = None,
                 progress: Progress | None = None) -> None:
        """Keep map and settings; training comes with the first frame."""
        self.renderer = renderer
        self.config = RegressionConfig() if config is None else config
        self._progress = progress
        self._trained: dict[_Cameras, tuple[dict[str, ThumbnailCamera], Regressor]] = {}

    def candidates(self, frame: Frame, count: int) -> list[Candidate]:
        """The prediction, and poses drawn around it from the distribution of its errors."""
        cameras, regressor = self.regressor_for(frame)
        found = regressor.predict(thumbnails([frame], cameras))[0]
        noise = np.random.default_rng(self.config.seed).normal(size=(max(count - 1, 0), 6))
        near = se3.plus(found, noise * regressor.residual)
        order = -0.5 * (noise**2).sum(axis=1)
        return [Candidate(found, 0.0)] + [Candidate(near[k], float(order[k]))
                                          for k in np.argsort(-order)]

    def regressor_for(self, frame: Frame) -> tuple[dict[str, ThumbnailCamera], Regressor]:
        """The regressor of these cameras; it is trained now if there is none."""
        key = _cameras(frame)
        if key not in self._trained:
            if self._progress is None:
                _LOG.warning('training a pose regressor on views of the map: takes some minutes')
            modalities = tuple(name for name in self.renderer.modalities if name in frame.images)
            cameras = thumbnail_cameras(frame, modalities, self.config.views.width_px)
            progress = self._progress or silent
            if self.config.views.path_share < 1.0:
                self.renderer = with_panoramas(self.renderer)  # kept for other cameras
            views = render_views(self.renderer, cameras, self.config.views, self.config.seed,
                                 progress)
            self._trained[key] = cameras, train(views, self.config, progress)
        return self._trained[key]

    def use(self, frame: Frame, cameras: Mapping[str, ThumbnailCamera],
            regressor: Regressor) -> None:
        """Use a regressor that was trained before for the cameras of a frame."""
        self._trained[_cameras(frame)] = dict(cameras), regressor


def _cameras(frame: Frame) -> _Cameras:
    return tuple((name, image.camera, image.T_cam_sensor.tobytes())
                 for name, image in sorted(frame.images.items()))


def train(views: Views, config: RegressionConfig, progress: Progress = silent) -> Regressor:
    """Train a network on randomly rotated views; measure its errors on the validation views."""
    started = time.monotonic()
    torch.manual_seed(config.seed)
    order = np.random.default_rng(config.seed).permutation(len(views))
    count = max(round(config.validation_share * len(views)), 1)
    validation, training = views.chosen(order[:count]), views.chosen(order[count:])
    plain = crop(training, torch.arange(min(len(training), _SCALED_VIEWS)))
    scale = {name: max(float(images.std()), 1e-6) for name, images in plain.items()}
    positions = views.poses[:, :3, 3]
    center, spread = positions.mean(axis=0), np.maximum(positions.std(axis=0), 1e-3)
    network, scaling = make_network(config, packed(plain, scale)), Scaling(scale, center, spread)
    _fit(network, training, scaling, config, progress, started)
    regressor = Regressor(network, scaling, np.zeros(6), time.monotonic() - started)
    errors = se3.minus(validation.poses, regressor.predict(crop(validation)))
    regressor.residual[:] = 1.48 * np.median(np.abs(errors), axis=0)
    return regressor


def _fit(network: nn.Module, views: Views, scaling: Scaling, config: RegressionConfig,
         progress: Progress, started: float) -> None:
    """AdamW; its rate falls as a cosine of the steps or the time, whichever is further."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.rate, weight_decay=_WEIGHT_DECAY)
    rng = np.random.default_rng(config.seed)
    network.train()
    for step in range(config.steps):
        done = max(step / config.steps, (time.monotonic() - started) / config.max_seconds)
        if done >= 1.0:
            break
        for group in optimizer.param_groups:
            group['lr'] = config.rate * 0.5 * (1.0 + np.cos(np.pi * done))
        rows = rng.integers(0, len(views), config.batch)
        turns = drawn_turns(rng, config)
        inputs = packed(crop(views, torch.from_numpy(rows), turns), scaling.images)
        loss = _loss(network(inputs + _NOISE * torch.randn_like(inputs)),
                     scaling.targets(views.poses[rows], turns))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % 50 == 0:
            progress(done, 1.0, f'{config.network}, loss {loss.item():.3f}')
    network.eval()


def drawn_turns(rng: np.random.Generator, config: RegressionConfig) -> Array:
    """Random rotations (batch, 3, 3), no larger than the margin of the wide views."""
    angles = np.clip(rng.normal(size=(config.batch, 3)), -_MAX_TURN, _MAX_TURN)
    return np.asarray(se3.so3_exp(np.deg2rad(config.turn_deg) * angles))


def _loss(found: Tensor, wanted: Tensor) -> Tensor:
    """Smooth L1, so that views of bare walls, which fit many poses, do not dominate."""
    error = nn.functional.smooth_l1_loss(found, wanted, reduction='none', beta=0.1)
    return error[:, :3].mean() + _ROTATION_WEIGHT * error[:, 3:].mean()


def make_network(config: RegressionConfig, inputs: Tensor) -> nn.Module:
    """An untrained network; PCA is computed from the inputs (n, channels, height, width)."""
    channels, height, width = inputs.shape[1:]
    pixels, hidden = channels * height * width, config.width
    if config.network == 'cnn':
        rows, columns_ = (-(-size // 4) for size in (height, width))
        return nn.Sequential(
            nn.Conv2d(channels, 32, 5, 2, 2), nn.GELU(), nn.Conv2d(32, 64, 3, 2, 1), nn.GELU(),
            nn.Flatten(), *_layers(64 * rows * columns_, hidden))
    if config.network == 'pca_mlp':
        parts = _Components(inputs.flatten(1), config.components)
        return nn.Sequential(nn.Flatten(), parts, *_layers(parts.count, 2 * hidden))
    return nn.Sequential(nn.Flatten(), *_layers(pixels, hidden))


def _layers(inputs: int, hidden: int) -> list[nn.Module]:
    return [nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(),
            nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, 9)]


class _Components(nn.Module):
    """The leading principal components, each of unit variance; not trained further."""

    def __init__(self, inputs: Tensor, count: int) -> None:
        super().__init__()
        mean = inputs.mean(dim=0)
        values, vectors = torch.linalg.eigh(torch.cov((inputs - mean).T))
        self.count = count = min(count, len(values), len(inputs))
        scale = values[-count:].clamp(min=1e-6 * float(values[-1])).rsqrt()
        self.register_buffer('mean', mean)
        self.register_buffer('basis', vectors[:, -count:] * scale)

    def forward(self, x: Tensor) -> Tensor:
        """Pixels (n, p) to components (n, count)."""
        return (x - self.get_buffer('mean')) @ self.get_buffer('basis')


def packed(images: Mapping[str, Tensor], scale: Mapping[str, float]) -> Tensor:
    """All modalities as channels (n, channels, height, width), at the first one's size."""
    parts = [images[name] / scale[name] for name in sorted(images)]
    size = parts[0].shape[2:]
    return torch.cat([part if part.shape[2:] == size else nn.functional.interpolate(
        part, size=size, mode='bilinear', align_corners=False) for part in parts], dim=1)


def columns(R: Array) -> Array:
    """Rotations (n, 3, 3) as 6D: the first two columns (n, 6)."""
    return np.concatenate([R[..., 0], R[..., 1]], axis=1)


def rotations(six: Array) -> Array:
    """Rotations (n, 3, 3) of 6D vectors, by Gram-Schmidt orthogonalization."""
    x = six[:, :3] / np.maximum(np.linalg.norm(six[:, :3], axis=1, keepdims=True), 1e-9)
    y = six[:, 3:] - (six[:, 3:] * x).sum(axis=1, keepdims=True) * x
    y /= np.maximum(np.linalg.norm(y, axis=1, keepdims=True), 1e-9)
    return np.stack([x, y, np.cross(x, y)], axis=-1)

# SPDX-License-Identifier: Apache-2.0
"""
Regressing poses from thumbnails: networks trained on views that the map renders.

The reversal of a radiance field: it turns poses into images, so that a network can be taught to
turn images into poses. Targets are the position, scaled to unit variance in each axis, and the
first two columns of the rotation (6D: continuous, unlike angles and quaternions). Training stops
early, by views that were set aside. A regressor is rough: its answers are only candidates.
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

from thermal_nerf_loc.config import setting
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.localization.candidates import Candidate
from thermal_nerf_loc.localization.training_views import (
    Eye, eyes_of, render_views, thumbnails, Views, ViewsConfig)
from thermal_nerf_loc.progress import Progress, silent
from thermal_nerf_loc.sensing.frame import Frame
from thermal_nerf_loc.sensing.rendering import Renderer

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]

_LOG = logging.getLogger(__name__)
_Cameras = tuple[tuple[Any, ...], ...]
_NETWORKS = ('pca_mlp', 'mlp', 'cnn')
_ROTATION_WEIGHT = 1.0  # of unit columns beside positions of unit variance
_NOISE = 0.05  # on inputs of unit variance
_DECAY = 1e-4


@dataclass(frozen=True, slots=True)
class RegressionConfig:
    """How a regressor is built and trained."""

    network: str = setting('cnn', 'pca_mlp, mlp or cnn', choices=_NETWORKS)
    components: int = setting(96, 'principal components that pca_mlp reads', 1, 10_000)
    width: int = setting(256, 'hidden units', 8, 4096)
    max_seconds: float = setting(60.0, 'of training, after the views are rendered', 0.1, 1e5)
    max_epochs: int = setting(150, 'of training', 1, 100_000)
    patience: int = setting(15, 'epochs without progress until it stops', 1, 10_000)
    batch: int = setting(128, 'views of a step', 8, 100_000)
    rate: float = setting(2e-3, 'initial step of Adam', 1e-6, 1.0)
    validation_share: float = setting(0.1, 'of the views, to stop by', 0.01, 0.5)
    seed: int = setting(0, 'of views, weights and order', 0)
    views: ViewsConfig = setting(ViewsConfig(), 'what is rendered to learn from')


@dataclass(frozen=True, slots=True, eq=False)
class Regressor:
    """A trained network with the scaling of its inputs and targets."""

    network: nn.Module
    scale: Mapping[str, float]  # standard deviation of each modality's thumbnails
    center_m: Array
    spread_m: Array
    residual: Array  # (6,) standard deviations (m, rad) on the views that training stopped by
    seconds: float

    @property
    def parameters(self) -> int:
        """Numbers that the model consists of."""
        return sum(part.numel() for part in self.network.state_dict().values())

    def predict(self, images: Mapping[str, Array32]) -> Array:
        """Poses (n, 4, 4) of thumbnails (n, height, width, channels)."""
        with torch.no_grad():
            out = self.network(packed(images, self.scale)).double().numpy()
        return se3.from_parts(rotations(out[:, 3:]), out[:, :3] * self.spread_m + self.center_m)


class PoseRegression:
    """A `CandidateSource`: trained for a frame's cameras when it first sees such a frame."""

    def __init__(self, renderer: Renderer, config: RegressionConfig | None = None,
                 progress: Progress | None = None) -> None:
        """Nothing is trained yet."""
        self.renderer = renderer
        self.config = RegressionConfig() if config is None else config
        self._progress = progress
        self._trained: dict[_Cameras, tuple[dict[str, Eye], Regressor]] = {}

    def candidates(self, frame: Frame, count: int) -> list[Candidate]:
        """The prediction, and poses as far from it as predictions are from the truth."""
        eyes, regressor = self.regressor_for(frame)
        found = regressor.predict({name: image[None] for name, image in
                                   thumbnails(frame, eyes).items()})[0]
        off = np.random.default_rng(self.config.seed).normal(size=(max(count - 1, 0), 6))
        near = se3.plus(found, off * regressor.residual)
        order = -0.5 * (off**2).sum(axis=1)
        return [Candidate(found, 0.0)] + [Candidate(near[k], float(order[k]))
                                          for k in np.argsort(-order)]

    def regressor_for(self, frame: Frame) -> tuple[dict[str, Eye], Regressor]:
        """What was trained for these cameras; trained now, where nothing was."""
        key = _cameras(frame)
        if key not in self._trained:
            if self._progress is None:
                _LOG.warning('training a pose regressor on views of the map: takes some minutes')
            modalities = tuple(name for name in self.renderer.modalities if name in frame.images)
            eyes = eyes_of(frame, modalities, self.config.views.width_px)
            progress = self._progress or silent
            views = render_views(self.renderer, eyes, self.config.views, self.config.seed,
                                 progress)
            self._trained[key] = eyes, train(views, self.config, progress)
        return self._trained[key]

    def know(self, frame: Frame, eyes: Mapping[str, Eye], regressor: Regressor) -> None:
        """Bring along what was trained for the cameras of a frame."""
        self._trained[_cameras(frame)] = dict(eyes), regressor


def _cameras(frame: Frame) -> _Cameras:
    return tuple((name, image.camera, image.T_cam_sensor.tobytes())
                 for name, image in sorted(frame.images.items()))


def train(views: Views, config: RegressionConfig, progress: Progress = silent) -> Regressor:
    """Fit a network until the views set aside are predicted no better."""
    began = time.monotonic()
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    scale = {name: max(float(images.std()), 1e-6) for name, images in views.images.items()}
    inputs = packed(views.images, scale)
    positions = views.poses[:, :3, 3]
    center, spread = positions.mean(axis=0), np.maximum(positions.std(axis=0), 1e-3)
    targets = torch.from_numpy(np.concatenate(
        [(positions - center) / spread, columns(views.poses)], axis=1)).float()
    order = torch.from_numpy(rng.permutation(len(views)))
    held = max(round(config.validation_share * len(views)), 1)
    network = make_network(config, inputs[order[held:]])
    _fit(network, inputs, targets, order[held:], order[:held], config, progress, began)
    made = Regressor(network, scale, center, spread, np.zeros(6), time.monotonic() - began)
    aside = order[:held].numpy()
    errors = se3.minus(views.poses[aside], made.predict(
        {name: images[aside] for name, images in views.images.items()}))
    made.residual[:] = 1.48 * np.median(np.abs(errors), axis=0)
    return made


def _fit(network: nn.Module, inputs: Tensor, targets: Tensor, learn: Tensor, aside: Tensor,
         config: RegressionConfig, progress: Progress, began: float) -> None:
    """Adam, its rate a cosine of epochs or time; ends with what was best on the views aside."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.rate, weight_decay=_DECAY)
    best, kept, waited = float('inf'), _copied(network), 0
    for epoch in range(config.max_epochs):
        done = max(epoch / config.max_epochs, (time.monotonic() - began) / config.max_seconds)
        for group in optimizer.param_groups:
            group['lr'] = config.rate * 0.5 * (1.0 + np.cos(np.pi * min(done, 1.0)))
        network.train()
        for part in torch.split(learn[torch.randperm(len(learn))], config.batch):
            noisy = inputs[part] + _NOISE * torch.randn_like(inputs[part])
            loss = _loss(network(noisy), targets[part])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        network.eval()
        with torch.no_grad():
            now = float(_loss(network(inputs[aside]), targets[aside]))
        waited += 1
        if now < best:
            best, kept, waited = now, _copied(network), 0
        progress(epoch + 1, config.max_epochs, f'{config.network}, loss {best:.3f}')
        if waited > config.patience or time.monotonic() - began > config.max_seconds:
            break
    network.load_state_dict(kept)
    network.eval()


def _loss(found: Tensor, wanted: Tensor) -> Tensor:
    """Robust: a view of a bare wall must not rule."""
    error = nn.functional.smooth_l1_loss(found, wanted, reduction='none', beta=0.1)
    return error[:, :3].mean() + _ROTATION_WEIGHT * error[:, 3:].mean()


def _copied(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def make_network(config: RegressionConfig, inputs: Tensor) -> nn.Module:
    """An untrained network; PCA looks at the inputs (n, channels, height, width)."""
    channels, height, width = inputs.shape[1:]
    pixels, hidden = channels * height * width, config.width
    if config.network == 'cnn':
        rows, columns_ = (-(-size // 8) for size in (height, width))
        return nn.Sequential(
            nn.Conv2d(channels, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(),
            nn.Conv2d(64, 64, 3, 2, 1), nn.ReLU(), nn.Flatten(),
            nn.Linear(64 * rows * columns_, hidden), nn.ReLU(), nn.Linear(hidden, 9))
    first: nn.Module = nn.Linear(pixels, hidden)
    if config.network == 'pca_mlp':
        first = nn.Sequential(_Components(inputs.flatten(1), config.components),
                              nn.Linear(min(config.components, pixels, len(inputs)), hidden))
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
                         nn.Linear(hidden, 9))


class _Components(nn.Module):
    """The leading principal components, each of unit variance; not trained further."""

    def __init__(self, inputs: Tensor, count: int) -> None:
        super().__init__()
        mean = inputs.mean(dim=0)
        values, vectors = torch.linalg.eigh(torch.cov((inputs - mean).T))
        count = min(count, len(values), len(inputs))
        scale = values[-count:].clamp(min=1e-6 * float(values[-1])).rsqrt()
        self.register_buffer('mean', mean)
        self.register_buffer('basis', vectors[:, -count:] * scale)

    def forward(self, x: Tensor) -> Tensor:
        """Pixels (n, p) to components (n, count)."""
        return (x - self.get_buffer('mean')) @ self.get_buffer('basis')


def packed(images: Mapping[str, Array32], scale: Mapping[str, float]) -> Tensor:
    """All modalities as channels (n, channels, height, width), at the first one's size."""
    parts = [torch.from_numpy(np.ascontiguousarray(np.moveaxis(images[name], -1, 1)))
             / scale[name] for name in sorted(images)]
    size = parts[0].shape[2:]
    return torch.cat([part if part.shape[2:] == size else nn.functional.interpolate(
        part, size=size, mode='bilinear', align_corners=False) for part in parts], dim=1)


def columns(poses: Array) -> Array:
    """Rotations as 6D: the first two columns (n, 6)."""
    return np.concatenate([poses[:, :3, 0], poses[:, :3, 1]], axis=1)


def rotations(six: Array) -> Array:
    """Nearest thing to 6D that is a rotation, by Gram and Schmidt: (n, 3, 3)."""
    x = six[:, :3] / np.maximum(np.linalg.norm(six[:, :3], axis=1, keepdims=True), 1e-9)
    y = six[:, 3:] - (six[:, 3:] * x).sum(axis=1, keepdims=True) * x
    y /= np.maximum(np.linalg.norm(y, axis=1, keepdims=True), 1e-9)
    return np.stack([x, y, np.cross(x, y)], axis=-1)

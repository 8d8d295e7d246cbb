# SPDX-License-Identifier: Apache-2.0
"""
What the cameras themselves add, learned with the map so that it stays out of the scene.

A thermal camera drifts between shutter events, sees the rim of its images colder or warmer, and
its columns, rows and pixels differ; a colour camera changes its exposure:

    thermal:  seen = scene exp(g_i - mean g) + (o_i - mean o) + v(x, y) + f(x, y)
    rgb:      seen = scene exp(g_i - mean g)

for image i; only thermal images that were stretched for the eye (AGC) have a gain. v is a
polynomial of degree 4 that is 0 in the image's centre, learned with the map. f is what is left at
the same pixels of all images once the map stands: too little to harm a map that sees each surface
through many pixels, so it is measured, not learned. What all images have in common cannot be told
from the scene, hence the means; `shutter.py` may know more.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor

from thermal_nerf_loc.mapping.training.ray_sampler import RayBatch
from thermal_nerf_loc.sensing.flat_field import across
from thermal_nerf_loc.sensing.frame import RGB

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]

_DEGREE = 4
_POWERS = [(i, j) for i in range(_DEGREE + 1) for j in range(_DEGREE + 1 - i) if i + j > 0]
_PLAIN_SIZE = 64, 48  # of the field where images differ in size


class CameraResponse(nn.Module):
    """One modality's cameras."""

    misses: Tensor

    def __init__(self, modality: str, images: int, size: tuple[int, int] | None = None,
                 stretched: bool = False) -> None:
        """At first they add nothing; `size` (width, height) is that of all images, if one is."""
        super().__init__()
        self.multiplies = modality == RGB
        self.gain = nn.Parameter(torch.zeros(images), requires_grad=self.multiplies or stretched)
        self.level = nn.Parameter(torch.zeros(images), requires_grad=not self.multiplies)
        self.falloff = nn.Parameter(torch.zeros(len(_POWERS)), requires_grad=not self.multiplies)
        self.size = None if self.multiplies else size
        width, height = self.size or (0, 0)
        # seen less rendered, by pixel: how often, sum, sum of squares
        self.register_buffer('misses', torch.zeros(3, height, width))

    def forward(self, values: Tensor, batch: RayBatch) -> Tensor:
        """What the cameras make of scene values (rays, channels)."""
        if self.gain.requires_grad:
            values = values * torch.exp(self.gain - self.gain.mean())[batch.image][:, None]
        if self.multiplies:
            return values
        level = (self.level - self.level.mean())[batch.image]
        return values + (level + self._falloff(batch.across))[:, None]

    @torch.no_grad()
    def note(self, missed: Tensor, batch: RayBatch, most: float) -> None:
        """Remember what a standing map does not explain (rays, 1), outliers up to `most`."""
        if self.size is None:
            return
        off = missed[:, 0].clamp(-most, most)
        corner = torch.tensor(self.size, device=off.device) * 0.5
        x, y = ((batch.across + 1.0) * corner).long().unbind(1)
        added = torch.stack([torch.ones_like(off), off, off**2])
        self.misses.view(3, -1).index_add_(1, y * self.size[0] + x, added)

    @torch.no_grad()
    def flat_field(self, unit: float) -> Array32:
        """What is added to each pixel, for field values that span so much of the images' unit."""
        width, height = self.size or _PLAIN_SIZE
        y, x = np.indices((height, width)) + 0.5
        places = torch.from_numpy(across(np.stack([x, y], axis=-1), (width, height)))
        smooth = self._falloff(places.to(self.falloff.device)).cpu().double().numpy()
        fine = 0.0 if self.size is None else fixed_pattern(self.misses.cpu().double().numpy())
        return np.asarray(unit * (smooth + fine), np.float32)

    def offsets(self, unit: float) -> Array:
        """Each image's own offset from all of them, in the images' unit."""
        level = self.level.detach().cpu().double().numpy()
        return np.asarray(unit * (level - level.mean()))

    def _falloff(self, places: Tensor) -> Tensor:
        """Polynomial v, 0 in the centre."""
        x, y = (_legendre(places[..., k]) for k in (0, 1))
        centre = _legendre(torch.zeros((), device=places.device))
        return torch.stack([x[i] * y[j] - centre[i] * centre[j] for i, j in _POWERS],
                           dim=-1) @ self.falloff


def fixed_pattern(misses: Array) -> Array:
    """
    Columns, rows and pixels (h, w) from counts, sums and sums of squares (3, h, w) of misses.

    Each is the mean of its misses, drawn towards zero as far as noise would explain it.
    """
    count, total, squares = misses
    n = max(count.sum(), 1.0)
    level = total.sum() / n  # is not the pattern's
    total = total - count * level
    noise = max(squares.sum() / n - level**2, 1e-12)
    pattern = np.zeros_like(total)
    parts: list[Callable[[Array], Array]] = [
        lambda values: values.sum(axis=0, keepdims=True),
        lambda values: values.sum(axis=1, keepdims=True), lambda values: values]
    for gathered in parts:
        seen = gathered(count)
        mean = gathered(total - count * pattern) / np.maximum(seen, 1.0)
        doubt = noise / np.maximum(seen, 1.0)
        known = seen > 0.0
        signal = max(float((mean**2 - doubt)[known].mean()), 0.0) if known.any() else 0.0
        pattern += np.where(known, signal / (signal + doubt), 0.0) * mean
    return np.asarray(pattern)


def _legendre(x: Tensor) -> list[Tensor]:
    """P0 to P4: nearly independent of each other over an image, so that each is learned fast."""
    x2 = x * x
    return [torch.ones_like(x), x, 1.5 * x2 - 0.5, (2.5 * x2 - 1.5) * x,
            (4.375 * x2 - 3.75) * x2 + 0.375]

# SPDX-License-Identifier: Apache-2.0
"""
What the cameras add to the scene, learned beside the map: drift, exposure, vignetting, pattern.

A thermal camera drifts between shutter events (flat-field corrections), sees the rim of its images
colder or warmer, and its columns, rows and pixels differ; a colour camera changes its exposure:

    thermal:  image = scene exp(g_i - mean g) + (o_i - mean o) + v(x, y) + f(x, y)
    rgb:      image = scene exp(g_i - mean g)

for image i; only thermal images that were stretched for display (AGC) have a gain g. v is a
polynomial of degree 4 that is 0 in the image's centre, learned with the map. f is the fixed
pattern: what remains at the same pixels of all images once the map has its surfaces. It is too
small to harm a map that sees each surface through many pixels, so it is measured, not learned.
What all images have in common cannot be separated from the scene, hence the means; shutter events
may still give it (`zero_offset`).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor

from thermal_nerf_loc.mapping.training.ray_sampler import DeviceBatch, RayBatch
from thermal_nerf_loc.sensing.flat_field import across
from thermal_nerf_loc.sensing.frame import RGB

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]

_DEGREE = 4
_POWERS = [(i, j) for i in range(_DEGREE + 1) for j in range(_DEGREE + 1 - i) if i + j > 0]
_DEFAULT_SIZE_PX = 64, 48  # of the flat field where images differ in size
_FEWEST_EVENTS, _FEWEST_IMAGES = 2, 3  # images after an event
_IMAGES_AFTER = 6  # of an event, through which its level is fitted
_JUMP_CELSIUS, _JUMP_STEPS = 0.1, 5.0  # an event: at least so much, and so many median steps,
_JUMP_SHARE = 0.4  # and so large a share of the largest
_AGREEMENT = 0.35  # how far events may differ, as a share of the jump


class CameraResponse(nn.Module):
    """The response of one modality's cameras."""

    residuals: Tensor

    def __init__(self, modality: str, images: int, size: tuple[int, int] | None = None,
                 stretched: bool = False) -> None:
        """Begin with cameras that add nothing; `size` (width, height): of all images, if equal."""
        super().__init__()
        self.is_gain_only = modality == RGB
        learns_gain = self.is_gain_only or stretched
        self.gain = nn.Parameter(torch.zeros(images), requires_grad=learns_gain)
        self.level = nn.Parameter(torch.zeros(images), requires_grad=not self.is_gain_only)
        self.falloff = nn.Parameter(torch.zeros(len(_POWERS)),
                                    requires_grad=not self.is_gain_only)
        self.size = None if self.is_gain_only else size
        width, height = self.size or (0, 0)
        # image less rendering, by pixel: count, sum, sum of squares
        self.register_buffer('residuals', torch.zeros(3, height, width))

    def forward(self, values: Tensor, batch: RayBatch | DeviceBatch) -> Tensor:
        """What the cameras make of scene values (rays, channels)."""
        if self.gain.requires_grad:
            values = values * torch.exp(self.gain - self.gain.mean())[batch.image][:, None]
        if self.is_gain_only:
            return values
        level = (self.level - self.level.mean())[batch.image]
        return values + (level + self._falloff(batch.across))[:, None]

    @torch.no_grad()
    def add_residuals(self, residual: Tensor, batch: RayBatch | DeviceBatch, limit: float) -> None:
        """Add residuals (rays, 1), clipped to +-`limit`, to the sums of their pixels."""
        if self.size is None:
            return
        clipped = residual[:, 0].clamp(-limit, limit)
        x, y = (((batch.across[:, k] + 1.0) * (0.5 * self.size[k])).long() for k in (0, 1))
        added = torch.stack([torch.ones_like(clipped), clipped, clipped**2])
        self.residuals.view(3, -1).index_add_(1, y * self.size[0] + x, added)

    @torch.no_grad()
    def flat_field(self, unit: float) -> Array32:
        """v + f (height, width), times the images' `unit` that field values of 1 stand for."""
        width, height = self.size or _DEFAULT_SIZE_PX
        y, x = np.indices((height, width)) + 0.5
        pixels = torch.from_numpy(across(np.stack([x, y], axis=-1), (width, height)))
        smooth = self._falloff(pixels.to(self.falloff.device)).cpu().double().numpy()
        fine = 0.0 if self.size is None else fixed_pattern(self.residuals.cpu().double().numpy())
        return np.asarray(unit * (smooth + fine), np.float32)

    def offsets(self, unit: float) -> Array:
        """Each image's offset from the mean of all, in the images' unit."""
        level = self.level.detach().cpu().double().numpy()
        return np.asarray(unit * (level - level.mean()))

    def _falloff(self, pixels: Tensor) -> Tensor:
        """Polynomial v at pixels (..., 2) in -1 to 1; 0 in the centre."""
        x, y = (_legendre(pixels[..., k]) for k in (0, 1))
        centre = _legendre(torch.zeros((), device=pixels.device))
        return torch.stack([x[i] * y[j] - centre[i] * centre[j] for i, j in _POWERS],
                           dim=-1) @ self.falloff


def fixed_pattern(residuals: Array) -> Array:
    """
    Columns, rows and pixels (h, w) from counts, sums and sums of squares (3, h, w) of residuals.

    Each is the mean of its residuals, shrunk towards zero as far as noise would explain it
    (empirical Bayes: signal / (signal + noise variance)).
    """
    count, total, squares = residuals
    n = max(count.sum(), 1.0)
    level = total.sum() / n  # is not the pattern's
    total = total - count * level
    noise = max(squares.sum() / n - level**2, 1e-12)
    pattern = np.zeros_like(total)
    sums: list[Callable[[Array], Array]] = [
        lambda values: values.sum(axis=0, keepdims=True),
        lambda values: values.sum(axis=1, keepdims=True), lambda values: values]
    for summed in sums:
        counted = summed(count)
        mean = summed(total - count * pattern) / np.maximum(counted, 1.0)
        variance = noise / np.maximum(counted, 1.0)  # of the mean
        known = counted > 0.0
        signal = max(float((mean**2 - variance)[known].mean()), 0.0) if known.any() else 0.0
        pattern += np.where(known, signal / (signal + variance), 0.0) * mean
    return np.asarray(pattern)


class ZeroOffset(NamedTuple):
    """The offset, among those of all images, at which a thermal camera is right."""

    celsius: float
    events: int  # shutter events that agree on it


def zero_offset(stamps_ns: NDArray[np.int64], offsets: Array) -> ZeroOffset | None:
    """
    Find the zero of image offsets (n,) in deg C from shutter events; None where none shows.

    Between shutter events a camera drifts; at each event it starts again from zero. Images only
    give the differences of their offsets. But where the offsets jump back to the same level again
    and again, that level is zero.
    """
    order = np.argsort(stamps_ns, kind='stable')
    t, offset = (stamps_ns[order] - stamps_ns[order[0]]) * 1e-9, offsets[order]
    if len(t) < 2 * _FEWEST_IMAGES or float(np.median(np.diff(t))) <= 0.0:  # no stamps
        return None
    steps = np.diff(offset)
    height = np.abs(steps)
    threshold = max(_JUMP_CELSIUS, _JUMP_STEPS * float(np.median(height)),
                    _JUMP_SHARE * float(height.max()))
    jumps: list[int] = np.flatnonzero(height > threshold).tolist()
    ends = [*jumps[1:], len(t) - 1]  # the last image before the next event
    found = [(jump, _level_after(t, offset, jump, end)) for jump, end in zip(jumps, ends)
             if end - jump >= _FEWEST_IMAGES]
    if len(found) < _FEWEST_EVENTS:
        return None
    events, levels = (np.array(part) for part in zip(*found))
    zero = float(np.median(levels))
    size = float(np.median(height[jumps]))
    back = np.abs(levels - zero) < np.abs(offset[events] - zero)
    if not back.all() or float(np.abs(levels - zero).max()) > _AGREEMENT * size:
        return None
    return ZeroOffset(zero, len(levels))


def _level_after(t: Array, offset: Array, jump: int, end: int) -> float:
    """Offset when the shutter opened, between image `jump` and the next: a line through t (s)."""
    after = slice(jump + 1, min(end, jump + _IMAGES_AFTER) + 1)
    opened = 0.5 * (t[jump] + t[jump + 1])
    return float(np.polyval(np.polyfit(t[after] - opened, offset[after], 1), 0.0))


def _legendre(x: Tensor) -> list[Tensor]:
    """P0 to P4: nearly independent of each other over an image, so that each is learned fast."""
    x2 = x * x
    return [torch.ones_like(x), x, 1.5 * x2 - 0.5, (2.5 * x2 - 1.5) * x,
            (4.375 * x2 - 3.75) * x2 + 0.375]

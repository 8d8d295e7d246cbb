# SPDX-License-Identifier: Apache-2.0
"""
Depth that knows no scale, fitted to the surfaces that images have put up so far.

A monocular network gives z (`affine`) or 1 / z (`inverse`) up to a scale and a shift, other ones
for each image. With y the map's present z, or 1 / z, least squares in y = a x + b over the rays
seen lately (sums decay) give both; an image whose rays tell no slope above zero helps nothing.
"""

import torch
from torch import nn, Tensor

from thermal_nerf_loc.field.volume_rendering import expected_distance, Samples
from thermal_nerf_loc.mapping.pixels import RayBatch
from thermal_nerf_loc.mapping.settings import INVERSE

_DECAY = 0.98  # of the sums, a step
_SPREAD_SHARE = 0.1  # a spread of this share of the distance halves a ray's weight
_LEAST = 20.0  # weight that an image's sums must hold


class DepthFit(nn.Module):
    """Scale and shift of each image of one modality."""

    sums: Tensor

    def __init__(self, images: int, kind: str) -> None:
        """Nothing is known yet."""
        super().__init__()
        self.kind = kind
        # of w, wx, wy, wxx, wxy
        self.register_buffer('sums', torch.zeros(images, 5, dtype=torch.float64))

    def metres(self, weights: Tensor, samples: Samples, batch: RayBatch) -> tuple[Tensor, Tensor]:
        """What the maps say along each ray in metres, and its confidence."""
        forward = torch.from_numpy(batch.sights[:, 2]).to(weights.device)
        x = batch.depth_m * forward
        far, spread = expected_distance(weights.detach(), samples.distance_m)
        trust = batch.confidence / (1.0 + (spread / (_SPREAD_SHARE * far))**2)
        y = far * forward
        self._observe(batch.image.cpu(), trust, x, 1.0 / y if self.kind == INVERSE else y)
        slope, shift, known = (part.to(weights.device)[batch.image] for part in self.fitted())
        y = slope * x + shift
        z = 1.0 / y if self.kind == INVERSE else y
        good = known & (y > 0.0)
        return torch.where(good, z / forward, 0.0), torch.where(good, batch.confidence, 0.0)

    def fitted(self) -> tuple[Tensor, Tensor, Tensor]:
        """Slope and shift of each image, and whether they are known."""
        w, wx, wy, wxx, wxy = self.sums.unbind(dim=1)
        total = w.clamp(min=1e-9)
        variance = wxx / total - (wx / total)**2
        slope = (wxy / total - wx * wy / total**2) / variance.clamp(min=1e-12)
        shift = (wy - slope * wx) / total
        known = (w > _LEAST) & (slope > 0.0) & (variance > 1e-12)
        return slope.float(), shift.float(), known

    def _observe(self, image: Tensor, trust: Tensor, x: Tensor, y: Tensor) -> None:
        w, x, y = (part.detach().cpu().double() for part in (trust, x, y))
        good = torch.isfinite(x) & torch.isfinite(y)
        w = torch.where(good, w, 0.0)
        x, y = torch.where(good, x, 0.0), torch.where(good, y, 0.0)
        self.sums *= _DECAY
        self.sums.index_add_(0, image, torch.stack(
            [w, w * x, w * y, w * x * x, w * x * y], dim=1))

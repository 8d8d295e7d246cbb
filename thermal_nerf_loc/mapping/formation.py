# SPDX-License-Identifier: Apache-2.0
"""
What the cameras themselves add, learned with the map so that it stays out of the scene.

A thermal camera drifts between shutter events and sees the rim of its images colder, a colour
camera changes its exposure:

    thermal:  seen = scene + (o_i - mean o) + k2 r^2 + k4 r^4
    rgb:      seen = scene exp(g_i - mean g)

for image i and the distance r from the image's centre (`sensing/vignetting.py`). What all images
have in common cannot be told from the scene, hence the means.
"""

import torch
from torch import nn, Tensor

from thermal_nerf_loc.mapping.pixels import RayBatch
from thermal_nerf_loc.sensing.frame import RGB


class Formation(nn.Module):
    """One modality's cameras."""

    def __init__(self, modality: str, images: int) -> None:
        """At first they add nothing."""
        super().__init__()
        self.multiplies = modality == RGB
        self.level = nn.Parameter(torch.zeros(images))  # log gain, or offset in field values
        self.falloff = nn.Parameter(torch.zeros(2), requires_grad=not self.multiplies)

    def forward(self, values: Tensor, batch: RayBatch) -> Tensor:
        """What the cameras make of scene values (rays, channels)."""
        level = (self.level - self.level.mean())[batch.image][:, None]
        if self.multiplies:
            return values * torch.exp(level)
        r2 = batch.radius_squared[:, None]
        return values + level + self.falloff[0] * r2 + self.falloff[1] * r2**2

    def vignetting(self, unit: float) -> tuple[float, float]:
        """k2 and k4, for field values that span so much of the images' unit."""
        k2, k4 = (unit * self.falloff.detach().double()).tolist()
        return k2, k4

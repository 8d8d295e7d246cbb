# SPDX-License-Identifier: Apache-2.0
"""
A small network that tells depth from one thermal image of a place it knows.

It reads the image at `SIZE_PX` width, in standard deviations of the place's temperatures, with the
pixel's place in the image beside it, and gives for every pixel a Laplace distribution of log
depth: mu and the logarithm of its scale b.
"""

import torch
from torch import nn, Tensor
from torch.nn import functional

WIDTH_PX = 80  # of the images that the network reads
_CHANNELS = (16, 32, 64, 128)
_CELLS = (4, 5)  # of the whole image, as the network takes it in at once
_WIDE = 256  # of the layers that take it in
_SHARPEST, _VAGUEST = -4.5, 0.5  # logarithms of b: 1 % to 160 %


class DepthNetwork(nn.Module):
    """
    Down four times, with a look at the whole image, and up again to half of its size.

    That look tells each cell something of its own: a network that knows its place recognizes
    where it stands, and what lies in each direction from there.
    """

    def __init__(self, log_depth: float = 0.0, channels: tuple[int, ...] = _CHANNELS) -> None:
        """Start from a guess of the place's mean log depth."""
        super().__init__()
        self.log_depth = log_depth
        deepest = channels[-1]
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.GroupNorm(4, b), nn.ReLU(),
                          nn.Conv2d(b, b, 3, 1, 1), nn.ReLU())
            for a, b in zip((3, *channels[:-1]), channels))
        cells = deepest * _CELLS[0] * _CELLS[1]
        self.whole = nn.Sequential(nn.Linear(cells, _WIDE), nn.ReLU(), nn.Linear(_WIDE, _WIDE),
                                   nn.ReLU(), nn.Linear(_WIDE, cells))
        self.narrow = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in
                                    zip(channels[:0:-1], channels[-2::-1]))
        self.up = nn.ModuleList(nn.Sequential(nn.Conv2d(2 * b, b, 3, 1, 1), nn.ReLU())
                                for b in channels[-2::-1])
        self.out = nn.Conv2d(channels[0], 2, 3, 1, 1)
        with torch.no_grad():
            for part in self.out.parameters():
                part.zero_()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log scale of log depth (n, h, w) of images (n, h, w)."""
        x = torch.cat([images[:, None], _places(images)], dim=1)
        passed = []
        for stage in self.down:
            x = stage(x)
            passed.append(x)
        cells = functional.adaptive_avg_pool2d(x, _CELLS).flatten(1)
        told = self.whole(cells).unflatten(1, (-1, *_CELLS))
        x = functional.relu(x + _resized(told, x.shape[2:]))
        for narrow, stage, beside in zip(self.narrow, self.up, passed[-2::-1]):
            x = _resized(narrow(x), beside.shape[2:])
            x = stage(torch.cat([x, beside], dim=1))
        mean, scale = _resized(self.out(x), images.shape[1:]).unbind(dim=1)
        return mean + self.log_depth, (scale - 1.5).clamp(_SHARPEST, _VAGUEST)


def _resized(x: Tensor, size: torch.Size) -> Tensor:
    return functional.interpolate(x, size=size, mode='bilinear', align_corners=False)


def _places(images: Tensor) -> Tensor:
    """Where each pixel lies in its image (n, 2, h, w), -1 to 1."""
    n, h, w = images.shape
    v, u = torch.meshgrid(torch.linspace(-1.0, 1.0, h), torch.linspace(-1.0, 1.0, w),
                          indexing='ij')
    return torch.stack([u, v]).to(images).expand(n, 2, h, w)

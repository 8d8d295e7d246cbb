# SPDX-License-Identifier: Apache-2.0
"""
A small network that predicts depth from one thermal image of the scene it was trained in.

It reads the image at a width of `WIDTH_PX`, in standard deviations of the scene's temperatures,
with the pixel coordinates as further channels, and gives for every pixel a Laplace distribution of
log depth: mu and the logarithm of its scale b.
"""

import torch
from torch import nn, Tensor
from torch.nn import functional

WIDTH_PX = 80  # of the images that the network reads
_CHANNELS = (16, 32, 64, 128)
_CELLS = (4, 5)  # of the whole image, which fully connected layers read
_WIDE = 256  # of those layers
_LOG_SCALE = -4.5, 0.5  # least and most log b: 1 % to 160 %


class DepthNetwork(nn.Module):
    """
    A U-Net: down four times, fully connected layers over the whole image, up to half its size.

    The fully connected layers let the network recognize where in its scene the camera is, and
    what lies in each direction from there.
    """

    def __init__(self, log_depth: float = 0.0, channels: tuple[int, ...] = _CHANNELS) -> None:
        """`log_depth` is a guess of the scene's mean log depth."""
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
        x = torch.cat([images[:, None], _pixel_coordinates(images)], dim=1)
        passed = []
        for stage in self.down:
            x = stage(x)
            passed.append(x)
        cells = functional.adaptive_avg_pool2d(x, _CELLS).flatten(1)
        whole = self.whole(cells).unflatten(1, (-1, *_CELLS))
        x = functional.relu(x + _resized(whole, x.shape[2:]))
        for narrow, stage, skipped in zip(self.narrow, self.up, passed[-2::-1]):
            x = _resized(narrow(x), skipped.shape[2:])
            x = stage(torch.cat([x, skipped], dim=1))
        mean, scale = _resized(self.out(x), images.shape[1:]).unbind(dim=1)
        return mean + self.log_depth, (scale - 1.5).clamp(*_LOG_SCALE)


def _resized(x: Tensor, size: torch.Size) -> Tensor:
    return functional.interpolate(x, size=size, mode='bilinear', align_corners=False)


def _pixel_coordinates(images: Tensor) -> Tensor:
    """Coordinates of each pixel in its image (n, 2, h, w), -1 to 1."""
    n, h, w = images.shape
    v, u = torch.meshgrid(torch.linspace(-1.0, 1.0, h), torch.linspace(-1.0, 1.0, w),
                          indexing='ij')
    return torch.stack([u, v]).to(images).expand(n, 2, h, w)

# SPDX-License-Identifier: Apache-2.0
"""
Contraction of space: an inner box at full resolution, all the rest compressed around it.

With u = (x - centre) / half_extent and m = max|u|, points with m <= 1 stay, others go to
u (2 - 1/m) / m, so that infinity lies on the cube [-2, 2]^3 (mip-NeRF 360, with the max norm as in
MERF: it maps straight onto a grid). The field sees (u + 2) / 4 in [0, 1]^3.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class ContractedSpace:
    """Inner box of the contraction, in world metres, and the mapping to and from it."""

    center_m: tuple[float, float, float]
    half_extent_m: tuple[float, float, float]

    @property
    def scale_m(self) -> float:
        """One length for the whole scene: the mean half extent."""
        return float(np.mean(self.half_extent_m))

    @property
    def least_m(self) -> float:
        """The smallest half extent."""
        return min(self.half_extent_m)

    @property
    def bounds(self) -> NDArray[np.float64]:
        """Lower and upper corner of the inner box: (2, 3)."""
        center, half = np.array(self.center_m), np.array(self.half_extent_m)
        return np.stack([center - half, center + half])

    @property
    def kernel_arguments(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Centre and inverse half extent, as the CPU kernels take them."""
        return (np.array(self.center_m, np.float32),
                (1.0 / np.array(self.half_extent_m)).astype(np.float32))

    def to_unit(self, points: Tensor) -> Tensor:
        """World points (..., 3) to [0, 1]^3; differentiable."""
        center, half = _on(self, points.device, points.dtype)
        u = (points - center) / half
        m = u.abs().amax(dim=-1, keepdim=True).clamp(min=1.0)
        return u * ((2.0 - 1.0 / m) / m) * 0.25 + 0.5

    def from_unit(self, unit: Tensor) -> Tensor:
        """Inverse of `to_unit`, inside the open cube."""
        u = (unit - 0.5) * 4.0
        m = u.abs().amax(dim=-1, keepdim=True).clamp(min=1.0)
        stretched = u / (m * (2.0 - m).clamp(min=1e-6))
        center, half = _on(self, unit.device, unit.dtype)
        return stretched * half + center


@lru_cache(maxsize=64)
def _on(space: ContractedSpace, device: torch.device, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """Centre and half extent on a device: sent there once, as sending waits for the device."""
    with torch.inference_mode(False):
        return (torch.tensor(space.center_m, device=device, dtype=kind),
                torch.tensor(space.half_extent_m, device=device, dtype=kind))


def space_around_cameras(positions: ArrayLike) -> ContractedSpace:
    """
    Guess the inner box from the cameras' positions (n, 3).

    Rooms and machines are rarely farther away than the path of the cameras is long, so the box
    is that path's extent, widened on all sides by 1.2 times its largest half extent. The
    contraction makes up for a wrong guess.
    """
    positions = np.asarray(positions, dtype=np.float64)
    low, high = positions.min(axis=0), positions.max(axis=0)
    half = 0.5 * (high - low)
    margin = max(float(half.max()), 1e-3)
    half = half + 1.2 * margin
    center = 0.5 * (low + high)
    return ContractedSpace((float(center[0]), float(center[1]), float(center[2])),
                           (float(half[0]), float(half[1]), float(half[2])))

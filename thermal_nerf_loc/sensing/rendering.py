# SPDX-License-Identifier: Apache-2.0
"""What rays show, in the units of `Frame`: the interface of radiance maps and analytic worlds."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array32 = NDArray[np.float32]

_SPREAD_SHARE = 0.05  # of the distance


@dataclass(frozen=True, slots=True, eq=False)
class RayRendering:
    """One row for each ray; distances run along the ray (not along the camera's z)."""

    values: Array32  # (n, channels): sRGB in [0, 1], thermal in deg C
    distance_m: Array32  # (n,) expected distance of the surface
    spread_m: Array32  # (n,) standard deviation of the weight along the ray
    opacity: Array32  # (n,) in [0, 1]


class Renderer(Protocol):
    """Anything that renders rays: a radiance map, or a simulated world."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names such as 'rgb' and 'thermal'."""

    def render_rays(self, modality: str, origins: Array32, directions: Array32) -> RayRendering:
        """Render from `origins` (n, 3) along unit `directions` (n, 3), both in the world frame."""


def sureness(distance_m: NDArray[Any], spread_m: NDArray[Any], opacity: NDArray[Any],
             good: NDArray[np.bool_], share: float = _SPREAD_SHARE) -> NDArray[Any]:
    """
    Confidence of rendered rays, in [0, 1]: opacity^2 / (1 + (spread / (share distance))^2).

    A spread of `share` of the distance halves it; rays that are not `good` have none.
    """
    ratio = spread_m / np.where(good, share * distance_m, 1.0)
    return np.where(good, opacity**2 / (1.0 + ratio**2), 0.0)

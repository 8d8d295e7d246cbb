# SPDX-License-Identifier: Apache-2.0
"""What a map answers for a ray, in the units of `Frame`; maps and analytic scenes both do."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class RayRendering:
    """One row for each ray; distances run along the ray (not along the camera's z)."""

    values: Array32  # (n, channels): sRGB in [0, 1], thermal in deg C
    distance_m: Array32  # (n,) expected distance of the surface
    spread_m: Array32  # (n,) standard deviation of the weight along the ray: the map's doubt
    opacity: Array32  # (n,) in [0, 1]


_SPREAD_SHARE = 0.05  # of the distance


def sureness(distance_m: NDArray[Any], spread_m: NDArray[Any], opacity: NDArray[Any],
             good: NDArray[np.bool_], share: float = _SPREAD_SHARE) -> NDArray[Any]:
    """
    How sure a map is of what rays see, in [0, 1]; 0 for those that are not `good`.

    A spread of `share` of the distance halves it.
    """
    doubt = spread_m / np.where(good, share * distance_m, 1.0)
    return np.where(good, opacity**2 / (1.0 + doubt**2), 0.0)


class Renderer(Protocol):
    """Anything that can be looked at along rays: a radiance map, or a simulated world."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names such as 'rgb' and 'thermal'."""

    def render_rays(self, modality: str, origins: Array32, directions: Array32) -> RayRendering:
        """Look from `origins` (n, 3) along unit `directions` (n, 3), both in the world frame."""

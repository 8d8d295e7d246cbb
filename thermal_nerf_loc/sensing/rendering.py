# SPDX-License-Identifier: Apache-2.0
"""What a map answers for a ray, in the units of `Frame`; maps and analytic scenes both do."""

from dataclasses import dataclass
from typing import Protocol

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


class Renderer(Protocol):
    """Anything that can be looked at along rays: a radiance map, or a simulated world."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names such as 'rgb' and 'thermal'."""

    def render_rays(self, modality: str, origins: Array32, directions: Array32) -> RayRendering:
        """Look from `origins` (n, 3) along unit `directions` (n, 3), both in the world frame."""

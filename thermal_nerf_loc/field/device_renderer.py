# SPDX-License-Identifier: Apache-2.0
"""
Rendering without gradients by torch operations, on the device of the field.

Rays are sent to the device once a call and come back once; all between stays there. Where a GPU
has too little memory the rays are rendered in smaller parts, in the end on the processor.
"""

from contextlib import AbstractContextManager, nullcontext

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from thermal_nerf_loc.field.density_grid import DensityGrid
from thermal_nerf_loc.field.device import has_bfloat16, OutOfMemory, say_out_of_memory
from thermal_nerf_loc.field.radiance_field import RadianceField
from thermal_nerf_loc.field.volume_rendering import expected_distance, render

Array32 = NDArray[np.float32]
RayArrays = tuple[Array32, Array32, Array32, Array32]  # values, distance, spread, opacity

_MOST_RAYS, _FEWEST_RAYS = 1 << 16, 1 << 10  # of one part


class DeviceRenderer:
    """Renders one branch of a trained field where it lies."""

    def __init__(self, field: RadianceField, grid: DensityGrid, modality: str) -> None:
        """Read field and grid as they are at each call."""
        self.field, self.grid, self.modality = field, grid, modality
        self.most_rays = _MOST_RAYS
        self.is_exhausted = False  # not even the smallest part has room

    def render(self, origins: Array32, directions: Array32, samples: int, exploring: float,
               ) -> RayArrays | None:
        """Render rays (n, 3); None where the device has no room even for a small part."""
        while not self.is_exhausted:
            parts = [slice(i, i + self.most_rays)
                     for i in range(0, max(len(origins), 1), self.most_rays)]
            try:
                out = [render_torch(self.field, self.grid, self.modality, origins[part],
                                    directions[part], samples, exploring, half=True)
                       for part in parts]
            except OutOfMemory:
                self._use_less()
                continue
            values, distance, spread, opacity = (np.concatenate(part)
                                                 for part in zip(*out, strict=True))
            return values, distance, spread, opacity
        return None

    def _use_less(self) -> None:
        if self.most_rays > _FEWEST_RAYS:
            self.most_rays //= 4
            say_out_of_memory(f'rendering of {4 * self.most_rays} rays at once',
                              f'in parts of {self.most_rays} now')
        else:
            self.is_exhausted = True
            say_out_of_memory('rendering', 'the processor renders now')


@torch.no_grad()
def render_torch(field: RadianceField, grid: DensityGrid, modality: str, origins: Array32,
                 directions: Array32, samples: int, exploring: float, half: bool = False,
                 ) -> RayArrays:
    """The same by torch operations; `half`: networks in bfloat16 where it is faster."""
    device = field.encoding.table.device
    rays = np.concatenate([origins, directions]).astype(np.float32, copy=False)
    sent = torch.from_numpy(rays).to(device)  # at once
    o, d = sent[:len(origins)], sent[len(origins):]
    placed = grid.place(o, d, samples, exploring)
    with half_precision(device, half and has_bfloat16(device)):
        rendered = render(field, modality, o, d, placed)
    distance, spread = expected_distance(rendered.weights, placed.distance_m)
    packed: Tensor = torch.cat([rendered.values.float(), distance[:, None], spread[:, None],
                                rendered.weights.sum(dim=1, keepdim=True)], dim=1)
    out = packed.cpu().numpy()
    return out[:, :-3].copy(), out[:, -3].copy(), out[:, -2].copy(), out[:, -1].copy()


def half_precision(device: torch.device, enabled: bool) -> AbstractContextManager[object]:
    """Autocast to bfloat16; nothing where it is not to be."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if enabled else nullcontext()

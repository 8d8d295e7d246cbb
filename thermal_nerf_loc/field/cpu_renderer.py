# SPDX-License-Identifier: Apache-2.0
"""
Rendering without gradients on the CPU in one compiled pass (elsewhere: `device_renderer.py`).

Where there are no compiled kernels (`field/native`), numba reads the hash grid and composites, and
torch runs the networks in between, in bfloat16 where the processor has it.
"""

import copy
from typing import cast

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from thermal_nerf_loc.field.density_grid import DensityGrid
from thermal_nerf_loc.field.device import processor_has_bfloat16
from thermal_nerf_loc.field.kernels import ray_rendering
from thermal_nerf_loc.field.native import rendering
from thermal_nerf_loc.field.radiance_field import RadianceField, spherical_harmonics
from thermal_nerf_loc.field.volume_rendering import NEGLIGIBLE_WEIGHT

Array32 = NDArray[np.float32]
RayArrays = tuple[Array32, Array32, Array32, Array32]  # values, distance, spread, opacity


class CpuRenderer:
    """Renders one branch of a trained field on the CPU."""

    def __init__(self, field: RadianceField, grid: DensityGrid, modality: str,
                 fused: bool | None = None) -> None:
        """
        Copy the networks: after further training make a new renderer.

        `fused` chooses between one compiled pass and numba with torch; None: the former, where it
        serves.
        """
        self._grid = grid
        self._branch: rendering.FusedBranch | StagedBranch = (
            rendering.FusedBranch(field, modality)
            if (rendering.serves(field) if fused is None else fused)
            else StagedBranch(field, modality))

    def render(self, origins: Array32, directions: Array32, samples: int, exploring: float,
               ) -> RayArrays:
        """Render rays (n, 3): place samples, evaluate density, then values where they count."""
        parts = self._branch.render(self._grid, origins, directions, samples, exploring)
        return *parts, np.ones(len(origins), np.float32)


class StagedBranch:
    """Density network and one branch, evaluated stage by stage for all samples at once."""

    def __init__(self, field: RadianceField, modality: str, bfloat16: bool | None = None) -> None:
        """Copy the networks; `bfloat16` is by the processor where None."""
        half = processor_has_bfloat16() if bfloat16 is None else bfloat16
        self._channels = field.channels[modality]
        self._type = torch.bfloat16 if half else torch.float32
        self._density = copy.deepcopy(field.density_net).to(self._type).requires_grad_(False)
        self._branch = copy.deepcopy(field.branches[modality]).to(self._type)
        self._branch.requires_grad_(False)
        self._sees_direction = field.sees_direction(modality)
        encoding, config = field.encoding, field.config
        self._encode = ray_rendering.encoder(config.encoding.features, half)
        self._tables = (encoding.table.detach().numpy(), *encoding.levels)
        self._inputs = encoding.width
        self._scale = np.float32(1.0 / field.space.scale_m)
        self._bias = np.float32(config.density_bias)

    @torch.inference_mode()
    def render(self, grid: DensityGrid, origins: Array32, directions: Array32, samples: int,
               exploring: float) -> tuple[Array32, Array32, Array32]:
        """Values, distance and spread of rays (n, 3)."""
        distances, widths = grid.sample(origins, directions, samples, exploring)
        raw = _apply_padded(self._density, self._encoded(grid, origins, directions, distances))
        weights, counts, distance, spread = self._weighed(raw, distances, widths)
        return self._values(raw, directions, weights, counts), distance, spread

    def _encoded(self, grid: DensityGrid, origins: Array32, directions: Array32,
                 distances: Array32) -> Tensor:
        half = self._type == torch.bfloat16
        out = np.empty((distances.size, self._inputs), np.uint16 if half else np.float32)
        self._encode(origins, directions, distances, grid.center, grid.inverse_half,
                     *self._tables, out)
        tensor = torch.from_numpy(out)
        return tensor.view(torch.bfloat16) if half else tensor

    def _weighed(self, raw: Tensor, distances: Array32, widths: Array32,
                 ) -> tuple[Array32, NDArray[np.int64], Array32, Array32]:
        """Weights (rays, samples), number of those above zero by ray, distance and spread."""
        rays = len(distances)
        weights, counts = np.empty_like(distances), np.empty(rays, np.int64)
        distance, spread = np.empty(rays, np.float32), np.empty(rays, np.float32)
        log_density = raw[:, 0].float().contiguous().numpy()
        ray_rendering.weigh(log_density, widths, self._bias, self._scale,
                        np.float32(NEGLIGIBLE_WEIGHT), weights, counts, distances, distance,
                        spread)
        return weights, counts, distance, spread

    def _values(self, raw: Tensor, directions: Array32, weights: Array32,
                counts: NDArray[np.int64]) -> Array32:
        """Evaluate the branch for samples with weight, and composite."""
        kept = torch.from_numpy(np.flatnonzero(weights.reshape(-1)))
        features = raw.index_select(0, kept)[:, 1:]
        if self._sees_direction:
            harmonics = spherical_harmonics(torch.from_numpy(directions)).to(self._type)
            rays = torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
            features = torch.cat([features, harmonics.index_select(0, rays)], dim=1)
        kept_values = torch.sigmoid(_apply_padded(self._branch, features).float()).numpy()
        values = np.empty((len(counts), self._channels), np.float32)
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        ray_rendering.accumulate(weights, starts, kept_values, values)
        return values


def _apply_padded(network: torch.nn.Module, rows: Tensor) -> Tensor:
    """
    Apply a network to rows padded to one of few lengths.

    oneDNN keeps a compiled primitive for each shape, up to 1024 of them: with as many lengths as
    there are frames, a long running node grows by gigabytes; with sixteen to an octave still by
    55 MB.
    """
    count = len(rows)
    step = 1 << max(9, count.bit_length() - 3)  # four lengths to an octave
    missing = -count % step
    if missing:
        rows = torch.cat([rows, rows.new_zeros((missing, rows.shape[1]))])
    return cast(Tensor, network(rows))[:count]

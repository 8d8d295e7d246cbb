# SPDX-License-Identifier: Apache-2.0
"""
The density grid on a torch device: placed, observed and refreshed without waiting for the host.

The same equations as the CPU kernels' (`kernels/torch_reference.py`), over whole tensors. Where
several samples of a step lie in one cell, the largest counts; the kernel blends one after another.
"""

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from thermal_nerf_loc.field.density_grid import Array32, DensityGrid, DepthFusion
from thermal_nerf_loc.field.device import DeviceRandom, Random
from thermal_nerf_loc.field.kernels import torch_reference
from thermal_nerf_loc.field.radiance_field import RadianceField
from thermal_nerf_loc.field.volume_rendering import Samples


class DeviceGrid(DensityGrid):
    """A density grid whose values lie on a device."""

    def __init__(self, grid: DensityGrid, device: torch.device) -> None:
        """Copy a grid to the device."""
        self.device = device
        self._held: Tensor | None = None
        super().__init__(grid.config, grid.space)
        self.values, self.held = grid.values, grid.held

    @property
    def values(self) -> Array32:
        """Copy of the densities, to be read only; assigning puts them on the device."""
        values: Array32 = self.shared.cpu().numpy()
        values.flags.writeable = False
        return values

    @values.setter
    def values(self, values: Array32) -> None:
        self._densities = torch.from_numpy(values.copy()).to(self.device)

    @property
    def shared(self) -> Tensor:
        """The densities on the device, in place."""
        return self._densities

    @property
    def held(self) -> NDArray[np.bool_]:
        """Cells that `observe` leaves as they are; none where empty."""
        return np.zeros(0, np.bool_) if self._held is None else self._held.cpu().numpy()

    @held.setter
    def held(self, held: NDArray[np.bool_]) -> None:
        self._held = torch.from_numpy(held.copy()).to(self.device) if len(held) else None

    def place(self, origins: Tensor, directions: Tensor, count: int,
              exploring: float | Tensor, random: Random | None = None) -> Samples:
        """Samples of rays (n, 3); see `DensityGrid.place`."""
        shape = (len(origins), count)
        jitter = (random.uniform(*shape) if isinstance(random, DeviceRandom)
                  else torch.full(shape, 0.5, device=self.device))
        scale = self.space.scale_m
        return Samples(*torch_reference.propose(
            origins.detach(), directions.detach(), self.shared, self.space, self._near_m,
            2.0 * scale, self.config.far * scale, self.config.bins, exploring, jitter))

    def sample(self, origins: Array32, directions: Array32, count: int,
               exploring: float | Array32, rng: np.random.Generator | None = None,
               ) -> tuple[Array32, Array32]:
        """The same of arrays, and back."""
        given = exploring if isinstance(exploring, float) else self._on(np.asarray(exploring))
        placed = self.place(self._on(origins), self._on(directions), count, given)
        return placed.distance_m.cpu().numpy(), placed.width_m.cpu().numpy()

    def hold(self, fused: DepthFusion) -> None:
        """Begin with the surfaces and the free space of fused depth, fixed until `release`."""
        densities, known = fused.densities()
        self.values = np.where(known, densities, self.values)
        self.held = known

    def release(self) -> None:
        """Let training change all cells from now on."""
        self._held = None

    def observe(self, points: Tensor, densities: Tensor, decay: float = 0.1) -> None:
        """Update from points (n, 3) whose densities (n,) training has computed."""
        torch_reference.splat(points.detach(), densities.detach(), self.shared, self.space, decay,
                              self._held)

    @torch.no_grad()
    def refresh(self, field: RadianceField, share: float, rng: Random) -> None:
        """Evaluate the field at random points in a random share of the cells."""
        assert isinstance(rng, DeviceRandom)
        cells = self.config.cells
        count = int(share * cells**3)
        chosen = rng.integers(cells**3, count)
        corner = torch.stack([chosen // cells**2, chosen // cells % cells, chosen % cells], dim=1)
        points = self.space.from_unit((corner + rng.uniform(count, 3)) / cells)
        self.observe(points, field.density(points)[0], decay=0.3)

    def _on(self, array: Array32) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(self.device)


def on_device(grid: DensityGrid, device: torch.device) -> DeviceGrid:
    """A grid on a device; the same one where it is there already."""
    if isinstance(grid, DeviceGrid) and grid.device == device:
        return grid
    return DeviceGrid(grid, device)


def on_processor(grid: DensityGrid) -> DensityGrid:
    """A grid that the CPU kernels read."""
    if not isinstance(grid, DeviceGrid):
        return grid
    made = DensityGrid(grid.config, grid.space)
    made.values[:] = grid.values
    made.held = grid.held.copy()
    return made

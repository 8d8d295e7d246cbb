# SPDX-License-Identifier: Apache-2.0
"""
Density grid: coarse densities of the field, by which samples are placed along rays.

No network is evaluated for it. The grid lies in contracted space, so that it reaches infinity; it
is updated from the training samples themselves, and from random points in a share of its cells.
Where depth of the images is known, it begins with their surfaces and the free space before them
(`DepthFusion`), and holds both until the field has them.
"""

import ctypes
from ctypes import byref
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from thermal_nerf_loc.common.config import setting
from thermal_nerf_loc.common.threads import kernel_threads
from thermal_nerf_loc.field.contraction import ContractedSpace
from thermal_nerf_loc.field.device import Random
from thermal_nerf_loc.field.kernels import depth_fusion, ray_sampling as kernels
from thermal_nerf_loc.field.native import training as fused
from thermal_nerf_loc.field.native.library import address, Cells, library, rays_of
from thermal_nerf_loc.field.radiance_field import RadianceField
from thermal_nerf_loc.field.volume_rendering import Samples

Array32 = NDArray[np.float32]

_NOMINAL_CELLS = 128
_UNKNOWN_DENSITY, _FREE_DENSITY = 0.05, 1e-3  # per scene scale
_SURFACE_DEPTH = 3.0  # optical depth of a cell at a surface that all rays agree on
_LEAST_RAYS = 0.5  # sum of confidence with which a cell is known
_LEAST_SURFACE = 0.1  # share of the rays in a cell that end there; with less it is free
_FUSION_TOLERANCE = 0.03  # of the distance: cells nearer to the surface are not free


@dataclass(frozen=True, slots=True)
class SamplingConfig:
    """How samples are placed along a ray."""

    grid_cells: int | None = setting(None, 'cells of the density grid along an axis; null: one '
                                     'for two of the finest hash grid', 16, 512)
    bins: int = setting(128, 'intervals of a ray that get a weight from the grid', 16, 1024)
    near: float = setting(0.125, 'nearest sample, in least half extents of the inner box', 0.0,
                          10.0)
    far: float = setting(100.0, 'farthest sample, in scene scales', 1.0, 1e6)

    @property
    def cells(self) -> int:
        """`grid_cells`, or what suits a room where it is null."""
        return _NOMINAL_CELLS if self.grid_cells is None else self.grid_cells


class DensityGrid:
    """Densities per metre on a cube of cells over contracted space, flat in C order."""

    def __init__(self, config: SamplingConfig, space: ContractedSpace) -> None:
        """Begin with the same small density everywhere: the first samples are uniform."""
        self.config, self.space = config, space
        self.values = np.full(config.cells**3, _UNKNOWN_DENSITY / space.scale_m, np.float32)
        self.center, self.inverse_half = space.kernel_arguments
        self.held = np.zeros(0, np.bool_)  # cells that `observe` leaves as they are; none

    def sample(self, origins: Array32, directions: Array32, count: int,
               exploring: float | Array32, rng: np.random.Generator | None = None,
               ) -> tuple[Array32, Array32]:
        """
        Distances and interval lengths (rays, count) in metres.

        `exploring` is the share of uniform samples, of all rays or of each; without `rng` samples
        are not jittered.
        """
        shape = (len(origins), count)
        jitter = None if rng is None else rng.random(shape, dtype=np.float32)
        distances, widths = np.empty(shape, np.float32), np.empty(shape, np.float32)
        uniform = np.ascontiguousarray(np.broadcast_to(np.float32(exploring), len(origins)))
        compiled = library()
        if compiled is not None:
            origins, directions = (np.ascontiguousarray(a, np.float32)
                                   for a in (origins, directions))
            compiled.native_place(
                byref(self.kernel_cells()), byref(rays_of(origins, directions, count)),
                address(uniform), None if jitter is None else address(jitter), kernel_threads(),
                address(distances), address(widths))
            return distances, widths
        if jitter is None:
            jitter = np.full(shape, 0.5, np.float32)
        near = np.full(len(origins), self._near_m, np.float32)
        scale = self.space.scale_m
        kernels.propose(origins, directions, self.values, self.config.cells, self.center,
                        self.inverse_half, near, np.float32(2.0 * scale),
                        np.float32(self.config.far * scale), self.config.bins,
                        uniform, jitter, distances, widths)
        return distances, widths

    def place(self, origins: Tensor, directions: Tensor, count: int,
              exploring: float | Tensor, random: Random | None = None) -> Samples:
        """`sample` of tensors (n, 3), on whatever device they lie."""
        o, d = (part.detach().cpu().contiguous().numpy() for part in (origins, directions))
        given = exploring if isinstance(exploring, float) else exploring.cpu().numpy()
        rng = random if isinstance(random, np.random.Generator) else None
        placed = Samples.from_numpy(*self.sample(o, d, count, given, rng))
        return Samples(placed.distance_m.to(origins.device), placed.width_m.to(origins.device))

    @property
    def shared(self) -> Tensor:
        """The values as a tensor, in the same memory."""
        return torch.from_numpy(self.values)

    def kernel_cells(self) -> Cells:
        """The grid as compiled kernels take it; it points to `values`."""
        scale, of_three = self.space.scale_m, 3 * ctypes.c_float
        return Cells(address(self.values), of_three(*self.center), of_three(*self.inverse_half),
                     self._near_m, 2.0 * scale, self.config.far * scale, self.config.cells,
                     self.config.bins)

    @property
    def _near_m(self) -> float:
        return self.config.near * self.space.least_m

    def hold(self, fused: 'DepthFusion') -> None:
        """Begin with the surfaces and the free space of fused depth, fixed until `release`."""
        densities, known = fused.densities()
        self.values[known] = densities[known]
        self.held = known

    def release(self) -> None:
        """Let training change all cells from now on."""
        self.held = self.held[:0]

    def observe(self, points: Tensor, densities: Tensor, decay: float = 0.1) -> None:
        """Update from points (n, 3) whose densities (n,) training has computed."""
        kernels.splat(points.detach().cpu().numpy(), densities.detach().cpu().numpy(), self.values,
                      self.held, self.config.cells, self.center, self.inverse_half,
                      np.float32(decay))

    @torch.no_grad()
    def refresh(self, field: RadianceField, share: float, rng: Random) -> None:
        """Evaluate the field at random points in a random share of the cells."""
        assert isinstance(rng, np.random.Generator)
        cells = self.config.cells
        chosen = rng.integers(0, cells**3, int(share * cells**3))
        corner = np.stack(np.unravel_index(chosen, (cells,) * 3), axis=-1)
        unit = (corner + rng.random(corner.shape)) / cells
        points = self.space.from_unit(
            torch.from_numpy(unit.astype(np.float32)).to(field.encoding.table.device))
        sigma = fused.density_of(field, points) if fused.serves(field, points) else (
            field.density(points)[0])
        self.observe(points, sigma, decay=0.3)


class DepthFusion:
    """Counts the rays of known depth that cross each cell of a grid, and those that end there."""

    def __init__(self, config: SamplingConfig, space: ContractedSpace) -> None:
        """Begin without rays."""
        self.config, self.space = config, space
        self.free, self.surface = (np.zeros(config.cells**3, np.float32) for _ in range(2))

    def add(self, origins: Array32, directions: Array32, distances: Array32, confidence: Array32,
            ) -> None:
        """Add rays (n, 3) whose surfaces are at these distances (n,), in metres."""
        config, space = self.config, self.space
        depth_fusion.count(
            origins, directions, distances, confidence, config.cells, *space.kernel_arguments,
            np.float32(config.near * space.least_m), np.float32(2.0 * space.scale_m),
            np.float32(config.far * space.scale_m), config.bins, np.float32(_FUSION_TOLERANCE),
            self.free, self.surface)

    def densities(self) -> tuple[Array32, NDArray[np.bool_]]:
        """Density of each cell, and which are known: those that enough rays cross or meet."""
        total = self.free + self.surface
        share = self.surface / np.maximum(total, np.float32(1e-6))
        cell_m = 4.0 * self.space.scale_m / self.config.cells
        solid = np.where(share >= _LEAST_SURFACE, share * np.float32(_SURFACE_DEPTH / cell_m),
                         np.float32(_FREE_DENSITY / self.space.scale_m))
        return solid.astype(np.float32), total >= _LEAST_RAYS

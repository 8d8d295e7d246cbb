# SPDX-License-Identifier: Apache-2.0
"""
Hash grid and samplers in plain torch, for any device; tests compare the CPU kernels with them.

Line by line the equations of `grid_levels.py` and `ray_sampling.py`, over whole tensors. Nothing
here waits for the device: no value is read back, and no array is sent there.
"""

import torch
from torch import Tensor

from thermal_nerf_loc.field.contraction import ContractedSpace
from thermal_nerf_loc.field.kernels.grid_levels import Levels

PRIME_Y, PRIME_Z = 2654435761, 805459861


def read_grid(points: Tensor, table: Tensor, levels: Levels) -> Tensor:
    """Features (n, levels * width) of points in [0, 1]^3; any precision, by autograd in both."""
    bits = torch.arange(8, device=points.device)
    corner = torch.stack([bits & 1, (bits >> 1) & 1, (bits >> 2) & 1], dim=-1)
    points, outputs = points.clamp(0.0, 1.0), []
    for level, scale in enumerate(levels.scales.tolist()):
        position = points * scale + 0.5
        cell = position.detach().floor()
        inside = (position - cell)[:, None]  # (n, 1, 3)
        weight = torch.where(corner.bool(), inside, 1.0 - inside).prod(dim=-1)
        rows = grid_rows(cell.long()[:, None] + corner, levels, level)
        outputs.append((weight[..., None] * table[rows]).sum(dim=1))
    return torch.cat(outputs, dim=-1)


def grid_rows(xyz: Tensor, levels: Levels, level: int) -> Tensor:
    """Table rows of a level's grid points (..., 3)."""
    first, last = int(levels.offsets[level]), int(levels.offsets[level + 1])
    x, y, z = xyz.unbind(dim=-1)
    if levels.dense[level]:
        resolution = int(levels.resolutions[level])
        row = x + resolution * (y + resolution * z)
    else:
        row = (x ^ (y * PRIME_Y) ^ (z * PRIME_Z)) & 0xffffffff
    rows: Tensor = first + row % (last - first)
    return rows


def propose(origins: Tensor, directions: Tensor, grid: Tensor, space: ContractedSpace, near: float,
            middle: float, far: float, bins: int, exploring: float | Tensor, jitter: Tensor,
            ) -> tuple[Tensor, Tensor]:
    """
    Sorted sample distances and interval lengths (rays, samples); see `ray_sampling.propose`.

    `exploring` is of all rays, or of each (rays,).
    """
    s = torch.linspace(0.0, 1.0, bins + 1, device=origins.device)
    edges = torch.where(s < 0.5, near + 2.0 * s * (middle - near),
                        1.0 / ((2.0 - 2.0 * s) / middle + (2.0 * s - 1.0) / far))
    if isinstance(exploring, Tensor):
        exploring = exploring[:, None]
    if isinstance(exploring, Tensor) or exploring < 1.0:
        weights = _grid_weights(origins, directions, grid, space, edges)
    else:
        weights = torch.zeros(len(origins), bins, device=origins.device)
    if isinstance(exploring, Tensor):  # what is all uniform does not ask the grid
        weights = torch.where(exploring < 1.0, weights, 0.0)
    blurred = _blur(weights) + exploring / (1.0 - exploring + 1e-6) / bins
    share = torch.cumsum(blurred, dim=1)
    share = share / share[:, -1:]
    u = (torch.arange(jitter.shape[1], device=jitter.device) + jitter) / jitter.shape[1]
    b = torch.searchsorted(share, u.contiguous()).clamp(max=bins - 1)
    before = torch.where(b > 0, share.gather(1, (b - 1).clamp(min=0)), 0.0)
    inside = ((u - before) / (share.gather(1, b) - before).clamp(min=1e-9)).clamp(0.0, 1.0)
    distances = edges[b] + inside * (edges[b + 1] - edges[b])
    return distances, _widths(distances, near)


def splat(points: Tensor, densities: Tensor, grid: Tensor, space: ContractedSpace,
          decay: float, held: Tensor | None = None) -> None:
    """
    Blend densities into all but `held` cells of the grid in place, the largest of each cell.

    The CPU kernel blends one sample after the other; here all samples of a cell count at once.
    """
    cell = cell_index(points, grid, space)
    largest = torch.full_like(grid, -1.0)
    largest.scatter_reduce_(0, cell, densities, 'amax')
    touched = largest >= 0.0 if held is None else (largest >= 0.0) & ~held
    grown = torch.where(largest > grid, largest, grid + decay * (largest - grid))
    grid.copy_(torch.where(touched, grown, grid))


def cell_index(points: Tensor, grid: Tensor, space: ContractedSpace) -> Tensor:
    """Flat cell numbers of world points (..., 3)."""
    cells = round(len(grid)**(1.0 / 3.0))
    corner = (space.to_unit(points) * cells).long().clamp(0, cells - 1)
    index: Tensor = (corner[..., 0] * cells + corner[..., 1]) * cells + corner[..., 2]
    return index


def _grid_weights(origins: Tensor, directions: Tensor, grid: Tensor, space: ContractedSpace,
                  edges: Tensor) -> Tensor:
    """Rendering weight of each interval by the densities of the grid."""
    middle = 0.5 * (edges[1:] + edges[:-1])
    points = origins[:, None] + middle[:, None] * directions[:, None]
    depth = grid[cell_index(points, grid, space)] * (edges[1:] - edges[:-1])
    before = torch.cumsum(depth, dim=1) - depth
    weights = torch.exp(-before) * (1.0 - torch.exp(-depth))
    weights[:, -1] += torch.exp(-depth.sum(dim=1))
    return weights


def _blur(weights: Tensor) -> Tensor:
    left = torch.cat([weights[:, :1], weights[:, :-1]], dim=1)
    right = torch.cat([weights[:, 1:], weights[:, -1:]], dim=1)
    return 0.25 * (left + right) + 0.5 * weights


def _widths(distances: Tensor, near: float) -> Tensor:
    """Interval that each sample represents: between the mid points to its neighbours."""
    between = 0.5 * (distances[:, 1:] + distances[:, :-1])
    first = (1.5 * distances[:, :1] - 0.5 * distances[:, 1:2]).clamp(min=near)
    starts = torch.cat([first, between], dim=1)
    ends = torch.cat([between, 2.0 * distances[:, -1:] - starts[:, -1:]], dim=1)
    return ends - starts

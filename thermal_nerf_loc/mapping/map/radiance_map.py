# SPDX-License-Identifier: Apache-2.0
"""The radiance map: colour, temperature and geometry of a place, rendered along rays."""

import copy
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.field.contraction import ContractedSpace
from thermal_nerf_loc.field.cpu_renderer import CpuRenderer, RayArrays
from thermal_nerf_loc.field.density_grid import DensityGrid
from thermal_nerf_loc.field.device import find_device
from thermal_nerf_loc.field.device_grid import on_device
from thermal_nerf_loc.field.device_renderer import DeviceRenderer
from thermal_nerf_loc.field.native import rendering
from thermal_nerf_loc.field.native.rendering import FusedBranch
from thermal_nerf_loc.field.volume_rendering import render
from thermal_nerf_loc.mapping.map import map_file
from thermal_nerf_loc.mapping.map.localization_map import LocalizationMap
from thermal_nerf_loc.mapping.training.strategies import Learner
from thermal_nerf_loc.sensing.flat_field import resized
from thermal_nerf_loc.sensing.frame import RGB, THERMAL
from thermal_nerf_loc.sensing.rendering import Array32, RayRendering

Array = NDArray[np.float64]

RENDER_SAMPLES, RENDER_EXPLORING = 16, 0.05
CHUNK_RAYS = 8192  # what lies between grid and networks then stays near the processor


@dataclass(frozen=True, eq=False)
class RadianceMap(map_file.MapContent, LocalizationMap):
    """
    A trained map; immutable, so that all threads may share it.

    `dataclasses.replace` makes a map with other members, for example with other panoramas.
    """

    # where torch renders; None: the kernels of the processor do. Learners stay on the processor,
    # which saves and completes the map.
    device: torch.device | None = None

    _renderers: dict[str, CpuRenderer] = field(default_factory=dict, init=False, repr=False)
    _on_device: dict[str, DeviceRenderer] = field(default_factory=dict, init=False, repr=False)
    _joints: list[tuple[DensityGrid, FusedBranch]] = field(default_factory=list, init=False,
                                                           repr=False)

    @classmethod
    def load(cls, path: Path, device: str = 'cpu') -> 'RadianceMap':
        """Read and check a map file, to be rendered on a device: `auto`, `cpu` or `cuda`."""
        found = find_device(device)  # what is missing is said before anything is read
        return map_file.load(Path(path), cls).on(found)

    def on(self, device: torch.device) -> 'RadianceMap':
        """The same map, rendered on a device."""
        return self if device.type == 'cpu' else replace(self, device=device)

    def save(self, path: Path) -> None:
        """Write a map file; an existing one is replaced once the new one is complete."""
        map_file.save(self, Path(path))

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the map can show, RGB first."""
        names = [name for learner in self.learners for name in learner.modalities]
        return tuple(sorted(names, key=lambda name: name != RGB))

    @property
    def backend(self) -> str:
        """What reads the hash grid where the map is rendered."""
        if self.device is None:
            return self.learners[0].field.encoding.backend
        return self._device_renderer(self.modalities[0]).field.encoding.backend

    @property
    def scene_name(self) -> str:
        """Name of the data set the map was trained on."""
        return self.info.scene_name

    @property
    def radiometric(self) -> bool:
        """Whether thermal values are deg C."""
        return self.temperature_range is not None

    @property
    def viewpoints(self) -> Array:
        """Poses (n, 4, 4) of training cameras."""
        return self.keyframes.poses

    @property
    def space(self) -> ContractedSpace:
        """The space of the fields; all share one."""
        return self.learners[0].field.space

    @property
    def bounds(self) -> Array:
        """Corners of the box at full resolution, world metres: (2, 3)."""
        return self.space.bounds

    def learner(self, modality: str) -> Learner:
        """Field and density grid that show a modality."""
        for learner in self.learners:
            if modality in learner.modalities:
                return learner
        raise InputError(f'map {self.name!r} does not show {modality}',
                         expected=' or '.join(self.modalities), got=modality)

    def render_rays(self, modality: str, origins: Array32, directions: Array32) -> RayRendering:
        """Render along unit rays (n, 3); see `Renderer`."""
        values, distance, spread, opacity = self._render(
            modality, *(np.ascontiguousarray(rays, np.float32) for rays in (origins, directions)))
        return RayRendering(self._in_units(modality, values), distance, spread, opacity)

    def render_together(self, origins: Array32, directions: Array32) -> dict[str, RayRendering]:
        """All modalities along the same rays; one density serves those that share a field."""
        names = self.modalities
        joint = self._joint()
        if joint is None:
            return {name: self.render_rays(name, origins, directions) for name in names}
        grid, branch = joint
        chunks = [branch.render(grid, origins[i:i + CHUNK_RAYS], directions[i:i + CHUNK_RAYS],
                                RENDER_SAMPLES, RENDER_EXPLORING)
                  for i in range(0, max(len(origins), 1), CHUNK_RAYS)]
        values, distance, spread = (np.concatenate(part) for part in zip(*chunks, strict=True))
        ends = np.cumsum([self.learner(name).field.channels[name] for name in names])[:-1]
        opacity = np.ones(len(distance), np.float32)
        return {name: RayRendering(self._in_units(name, part), distance, spread, opacity)
                for name, part in zip(names, np.split(values, ends, axis=1), strict=True)}

    def _joint(self) -> tuple[DensityGrid, FusedBranch] | None:
        """All branches as one; None where they do not share a field, or no kernel serves."""
        if self._joints:
            return self._joints[0]
        first = self.learners[0]
        if self.device is not None or len(self.learners) > 1 or len(self.modalities) < 2 or (
                not rendering.serves(first.field)):
            return None
        self._joints.append((first.grid, FusedBranch(first.field, *self.modalities)))
        return self._joints[0]

    def _in_units(self, modality: str, values: Array32) -> Array32:
        """Values of a field in the unit of the sensor."""
        if modality == THERMAL and self.temperature_range is not None:
            return np.asarray(self.temperature_range.to_celsius(values), np.float32)
        return values

    def flat_field_offset(self, modality: str, size: tuple[int, int]) -> Array32 | None:
        """What the map's own camera adds to images of this size (h, w, 1); None: nothing."""
        image = self.flat_fields.get(modality)
        return None if image is None else resized(image, size)[..., None]

    def render_differentiable(self, modality: str, origins: Tensor, directions: Tensor) -> Tensor:
        """Values (n, channels) in sensor units, differentiable in origins and directions."""
        if self.device is None:
            field, grid = self.learner(modality).field, self.learner(modality).grid
        else:
            renderer = self._device_renderer(modality)
            field, grid = renderer.field, renderer.grid
        o, d = (rays.to(field.encoding.table.device) for rays in (origins, directions))
        samples = grid.place(o, d, RENDER_SAMPLES, RENDER_EXPLORING)
        values = render(field, modality, o, d, samples).values.to(origins.device)
        if modality == THERMAL and self.temperature_range is not None:
            low, high = self.temperature_range.low_celsius, self.temperature_range.high_celsius
            values = low + (high - low) * values
        return values

    def _render(self, modality: str, origins: Array32, directions: Array32) -> RayArrays:
        if self.device is not None:
            rendered = self._device_renderer(modality).render(
                origins, directions, RENDER_SAMPLES, RENDER_EXPLORING)
            if rendered is not None:
                return rendered
        if modality not in self._renderers:
            learner = self.learner(modality)
            self._renderers[modality] = CpuRenderer(learner.field, learner.grid, modality)
        chunks = [self._renderers[modality].render(
            origins[i:i + CHUNK_RAYS], directions[i:i + CHUNK_RAYS], RENDER_SAMPLES,
            RENDER_EXPLORING) for i in range(0, max(len(origins), 1), CHUNK_RAYS)]
        values, distance, spread, opacity = (np.concatenate(part)
                                             for part in zip(*chunks, strict=True))
        return values, distance, spread, opacity

    def _device_renderer(self, modality: str) -> DeviceRenderer:
        """Copies of a field and its grid on the device, made when they are first needed."""
        assert self.device is not None
        if modality not in self._on_device:
            learner = self.learner(modality)
            known = [r for r in self._on_device.values() if set(learner.modalities) & {r.modality}]
            field = known[0].field if known else copy.deepcopy(learner.field).to(self.device)
            field.encoding.reference = self.device.type == 'cpu'
            grid = known[0].grid if known else on_device(learner.grid, self.device)
            self._on_device[modality] = DeviceRenderer(field, grid, modality)
        return self._on_device[modality]

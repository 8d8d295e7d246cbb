# SPDX-License-Identifier: Apache-2.0
"""The radiance map: colour, temperature and geometry of a place, rendered along rays."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.field.contraction import ContractedSpace
from thermal_nerf_loc.field.cpu_renderer import CpuRenderer, RayArrays, render_torch
from thermal_nerf_loc.field.volume_rendering import render, Samples
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

    _renderers: dict[str, CpuRenderer] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def load(cls, path: Path) -> 'RadianceMap':
        """Read and check a map file."""
        return map_file.load(Path(path), cls)

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
        """What reads the hash grid where the map lies now."""
        return self.learners[0].field.encoding.backend

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
        pieces = range(0, max(len(origins), 1), CHUNK_RAYS)
        chunks = [self._render(modality, *(np.ascontiguousarray(rays[i:i + CHUNK_RAYS],
                                                                np.float32)
                                           for rays in (origins, directions))) for i in pieces]
        values, distance, spread, opacity = (np.concatenate(part)
                                             for part in zip(*chunks, strict=True))
        if modality == THERMAL and self.temperature_range is not None:
            values = self.temperature_range.to_celsius(values)
        return RayRendering(values, distance, spread, opacity)

    def flat_field_offset(self, modality: str, size: tuple[int, int]) -> Array32 | None:
        """What the map's own camera adds to images of this size (h, w, 1); None: nothing."""
        image = self.flat_fields.get(modality)
        return None if image is None else resized(image, size)[..., None]

    def render_differentiable(self, modality: str, origins: Tensor, directions: Tensor) -> Tensor:
        """Values (n, channels) in sensor units, differentiable in origins and directions."""
        learner = self.learner(modality)
        device = learner.field.encoding.table.device
        distances, widths = (torch.from_numpy(drawn).to(device) for drawn in learner.grid.sample(
            origins.detach().cpu().numpy(), directions.detach().cpu().numpy(), RENDER_SAMPLES,
            RENDER_EXPLORING))
        values = render(learner.field, modality, origins.to(device), directions.to(device),
                        Samples(distances, widths)).values.to(origins.device)
        if modality == THERMAL and self.temperature_range is not None:
            low, high = self.temperature_range.low_celsius, self.temperature_range.high_celsius
            values = low + (high - low) * values
        return values

    def _render(self, modality: str, origins: Array32, directions: Array32) -> RayArrays:
        learner = self.learner(modality)
        if learner.field.encoding.table.device.type != 'cpu':
            return render_torch(learner.field, learner.grid, modality, origins, directions,
                                RENDER_SAMPLES, RENDER_EXPLORING)
        if modality not in self._renderers:
            self._renderers[modality] = CpuRenderer(learner.field, learner.grid, modality)
        return self._renderers[modality].render(origins, directions, RENDER_SAMPLES,
                                                RENDER_EXPLORING)

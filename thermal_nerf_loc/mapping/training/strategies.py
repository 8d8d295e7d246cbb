# SPDX-License-Identifier: Apache-2.0
"""
Four ways to let modalities share a field, and the phases that each one trains in.

As published in Ozer et al., "Exploring Multi-modal Neural Scene Representations With Applications
on Thermal Imaging" (X is any modality but RGB):
- `rgbx`: one density, a branch for each modality, all learn together;
- `separate`: the same, but X does not move the density;
- `scratch`: one field for each modality;
- `finetune`: RGB trains alone; then X starts from a copy of its field, with a fresh branch.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace

import torch

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.field.contraction import ContractedSpace
from thermal_nerf_loc.field.density_grid import DensityGrid, SamplingConfig
from thermal_nerf_loc.field.device_grid import on_device, on_processor
from thermal_nerf_loc.field.radiance_field import FieldConfig, RadianceField
from thermal_nerf_loc.mapping.training.config import STRATEGIES


@dataclass(frozen=True, slots=True, eq=False)
class Learner:
    """
    A field with its density grid, and the modalities that it learns and renders.

    `detached` modalities train their branch alone: their gradient does not reach the density.
    """

    field: RadianceField
    grid: DensityGrid
    modalities: tuple[str, ...]
    detached: frozenset[str] = frozenset()

    def on(self, device: torch.device, plain: bool = False) -> 'Learner':
        """
        The learner on a device, its field moved there.

        `plain`: torch operations even on the CPU, where else compiled kernels serve.
        """
        self.field.to(device)
        self.field.encoding.reference = plain
        has_kernels = device.type == 'cpu' and not plain
        return replace(self, grid=on_processor(self.grid) if has_kernels
                       else on_device(self.grid, device))


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the training, in shares of the whole, and the modalities that learn in it."""

    modalities: tuple[str, ...]
    begin: float = 0.0
    end: float = 1.0
    inherits: bool = False  # begins with copies of the first field, surfaces and all


def phases_for(strategy: str, modalities: tuple[str, ...]) -> tuple[Phase, ...]:
    """Phases of a strategy: one, but for `finetune`."""
    if strategy not in STRATEGIES:
        raise InputError('unknown strategy', expected=', '.join(STRATEGIES), got=strategy)
    if strategy == 'finetune' and len(modalities) > 1:
        return (Phase(modalities[:1], end=0.5),
                Phase(modalities[1:], begin=0.5, inherits=True))
    return (Phase(modalities),)


def learners_for(strategy: str, field: FieldConfig, sampling: SamplingConfig,
                 space: ContractedSpace, channels: Mapping[str, int]) -> tuple[Learner, ...]:
    """Fields of a strategy's first phase; a scene with one modality needs just one field."""
    names = phases_for(strategy, tuple(channels))[0].modalities
    groups = tuple((name,) for name in names) if strategy == 'scratch' else (names,)
    detached = frozenset(names[1:]) if strategy == 'separate' else frozenset()
    return tuple(Learner(RadianceField(field, space, {name: channels[name] for name in group}),
                         DensityGrid(sampling, space), group, detached) for group in groups)


@torch.no_grad()
def inherit(parent: Learner, modality: str, channels: int) -> Learner:
    """Copy hash grid, density and density grid of a trained field; the branch is new."""
    field = RadianceField(parent.field.config, parent.field.space, {modality: channels})
    field.encoding.load_state_dict(parent.field.encoding.state_dict())
    field.density_net.load_state_dict(parent.field.density_net.state_dict())
    return Learner(field, deepcopy(parent.grid), (modality,))

# SPDX-License-Identifier: Apache-2.0
"""
Four ways to let modalities share a field.

As published in Ozer et al., "Exploring Multi-modal Neural Scene Representations With Applications
on Thermal Imaging":
- `rgbx`: one density, a branch for each modality, all learn together;
- `separate`: the same, but X does not move the density;
- `scratch`: one field for each modality;
- `finetune`: RGB trains alone; then X starts from a copy of its field, with a fresh branch.

One optimiser for all that learns, each kind of parameter at its own rate.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import nn

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.field.contraction import Space
from thermal_nerf_loc.field.density_grid import DensityGrid, SamplingConfig
from thermal_nerf_loc.field.radiance_field import FieldConfig, RadianceField
from thermal_nerf_loc.mapping.training.config import STRATEGIES, TrainConfig


@dataclass(frozen=True, slots=True, eq=False)
class Learner:
    """A field, its sampler, the modalities it shows, and which of those leave density alone."""

    field: RadianceField
    grid: DensityGrid
    modalities: tuple[str, ...]
    detached: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of the training, in shares of the whole, and the modalities that it trains."""

    modalities: tuple[str, ...]
    begin: float = 0.0
    end: float = 1.0
    inherits: bool = False  # begins with copies of the first field, whose surfaces stand


def phases_for(strategy: str, modalities: tuple[str, ...]) -> tuple[Phase, ...]:
    """Order of a strategy's training: all at once, but for `finetune`."""
    if strategy not in STRATEGIES:
        raise InputError('unknown strategy', expected=', '.join(STRATEGIES), got=strategy)
    if strategy == 'finetune' and len(modalities) > 1:
        return (Phase(modalities[:1], end=0.5),
                Phase(modalities[1:], begin=0.5, inherits=True))
    return (Phase(modalities),)


def learners_for(strategy: str, field: FieldConfig, sampling: SamplingConfig, space: Space,
                 channels: Mapping[str, int]) -> tuple[Learner, ...]:
    """Fields of a strategy's first phase; a scene with one modality needs just one field."""
    names = phases_for(strategy, tuple(channels))[0].modalities
    groups = tuple((name,) for name in names) if strategy == 'scratch' else (names,)
    detached = frozenset(names[1:]) if strategy == 'separate' else frozenset()
    return tuple(Learner(RadianceField(field, space, {name: channels[name] for name in group}),
                         DensityGrid(sampling, space), group, detached) for group in groups)


@torch.no_grad()
def inherit(parent: Learner, modality: str, channels: int) -> Learner:
    """Copy a trained field, hash grid, density and sampler; its branches give way to a new one."""
    field = RadianceField(parent.field.config, parent.field.space, {modality: channels})
    field.encoding.load_state_dict(parent.field.encoding.state_dict())
    field.density_net.load_state_dict(parent.field.density_net.state_dict())
    return Learner(field, deepcopy(parent.grid), (modality,))


def adam(config: TrainConfig, learners: Sequence[Learner],
         cameras: Iterable[nn.Parameter] = (), poses: Iterable[nn.Parameter] = (),
         ) -> torch.optim.Adam:
    """Hash tables have their own rate and a tiny epsilon, as most rows rest."""
    tables = [learner.field.encoding.table for learner in learners]
    networks = [p for learner in learners for name, p in learner.field.named_parameters()
                if not name.startswith('encoding.')]
    groups = [{'params': tables, 'lr': config.learning_rate, 'eps': 1e-15},
              {'params': networks, 'lr': config.network_learning_rate},
              {'params': [p for p in cameras if p.requires_grad],
               'lr': config.formation_learning_rate},
              {'params': [p for p in poses if p.requires_grad],
               'lr': config.refine.learning_rate, 'decay': config.refine.decay}]
    optimizer = torch.optim.Adam([{'decay': config.decay, **group} for group in groups],
                                 betas=(0.9, 0.99), fused=True)
    for group in optimizer.param_groups:
        group['initial_lr'] = group['lr']
    return optimizer


def set_rate(optimizer: torch.optim.Optimizer, steps: int, share: float) -> None:
    """Warm up over 50 steps, then decay with the share of the training that is done."""
    for group in optimizer.param_groups:
        group['lr'] = group['initial_lr'] * min(1.0, (steps + 1) / 50) * group['decay']**share

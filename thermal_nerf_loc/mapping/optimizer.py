# SPDX-License-Identifier: Apache-2.0
"""One optimiser for all that learns, each kind of parameter at its own rate."""

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from thermal_nerf_loc.field.strategies import Learner
from thermal_nerf_loc.mapping.settings import TrainConfig


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

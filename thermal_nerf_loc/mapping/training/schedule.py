# SPDX-License-Identifier: Apache-2.0
"""
How far a training is: phase, steps and time; and the learning rates that follow from it.

With a time limit, the schedule is fitted to the time: the share that is done is the larger one of
steps and seconds, and stages (`ScheduleConfig`) end by the number of steps that is to be expected.
The limit includes what follows the training (`to_reserve`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from thermal_nerf_loc.field.native.adam import Optimizer, serves, TableAdam
from thermal_nerf_loc.mapping.training.config import TrainConfig
from thermal_nerf_loc.mapping.training.strategies import Learner, Phase, phases_for

_WARM_UP_STEPS = 50
_BETAS = 0.9, 0.99
_MOST_RESERVED = 0.5  # of the time limit

Completion = Callable[[float], float]  # steps of a training to the steps that what follows takes


class SchedulePosition(NamedTuple):
    """Steps done of a phase, and of how many: what `ScheduleConfig` asks for."""

    step: float
    steps: float


class Schedule:
    """Phase, step and share of a training; `update` before every step, `count_step` after it."""

    def __init__(self, config: TrainConfig, modalities: tuple[str, ...]) -> None:
        """Begin with the first phase."""
        self._planned_steps, self._max_seconds = config.planned_steps, config.max_seconds
        self.phases = phases_for(config.strategy, modalities)
        self.phase_index, self.phase_first_step = 0, 0
        self.steps, self.share = 0, 0.0  # done; share of the training
        self.preparation_s = 0.0  # before the first step; does not count as training
        self.reserved_s = 0.0  # of the time limit, for what follows the training

    @property
    def phase(self) -> Phase:
        """The present one."""
        return self.phases[self.phase_index]

    @property
    def next_phase_is_due(self) -> bool:
        """True where the present phase has ended and another one follows."""
        return self.share >= self.phase.end and self.phase_index + 1 < len(self.phases)

    @property
    def position(self) -> SchedulePosition:
        """Position in the present phase; one that inherits its surfaces is at its end."""
        phase = self.phase
        total = self._planned_steps * (phase.end - phase.begin)
        if self._max_seconds is not None and self.steps:
            expected = self.steps / max(self.share, 1e-9)
            total = min(total, expected * (phase.end - phase.begin))
        return SchedulePosition(total if phase.inherits else self.steps - self.phase_first_step,
                                total)

    def finished(self, seconds: float) -> bool:
        """True once the steps are done or the time is up."""
        return (self.steps >= self._planned_steps
                or (self._max_seconds is not None
                    and seconds >= self._max_seconds - self.reserved_s))

    def to_reserve(self, completion: Completion, seconds_a_step: float) -> float:
        """Seconds of the limit for what follows the training."""
        if self._max_seconds is None:
            return 0.0
        left_s = max(self._max_seconds - self.preparation_s, 0.0)
        possible = min(left_s / max(seconds_a_step, 1e-9), self._planned_steps)
        return min(completion(possible) * seconds_a_step, _MOST_RESERVED * left_s)

    def update(self, seconds: float) -> None:
        """Set the share that is done, by steps or by time."""
        self.share = self.steps / self._planned_steps
        if self._max_seconds is not None:
            time_left = max(self._max_seconds - self.reserved_s - self.preparation_s, 1e-9)
            by_time = min(1.0, (seconds - self.preparation_s) / time_left)
            self.share = max(self.share, by_time)

    def begin_phase(self, index: int) -> None:
        """Begin a phase at this step."""
        self.phase_index, self.phase_first_step = index, self.steps

    def count_step(self) -> None:
        """One more step is done."""
        self.steps += 1

    def set_learning_rates(self, optimizer: Optimizer) -> None:
        """Warm up, then decay exponentially with the share of the phase that is done."""
        warm_up = min(1.0, (self.steps - self.phase_first_step + 1) / _WARM_UP_STEPS)
        share = (self.share - self.phase.begin) / (self.phase.end - self.phase.begin)
        for group in optimizer.param_groups:
            group['lr'] = group['initial_lr'] * warm_up * group['decay']**share

    def facts(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {'steps': self.steps, 'phase': self.phase_index,
                'phase_first_step': self.phase_first_step, 'preparation_s': self.preparation_s,
                'reserved_s': self.reserved_s}

    def restore(self, facts: Mapping[str, Any]) -> None:
        """Go on where `facts` were taken."""
        self.steps, self.phase_first_step = facts['steps'], facts['phase_first_step']
        self.phase_index, self.preparation_s = facts['phase'], facts['preparation_s']
        self.reserved_s = facts.get('reserved_s', 0.0)


def adam(config: TrainConfig, learners: Sequence[Learner],
         responses: Iterable[nn.Parameter] = (), poses: Iterable[nn.Parameter] = (),
         ) -> Optimizer:
    """
    One optimizer, each kind of parameter at its own rate: tables, networks, responses, poses.

    Hash tables have a tiny epsilon, as most rows get no gradient in a step.
    """
    tables = [learner.field.encoding.table for learner in learners]
    networks = [p for learner in learners for name, p in learner.field.named_parameters()
                if not name.startswith('encoding.')]
    groups: list[dict[str, Any]] = [
        {'params': tables, 'lr': config.learning_rate, 'eps': 1e-15, 'tables': True},
        {'params': networks, 'lr': config.network_learning_rate},
        {'params': [p for p in responses if p.requires_grad],
         'lr': config.camera_response_learning_rate},
        {'params': [p for p in poses if p.requires_grad],
         'lr': config.refine.learning_rate, 'decay': config.refine.decay}]
    groups = [{'decay': config.decay, **group} for group in groups]
    optimizer: Optimizer = (TableAdam(groups, _BETAS) if serves(tables) else
                            torch.optim.Adam(groups, betas=_BETAS, fused=True))
    for group in optimizer.param_groups:
        group['initial_lr'] = group['lr']
    return optimizer

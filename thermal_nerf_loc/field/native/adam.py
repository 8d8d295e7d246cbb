# SPDX-License-Identifier: Apache-2.0
"""
Adam for hash tables: rows that no ray has touched are left as they are (`adam.cpp`).

Where rays see surfaces only, half of a table gets no gradient in a step, and Adam is bound by
memory. A row that was idle catches up with what its momentum would have done when it is next
touched, so that it learns as by Adam on all rows; until then it is behind by that.
"""

from collections.abc import Iterable
import ctypes
from ctypes import byref, c_float, c_int32
import math
from typing import Any

import torch
from torch import Tensor

from thermal_nerf_loc.common.threads import kernel_threads
from thermal_nerf_loc.field.native.library import library

_EPSILON = 1e-8  # as torch's own
LINE = 16  # floats that are updated together: a cache line


class _AdamStep(ctypes.Structure):
    _fields_ = [('rate', c_float), ('correction', c_float), ('beta1', c_float),
                ('beta2', c_float), ('epsilon', c_float), ('step', c_int32), ('settle', c_int32),
                ('threads', c_int32)]


def serves(tables: Iterable[Tensor]) -> bool:
    """Whether the library is here, and the tables are such as it updates."""
    return all(table.device.type == 'cpu' and table.dtype == torch.float32
               and table.is_contiguous() and table.numel() % LINE == 0
               for table in tables) and library() is not None


class TableAdam:
    """
    Adam; groups with `tables` True are hash tables. Its state is that of Adam, and `last`.

    What is no table is updated by the operation that torch's own Adam calls. The class is not a
    `torch.optim.Optimizer`, the first of which imports `torch._dynamo`: for seconds, at the start
    of every training.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], betas: tuple[float, float]) -> None:
        """Groups as torch's own takes them."""
        self.param_groups: list[dict[str, Any]] = [
            {'tables': False, 'eps': _EPSILON, 'betas': betas, **group,
             'params': list(group['params'])} for group in groups]
        self.state: dict[Tensor, dict[str, Tensor]] = {}
        self._is_clean = False  # gradients of tables are zero since the last step

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear gradients; those of tables are clear after a step."""
        for group in self.param_groups:
            if group['tables'] and self._is_clean:
                continue
            for parameter in group['params']:
                if set_to_none:
                    parameter.grad = None
                elif parameter.grad is not None:
                    parameter.grad.detach_().zero_()
        self._is_clean = False

    @torch.no_grad()
    def step(self) -> None:
        """Update tables by the kernel, all else by torch."""
        for group in self.param_groups:
            learned = [p for p in group['params'] if p.grad is not None]
            if not group['tables']:
                self._step_small(group, learned)
                continue
            for table in learned:
                state = self._state(table)
                state['step'] += 1.0
                _update(group, table, table.grad, state)
        self._is_clean = True

    def state_dict(self) -> dict[str, Any]:
        """As torch's: state by the number of a parameter, and the groups by such numbers."""
        numbers = {id(p): i for i, p in enumerate(self._parameters())}
        return {'state': {numbers[id(p)]: state for p, state in self.state.items()},
                'param_groups': [{**group, 'params': [numbers[id(p)] for p in group['params']]}
                                 for group in self.param_groups]}

    def load_state_dict(self, given: dict[str, Any]) -> None:
        """Restore a state; also one of torch's Adam."""
        parameters = self._parameters()
        self.state = {parameters[i]: {name: value.clone() for name, value in state.items()}
                      for i, state in given['state'].items() if state}
        for group, known in zip(self.param_groups, given['param_groups'], strict=True):
            group.update({name: value for name, value in known.items() if name != 'params'})

    def _step_small(self, group: dict[str, Any], learned: list[Tensor]) -> None:
        """Adam of what is no table, all tensors of one precision at once."""
        for kind in {p.dtype for p in learned}:
            chosen = [p for p in learned if p.dtype == kind]
            states = [self._moments(p) for p in chosen]
            steps = [state['step'] for state in states]
            for step in steps:
                step += 1.0
            torch._fused_adam_(
                chosen, [p.grad for p in chosen if p.grad is not None],
                [state['exp_avg'] for state in states],
                [state['exp_avg_sq'] for state in states], [], steps, lr=group['lr'],
                beta1=group['betas'][0], beta2=group['betas'][1], weight_decay=0.0,
                eps=group['eps'], amsgrad=False, maximize=False)

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group['params']]

    def _moments(self, parameter: Tensor) -> dict[str, Tensor]:
        state = self.state.setdefault(parameter, {})
        if not state:
            state['step'] = torch.zeros((), device=parameter.device)
            state['exp_avg'] = torch.zeros_like(parameter, requires_grad=False)
            state['exp_avg_sq'] = torch.zeros_like(parameter, requires_grad=False)
        return state

    @torch.no_grad()
    def settle(self) -> None:
        """Let all rows catch up: the map is to be read outside of the training."""
        for group, table in self._tables():
            if table in self.state:
                _update(group, table, None, self._state(table))

    def _tables(self) -> list[tuple[dict[str, Any], Tensor]]:
        return [(group, table) for group in self.param_groups if group['tables']
                for table in group['params']]

    def _state(self, table: Tensor) -> dict[str, Tensor]:
        """The state of a table; that of a checkpoint of torch's Adam has all rows up to date."""
        state = self._moments(table)
        if 'last' not in state:
            state['last'] = torch.full((table.numel() // LINE,), float(state['step']))
        return state


Optimizer = TableAdam | torch.optim.Optimizer


def _update(group: dict[str, Any], table: Tensor, gradient: Tensor | None,
            state: dict[str, Tensor]) -> None:
    """One step by `gradient`, or without one what idle rows have missed."""
    beta1, beta2 = group['betas']
    done = float(state['step'])
    settle = gradient is None
    at = _AdamStep(group['lr'] / (1.0 - beta1**max(done, 1.0)),
                   1.0 / math.sqrt(1.0 - beta2**max(done, 1.0)), beta1, beta2, group['eps'],
                   int(done) + settle, settle, kernel_threads())
    found = library()
    assert found is not None
    found.training_adam(byref(at), table.numel(), table.data_ptr(),
                        table.data_ptr() if gradient is None else gradient.data_ptr(),
                        state['exp_avg'].data_ptr(), state['exp_avg_sq'].data_ptr(),
                        state['last'].data_ptr())

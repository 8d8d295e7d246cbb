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


class TableAdam(torch.optim.Adam):
    """Adam; groups with `tables` True are hash tables. Its state is that of Adam, and `last`."""

    def __init__(self, groups: Iterable[dict[str, Any]], betas: tuple[float, float]) -> None:
        """Groups as torch's own takes them."""
        super().__init__([{'tables': False, **group} for group in groups], betas=betas, fused=True)
        self._is_clean = False  # gradients of tables are zero since the last step

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear gradients; those of tables are clear after a step."""
        tables = self._tables() if self._is_clean else []
        kept = [(table, table.grad) for _, table in tables]
        for table, _ in kept:
            table.grad = None
        super().zero_grad(set_to_none)
        for table, gradient in kept:
            table.grad = gradient
        self._is_clean = False

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update tables by the kernel, all else by torch."""
        assert closure is None
        gradients = [(group, table, table.grad) for group, table in self._tables()]
        for group, table, gradient in gradients:
            if gradient is not None:
                state = self._state(table)
                state['step'] += 1.0
                _update(group, table, gradient, state)
            table.grad = None
        super().step()
        for _, table, gradient in gradients:
            table.grad = gradient
        self._is_clean = True

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
        state: dict[str, Tensor] = self.state[table]
        if not state:
            state['step'] = torch.zeros(())
            state['exp_avg'], state['exp_avg_sq'] = (torch.zeros_like(table) for _ in range(2))
        if 'last' not in state:
            state['last'] = torch.full((table.numel() // LINE,), float(state['step']))
        return state


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

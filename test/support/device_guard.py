# SPDX-License-Identifier: Apache-2.0
"""A guard for code that is to stay on a device."""

from collections.abc import Callable
from typing import Any

import pytest
import torch


def forbid_transfers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all that sends an array to a device, or reads one back, raise."""
    def refuse(name: str) -> Callable[..., Any]:
        def refused(*args: Any, **options: Any) -> Any:
            raise AssertionError(f'{name} makes the host wait for the device')
        return refused

    for name in ('tensor', 'from_numpy', 'as_tensor'):
        monkeypatch.setattr(torch, name, refuse(f'torch.{name}'))
    for name in ('cpu', 'numpy', 'item', 'tolist', 'new_tensor', '__float__', '__bool__',
                 '__int__'):
        monkeypatch.setattr(torch.Tensor, name, refuse(f'Tensor.{name}'))

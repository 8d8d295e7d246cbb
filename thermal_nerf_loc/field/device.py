# SPDX-License-Identifier: Apache-2.0
"""Where a field is computed, by `--device`: the processor, or the GPU that torch sees."""

import json
from typing import Any
import warnings

import numpy as np
import torch
from torch import Tensor

from thermal_nerf_loc.common.errors import InputError

DEVICES = ('auto', 'cpu', 'cuda')
OutOfMemory = torch.OutOfMemoryError


def find_device(wanted: str, option: str = '--device') -> torch.device:
    """The device by its name; `auto` is CUDA where torch sees a GPU."""
    if wanted not in DEVICES:
        raise InputError('unknown device', where=option, expected=' or '.join(DEVICES),
                         got=wanted)
    if wanted == 'cuda' and not torch.cuda.is_available():
        built = torch.version.cuda is not None
        raise InputError('no CUDA device is visible to torch', expected=f'{option} auto or cpu',
                         got=f'{option} cuda', hint='Check nvidia-smi and CUDA_VISIBLE_DEVICES.'
                         if built else f'torch {torch.__version__} was built without CUDA: '
                         'install one with it (docs/guide/install.md).')
    if wanted == 'cpu' or not torch.cuda.is_available():
        return torch.device('cpu')
    return torch.device('cuda', torch.cuda.current_device())


def has_bfloat16(device: torch.device) -> bool:
    """True where networks are faster in bfloat16 than in float32, and train as well."""
    if device.type == 'cuda':  # before Ampere it is emulated
        return torch.cuda.get_device_capability(device)[0] >= 8
    return device.type == 'cpu' and processor_has_bfloat16()


def processor_has_bfloat16() -> bool:
    """True where the CPU multiplies bfloat16 natively; elsewhere it would be slower."""
    if torch.backends.cpu.get_cpu_capability() != 'AVX512':  # torch may be told to use less
        return False
    checks = ('_is_avx512_bf16_supported', '_is_amx_tile_supported')
    return any(getattr(torch.cpu, name, lambda: False)() for name in checks)


def say_out_of_memory(what: str, instead: str) -> None:
    """Warn that the GPU is full, and what is done instead; what torch keeps there is freed."""
    warnings.warn(f'CUDA out of memory: {what}; {instead}', stacklevel=3)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class DeviceRandom:
    """Random numbers that are made on the device: the host need not wait for it."""

    def __init__(self, device: torch.device, seed: int) -> None:
        """Begin from the seed; `meta` has no numbers, only shapes."""
        self.device = device
        self._generator = None if device.type == 'meta' else torch.Generator(device)
        if self._generator is not None:
            self._generator.manual_seed(seed)

    def uniform(self, *shape: int) -> Tensor:
        """Floats in [0, 1)."""
        return torch.rand(shape, device=self.device, generator=self._generator)

    def integers(self, high: int, count: int) -> Tensor:
        """Whole numbers (count,) in [0, high)."""
        return torch.randint(0, high, (count,), device=self.device, generator=self._generator)

    @property
    def state(self) -> list[int]:
        """All that the next numbers depend on."""
        assert self._generator is not None
        return list(self._generator.get_state().numpy().tolist())

    @state.setter
    def state(self, state: list[int]) -> None:
        assert self._generator is not None
        self._generator.set_state(torch.tensor(state, dtype=torch.uint8))


Random = np.random.Generator | DeviceRandom


def random_state(random: Random) -> str:
    """State of a generator as text, for a checkpoint."""
    return json.dumps(random.state if isinstance(random, DeviceRandom)
                      else random.bit_generator.state)


def restore_random(random: Random, text: str) -> None:
    """Go on where `random_state` was taken."""
    state: Any = json.loads(text)
    if isinstance(random, DeviceRandom):
        random.state = state
    else:
        random.bit_generator.state = state

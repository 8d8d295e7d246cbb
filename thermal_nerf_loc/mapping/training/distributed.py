# SPDX-License-Identifier: Apache-2.0
"""
Several processes that train one map together, started by `torchrun`.

Each draws its own share of the rays; gradients are averaged at every step, so that all hold the
same weights, bit by bit. Over gloo on CPUs, over NCCL on GPUs (one for each process).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
import os

import numpy as np
import torch
from torch import distributed, Tensor

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.field.device import DeviceRandom, find_device, Random

_SEEDS_APART = 1_000_003  # of the processes' random rays


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those that train together; one alone by default."""

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device('cpu'))
    plain: bool = False  # torch operations even on the CPU, where else compiled kernels serve

    @property
    def has_kernels(self) -> bool:
        """Whether the compiled kernels of the CPU train; else all stays on the device."""
        return self.device.type == 'cpu' and not self.plain

    @property
    def leads(self) -> bool:
        """True in the first process, which reports and saves."""
        return self.rank == 0

    def random(self, seed: int) -> Random:
        """A generator of its own for each process, where the rays are drawn."""
        if not self.has_kernels:
            return DeviceRandom(self.device, seed + _SEEDS_APART * self.rank)
        return np.random.default_rng([seed, self.rank] if self.count > 1 else seed)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their means over all processes, in one message."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.reshape(-1).to(self.device) for tensor in tensors])
        distributed.all_reduce(flat)
        flat /= self.count
        means = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, mean in zip(tensors, means, strict=True):
            tensor.copy_(mean.view_as(tensor))

    def of_leader(self, value: float) -> float:
        """The first process's value, for decisions that must be the same in all."""
        if self.count == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=self.device)
        distributed.broadcast(shared, 0)
        return float(shared.item())

    def gather(self, text: str, size: int) -> list[str]:
        """Every process's text of at most `size` bytes, in the order of ranks."""
        if self.count == 1:
            return [text]
        padded = torch.frombuffer(bytearray(text.encode().ljust(size)), dtype=torch.uint8)
        parts = [torch.empty_like(padded, device=self.device) for _ in range(self.count)]
        distributed.all_gather(parts, padded.to(self.device))
        return [part.cpu().numpy().tobytes().decode().rstrip() for part in parts]


def leads() -> bool:
    """True unless torchrun started this process as one of several and not the first."""
    return os.environ.get('RANK', '0') == '0'


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Join the process group that torchrun has started, and leave it at the end."""
    count = int(os.environ.get('WORLD_SIZE', '1'))
    if count == 1:
        yield Processes(device=find_device(device))
        return
    rank, local_rank = int(os.environ['RANK']), int(os.environ['LOCAL_RANK'])
    local_count = int(os.environ['LOCAL_WORLD_SIZE'])
    if device == 'cuda':
        if local_count > torch.cuda.device_count():
            raise InputError('more processes than GPUs', expected=f'at most '
                             f'{torch.cuda.device_count()} on this machine', got=local_count)
        torch.cuda.set_device(local_rank)
        device = f'cuda:{local_rank}'
    with _threads(max(1, len(os.sched_getaffinity(0)) // local_count)):
        distributed.init_process_group('nccl' if device.startswith('cuda') else 'gloo')
        try:
            yield Processes(rank, count, torch.device(device))
        finally:
            distributed.destroy_process_group()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Compute with so many threads (torchrun sets one, whatever the machine has)."""
    import numba
    before = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(count)
    numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        numba.set_num_threads(before[1])

# SPDX-License-Identifier: Apache-2.0
"""
Checkpoint of an interrupted training, from which it goes on to the same map, bit by bit.

One safetensors file beside the map: tensors (fields, optimizer, density grids, random state), and
as metadata a JSON text with the counters. It is used only if it is whole (checksum), and only by a
training with the same settings and the same pixels (identity).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
import hashlib
import json
from pathlib import Path
from typing import Any
import warnings

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn, Tensor

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.field.native.adam import Optimizer
from thermal_nerf_loc.io.atomic_files import read_bytes, remove, write_atomically

FORMAT, VERSION = 'thermal_nerf_loc checkpoint', 3  # 1: another hash grid; 2: other names
_START_ANEW = 'Train without --resume to start anew.'


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """All that a training needs to go on; `facts` hold what JSON can."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


class Checkpoint:
    """The file of one training."""

    def __init__(self, path: Path, resume: bool = False) -> None:
        """`path` is written now and then, and with `resume` read first."""
        self.path, self.resume = path, resume
        self._written_s = 0.0

    @classmethod
    def beside(cls, map_path: Path, resume: bool = False) -> 'Checkpoint':
        """Where the command line keeps it: `M.checkpoint` for the map M."""
        return cls(map_path.with_name(f'{map_path.name}.checkpoint'), resume)

    def due(self, seconds: float, period_s: float) -> bool:
        """True once every period of training time; never with a period of 0."""
        if period_s <= 0.0 or seconds - self._written_s < period_s:
            return False
        self._written_s = seconds
        return True

    def write(self, state: State, identity: Mapping[str, Any]) -> None:
        """Replace the last one, which stays whole until then."""
        text = json.dumps({'identity': identity, 'facts': dict(state.facts)})
        tensors = {name: tensor.detach().cpu().contiguous()
                   for name, tensor in state.tensors.items()}
        metadata = {'format': FORMAT, 'version': str(VERSION), 'checkpoint': text,
                    'checksum': _checksum(text, tensors)}
        write_atomically(self.path, save(tensors, metadata))

    def read(self, identity: Mapping[str, Any]) -> State:
        """Read and check; refuse the checkpoint of another training."""
        if not self.path.is_file():
            raise InputError('no checkpoint to resume from', where=self.path, hint=_START_ANEW)
        content = read_bytes(self.path)
        metadata, tensors = _decode(content, self.path)
        text = metadata.get('checkpoint', '')
        if metadata.get('version') != str(VERSION):
            raise InputError('checkpoint has another format version', where=self.path,
                             expected=VERSION, got=metadata.get('version'), hint=_START_ANEW)
        if metadata.get('checksum') != _checksum(text, tensors):
            raise InputError('checkpoint is corrupt: its checksum does not fit', where=self.path,
                             hint=_START_ANEW)
        parts = json.loads(text)
        others = _differences(parts['identity'], json.loads(json.dumps(identity)))
        if others:
            raise InputError('checkpoint belongs to another training', where=self.path,
                             expected='the same settings and images',
                             got='other ' + ', '.join(others), hint=_START_ANEW)
        self._written_s = float(parts['facts']['seconds'])
        return State(tensors, parts['facts'])

    def remove(self) -> None:
        """The map is saved: nothing is left to resume."""
        remove(self.path)

    def warn_if_left(self) -> None:
        """Warn of a checkpoint that a training from the start is about to replace."""
        if self.path.is_file():
            warnings.warn(f'{self.path}: left by an interrupted training and replaced now; '
                          '--resume would have continued it', stacklevel=2)

    def restore_into(self, restore: Callable[[State], None], identity: Mapping[str, Any]) -> float:
        """Let `restore` go on with an interrupted training, if asked for; the seconds it took."""
        if not self.resume:
            self.warn_if_left()
            return 0.0
        state = self.read(identity)
        try:
            restore(state)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError('checkpoint does not fit its own settings', where=self.path,
                             got=f'{type(error).__name__}: {error}') from None
        return float(state.facts['seconds'])


def pack(modules: Mapping[str, nn.Module], grids: Sequence[Tensor],
         optimizer: Optimizer) -> dict[str, Tensor]:
    """State of modules (by prefix), density grids and optimizer as named tensors."""
    tensors = {f'{prefix}.{key}': value for prefix, module in modules.items()
               for key, value in module.state_dict().items()}
    tensors |= {f'grid{i}': values for i, values in enumerate(grids)}
    tensors |= {f'adam{i}.{key}': value
                for i, moments in optimizer.state_dict()['state'].items()
                for key, value in moments.items()}
    return {name: tensor.cpu() for name, tensor in tensors.items()}


def unpack(tensors: Mapping[str, Tensor], modules: Mapping[str, nn.Module],
           grids: Sequence[Tensor], optimizer: Optimizer) -> None:
    """Restore what `pack` has stored, in place."""
    def under(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()
                if name.startswith(prefix)}

    for prefix, module in modules.items():
        module.load_state_dict(under(f'{prefix}.'))
    for i, values in enumerate(grids):
        values.copy_(tensors[f'grid{i}'])
    parameters = sum(len(group['params']) for group in optimizer.param_groups)
    optimizer.load_state_dict({
        'state': {i: under(f'adam{i}.') for i in range(parameters)},
        'param_groups': optimizer.state_dict()['param_groups']})


def _decode(content: bytes, path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file in memory."""
    try:
        tensors = load(content)  # checks the header against the file's size
        header = json.loads(content[8:8 + int.from_bytes(content[:8], 'little')])
    except (SafetensorError, ValueError) as error:
        raise InputError('checkpoint is truncated, corrupt or none', where=path,
                         expected='a safetensors file', got=str(error), hint=_START_ANEW) from None
    metadata = header.get('__metadata__', {})
    if metadata.get('format') != FORMAT:
        raise InputError('file is no checkpoint', where=path, expected=FORMAT,
                         got='a foreign safetensors file')
    return metadata, tensors


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()


def _differences(a: Any, b: Any, name: str = '') -> list[str]:
    """Dotted names of what differs between two JSON values."""
    if isinstance(a, dict) and isinstance(b, dict):
        return [found for key in sorted(a.keys() | b.keys())
                for found in _differences(a.get(key), b.get(key), f'{name}.{key}'.lstrip('.'))]
    return [] if a == b else [name]

# SPDX-License-Identifier: Apache-2.0
"""
The hash grid on an NVIDIA GPU by tiny-cuda-nn, where its torch bindings import.

The field's table is its parameter vector (see `grid_levels.py`): nothing is copied or converted.
All of it is single precision: the table is the optimiser's own copy, gradients need no loss
scale, and the networks that follow choose their precision under autocast.
"""

from functools import lru_cache
import importlib
from typing import Any
import warnings

import torch
from torch import Tensor

from thermal_nerf_loc.common.errors import RunError
from thermal_nerf_loc.field.kernels import torch_reference
from thermal_nerf_loc.field.kernels.grid_levels import EncodingConfig, growth, Levels

_FEATURES = (1, 2, 4, 8)  # widths of a row that it is compiled for
_BUILT: dict[tuple[EncodingConfig, torch.device], Any] = {}  # modules without own weights


@lru_cache
def bindings() -> Any | None:
    """The module `tinycudann`, or None where it is missing or does not load."""
    try:
        return importlib.import_module('tinycudann')
    except ModuleNotFoundError as error:
        if error.name == 'tinycudann':
            return None
        reason: Exception = error
    except (ImportError, OSError, RuntimeError) as error:  # built for another torch or GPU
        reason = error
    warnings.warn(f'tinycudann is installed but does not load ({reason}): the hash grid runs on '
                  'plain torch, slower', stacklevel=2)
    return None


def serves(config: EncodingConfig) -> bool:
    """True where tiny-cuda-nn is installed and supports this grid."""
    return config.features in _FEATURES and bindings() is not None


def encode(points: Tensor, table: Tensor, config: EncodingConfig, levels: Levels) -> Tensor:
    """Features of points in [0, 1]^3 on the GPU; differentiable in both."""
    key = (config, table.device)
    if key not in _BUILT:
        _BUILT[key] = _build(table, config, levels)
    return _read(_BUILT[key], points, table)


@torch.no_grad()
def _build(table: Tensor, config: EncodingConfig, levels: Levels) -> Any:
    """Make the module for the table's device, and compare it once with the torch reference."""
    with torch.cuda.device_of(table):
        module = bindings().Encoding(3, {  # type: ignore[union-attr]
            'otype': 'HashGrid', 'hash': 'CoherentPrime', 'interpolation': 'Linear',
            'n_levels': config.levels, 'n_features_per_level': config.features,
            'log2_hashmap_size': config.most_rows.bit_length() - 1,
            'base_resolution': config.coarsest,
            'per_level_scale': float(growth(config)),
        }, dtype=torch.float32)
    random = torch.Generator().manual_seed(0)
    points = torch.rand(512, 3, generator=random).to(table.device)
    trial = torch.rand(table.shape, generator=random).to(table.device)
    same = module.params.numel() == table.numel()
    if same:
        off = _read(module, points, trial) - torch_reference.read_grid(points, trial, levels)
        # single precision places a point to 6e-8 of the box, in cells of 1 / scale
        same = float(off.abs().max()) < 1e-4 + 1e-6 * float(levels.scales.max())
    if not same:
        raise RunError('tiny-cuda-nn reads the hash grid in another order than this package',
                       where=getattr(bindings(), '__file__', 'tinycudann'),
                       hint='Uninstall tinycudann (plain torch then serves), or build its newest.')
    return module


def _read(module: Any, points: Tensor, table: Tensor) -> Tensor:
    read: Tensor = torch.func.functional_call(
        module, {'params': table.reshape(-1)}, (points.clamp(0.0, 1.0),))
    return read

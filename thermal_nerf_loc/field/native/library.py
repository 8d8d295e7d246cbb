# SPDX-License-Identifier: Apache-2.0
"""
The compiled kernels of this folder: found, checked and opened once.

`setup.py` builds one library for each instruction set, `kernels_avx2.so` and `kernels_avx512.so`,
where it finds a C++ compiler. Without one, on another kind of processor, or where a library does
not load, `library()` is None, numba and torch do the work, and one line says so.
`THERMAL_NERF_LOC_NATIVE=off` (or `avx2`, on a processor with AVX-512) chooses by hand.
"""

import ctypes
from functools import lru_cache
import os
from pathlib import Path
import platform
import struct
from typing import Any
import warnings

import numpy as np
from numpy.typing import NDArray

VERSION = 2  # NATIVE_VERSION of interface.h
VARIABLE = 'THERMAL_NERF_LOC_NATIVE'
SETS = ('avx512', 'avx2')  # the best first
FOLDER = Path(__file__).resolve().parent
_ELF_HEADER = struct.Struct('<40x Q 10x H H 2x')  # offset, size and number of sections


_POINTER, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int32, ctypes.c_float


class Grid(ctypes.Structure):
    """The hash grid."""

    _fields_ = [('table', _POINTER), ('offsets', _POINTER), ('scales', _POINTER),
                ('resolutions', _POINTER), ('dense', _POINTER), ('levels', _INT),
                ('features', _INT)]


class Cells(ctypes.Structure):
    """The density grid, its contracted space, and how rays are cut."""

    _fields_ = [('densities', _POINTER), ('center', 3 * _FLOAT), ('inverse_half', 3 * _FLOAT),
                ('near', _FLOAT), ('middle', _FLOAT), ('far', _FLOAT), ('cells', _INT),
                ('bins', _INT)]


class Layer(ctypes.Structure):
    """A layer, its weights packed."""

    _fields_ = [('weight', _POINTER), ('bias', _POINTER), ('inputs', _INT), ('outputs', _INT),
                ('padded', _INT)]


class Networks(ctypes.Structure):
    """Density network and one branch."""

    _fields_ = [('density', 2 * Layer), ('branch', 3 * Layer), ('direction', Layer),
                ('layers', _INT), ('bias', _FLOAT), ('inverse_scale', _FLOAT),
                ('negligible', _FLOAT)]


class Rays(ctypes.Structure):
    """Rays, and the number of samples on each."""

    _fields_ = [('origins', _POINTER), ('directions', _POINTER), ('rays', ctypes.c_int64),
                ('samples', _INT)]


def rays_of(origins: NDArray[np.float32], directions: NDArray[np.float32], samples: int) -> Rays:
    """Rays (n, 3); whoever calls holds the arrays, and asks for at least one sample."""
    return Rays(address(origins), address(directions), len(origins), samples)


def address(array: NDArray[Any]) -> int:
    """Where a contiguous array begins."""
    assert array.flags.c_contiguous
    return int(array.ctypes.data)


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The library for this processor, or None: then a warning has said why."""
    wanted = os.environ.get(VARIABLE, '').lower()
    if wanted == 'off':
        return None
    sets = [name for name in processor_sets() if wanted in ('', name)]
    if not sets:
        return None if wanted == '' else _missing(f'{VARIABLE}={wanted}: {_choices()}')
    problem = ''
    for name in sets:
        found = _open(FOLDER / f'kernels_{name}.so')
        if isinstance(found, ctypes.CDLL):
            return found
        problem = problem or found
    return _missing(problem)


def processor_sets() -> list[str]:
    """Instruction sets that both processor and torch use (ATEN_CPU_CAPABILITY restricts it)."""
    import torch
    if platform.machine().lower() not in ('x86_64', 'amd64'):
        return []
    return {'AVX512': ['avx512', 'avx2'], 'AVX2': ['avx2']}.get(
        torch.backends.cpu.get_cpu_capability(), [])


def instruction_set() -> str | None:
    """The instruction set of the library in use."""
    found = library()
    return None if found is None else Path(found._name).stem.removeprefix('kernels_')


def _choices() -> str:
    return f'this processor has {", ".join(processor_sets()) or "neither AVX2 nor AVX-512"}'


def _open(path: Path) -> ctypes.CDLL | str:
    """The library at `path`, or what is wrong with it."""
    if not path.is_file():
        return 'they were not built (no C++ compiler?)'
    if not _is_whole(path):
        return f'{path.name} is cut off'
    try:
        found = ctypes.CDLL(str(path))
        version = found.native_version()
    except (OSError, AttributeError) as error:
        return f'{path.name} does not load ({error})'
    if version != VERSION:
        return f'{path.name} was built from other sources'
    pointer: Any = ctypes.c_void_p  # also of a structure
    found.native_render.argtypes = [pointer] * 4 + [_FLOAT, _INT] + [pointer] * 3
    found.native_place.argtypes = [pointer] * 2 + [pointer] * 2 + [_INT] + [pointer] * 2
    found.native_render.restype = found.native_place.restype = None
    found.training_workspace.argtypes = [pointer] * 2
    found.training_workspace.restype = ctypes.c_int64
    found.training_forward.argtypes = [pointer] * 3
    found.training_backward.argtypes = [pointer] * 4
    found.training_adam.argtypes = [pointer, ctypes.c_int64] + [pointer] * 5
    found.training_forward.restype = found.training_backward.restype = None
    found.training_density.argtypes = [pointer] * 2 + [pointer]
    found.training_points.argtypes = [pointer] * 3 + [ctypes.c_int64, _INT, pointer]
    found.training_adam.restype = found.training_density.restype = None
    found.training_points.restype = None
    return found


def _is_whole(path: Path) -> bool:
    """
    False for an ELF file that ends before its table of sections, which comes last.

    The system would map it, and end the program where it reads beyond the end.
    """
    try:
        with path.open('rb') as file:
            header = file.read(_ELF_HEADER.size)
    except OSError:
        return True  # opening the library says what is wrong
    if not header.startswith(b'\x7fELF'):
        return True
    if len(header) < _ELF_HEADER.size:
        return False
    sections, size, count = _ELF_HEADER.unpack(header)
    return path.stat().st_size >= int(sections) + int(size) * int(count)


def _missing(reason: str) -> ctypes.CDLL | None:
    warnings.warn(f'compiled kernels are not used: {reason}. numba and torch serve, slower. '
                  'To build them: make setup, or pip install .', stacklevel=3)
    return None

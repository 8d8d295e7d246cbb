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
import warnings

VERSION = 1  # NATIVE_VERSION of interface.h
VARIABLE = 'THERMAL_NERF_LOC_NATIVE'
SETS = ('avx512', 'avx2')  # the best first
FOLDER = Path(__file__).resolve().parent


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
    try:
        found = ctypes.CDLL(str(path))
        version = found.native_version()
    except (OSError, AttributeError) as error:
        return f'{path.name} does not load ({error})'
    return found if version == VERSION else f'{path.name} was built from other sources'


def _missing(reason: str) -> None:
    warnings.warn(f'compiled kernels are not used: {reason}. numba and torch serve, slower. '
                  'To build them: make setup, or pip install .', stacklevel=3)

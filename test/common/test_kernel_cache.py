# SPDX-License-Identifier: Apache-2.0
"""Compiled kernels find a folder, whatever cannot be written, and the user hears of it."""

import os
from pathlib import Path
import subprocess
import sys

import pytest

from thermal_nerf_loc.common import kernel_cache


def python(code: str, **environment: str) -> str:
    """What a new interpreter prints."""
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True,
        env=os.environ | {'PYTHONPATH': os.pathsep.join(filter(None, sys.path)), **environment})
    return done.stdout.strip()


@pytest.fixture
def no_folder(tmp_path: Path) -> Path:
    """A path that not even root can make: its parent is a file."""
    (tmp_path / 'file').write_text('')
    return tmp_path / 'file' / 'cache'


def test_a_writable_folder_is_not_worth_a_word(tmp_path: Path) -> None:
    code = ('import thermal_nerf_loc as t; from thermal_nerf_loc.common import kernel_cache as k; '
            'print(repr(t.KERNEL_NOTICE), k.folder())')
    assert python(code, NUMBA_CACHE_DIR=str(tmp_path)) == f"'' {tmp_path}"


def test_where_the_asked_folder_cannot_be_written_another_is_named(no_folder: Path) -> None:
    """numba takes the next one by itself; kernels run."""
    told = python('import thermal_nerf_loc as t; print(t.KERNEL_NOTICE)\n'
                  'from thermal_nerf_loc.mapping.stereo import plane_sweep\n'
                  'print(plane_sweep.sweep.stats.cache_path)', NUMBA_CACHE_DIR=str(no_folder))
    notice, path = told.splitlines()
    assert str(no_folder) in notice and 'not writable' in notice
    assert str(no_folder) not in path


def test_without_any_folder_kernels_go_to_one_of_this_process(no_folder: Path) -> None:
    """There numba alone would refuse to import; the folder is gone afterwards."""
    made, path, told = python(
        'from thermal_nerf_loc.common import kernel_cache as k\n'
        'import os, pathlib\n'
        f'k.folders = lambda: (pathlib.Path({str(no_folder)!r}),)\n'
        'notice = k.prepare()\n'
        'made = os.environ["NUMBA_CACHE_DIR"]\n'
        'from thermal_nerf_loc.mapping.stereo import plane_sweep\n'
        'print(made, plane_sweep.sweep.stats.cache_path, notice, sep="\\n")').splitlines()
    assert path.startswith(made) and not Path(made).exists()
    assert 'anew at every start' in told and str(no_folder) in told


def test_a_folder_that_is_still_to_be_made_counts(tmp_path: Path, no_folder: Path) -> None:
    assert kernel_cache.is_writable(tmp_path / 'a' / 'b')
    assert not kernel_cache.is_writable(no_folder)

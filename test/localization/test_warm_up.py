# SPDX-License-Identifier: Apache-2.0
"""Warm-up: the wall is found, and another process fills an empty cache of compiled kernels."""

import json
import os
from pathlib import Path
import subprocess
import sys

import pytest

from thermal_nerf_loc.cli import main
from thermal_nerf_loc.common import kernel_cache
from thermal_nerf_loc.localization import warm_up


def test_the_wall_is_found():
    assert warm_up.compile_kernels() == 'ok'


def test_no_process_is_started_where_all_is_compiled(monkeypatch):
    warm_up.compile_kernels()
    monkeypatch.setattr(subprocess, 'Popen', lambda *_, **__: pytest.fail('started'))
    with warm_up.compiled_in_background():
        assert warm_up.kernels_are_compiled()


@pytest.mark.slow
def test_another_process_compiles_what_this_one_needs(tmp_path):
    code = ('from thermal_nerf_loc.localization import warm_up\n'
            'assert not warm_up.kernels_are_compiled()\n'
            'with warm_up.compiled_in_background():\n    pass\n'
            'assert warm_up.kernels_are_compiled()\n'
            'warm_up.compile_kernels()\n'
            'from thermal_nerf_loc.localization.refinement import gauss_newton\n'
            'stats = gauss_newton.minimize.stats\n'
            'assert stats.cache_hits and not stats.cache_misses, stats\n')
    environment = os.environ | {'NUMBA_CACHE_DIR': str(tmp_path),
                                'PYTHONPATH': os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, '-c', code], env=environment, check=True)


def test_kernels_of_another_processor_or_version_are_told(tmp_path: Path, monkeypatch) -> None:
    """A cache that was copied here: numba compiles again, and the user knows why."""
    monkeypatch.setattr(warm_up, '_STAMPED_HERE', set())
    monkeypatch.setattr(kernel_cache, 'folder', lambda: tmp_path)
    names, mine = (warm_up.LOCALIZER, warm_up.MAP), warm_up.identity()
    assert 'not compiled' in warm_up.why_not_ready()

    def write(text: str, processor: str) -> None:
        for name in names:
            (tmp_path / f'thermal_nerf_loc-{name}-{processor}.json').write_text(text)

    write(json.dumps(mine), 'older-1a2b3c')
    assert 'another processor (older-1a2b3c)' in warm_up.why_not_ready()
    for text in (json.dumps({**mine, 'digest': 'x'}), '{'):
        write(text, mine['processor'])
        assert 'another version' in warm_up.why_not_ready()
        assert not warm_up.kernels_are_compiled()
    write(json.dumps(mine), mine['processor'])
    assert warm_up.why_not_ready() == '' and warm_up.kernels_are_compiled()


@pytest.mark.slow
def test_after_a_warm_up_a_training_compiles_nothing(tmp_path: Path) -> None:
    """Nor does what follows it; a second warm-up has nothing to do."""
    data = tmp_path / 'room'
    assert main(['simulate', str(data), '--frames', '12', '--size', '64x48']) == 0
    code = ('import gc, sys\n'
            'from thermal_nerf_loc.cli import main\n'
            f'assert main(["train", {str(data)!r}, "--map", {str(tmp_path / "m")!r}, '
            '"--steps", "60"]) == 0\n'
            'from numba.core.registry import CPUDispatcher\n'
            'missed = [one.py_func for one in gc.get_objects() if isinstance(one, CPUDispatcher) '
            'and "thermal_nerf_loc" in one.py_func.__module__ and one.stats.cache_misses]\n'
            'assert not missed, missed\n')
    environment = os.environ | {'NUMBA_CACHE_DIR': str(tmp_path / 'cache'),
                                'PYTHONPATH': os.pathsep.join(filter(None, sys.path))}
    warm = [sys.executable, '-m', 'thermal_nerf_loc.cli', 'warm-up', '--json',
            str(tmp_path / 'warm.json')]
    for before in ('not compiled on this machine yet', 'ready'):
        subprocess.run(warm, env=environment, check=True)
        figures = json.loads((tmp_path / 'warm.json').read_text())
        assert figures['before'] == before
        assert figures['kernels'] == str(tmp_path / 'cache')
    subprocess.run([sys.executable, '-c', code], env=environment, check=True)

# SPDX-License-Identifier: Apache-2.0
"""Warm-up: the wall is found, and another process fills an empty cache of compiled kernels."""

import os
import subprocess
import sys

import pytest

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
            'stats = warm_up.gauss_newton.minimize.stats\n'
            'assert stats.cache_hits and not stats.cache_misses, stats\n')
    environment = os.environ | {'NUMBA_CACHE_DIR': str(tmp_path),
                                'PYTHONPATH': os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, '-c', code], env=environment, check=True)

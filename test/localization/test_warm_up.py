# SPDX-License-Identifier: Apache-2.0
"""Rehearsal: the wall is found, and another process fills an empty cache of compiled loops."""

import os
import subprocess
import sys

import pytest

from thermal_nerf_loc.localization import warm_up


def test_the_wall_is_found():
    assert warm_up.rehearse() == 'ok'


def test_nobody_is_started_where_all_is_compiled(monkeypatch):
    warm_up.rehearse()
    monkeypatch.setattr(subprocess, 'Popen', lambda *_, **__: pytest.fail('started'))
    with warm_up.beside():
        assert not warm_up.is_due()


@pytest.mark.slow
def test_another_process_compiles_what_this_one_needs(tmp_path):
    code = ('from thermal_nerf_loc.localization import rehearsal\n'
            'assert rehearsal.is_due()\n'
            'with rehearsal.beside():\n    pass\n'
            'assert not rehearsal.is_due()\n'
            'rehearsal.rehearse()\n'
            'stats = rehearsal.gauss_newton.descend.stats\n'
            'assert stats.cache_hits and not stats.cache_misses, stats\n')
    environment = os.environ | {'NUMBA_CACHE_DIR': str(tmp_path),
                                'PYTHONPATH': os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, '-c', code], env=environment, check=True)

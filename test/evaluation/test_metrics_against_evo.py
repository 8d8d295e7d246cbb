# SPDX-License-Identifier: Apache-2.0
"""Our trajectory errors against evo's own commands, on the same files."""

import json
import os
from pathlib import Path
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from thermal_nerf_loc.evaluation.metrics import evaluate, EvaluationConfig
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.trajectory import read_tum, Trajectory, write_tum

_EVO = Path(sys.executable).parent / 'evo_ape'
pytestmark = pytest.mark.skipif(not _EVO.is_file(),
                                reason='needs evo (in the extra "test" from Python 3.11 on)')
NS = 1_000_000_000
START_NS = 1_700_000_000 * NS
_FLAGS = {'none': [], 'se3': ['-a'], 'sim3': ['-a', '-s']}


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """A drive, and an estimate of other stamps, frame and scale, with noise and a gap."""
    rng = np.random.default_rng(5)
    stamps = START_NS + (np.arange(260) * 0.05 * NS).astype(np.int64)
    xi = np.zeros((260, 6))
    xi[1:] = (0.04, 0.01, 0.002, 0.01, -0.005, 0.03) + 0.01 * rng.normal(size=(259, 6))
    poses = np.array([np.eye(4)] * 260)
    for k in range(1, 260):
        poses[k] = poses[k - 1] @ se3.exp(xi[k])
    folder = tmp_path_factory.mktemp('evo')
    write_tum(folder / 'truth.tum', Trajectory(stamps, poses))
    kept = np.r_[3:90, 120:250]
    moved = np.array(poses[kept] @ se3.exp(0.02 * rng.normal(size=(len(kept), 6))))
    moved[:, :3, 3] *= 1.1
    moved = se3.exp([0.3, -0.2, 0.1, 0.02, 0.05, -0.1]) @ moved
    late = rng.integers(-14_000_000, 14_000_000, len(kept))  # some beyond evo's 10 ms
    write_tum(folder / 'estimated.tum', Trajectory(stamps[kept] + late, moved))
    return folder


def run_evo(files, program, *arguments):
    out = files / f'{program}{len(list(files.iterdir()))}.zip'
    done = subprocess.run(
        [str(_EVO.parent / program), 'tum', str(files / 'truth.tum'),
         str(files / 'estimated.tum'), '--save_results', str(out), '--silent', *arguments],
        capture_output=True, text=True, env={**os.environ, 'HOME': str(files)}, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(out) as archive:
        return json.loads(archive.read('stats.json'))


def ours(files, **settings):
    return evaluate(read_tum(files / 'estimated.tum'), read_tum(files / 'truth.tum'),
                    EvaluationConfig(associate='nearest', **settings)).metrics


@pytest.mark.parametrize('align', _FLAGS)
def test_absolute_errors_are_evos(files, align):
    found = ours(files, align=align)
    metres = run_evo(files, 'evo_ape', '-r', 'trans_part', *_FLAGS[align])
    assert 100 < found.matched < 217
    for mine, theirs in (('rmse', 'rmse'), ('mean', 'mean'), ('median', 'median'), ('max', 'max')):
        assert getattr(found, f'ate_{mine}_m') == pytest.approx(metres[theirs], abs=1e-9)


def test_absolute_angles_are_evos(files):
    found = ours(files, align='sim3')
    degrees = run_evo(files, 'evo_ape', '-r', 'angle_deg', '-a', '-s')
    assert found.ate_rmse_deg == pytest.approx(degrees['rmse'], abs=1e-9)
    assert found.ate_max_deg == pytest.approx(degrees['max'], abs=1e-9)


@pytest.mark.parametrize('unit, delta', [('f', 7), ('m', 0.5)])
def test_relative_errors_are_evos(files, unit, delta):
    found = ours(files, rpe_unit=unit, rpe_delta=delta)
    metres = run_evo(files, 'evo_rpe', '-r', 'trans_part', '-d', str(delta), '-u', unit,
                     '--all_pairs')
    assert found.rpe_rmse_m == pytest.approx(metres['rmse'], abs=1e-9)


def test_relative_angles_are_evos(files):
    found = ours(files, rpe_unit='f', rpe_delta=3)
    degrees = run_evo(files, 'evo_rpe', '-r', 'angle_deg', '-d', '3', '-u', 'f', '--all_pairs')
    assert found.rpe_rmse_deg == pytest.approx(degrees['rmse'], abs=1e-9)

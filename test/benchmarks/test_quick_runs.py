# SPDX-License-Identifier: Apache-2.0
"""
Every benchmark that needs no network, no real data and no ROS runs with --quick to its end.

All of them take minutes: `make test ARGS=--benchmarks`. A few always run.
"""

import ast
import importlib
import importlib.util
from pathlib import Path
import subprocess
import sys

import pytest

PACKAGE = 'thermal_nerf_loc'
FOLDER = Path(__file__).resolve().parents[2] / 'benchmarks'
ELSEWHERE = {'hostile_messages': 'needs ROS', 'kidnapped': 'needs ROS', 'ros_live': 'needs ROS',
             'starts_and_stops': 'needs ROS', 'real_rig': 'needs real images',
             'pose_real_sets': 'needs real images'}
NEEDS = {'against_sfm': 'pycolmap', 'agreement': 'transforms3d'}
ALWAYS = ('depth_start', 'rendering_speed', 'training_throughput')
PROGRAMS = sorted(path.stem for path in FOLDER.glob('[a-z]*.py'))


def test_what_benchmarks_import_is_there() -> None:
    """Most of it is imported where it is used, and would be missed only then."""
    missing = []
    for path in sorted(FOLDER.glob('*.py')):
        for node in ast.walk(ast.parse(path.read_text())):
            if (isinstance(node, ast.ImportFrom) and node.module is not None
                    and node.module.startswith(PACKAGE)):
                module = importlib.import_module(node.module)
                missing += [f'{path.name}:{node.lineno}: {alias.name}' for alias in node.names
                            if not hasattr(module, alias.name)
                            and not is_module(f'{node.module}.{alias.name}')]
    assert not missing


def is_module(name: str) -> bool:
    """Whether there is a module of this name."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is no package
        return False


@pytest.mark.slow
@pytest.mark.parametrize('name', [name for name in PROGRAMS if name not in ELSEWHERE])
def test_a_quick_run_ends_well(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """And says on what machine it ran."""
    if name not in ALWAYS and not request.config.getoption('--benchmarks'):
        pytest.skip('only with --benchmarks, as all of them take minutes')
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    done = subprocess.run([sys.executable, str(FOLDER / f'{name}.py'), '--quick', '--json',
                           str(tmp_path / 'figures.json')],
                          capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert 'instructions: ' in done.stdout
    assert (tmp_path / 'figures.json').is_file()


def test_all_others_are_named() -> None:
    assert set(ELSEWHERE) | set(NEEDS) <= set(PROGRAMS)

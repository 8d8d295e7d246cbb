# SPDX-License-Identifier: Apache-2.0
"""The names exported at the top: they exist, are typed, cost nothing to import, and work."""

import inspect
from pathlib import Path
import re
import subprocess
import sys
import typing

import pytest

import thermal_nerf_loc

ROOT = Path(__file__).resolve().parents[1]
NAMES = ('build_map', 'RadianceMap', 'Localizer', 'Tracker', 'Frame', 'SensorImage', 'Camera')


def test_the_names_are_exported():
    assert set(thermal_nerf_loc.__all__) == {*NAMES, '__version__'} == set(dir(thermal_nerf_loc))
    with pytest.raises(AttributeError, match='no attribute'):
        _ = thermal_nerf_loc.Localiser


@pytest.mark.parametrize('name', NAMES)
def test_a_name_is_typed_and_documented(name):
    """Every parameter of every public function and method, and what it returns."""
    value = getattr(thermal_nerf_loc, name)
    assert value.__doc__
    functions = [value] if inspect.isfunction(value) else [
        member for _, member in inspect.getmembers(value, callable)
        if (getattr(member, '__module__', None) or '').startswith('thermal_nerf_loc')
        and not getattr(member, '__name__', '_').startswith('_')]
    assert functions
    for function in functions:
        signature = inspect.signature(function)
        assert signature.return_annotation is not inspect.Signature.empty, function
        assert all(p.annotation is not p.empty for p in signature.parameters.values()
                   if p.name != 'self'), function


def test_type_checkers_see_the_same_names():
    """They read the imports for checking, people get those of `__getattr__`."""
    source = Path(thermal_nerf_loc.__file__).read_text(encoding='utf-8')
    for name in NAMES:
        module = getattr(thermal_nerf_loc, name).__module__
        assert re.search(rf'from {re.escape(module)} import [\w, ]*\b{name}\b', source), name
    assert typing.get_type_hints(thermal_nerf_loc.build_map)['return'].__name__ == 'BuiltMap'


def test_importing_the_package_loads_no_library():
    program = ('import sys, thermal_nerf_loc\n'
               'print(sorted({"torch", "numpy", "numba", "cv2"} & set(sys.modules)))')
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True,
                          check=True, cwd=ROOT)
    assert done.stdout.strip() == '[]'


@pytest.mark.slow
def test_the_example_of_the_guide_runs(capsys):
    text = (ROOT / 'docs/guide/python.md').read_text(encoding='utf-8')
    blocks = re.findall(r'```python\n(.*?)```', text, re.S)
    assert len(blocks) > 3
    names: dict[str, object] = {}
    for block in blocks:  # they make one program
        exec(compile(block, 'docs/guide/python.md', 'exec'), names)
    for name in ('found', 'anywhere', 'both'):
        assert names[name].verdict in ('ok', 'ambiguous', 'lost')
    assert set(names['both'].fits) == {'rgb', 'thermal'}
    assert names['update'].T_world_cam.shape == (4, 4)
    assert names['renamed'].name == 'the room' != names['radiance_map'].name
    assert len(capsys.readouterr().out.splitlines()) >= 2

# SPDX-License-Identifier: Apache-2.0
"""
The house rules that a parser can see: import order, who speaks ROS, who opens files, who prints.

Names are followed through `import ... as` and `from ... import`, also inside functions.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
import re

import pytest

PACKAGE = 'thermal_nerf_loc'
ROOT = Path(__file__).resolve().parents[2] / PACKAGE

# A module may import its own part and what stands on an earlier line. Parts that share a line
# know nothing of each other, but for the first line's single modules.
LAYERS = (
    ('errors', 'config', 'progress', 'threads', 'common'),
    ('geometry',),
    ('sensing',),
    ('data', 'io'),
    ('importers', 'field'),
    ('mapping',),
    ('localization', 'simulation'),
    ('tracking',),
    ('__init__',),
    ('visualization',),
    ('ros',),
    ('evaluation',),
    ('cli',),
)
RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}

ROS = re.compile(r'(rclpy|\w+_msgs|\w+_interfaces|std_srvs|tf2_\w+|launch\w*|ament_index_python|'
                 r'cv_bridge|message_filters|rosidl_\w+|rosbag2_py)(\.|$)')
OPENING = re.compile(
    r'open$|(io|os|gzip|bz2|lzma|zipfile|tarfile|shelve|codecs|builtins)\.(open|\w+File)$|'
    r'tempfile\.(\w*TemporaryFile|mkstemp)$|shutil\.copy\w*$|'
    r'cv2\.(imread\w*|imwrite\w*|VideoCapture|VideoWriter|FileStorage)$|'
    r'numpy\.(load|save|savez|savez_compressed|loadtxt|savetxt|genfromtxt|fromfile|memmap)$|'
    r'torch\.(load|save)$|tifffile(\.|$)|PIL(\.|$)|imageio(\.|$)|'
    r'safetensors(\.\w+)?\.(load_file|save_file|safe_open|load_model|save_model)$|'
    r'rosbags\.(rosbag1|rosbag2|highlevel)(\.|$)')
OPENING_METHODS = {'open', 'read_text', 'read_bytes', 'write_text', 'write_bytes', 'tofile'}
GUARD = "if __name__ == '__main__':\n    raise SystemExit(main())"
SPEAKING = re.compile(r'(print|input|exit|quit|SystemExit|sys\.exit|os\._exit|os\.abort|'
                      r'sys\.(stdout|stderr)(\.\w+)?)$')


def violations(source: str, module: str) -> list[str]:
    """List what `source` does that a module of this dotted name (inside the package) may not."""
    tree = ast.parse(source)
    part = module.split('.')[0]
    names = _imported_names(tree, module)
    found = [*_wrong_imports(names, part)]
    # What a name stands for; a builtin stands for itself.
    used = [(line, name) for line, name in _used_names(tree, {n: full for _, n, full in names})]
    used += [(line, full) for line, _, full in names]
    if part != 'ros':
        found += [f'{line}: {name}: only ros/ speaks ROS' for line, name in used
                  if ROS.match(name)]
    if part not in ('data', 'config') and module != 'mapping.map_file':
        found += [f'{line}: {name}: only files, importers and map files'
                  for line, name in used if _opens(name)]
    if part != 'cli':
        found += [f'{line}: {name}: only cli/ prints or exits'
                  for line, name in used if SPEAKING.match(name)
                  and not (part == 'ros' and line in _guard_lines(tree))]
    return sorted(set(found), key=lambda text: int(text.split(':')[0]))


def _imported_names(tree: ast.AST, module: str) -> list[tuple[int, str, str]]:
    """Return (line, name here, full name) of all that is imported."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [(node.lineno, alias.asname or alias.name.split('.')[0],
                       alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ''
            if node.level:
                above = f'{PACKAGE}.{module}'.split('.')[:-node.level]
                base = '.'.join([*above, base] if base else above)
            names += [(node.lineno, alias.asname or alias.name, f'{base}.{alias.name}')
                      for alias in node.names]
    return names


def _wrong_imports(names: list[tuple[int, str, str]], part: str) -> Iterator[str]:
    for line, _, full in names:
        head, *rest = full.split('.')
        if head != PACKAGE or full == f'{PACKAGE}.__version__':
            continue
        target = rest[0] if rest and rest[0] in RANK else '__init__'
        first_line = RANK[part] == RANK[target] == 0
        if target != part and not first_line and RANK[target] >= RANK[part]:
            yield f'{line}: {full}: {part} may not import {target}'


def _used_names(tree: ast.AST, names: dict[str, str]) -> Iterator[tuple[int, str]]:
    """Yield every name and dotted name that is read, written out in full."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.lineno, names.get(node.id, node.id)
        elif isinstance(node, ast.Attribute):
            base, tail = node.value, [node.attr]
            while isinstance(base, ast.Attribute):
                tail.insert(0, base.attr)
                base = base.value
            if isinstance(base, ast.Name) and base.id in names:
                # `import a.b` binds a: the attribute chain repeats what stood behind it.
                full = names[base.id] if '.' not in names[base.id] or \
                    names[base.id].split('.')[0] != base.id else base.id
                yield node.lineno, '.'.join([full, *tail])
            else:
                yield node.lineno, f'(value).{node.attr}'


def _opens(name: str) -> bool:
    is_method = name.startswith('(value).') and name.split('.')[-1] in OPENING_METHODS
    return is_method or OPENING.match(name) is not None


def _guard_lines(tree: ast.Module) -> set[int]:
    """Return the lines on which a program of ros/ may end with its exit code."""
    return {child.lineno for node in tree.body
            if ast.unparse(node) == GUARD
            for child in ast.walk(node) if hasattr(child, 'lineno')}


def _modules() -> dict[str, Path]:
    names = {}
    for path in sorted(ROOT.rglob('*.py')):
        dotted = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
        names[dotted] = path
    return names


def test_every_part_has_its_place_in_the_order():
    parts = {name.split('.')[0] for name in _modules()}
    assert len(parts) > 5
    assert parts <= set(RANK), f'not in LAYERS: {parts - set(RANK)}'


@pytest.mark.parametrize('module', _modules())
def test_module_keeps_the_rules(module):
    found = violations(_modules()[module].read_text(encoding='utf-8'), module)
    assert not found, f'{PACKAGE}/{module.replace(".", "/")}.py\n' + '\n'.join(found)


@pytest.mark.parametrize('module, source, told', [
    # the order of imports
    ('geometry.se3', 'from thermal_nerf_loc.sensing.frame import Frame', 'may not import sensing'),
    ('geometry.se3', 'import thermal_nerf_loc.cli.output as o', 'may not import cli'),
    ('field.field', 'from thermal_nerf_loc.simulation import world', 'may not import simulation'),
    ('data.scene', 'def f():\n    from thermal_nerf_loc.mapping import trainer', 'import mapping'),
    ('data.scene', 'from ..localization.rays import pick', 'may not import localization'),
    ('mapping.trainer', 'from thermal_nerf_loc import Localizer', 'may not import __init__'),
    ('ros.convert', 'from thermal_nerf_loc.cli import main', 'may not import cli'),
    ('config', 'from thermal_nerf_loc.geometry import se3', 'may not import geometry'),
    # ROS
    ('localization.tracker', 'import rclpy', 'only ros/'),
    ('localization.tracker', 'from sensor_msgs.msg import Image', 'only ros/'),
    ('cli.demo', 'def f():\n    from rclpy.node import Node', 'only ros/'),
    ('data.bag', 'import tf2_ros as t', 'only ros/'),
    # files
    ('sensing.frame', "open('x')", 'open files'),
    ('sensing.frame', 'def f(opener=open): ...', 'open files'),
    ('ros.node', 'from pathlib import Path\nPath(name).read_text()', 'open files'),
    ('cli.demo', 'out.joinpath(name).write_bytes(b)', 'open files'),
    ('cli.demo', 'path.open()', 'open files'),
    ('evaluation.report', 'import cv2\ncv2.imwrite(a, b)', 'open files'),
    ('evaluation.report', 'from cv2 import imread as look', 'open files'),
    ('mapping.trainer', 'import numpy as np\nnp.savez(a, b=c)', 'open files'),
    ('mapping.trainer', 'import numpy as np\nx = np.load', 'open files'),
    ('mapping.trainer', 'import torch\ntorch.save(a, b)', 'open files'),
    ('mapping.trainer', 'from safetensors.torch import load_file', 'open files'),
    ('mapping.trainer', 'import safetensors.torch\nsafetensors.torch.save_file(a)', 'open files'),
    ('simulation.record', 'def f():\n    import tifffile', 'open files'),
    ('ros.bag_player', 'from rosbags.rosbag2 import Reader', 'open files'),
    # printing and leaving
    ('mapping.trainer', "print('hello')", 'prints or exits'),
    ('mapping.trainer', 'run(report=print)', 'prints or exits'),
    ('mapping.trainer', 'import sys\nsys.exit(1)', 'prints or exits'),
    ('mapping.trainer', 'from sys import exit as leave\nleave()', 'prints or exits'),
    ('mapping.trainer', "import sys\nsys.stderr.write('x')", 'prints or exits'),
    ('mapping.trainer', 'raise SystemExit(2)', 'prints or exits'),
    ('ros.node', 'raise SystemExit(2)', 'prints or exits'),
    ('mapping.trainer', GUARD, 'prints or exits'),
    ('ros.node', GUARD.replace('main()', '0'), 'prints or exits'),
])
def test_planted_violation_is_caught(module, source, told):
    assert any(told in text for text in violations(source, module))


@pytest.mark.parametrize('module, source', [
    ('mapping.trainer', 'from thermal_nerf_loc.field.radiance_field import Field'),
    ('config', 'from thermal_nerf_loc.common.errors import InputError'),
    ('cli.train', 'from thermal_nerf_loc import __version__\nprint(__version__)'),
    ('__init__', 'def f():\n    from thermal_nerf_loc.localization.localizer import Localizer'),
    ('ros.node', f'import rclpy\n{GUARD}'),
    ('cli.replay', 'from thermal_nerf_loc.io.bags.transform_tree import TransformBuffer'),
    ('data.images', 'import cv2\ncv2.imread(a)'),
    ('mapping.map_file', 'from safetensors.torch import save_file'),
    ('config', 'path.read_text()'),
    ('simulation.record', 'from rosbags.typesys import get_typestore'),
    ('evaluation.report', 'figure.savefig(buffer)'),
    ('sensing.frame', 'import numpy as np\nnp.loadable, self.printed, openness'),
])
def test_what_is_allowed_passes(module, source):
    assert violations(source, module) == []

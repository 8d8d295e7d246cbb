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
# know nothing of each other.
LAYERS = (
    ('common',),
    ('geometry',),
    ('sensing',),
    ('io',),
    ('importers', 'field'),
    ('mapping',),
    ('localization', 'simulation'),
    ('tracking',),
    ('visualization',),
    ('ros',),
    ('evaluation',),
    ('__init__',),
    ('cli',),
)
RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}
# The core does without these; whoever compares methods imports them.
OUTSIDE_THE_CORE = ('localization.alternatives', 'mapping.thermal_depth')
COMPARING = ('cli', 'evaluation')
# Modules besides io/ and importers/ that open files.
FILES = ('common.config', 'field.native.library', 'mapping.map.map_file')

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
# Names under which code holds a map: `renderer`, `self._renderer`, `a_map.get()`, ...
MAP = re.compile(r'(\b|_)(renderer|map)(\(\)|\.get\(\))?$')
GUARD = "if __name__ == '__main__':\n    raise SystemExit(main())"
SPEAKING = re.compile(r'(print|input|exit|quit|SystemExit|sys\.exit|os\._exit|os\.abort|'
                      r'sys\.(stdout|stderr)(\.\w+)?)$')


def violations(source: str, module: str) -> list[str]:
    """List what `source` does that a module of this dotted name (inside the package) may not."""
    tree = ast.parse(source)
    part = module.split('.')[0]
    names = _imported_names(tree, module)
    found = [*_wrong_imports(names, module)]
    # What a name stands for; a builtin stands for itself.
    used = [(line, name) for line, name in _used_names(tree, {n: full for _, n, full in names})]
    used += [(line, full) for line, _, full in names]
    speaks_ros = any(ROS.match(name) for _, name in used)
    if part != 'ros':
        found += [f'{line}: {name}: only ros/ speaks ROS' for line, name in used
                  if ROS.match(name)]
    elif not speaks_ros and tree.body[1:]:
        found.append('1: it imports no ROS and belongs to another part than ros/')
    if part not in ('io', 'importers') and module not in FILES:
        found += [f'{line}: {name}: only io/, importers/ and map files open files'
                  for line, name in used if _opens(name)]
    if part != 'cli':
        found += [f'{line}: {name}: only cli/ prints or exits'
                  for line, name in used if SPEAKING.match(name)
                  and not (part == 'ros' and line in _guard_lines(tree))]
    found += [f'{line}: a map is asked for {what} by name; LocalizationMap declares its members'
              for line, what in _probes(tree)]
    return sorted(set(found), key=lambda text: int(text.split(':')[0]))


def _probes(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield `getattr(map, 'name', ...)` and `hasattr(map, 'name')` of a map or renderer."""
    for node in ast.walk(tree):
        if (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
                and node.func.id in ('getattr', 'hasattr', 'setattr') and len(node.args) > 1
                and MAP.search(ast.unparse(node.args[0]))):
            yield node.lineno, ast.unparse(node.args[1])


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


def _wrong_imports(names: list[tuple[int, str, str]], module: str) -> Iterator[str]:
    part = module.split('.')[0]
    for line, _, full in names:
        head, *rest = full.split('.')
        if head != PACKAGE or full == f'{PACKAGE}.__version__':
            continue
        target = rest[0] if rest and rest[0] in RANK else '__init__'
        if target != part and RANK[target] >= RANK[part]:
            yield f'{line}: {full}: {part} may not import {target}'
        for folder in OUTSIDE_THE_CORE:
            if ('.'.join(rest).startswith(folder) and not module.startswith(folder)
                    and part not in COMPARING):
                yield f'{line}: {full}: the core may not import {folder}'


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
    ('field.contraction', 'from thermal_nerf_loc.simulation import world', 'import simulation'),
    ('io.images', 'def f():\n    from thermal_nerf_loc.mapping.training import trainer',
     'import mapping'),
    ('io.images', 'from ..localization.refinement import aligner', 'may not import localization'),
    ('mapping.training.trainer', 'from thermal_nerf_loc import Localizer',
     'may not import __init__'),
    ('ros.publishers', 'from thermal_nerf_loc.cli import main', 'may not import cli'),
    ('tracking.session', 'from thermal_nerf_loc.ros import publishers', 'may not import ros'),
    ('common.config', 'from thermal_nerf_loc.geometry import se3', 'may not import geometry'),
    ('localization.localizer', 'from thermal_nerf_loc.localization.alternatives import particles',
     'the core may not import localization.alternatives'),
    ('mapping.training.losses', 'import thermal_nerf_loc.mapping.thermal_depth.teacher',
     'the core may not import mapping.thermal_depth'),
    # ROS
    ('tracking.tracker', 'import rclpy', 'only ros/'),
    ('tracking.tracker', 'from sensor_msgs.msg import Image', 'only ros/'),
    ('cli.poses.demo', 'def f():\n    from rclpy.node import Node', 'only ros/'),
    ('io.bags.reader', 'import tf2_ros as t', 'only ros/'),
    ('ros.queue', 'from collections import deque\nq = deque()', 'imports no ROS'),
    # files
    ('sensing.frame', "open('x')", 'open files'),
    ('sensing.frame', 'def f(opener=open): ...', 'open files'),
    ('ros.node', 'from pathlib import Path\nPath(name).read_text()', 'open files'),
    ('cli.poses.demo', 'out.joinpath(name).write_bytes(b)', 'open files'),
    ('cli.poses.demo', 'path.open()', 'open files'),
    ('evaluation.report', 'import cv2\ncv2.imwrite(a, b)', 'open files'),
    ('evaluation.report', 'from cv2 import imread as look', 'open files'),
    ('mapping.training.trainer', 'import numpy as np\nnp.savez(a, b=c)', 'open files'),
    ('mapping.training.trainer', 'import numpy as np\nx = np.load', 'open files'),
    ('mapping.training.trainer', 'import torch\ntorch.save(a, b)', 'open files'),
    ('mapping.map.radiance_map', 'from safetensors.torch import load_file', 'open files'),
    ('mapping.training.trainer', 'import safetensors.torch\nsafetensors.torch.save_file(a)',
     'open files'),
    ('simulation.record', 'def f():\n    import tifffile', 'open files'),
    ('ros.bag_player', 'from rosbags.rosbag2 import Reader', 'open files'),
    # printing and leaving
    ('mapping.training.trainer', "print('hello')", 'prints or exits'),
    ('mapping.training.trainer', 'run(report=print)', 'prints or exits'),
    ('mapping.training.trainer', 'import sys\nsys.exit(1)', 'prints or exits'),
    ('mapping.training.trainer', 'from sys import exit as leave\nleave()', 'prints or exits'),
    ('mapping.training.trainer', "import sys\nsys.stderr.write('x')", 'prints or exits'),
    ('mapping.training.trainer', 'raise SystemExit(2)', 'prints or exits'),
    ('ros.node', 'raise SystemExit(2)', 'prints or exits'),
    ('mapping.training.trainer', GUARD, 'prints or exits'),
    ('ros.node', GUARD.replace('main()', '0'), 'prints or exits'),
    # the contract of a map
    ('visualization.panels', "getattr(renderer, 'uncertainty', None)", 'asked for'),
    ('tracking.session', "hasattr(self._renderer, 'bounds')", 'asked for'),
    ('evaluation.study.study', "getattr(a_map.get(), 'info', None)", 'asked for'),
    ('localization.localizer', "setattr(radiance_map, 'panoramas', found)", 'asked for'),
])
def test_planted_violation_is_caught(module, source, told):
    assert any(told in text for text in violations(source, module))


@pytest.mark.parametrize('module, source', [
    ('mapping.training.trainer',
     'from thermal_nerf_loc.field.radiance_field import RadianceField'),
    ('common.config', 'from thermal_nerf_loc.common.errors import InputError'),
    ('cli.maps.train', 'from thermal_nerf_loc import __version__\nprint(__version__)'),
    ('__init__',
     'def f():\n    from thermal_nerf_loc.localization.localizer import Localizer'),
    ('ros.node', f'import rclpy\n{GUARD}'),
    ('ros', '"""What speaks rclpy."""'),
    ('cli.poses.replay', 'from thermal_nerf_loc.tracking.tf_buffer import TransformBuffer'),
    ('cli.research.predict_depth',
     'from thermal_nerf_loc.mapping.thermal_depth.model import ThermalDepth'),
    ('io.images', 'import cv2\ncv2.imread(a)'),
    ('mapping.map.map_file', 'from safetensors.torch import save_file'),
    ('common.config', 'path.read_text()'),
    ('simulation.record', 'from rosbags.typesys import get_typestore'),
    ('evaluation.report', 'figure.savefig(buffer)'),
    ('sensing.frame', 'import numpy as np\nnp.loadable, self.printed, openness'),
    ('evaluation.report', 'getattr(run.evaluation.absolute, name)'),
])
def test_what_is_allowed_passes(module, source):
    assert violations(source, module) == []

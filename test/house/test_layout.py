# SPDX-License-Identifier: Apache-2.0
"""The shape of the tree: no import circle, a class name once, small folders, mirrored tests."""

import ast
from collections import Counter, defaultdict
from pathlib import Path

PACKAGE = 'thermal_nerf_loc'
ROOT = Path(__file__).resolve().parents[2]
MOST_MODULES = 12  # in a folder: more hide its plan
MOST_LINES = 400  # of a module: more are two nouns
# Folders of tests that stand for no folder of the package.
OWN_FOLDERS = {'benchmarks', 'docs', 'house', 'support'}


def modules(root: Path) -> dict[str, Path]:
    """Every module below the package by its dotted name; a package by its folder's."""
    found = {}
    for path in sorted((root / PACKAGE).rglob('*.py')):
        parts = path.relative_to(root).with_suffix('').parts
        found['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = path
    return found


def imports(paths: dict[str, Path]) -> dict[str, set[str]]:
    """Which modules each one imports, also inside functions and for type checkers."""
    graph = {}
    for name, path in paths.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                for alias in node.names:
                    inner = f'{node.module}.{alias.name}'
                    found.add(inner if inner in paths else node.module)
        graph[name] = {target for target in found if target in paths and target != name}
    return graph


def circles(graph: dict[str, set[str]]) -> list[tuple[str, ...]]:
    """Groups of modules that reach each other, by removing what is in no circle."""
    left = {name: set(targets) for name, targets in graph.items()}
    while True:
        used = set().union(*left.values()) if left else set()
        ends = {name for name, targets in left.items() if not targets or name not in used}
        if not ends:
            break
        left = {name: targets - ends for name, targets in left.items() if name not in ends}

    def reached(start: str) -> set[str]:
        seen, queue = set(), [start]
        while queue:
            for target in left[queue.pop()]:
                if target not in seen:
                    seen.add(target)
                    queue.append(target)
        return seen

    reach = {name: reached(name) for name in left}
    return sorted({tuple(sorted(other for other in reach[name] if name in reach[other]))
                   for name in left if name in reach[name]})


def test_no_modules_import_each_other_in_a_circle():
    assert circles(imports(modules(ROOT))) == []


def test_circles_are_found():
    graph = {'a': {'b'}, 'b': {'c'}, 'c': {'a', 'd'}, 'd': set(), 'e': {'a'}, 'f': {'g'},
             'g': {'f'}}
    assert circles(graph) == [('a', 'b', 'c'), ('f', 'g')]


def test_a_class_name_stands_once_in_the_package():
    homes = defaultdict(list)
    for name, path in modules(ROOT).items():
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.ClassDef):
                homes[node.name].append(name)
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}


def test_a_folder_shows_its_plan():
    folders = Counter(path.parent.relative_to(ROOT) for path in modules(ROOT).values()
                      if path.name != '__init__.py')
    assert {str(name): n for name, n in folders.items() if n > MOST_MODULES} == {}


def test_a_module_is_one_noun():
    lines = {name: len(path.read_text(encoding='utf-8').splitlines())
             for name, path in modules(ROOT).items()}
    assert {name: n for name, n in lines.items() if n > MOST_LINES} == {}


def test_tests_mirror_the_package():
    folders = {path.parent.relative_to(ROOT / 'test')
               for path in (ROOT / 'test').rglob('test_*.py')}
    odd = {str(folder) for folder in folders if folder.parts and folder.parts[0] not in OWN_FOLDERS
           and not (ROOT / PACKAGE / folder).is_dir()}
    assert odd == set()

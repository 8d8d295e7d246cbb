# SPDX-License-Identifier: Apache-2.0
"""What the pages tell a reader to type: every command, option and parameter exists."""

import argparse
import ast
from functools import cache
import importlib
import json
from pathlib import Path
import re
import shlex

import pytest
import yaml

from thermal_nerf_loc.cli import COMMANDS, make_parser
from thermal_nerf_loc.common.config import to_mapping
from thermal_nerf_loc.tracking.node_config import NodeConfig

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').rglob('*.md'))]
FENCE = re.compile(r'^( *)```(\w*)\n(.*?)^\1```$', re.M | re.S)
PLACEHOLDER = re.compile(r'^(COMMAND|\[.*|\.\.\.)$')


def blocks(path, *languages):
    """Fenced blocks of a page in these languages."""
    return [body for _, language, body in FENCE.findall(path.read_text(encoding='utf-8'))
            if language in languages]


def spans(path):
    """Inline code of a page, on one line each."""
    text = FENCE.sub('', path.read_text(encoding='utf-8'))
    return [' '.join(span.split()) for span in re.findall(r'`([^`]+)`', text)]


def lines():
    """Every line that a reader may type: (page, words)."""
    for path in PAGES:
        shell = ''.join(blocks(path, 'bash')).replace('\\\n', ' ').splitlines()
        typed = [*shell, *(span for span in spans(path) if ' ' in span)]
        for line in typed:
            for part in re.split(r' (?:&&|\|\|?|;) ', line):
                try:
                    words = shlex.split(part, comments=True)
                except ValueError:  # prose with a quote
                    continue
                if words:
                    yield path.relative_to(ROOT), words


def typed(*program):
    """All lines of one program, without it."""
    return [(page, words[len(program):]) for page, words in lines()
            if tuple(words[:len(program)]) == program]


@cache
def options_of(command):
    """Options of a command, common ones included."""
    (commands,) = (action for action in make_parser(command)._actions
                   if isinstance(action, argparse._SubParsersAction))
    return frozenset(commands.choices[command]._option_string_actions)


@cache
def parameters():
    """Names of the node's parameters."""
    def flat(values, prefix=''):
        for name, value in values.items():
            if isinstance(value, dict):
                yield from flat(value, f'{prefix}{name}.')
            else:
                yield prefix + name
    return frozenset(flat(to_mapping(NodeConfig())))


def test_every_command_parses():
    found = typed('thermal-nerf-loc')
    assert len(found) > 50
    for page, words in found:
        if words and words[0].startswith('-'):
            assert words[0] in ('--help', '--version'), (page, words)
            continue
        if not words or PLACEHOLDER.match(words[0]):
            continue
        assert words[0] in COMMANDS, (page, words)
        if words[1:] and not any(PLACEHOLDER.match(word) for word in words):
            make_parser(words[0]).parse_args(words)


def test_options_named_beside_a_command_are_its_own():
    named = [(page, words) for page, words in lines() if words[0] in COMMANDS]
    assert len(named) > 10
    for page, words in named:
        options = {word for word in words[1:] if word.startswith('--')}
        assert options <= options_of(words[0]), (page, words)


def test_every_option_exists():
    known = {option for command in COMMANDS for option in options_of(command)}
    sources = [*(ROOT / 'benchmarks').glob('*.py'), ROOT / 'thermal_nerf_loc/ros/bag_player.py']
    for source in sources:
        known |= set(re.findall(r"'(--[a-z][\w-]*)'", source.read_text(encoding='utf-8')))
    known |= {'--ros-args', '--help', '--version'}
    for page in PAGES:
        for span in spans(page):
            if span.startswith('--'):
                assert span.split()[0].rstrip(',') in known, (page.name, span)


def test_every_benchmark_exists():
    found = [(page, words) for page, words in lines()
             if words[0] == 'python' and words[1].startswith('benchmarks/')]
    found += [(page.relative_to(ROOT), ['python', span]) for page in PAGES for span in spans(page)
              if re.fullmatch(r'benchmarks/\w+\.py', span)]
    assert len(found) > 15
    shared = ''.join(path.read_text(encoding='utf-8')
                     for path in (ROOT / 'benchmarks').glob('_*.py'))
    for page, words in found:
        path = ROOT / words[1]
        assert path.is_file(), (page, words)
        source = path.read_text(encoding='utf-8') + shared
        for word in words[2:]:
            assert not word.startswith('--') or f"'{word}'" in source, (page, words, word)


def test_launch_lines_name_files_and_arguments():
    found = typed('ros2', 'launch', 'thermal_nerf_loc')
    assert len(found) > 4
    for page, (file, *given) in found:
        source = (ROOT / 'launch' / file).read_text(encoding='utf-8')
        table = next(node.value for node in ast.parse(source).body
                     if isinstance(node, ast.Assign) and node.targets[0].id == 'ARGUMENTS')
        known = {row.elts[0].value for row in table.elts}
        assert {word.split(':=')[0] for word in given} <= known, (page, given)


def test_programs_are_installed():
    programs = set(re.findall(r"f'([\w-]+) = ", (ROOT / 'setup.py').read_text(encoding='utf-8')))
    run = typed('ros2', 'run', 'thermal_nerf_loc')
    assert run
    assert {words[0] for _, words in run} <= programs
    for page, words in lines():
        if words[0].startswith('.venv/bin/') and words[0] != '.venv/bin/pre-commit':
            assert words[0].removeprefix('.venv/bin/') in programs, page
    for _, words in typed('bag_player'):
        source = (ROOT / 'thermal_nerf_loc/ros/bag_player.py').read_text(encoding='utf-8')
        assert all(f"'{word}'" in source for word in words if word.startswith('--'))


def test_parameters_that_are_set_exist():
    given = [(page, words[2]) for verb in ('set', 'get', 'describe')
             for page, words in typed('ros2', 'param', verb) for words in [['', *words]]]
    assert given
    given += [(page, word.split(':=')[0]) for page, words in lines() if '-p' in words
              and (words[:2] != ['ros2', 'run'] or words[2] == 'thermal_nerf_loc')
              for word in words[words.index('-p') + 1:][:1] if ':=' in word]
    for page, name in given:
        assert name == 'NAME' or name in parameters(), (page, name)


def test_settings_by_name_are_present_ones():
    reference = ''.join((ROOT / f'docs/reference/{name}.md').read_text(encoding='utf-8')
                        for name in ('settings', 'parameters'))
    known = set(re.findall(r'^- `([\w.]+)` = ', reference, re.M)) | parameters()
    former = set(re.findall(r'^- `([\w.]+)` is now', reference, re.M))
    sections = {name.rpartition('.')[0] for name in known} - {''}
    named = 0
    # File formats name tensors; the generated pages name former settings.
    others = {'file_formats.md', 'settings.md', 'parameters.md'}
    for page in [page for page in PAGES if page.name not in others]:
        for span in spans(page):
            name = span.split(':')[0]
            section = name.rpartition('.')[0]
            assert section not in former, (page.name, span)
            assert '.' not in name or name not in former, (page.name, span)
            if re.fullmatch(r'[a-z_.]+', name) and section in sections:
                named += 1
                assert name in {*known, *sections, 'tracker.step'}, (page.name, span)
    assert named > 10


def test_make_targets_exist():
    makefile = (ROOT / 'Makefile').read_text(encoding='utf-8')
    found = {words[words.index('make') + 1] for _, words in lines()
             if 'make' in words[:-1] and (words[0] == 'make' or '=' in words[0])}
    assert {'demo', 'docs', 'setup', 'test'} <= found
    for target in found:
        assert re.search(rf'^{target}:', makefile, re.M), target


@pytest.mark.parametrize('path', PAGES, ids=lambda path: path.name)
def test_blocks_are_what_they_say(path):
    for text in blocks(path, 'json'):
        json.loads(text)
    for text in blocks(path, 'yaml'):
        yaml.safe_load(text)
    for text in blocks(path, 'python'):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith('thermal_nerf_loc'):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), node.module


def test_the_camera_file_is_read_as_described(tmp_path):
    from thermal_nerf_loc.io.datasets.camera_file import read_rig
    page = ROOT / 'docs/reference/file_formats.md'
    (example,) = blocks(page, 'yaml')
    (tmp_path / 'cameras.yaml').write_text(example, encoding='utf-8')
    assert set(read_rig(tmp_path / 'cameras.yaml')) == {'rgb', 'thermal'}

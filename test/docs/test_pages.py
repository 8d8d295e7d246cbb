# SPDX-License-Identifier: Apache-2.0
"""The pages themselves: links, anchors, paths, line lengths, and what is generated."""

import ast
import importlib.util
from pathlib import Path
import re
import subprocess

import pytest
import yaml

from thermal_nerf_loc.cli.options import THERMAL_CAMERAS
from thermal_nerf_loc.sensing.thermal_cameras import KNOWN_CAMERAS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / 'docs'
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted(DOCS.rglob('*.md'))]
LINK = re.compile(r'\]\(([^)\s]+)\)')
CODE = re.compile(r'^( *)```.*?^\1```$', re.M | re.S)


def prose(path):
    """A page without its code blocks."""
    return CODE.sub('', path.read_text(encoding='utf-8'))


def anchors(path):
    """Names of a page's headings, as GitHub and the site form them."""
    return {re.sub(r'[^\w\- ]', '', title.strip().lower()).replace(' ', '-')
            for title in re.findall(r'^#+ (.+)$', prose(path), re.M)}


@pytest.mark.parametrize('path', PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for link in LINK.findall(prose(path)):
        if link.startswith(('http://', 'https://')):
            continue
        file, _, anchor = link.partition('#')
        target = (path.parent / file).resolve() if file else path
        assert target.is_file(), link
        if path.is_relative_to(DOCS):
            assert target.is_relative_to(DOCS), f'{link} is not on the site'
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize('path', PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_lines_have_at_most_120_columns(path):
    long = [line for line in path.read_text(encoding='utf-8').splitlines() if len(line) > 120]
    assert not long


@pytest.mark.parametrize('path', PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_of_the_package_exist(path):
    for name in set(re.findall(r'`((?:\w+/)+(?:\w+\.(?:py|md|ya?ml|xml|rviz))?)`', prose(path))):
        top = name.split('/')[0]
        if not name.endswith('.py') and not (ROOT / top).is_dir() and not (
                ROOT / 'thermal_nerf_loc' / top).is_dir():
            continue  # a folder of the reader's own
        assert any((base / name).exists() for base in (ROOT, ROOT / 'thermal_nerf_loc')), name


def test_the_site_shows_every_page():
    def files(entries):
        for entry in entries:
            for value in entry.values():
                yield from [value] if isinstance(value, str) else files(value)

    settings = yaml.safe_load((ROOT / 'mkdocs.yml').read_text(encoding='utf-8'))
    shown = list(files(settings['nav']))
    assert sorted(shown) == sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob('*.md'))


def test_every_picture_is_shown():
    shown = {link.rsplit('/', 1)[-1] for path in PAGES for link in LINK.findall(prose(path))}
    assert {path.name for path in (DOCS / 'pictures').iterdir()} <= shown


def test_generated_pages_are_what_the_program_says():
    spec = importlib.util.spec_from_file_location('generate_reference',
                                                  DOCS / 'generate_reference.py')
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    for name, text in generator.pages().items():
        written = (DOCS / 'reference' / name).read_text(encoding='utf-8')
        assert written == text, f'{name} is stale: run python docs/generate_reference.py'
    assert all(f'`{name}`' in generator.thermal_cameras_page() for name in KNOWN_CAMERAS)


def test_the_option_names_every_thermal_camera():
    assert tuple(KNOWN_CAMERAS) == THERMAL_CAMERAS


def test_other_files_name_pages_that_exist():
    tracked = subprocess.run(['git', 'ls-files', '*.py', '*.yaml', '*.yml', 'Makefile', '*.md'],
                             cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    for name in tracked or ['Makefile']:
        path = ROOT / name
        if name.startswith('test/docs/') or name == 'CHANGELOG.md' or not path.is_file():
            continue
        for page in re.findall(r'docs/[\w/]+\.(?:md|py)', path.read_text(encoding='utf-8')):
            assert (ROOT / page).is_file(), f'{name}: {page}'


def test_the_map_file_is_described():
    page = (DOCS / 'reference/file_formats.md').read_text(encoding='utf-8')
    keys = set()
    for path in (ROOT / 'thermal_nerf_loc/mapping/map').glob('*.py'):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Dict):
                names = {key.value for key in node.keys if isinstance(key, ast.Constant)}
                keys |= names if 'checksum' in names else set()
    assert {'format', 'version', 'space'} <= keys
    for key in keys:
        assert f'`{key}`' in page, key


def test_the_site_needs_no_network():
    settings = yaml.safe_load((ROOT / 'mkdocs.yml').read_text(encoding='utf-8'))
    assert settings['theme']['font'] is False
    assert settings['use_directory_urls'] is False
    for name in [*settings['extra_css'], *settings['extra']['polyfills']]:
        assert (DOCS / name).is_file()
    for path in [*DOCS.glob('*.css'), *DOCS.glob('*.js')]:
        assert 'http' not in path.read_text(encoding='utf-8')

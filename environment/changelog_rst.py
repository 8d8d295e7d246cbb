# SPDX-License-Identifier: Apache-2.0
"""
Write CHANGELOG.rst, which bloom reads, from CHANGELOG.md, which people write.

    python environment/changelog_rst.py
"""

from pathlib import Path
import re

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = 'thermal_nerf_loc'
_TITLE = f'Changelog for package {PACKAGE}'


def converted(text: str) -> str:
    """Versions as sections; the areas of a version as items, what changed as items of theirs."""
    lines = ['^' * len(_TITLE), _TITLE, '^' * len(_TITLE), '']
    for line in text.splitlines():
        version = re.match(r'## (\S+) \((.+)\)$', line)
        if version is not None:
            title = 'Forthcoming' if version[2] == 'unreleased' else f'{version[1]} ({version[2]})'
            lines += [title, '-' * len(title), '']
        elif line.startswith('### '):
            lines += ['', f'* {line[4:]}', '']
        elif line.startswith('- '):
            lines.append(f'  * {_inline(line[2:])}')
        elif re.match(r' +\|-+\|', line):
            lines.append('')  # the head of a table is said before it
        elif line.lstrip().startswith('|'):
            lines.append('    * ' + ': '.join(_inline(cell.strip()) for cell in
                                              line.strip().strip('|').split('|')))
        elif line.startswith('  ') and line.strip():
            lines.append(f'    {_inline(line.strip())}')
    lines = [line for line, after in zip(lines, [*lines[1:], None])
             if after != '' or not line.startswith('    * ')]
    return re.sub(r'\n{3,}', '\n\n', '\n'.join(lines)).rstrip() + '\n'


def _inline(text: str) -> str:
    parts = re.split(r'(`[^`]*`)', re.sub(r'\[([^\]]+)\]\([^)]+\)', r'\1', text))
    return ''.join(f'`{part}`' if part.startswith('`') else
                   re.sub(r'\||_(?=\s|$)', r'\\\g<0>', part) for part in parts)


if __name__ == '__main__':
    made = converted((ROOT / 'CHANGELOG.md').read_text(encoding='utf-8'))
    (ROOT / 'CHANGELOG.rst').write_text(made, encoding='utf-8')

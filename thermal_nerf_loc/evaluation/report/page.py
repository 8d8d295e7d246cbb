# SPDX-License-Identifier: Apache-2.0
"""Blocks of HTML, and a page of them as one file: no network, no script, no other file."""

import base64
from collections.abc import Iterator, Mapping, Sequence
import html
from typing import Any

_CSS = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 58rem; padding: 1.5rem 1.2rem 3rem; background: #fff;
  color: #1b1f24; font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-bottom: .25rem;
  border-bottom: 1px solid #d8dee4; }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p { margin: .4rem 0; }
.lead { font-size: 1.08rem; }
.note, figcaption, .small { color: #57606a; font-size: .88rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.2rem, 1fr));
  gap: .6rem; margin: 1.2rem 0; }
.tile { border: 1px solid #d8dee4; border-radius: .5rem; padding: .55rem .7rem; }
.tile b { display: block; font-size: 1.35rem; line-height: 1.25;
  font-variant-numeric: tabular-nums; }
.tile span { color: #57606a; font-size: .82rem; }
figure { margin: .8rem 0; }
img { max-width: 100%; height: auto; display: block; }
figure.wide img { width: 100%; }
figcaption { margin-top: .25rem; }
.pairs { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr));
  gap: .2rem 1.2rem; }
.pairs figure { margin: .3rem 0; }
.pairs img { width: 100%; image-rendering: auto; border-radius: .25rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; margin: .5rem 0; }
th, td { padding: .3rem .7rem .3rem 0; border-bottom: 1px solid #e6eaee; text-align: right;
  font-variant-numeric: tabular-nums; vertical-align: top; }
th { color: #57606a; font-weight: 600; }
th:first-child, td:first-child, table.text th, table.text td { text-align: left; }
table.text td:last-child { overflow-wrap: anywhere; }
summary { cursor: pointer; font-weight: 600; margin: .6rem 0; }
@media print {
  body { max-width: none; padding: 0; font-size: 11pt; }
  figure, .tile, tr, .example { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
}
"""


def page(title: str, blocks: Sequence[str]) -> str:
    """A whole page of blocks, as the functions below return them."""
    return ('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<link rel="icon" href="data:,">\n'
            f'<title>{html.escape(title)}</title>\n<style>{_CSS}</style></head>\n<body>\n'
            f'<h1>{html.escape(title)}</h1>\n' + '\n'.join(blocks) + '\n</body></html>\n')


def heading(text: str, level: int = 2) -> str:
    """A heading."""
    return f'<h{level}>{html.escape(text)}</h{level}>'


def paragraph(text: str, kind: str = '') -> str:
    """A paragraph; `kind` is 'lead', 'note' or nothing."""
    return f'<p{_class(kind)}>{html.escape(text)}</p>'


def tiles(values: Sequence[tuple[str, str]]) -> str:
    """The most important figures, in boxes: `(value, meaning)`."""
    inner = ''.join(f'<div class="tile"><b>{html.escape(value)}</b>'
                    f'<span>{html.escape(what)}</span></div>' for value, what in values)
    return f'<div class="tiles">{inner}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = '') -> str:
    """A table; of kind 'text' all columns start at the left."""
    top = ''.join(f'<th>{html.escape(cell)}</th>' for cell in head)
    body = ''.join('<tr>' + ''.join(f'<td>{html.escape(cell)}</td>' for cell in row) + '</tr>'
                   for row in rows)
    return (f'<div class="scroll"><table{_class(kind)}>'
            + (f'<thead><tr>{top}</tr></thead>' if head else '')
            + f'<tbody>{body}</tbody></table></div>')


def picture(data: bytes, alt: str, caption: str = '', kind: str = 'wide') -> str:
    """A PNG or SVG, carried inside the page."""
    form = 'png' if data.startswith(b'\x89PNG') else 'svg+xml'
    below = f'<figcaption>{html.escape(caption)}</figcaption>' if caption else ''
    return (f'<figure{_class(kind)}><img alt="{html.escape(alt)}" src="data:image/{form};base64,'
            f'{base64.b64encode(data).decode()}">{below}</figure>')


def pairs(title: str, text: str, pictures: Sequence[tuple[str, bytes]]) -> str:
    """An example frame: its title, a line of text, and pictures with captions."""
    inner = ''.join(picture(data, f'{title}: {caption}', caption, '')
                    for caption, data in pictures)
    return (f'<div class="example">{heading(title, 3)}{paragraph(text)}'
            f'<div class="pairs">{inner}</div></div>')


def settings(title: str, values: Mapping[str, object], folded: bool = False) -> str:
    """Names and values; `folded` away on a screen where they are many."""
    rows = [(str(name), str(value)) for name, value in values.items()]
    body = table((), rows, 'text')
    if not folded:
        return heading(title, 3) + body
    return f'<details><summary>{html.escape(title)}</summary>{body}</details>'


def flatten(figures: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Nested figures as `outer.inner`; lists are left out."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f'{prefix}{name}.')
        elif not isinstance(value, (list, tuple)):
            yield prefix + str(name), value


def _class(kind: str) -> str:
    return f' class="{html.escape(kind)}"' if kind else ''

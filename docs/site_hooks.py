# SPDX-License-Identifier: Apache-2.0
"""
Hooks of mkdocs: equations become MathML, which browsers draw without a script.

An equation is a fenced block of the language `math`, in LaTeX, as GitHub shows it.
"""

import re
from typing import Any

from latex2mathml.converter import convert
from pymdownx.slugs import slugify

EQUATION = re.compile(r'^```math\n(.*?)^```$', re.M | re.S)


def on_config(config: Any) -> Any:
    """Name headings as GitHub does, so that a link works in both."""
    config['mdx_configs'].setdefault('toc', {})['slugify'] = slugify(case='lower')
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Draw the equations of a page."""
    return EQUATION.sub(_drawn, markdown)


def _drawn(found: re.Match[str]) -> str:
    return f'<div class="equation">{convert(found[1].strip(), display="block")}</div>'

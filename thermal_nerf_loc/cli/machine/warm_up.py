# SPDX-License-Identifier: Apache-2.0
"""`warm-up`: compile all kernels now, so that nothing waits for them later."""

import argparse
from collections.abc import Mapping
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Nothing to declare."""


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Compile what is missing; the figures say where it lies."""
    from thermal_nerf_loc.cli.output import compile_kernels, show_note
    from thermal_nerf_loc.common import kernel_cache
    from thermal_nerf_loc.localization.warm_up import identity, why_not_ready

    reason = why_not_ready() or 'ready'
    seconds = compile_kernels()
    show_note(f'kernels: ready in {kernel_cache.folder()}')
    return {'kernels': str(kernel_cache.folder()), 'before': reason, 'seconds': seconds,
            'processor': identity()['processor']}

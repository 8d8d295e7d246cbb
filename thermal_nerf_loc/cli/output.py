# SPDX-License-Identifier: Apache-2.0
"""What the command line prints: tables, progress, warnings and errors."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
import logging
import sys
import threading
import time
from typing import Any
import warnings

from rich.console import Console
from rich.progress import BarColumn, Progress as Bar, TextColumn, TimeElapsedColumn
from rich.table import Table

from thermal_nerf_loc.cli.headlines import headlines
from thermal_nerf_loc.common.progress import Progress
from thermal_nerf_loc.evaluation.report.page import flatten

_PLAIN_PERIOD_S = 5.0  # without a terminal: time from one line to the next


def show_error(message: str, traceback: bool = False) -> None:
    """Print one `error: ...` line on stderr, after the current exception's traceback if asked."""
    console = Console(stderr=True)
    if traceback and sys.exc_info()[0] is not None:
        console.print_exception()
    console.print('[bold red]error:[/bold red]', end=' ', soft_wrap=True)
    console.print(' '.join(message.split()), markup=False, highlight=False, soft_wrap=True)


def show_warnings(verbose: bool) -> None:
    """Send warnings and log records to stderr, one line each."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, stream=sys.stderr,
                        format='%(levelname)s: %(message)s', force=True)
    for level in (logging.INFO, logging.WARNING, logging.ERROR):
        logging.addLevelName(level, logging.getLevelName(level).lower())

    def show(message: Warning | str, category: type[Warning], filename: str, lineno: int,
             file: Any = None, line: str | None = None) -> None:
        if issubclass(category, UserWarning) or verbose:
            logging.getLogger('thermal_nerf_loc').warning(' '.join(str(message).split()))

    warnings.showwarning = show


def show_note(message: str) -> None:
    """Print one line for the user, on stderr: stdout is for results."""
    Console(stderr=True).print(message, markup=False, highlight=False, soft_wrap=True)


def show_figures(command: str, figures: Mapping[str, Any], everything: bool = True) -> None:
    """
    Print the figures of a command as a table; lists are left to the JSON file.

    Without `everything`, a command that has headlines shows only those, in words.
    """
    found = dict(flatten(figures))
    chosen = {} if everything else dict(headlines(command, found))
    table = Table(title=command, title_justify='left', show_header=not chosen,
                  header_style='bold', caption_justify='left')
    table.add_column('figure')
    table.add_column('value', justify='right', overflow='fold')
    for name, value in (chosen or {n: _format(v) for n, v in found.items()}).items():
        table.add_row(name, value)
    if chosen:
        table.caption = f'--verbose shows all {len(found)} figures, --json FILE writes them'
    if table.row_count:
        Console().print(table)


def show_table(table: Sequence[Mapping[str, Any]]) -> None:
    """Print the table of a study: one row a run."""
    from thermal_nerf_loc.evaluation.study.comparison import cells, COLUMNS

    shown = Table(header_style='bold')
    for name in ('drive', 'method'):
        shown.add_column(name, no_wrap=True)
    for name, *_ in COLUMNS:
        shown.add_column(name, justify='right')
    for row in table:
        shown.add_row(row['drive'], row['method'], *cells(row))
    Console().print(shown)


def compile_kernels() -> float:
    """Compile the kernels that this machine has not yet, and say so; returns the seconds."""
    from thermal_nerf_loc.common import kernel_cache
    from thermal_nerf_loc.localization.warm_up import compile_all, why_not_ready

    reason = why_not_ready()
    if not reason:
        return 0.0
    show_note(f'kernels are {reason}: compiling them once, for about a minute, before any clock '
              f'starts; they go to {kernel_cache.folder()}')
    with progress_bar('compile kernels') as progress:
        return compile_all(progress)


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """Yield a `Progress` that draws a bar on a terminal and plain lines elsewhere."""
    console = Console(stderr=True)
    start = time.monotonic()
    if console.is_terminal:
        columns = (TextColumn(f'{title:<20}'), BarColumn(),
                   TextColumn('{task.percentage:>3.0f} %'), TimeElapsedColumn(),
                   TextColumn('{task.description}'))
        with Bar(*columns, console=console) as bar:
            task = bar.add_task('')

            def draw(done: float, total: float, message: str = '') -> None:
                bar.update(task, completed=done, total=total or 1.0, description=message)

            yield draw
            total = bar.tasks[0].total
            bar.update(task, completed=total if total else 1.0, total=total or 1.0)
    else:
        with _plain_lines(title, start) as progress:
            yield progress
        show_note(f'{title}: done in {time.monotonic() - start:.1f} s')


@contextmanager
def _plain_lines(title: str, start: float) -> Iterator[Progress]:
    """A `Progress` that prints a line every five seconds, also while the job is silent."""
    latest = 0.0, ''
    ended = threading.Event()

    def report(done: float, total: float, message: str = '') -> None:
        nonlocal latest
        latest = done / (total or 1.0), message

    def show() -> None:
        while not ended.wait(_PLAIN_PERIOD_S):
            share, message = latest
            show_note(f'{title}: {100.0 * share:3.0f} % after {time.monotonic() - start:.0f} s'
                      + (f', {message}' if message else ''))

    thread = threading.Thread(target=show, name='progress', daemon=True)
    thread.start()
    try:
        yield report
    finally:
        ended.set()
        thread.join()


def _format(value: Any) -> str:
    if isinstance(value, float):
        return f'{value:.4g}' if abs(value) < 1e4 else f'{value:,.0f}'
    return '-' if value is None else str(value)

# SPDX-License-Identifier: Apache-2.0
"""
The command line: `main(argv) -> exit code`; only the chosen command is imported.

One file a command, in a folder for each stage: `data` (make data sets), `maps` (build, judge and
show maps), `poses` (localize) and `research` (compare methods). They parse options and print; the
work is done by the other packages.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
import importlib
from pathlib import Path
import signal
import sys
import threading
from typing import Any, NoReturn, Protocol

from thermal_nerf_loc import KERNEL_NOTICE
from thermal_nerf_loc.common import __version__
from thermal_nerf_loc.common.errors import InputError, UserError

STAGES = {  # folder of cli/: what the stage is about, its commands
    'data': ('make a data set to learn from', {
        'simulate': 'make a data set (and a rosbag) of a simulated scene',
        'import-bag': 'make a data set of a recorded drive (rosbag2 or ROS 1)',
        'import-images': 'make a data set of folders of images (RGB, thermal), of phones',
        'calibrate-thermal': 'find lens, rig and time offset of a thermal camera'}),
    'maps': ('build a map, judge it, show it', {
        'train': 'learn a radiance map from a data set',
        'train-tiles': 'build a map of tiles, for buildings: divided, trained in parallel',
        'extend': 'localize images without poses in a map, then train the map again with them',
        'eval-map': 'compare a map with the images of a data set',
        'render': 'render a camera path through a map as a video: colour, temperature, depth',
        'export': "write a map's surface as a PLY file, or its occupancy grid for Nav2",
        'info': 'tell what a map file or a data set holds, and where on earth it lies',
        'view': 'walk through a map in a browser: points, cameras, trajectories, live view'}),
    'poses': ('localize in a map', {
        'localize': 'find the camera poses of a data set, or of single images, in a map',
        'replay': 'localize a rosbag in a map and measure the error',
        'demo': 'simulate, train, localize through the real ROS node, report'}),
    'machine': ('prepare this machine', {
        'warm-up': 'compile all kernels now, so that nothing waits for them later'}),
    'research': ('compare methods', {
        'compare-strategies': 'train every way of sharing a field, and measure them side by side',
        'distill-depth': 'train a small network that predicts depth from thermal images',
        'predict-depth': 'write the depth maps that such a network predicts, for '
                         'train --depth-from'})}
COMMANDS = {name: summary for _, commands in STAGES.values() for name, summary in commands.items()}

_INTERRUPTED = 130  # 128 + SIGINT, as shells count


class CommandModule(Protocol):
    """What every `cli/<stage>/<command>.py` offers."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's arguments."""

    def run(self, args: argparse.Namespace) -> Mapping[str, Any]:
        """Run the command and return its figures."""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises its errors as `InputError`, as the commands do."""

    def error(self, message: str) -> NoReturn:
        """Raise the error, without printing the usage."""
        raise InputError(message, hint=f'See: {self.prog} --help')


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0: done, 1: could not, 2: bad input, 3: in part, 130: interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    verbose = '--verbose' in arguments
    try:
        with _termination_as_interrupt():
            return _run(arguments)
    except SystemExit as ending:  # argparse: --help and --version
        return int(ending.code or 0)
    except KeyboardInterrupt:
        return _report_error('interrupted', _INTERRUPTED, verbose)
    except UserError as error:
        return _report_error(str(error), error.exit_code, verbose)
    except BrokenPipeError:  # the reader of stdout has ended, as `| head` does
        sys.stdout = None
        return 1
    except Exception as error:
        what = f'unexpected {type(error).__name__}: {error}'
        hint = '' if verbose else ' (a fault of this program; --verbose shows where)'
        return _report_error(what + hint, 1, verbose)


def make_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Build the parser; the arguments of `command` alone are filled in."""
    parser = Parser(prog='thermal-nerf-loc', description='Localize a robot by thermal and RGB '
                    'images in a radiance map.', allow_abbrev=False, epilog=_overview(),
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--version', action='version', version=f'%(prog)s {__version__}')
    commands = parser.add_subparsers(dest='command', metavar='COMMAND', required=True,
                                     help='one of the commands below', parser_class=Parser)
    for name, summary in COMMANDS.items():
        sub = commands.add_parser(name, allow_abbrev=False,
                                  description=summary[0].upper() + summary[1:] + '.')
        if name == command:
            _load(name).add_arguments(sub)
        sub.add_argument('--json', type=Path, metavar='FILE', help='write the figures to FILE')
        sub.add_argument('--verbose', action='store_true', help='show details and tracebacks')
    return parser


def _overview() -> str:
    """All commands with their summaries, stage by stage."""
    width = max(map(len, COMMANDS)) + 2
    lines = []
    for title, commands in STAGES.values():
        lines += ['', f'{title}:', *(f'  {name:<{width}}{summary}'
                                     for name, summary in commands.items())]
    return '\n'.join([*lines[1:], '', 'thermal-nerf-loc COMMAND --help explains a command.'])


def _run(arguments: list[str]) -> int:
    command = next((word for word in arguments if word in COMMANDS), None)
    args = make_parser(command).parse_args(arguments)
    from thermal_nerf_loc.cli import output
    output.show_warnings(args.verbose)
    if KERNEL_NOTICE:
        output.show_note(KERNEL_NOTICE)
    figures = _load(args.command).run(args)
    if args.json is not None:
        from thermal_nerf_loc.io.atomic_files import write_json
        write_json(args.json, dict(figures))
    output.show_figures(args.command, figures, everything=args.verbose)
    return 0


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """Let SIGTERM clean up as Ctrl-C does: end child processes, remove half-written folders."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _load(command: str) -> CommandModule:
    stage = next(name for name, (_, commands) in STAGES.items() if command in commands)
    name = command.replace('-', '_')
    module: Any = importlib.import_module(f'thermal_nerf_loc.cli.{stage}.{name}')
    return module  # type: ignore[no-any-return]


def _report_error(message: str, code: int, verbose: bool) -> int:
    from thermal_nerf_loc.cli import output
    output.show_error(message, traceback=verbose)
    return code

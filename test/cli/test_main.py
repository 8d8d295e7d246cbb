# SPDX-License-Identifier: Apache-2.0
"""The command line: one error line, exit codes, help, and figures as JSON."""

import json
import subprocess
import sys
import time

import pytest

from thermal_nerf_loc import __version__, cli
from thermal_nerf_loc.cli import output
from thermal_nerf_loc.common.errors import InputError, RunError


class FakeCommand:
    """A command that does what it is told."""

    def __init__(self, outcome):
        self.outcome = outcome

    def add_arguments(self, parser):
        parser.add_argument('--number', type=int, default=3)

    def run(self, args):
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


def run(monkeypatch, outcome, *arguments, command='train'):
    monkeypatch.setattr(cli, '_load', lambda name: FakeCommand(outcome))
    return cli.main([command, *arguments])


@pytest.mark.parametrize('error, code', [
    (InputError('has no walls', where='map.bin', expected='6', got='5'), 2),
    (RunError('robot is lost'), 1), (ZeroDivisionError('oh'), 1), (KeyboardInterrupt(), 130)])
def test_every_failure_is_one_line_and_an_exit_code(monkeypatch, capsys, error, code):
    assert run(monkeypatch, error) == code
    out, err = capsys.readouterr()
    assert out == ''
    assert err.startswith('error: ')
    assert err.count('\n') == 1
    assert 'Traceback' not in err


def test_the_line_tells_where_what_expected_and_got(monkeypatch, capsys):
    run(monkeypatch, InputError('has [no] walls', where='a/b.bin', expected='6', got='5',
                                hint='Build some.'))
    assert capsys.readouterr().err == (
        'error: a/b.bin: has [no] walls; expected 6; got 5. Build some.\n')


def test_verbose_shows_the_traceback(monkeypatch, capsys):
    assert run(monkeypatch, RunError('robot is lost'), '--verbose') == 1
    err = capsys.readouterr().err
    assert 'Traceback' in err
    assert err.rstrip().endswith('error: robot is lost')


def test_an_unexpected_fault_names_its_kind(monkeypatch, capsys):
    run(monkeypatch, ZeroDivisionError('oh'))
    assert 'unexpected ZeroDivisionError: oh' in capsys.readouterr().err


@pytest.mark.parametrize('arguments', [
    [], ['nothing'], ['train', '--number', 'x'], ['train', '--nonsense'], ['train', '--num', '1']])
def test_wrong_arguments_are_input_errors(monkeypatch, capsys, arguments):
    monkeypatch.setattr(cli, '_load', lambda name: FakeCommand({}))
    assert cli.main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith('error: ')
    assert '--help' in err
    assert err.count('\n') == 1


def test_figures_are_shown_and_written(monkeypatch, capsys, tmp_path):
    figures = {'wait_s': 1.25, 'test': {'an_own_psnr': 26.5, 'depth': None}, 'frames': [1, 2]}
    target = tmp_path / 'new' / 'figures.json'
    assert run(monkeypatch, figures, '--json', str(target)) == 0
    assert json.loads(target.read_text()) == figures
    out = capsys.readouterr().out
    assert 'test.an_own_psnr' in out
    assert '26.5' in out
    assert 'frames' not in out
    assert list(target.parent.iterdir()) == [target]  # nothing half-written lies about


def test_headlines_are_in_words_and_the_rest_is_a_flag_away(monkeypatch, capsys):
    figures = {'ate_rmse_m': 0.0052, 'success_5cm_5deg': 0.985, 'rpe_rmse_m': 0.00777,
               'latency_p95_s': None}
    assert run(monkeypatch, figures, command='replay') == 0
    out = ' '.join(capsys.readouterr().out.split())
    assert 'position error, RMSE │ 0.52 cm' in out
    assert 'poses within 5 cm and 5 deg │ 98.5 %' in out
    assert '7.77' not in out
    assert '--verbose shows all 4 figures' in out
    assert run(monkeypatch, figures, '--verbose', command='replay') == 0
    assert 'rpe_rmse_m │ 0.00777' in ' '.join(capsys.readouterr().out.split())


def test_figures_that_cannot_be_written_are_an_error(monkeypatch, capsys, tmp_path):
    (tmp_path / 'file').write_text('')
    assert run(monkeypatch, {'a': 1}, '--json', str(tmp_path / 'file' / 'x.json')) == 2
    assert 'cannot be written' in capsys.readouterr().err


def test_version_and_help(capsys):
    assert cli.main(['--version']) == 0
    assert capsys.readouterr().out.strip() == f'thermal-nerf-loc {__version__}'
    assert cli.main(['--help']) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in cli.COMMANDS)


@pytest.mark.parametrize('command', list(cli.COMMANDS))
def test_every_command_explains_itself(capsys, command):
    assert cli.main([command, '--help']) == 0
    out = capsys.readouterr().out
    assert '--json FILE' in out
    assert 'usage: thermal-nerf-loc ' + command in ' '.join(out.split())


def test_help_loads_nothing_heavy():
    program = ('import sys\nfrom thermal_nerf_loc.cli import main\n'
               'codes = [main(a) for a in ' + repr([['--help'], *(
                   [name, '--help'] for name in cli.COMMANDS)]) + ']\n'
               'assert set(codes) == {0}, codes\n'
               "heavy = {'torch', 'numba', 'numpy', 'matplotlib', 'rclpy', 'rosbags', 'cv2',"
               " 'rich'} & set(sys.modules)\n"
               'assert not heavy, heavy\n')
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_warnings_become_one_line(capsys, monkeypatch):
    program = ('import warnings\nfrom thermal_nerf_loc.cli import output\n'
               "output.show_warnings(False)\nwarnings.warn('two\\nlines', stacklevel=1)\n"
               "warnings.warn('internal', DeprecationWarning, stacklevel=1)\n")
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert done.stderr == 'warning: two lines\n'


def test_progress_goes_on_while_a_job_is_silent(capsys, monkeypatch):
    """A compiler, say, reports nothing."""
    monkeypatch.setattr(output, '_PLAIN_PERIOD_S', 0.01)
    with output.progress_bar('train') as progress:
        progress(1, 4, 'stereo')
        deadline = time.monotonic() + 20.0
        told = ''
        while told.count('train:  25 %') < 3 and time.monotonic() < deadline:
            told += capsys.readouterr().err
            time.sleep(0.01)
    assert told.count(', stereo') >= 3


def test_progress_is_plain_lines_without_a_terminal(capsys):
    with output.progress_bar('train') as progress:
        for i in range(1000):
            progress(i, 1000, 'loss 0.1')
    err = capsys.readouterr().err
    assert err.startswith('train: done in ')
    assert err.count('\n') == 1

# SPDX-License-Identifier: Apache-2.0
"""
Set-up on machines that lack something: the script itself runs, in a world made of a small PATH.

`--check` looks and changes nothing; the real interpreter poses as another by a sitecustomize.
"""

import os
from pathlib import Path
import shutil
import subprocess
import sys

import pytest

ROOT = Path(__file__).resolve().parents[2]
SETUP = ROOT / 'environment/setup.sh'
# What the script calls besides Python and a compiler.
TOOLS = ('awk', 'bash', 'cat', 'cmp', 'cut', 'df', 'dirname', 'du', 'flock', 'grep', 'head', 'ls',
         'rm', 'sed', 'sleep', 'sort', 'tail', 'tr')
BASE_PYTHON = Path(sys.base_prefix) / 'bin' / f'python3.{sys.version_info.minor}'

LINUX = """
import platform
platform.machine = lambda: 'x86_64'
platform.system = lambda: 'Linux'
platform.libc_ver = lambda *a, **k: ('glibc', '2.35')
"""


class Machine:
    """A PATH of links and scripts, and an environment without any ROS."""

    def __init__(self, folder: Path) -> None:
        """Give it the standard tools and a compiler, but no Python."""
        self.programs = folder / 'bin'
        self.programs.mkdir()
        self.folder = folder
        for tool in TOOLS:
            found = shutil.which(tool)
            if found:
                (self.programs / tool).symlink_to(found)
        self.script('c++', 'exit 0')
        self.environment = {'PATH': str(self.programs), 'VENV': str(folder / 'venv'),
                            'HOME': str(folder), 'LANG': 'C'}

    def script(self, name: str, text: str) -> None:
        """Add a program."""
        path = self.programs / name
        path.unlink(missing_ok=True)
        path.write_text(f'#!{shutil.which("bash")}\n{text}\n')
        path.chmod(0o755)

    def python(self, name: str, version: tuple[int, int, int], poses_as: str = LINUX) -> None:
        """Add the running interpreter under a name, posing as another version or machine."""
        folder = self.folder / f'as-{name}'
        folder.mkdir()
        (folder / 'sitecustomize.py').write_text(
            f'import sys\nsys.version_info = {version} + ("final", 0)\n{poses_as}')
        self.script(name, f'PYTHONPATH={folder}:$PYTHONPATH exec {BASE_PYTHON} "$@"')

    def check(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the script."""
        command = [str(self.programs / 'bash'), str(SETUP), *(arguments or ('--check',))]
        return subprocess.run(command, env=self.environment | environment, check=False,
                              capture_output=True, text=True, timeout=60)


@pytest.fixture
def machine(tmp_path):
    if not BASE_PYTHON.exists():
        pytest.skip(f'needs the base interpreter at {BASE_PYTHON}')
    return Machine(tmp_path)


def test_ordinary_machine_gets_ros_from_wheels(machine):
    machine.python('python3', (3, 12, 3))
    told = machine.check()
    assert told.returncode == 0, told.stderr
    assert 'Python 3.12.3' in told.stdout
    assert 'ROS 2: Jazzy, from wheels' in told.stdout
    assert not (machine.folder / 'venv').exists()


def test_no_python(machine):
    told = machine.check()
    assert told.returncode == 1
    assert 'no Python 3 found' in told.stderr


def test_wrong_python_is_named(machine):
    machine.python('python3', (3, 8, 10))
    told = machine.check()
    assert told.returncode == 1
    assert 'wrong Python: 3.10 or newer is needed' in told.stderr
    assert 'python3=3.8.10' in told.stderr


def test_another_python_is_found(machine):
    machine.python('python3', (3, 9, 2))
    machine.python('python3.11', (3, 11, 2))
    assert 'Python 3.11.2' in machine.check().stdout


def test_python_asked_for_is_taken_or_refused(machine):
    machine.python('python3', (3, 12, 3))
    machine.python('old', (3, 9, 0))
    machine.python('other', (3, 13, 0))
    assert 'Python 3.13.0' in machine.check(PYTHON='other').stdout
    assert 'PYTHON=old is Python 3.9.0' in machine.check(PYTHON='old').stderr
    assert 'cannot run PYTHON=none-such' in machine.check(PYTHON='none-such').stderr


def test_no_venv_module(machine):
    machine.python('python3', (3, 12, 3), f'{LINUX}\nsys.modules["ensurepip"] = None')
    told = machine.check()
    assert told.returncode == 1
    assert 'has no venv module' in told.stderr
    assert 'python3.12-venv' in told.stderr


def test_no_compiler(machine):
    machine.python('python3', (3, 12, 3))
    (machine.programs / 'c++').unlink()
    told = machine.check()
    assert told.returncode == 1
    assert 'no C++ compiler' in told.stderr
    # Without ROS there is nothing to compile.
    assert machine.check(ROS='none').returncode == 0


def test_too_little_disk(machine):
    machine.python('python3', (3, 12, 3))
    machine.script('df', 'echo; echo "/dev/sda1 99999 99000 999 99% /"')
    told = machine.check()
    assert told.returncode == 1
    assert 'too little disk: 999 MB free' in told.stderr


@pytest.mark.parametrize('version, poses_as, why', [
    ((3, 14, 0), LINUX, 'Linux x86_64, Python 3.14.0'),
    ((3, 12, 3), LINUX.replace('x86_64', 'aarch64'), 'Linux aarch64'),
    ((3, 12, 3), LINUX.replace('glibc', ''), 'glibc'),
    ((3, 12, 3), LINUX.replace("'Linux'", "'Darwin'"), 'Darwin x86_64'),
])
def test_without_wheels_all_but_ros(machine, version, poses_as, why):
    machine.python('python3', version, poses_as)
    (machine.programs / 'c++').unlink()
    told = machine.check()
    assert told.returncode == 0, told.stderr
    assert 'there are no ROS 2 wheels' in told.stdout
    assert why in told.stdout
    assert 'everything but ROS gets installed' in told.stdout


def _sourced(machine: Machine) -> str:
    """Make modules that import as a sourced ROS 2 would, and return their folder."""
    folder = machine.folder / 'ros'
    for name in ('rclpy', 'tf2_msgs/msg'):
        (folder / name).mkdir(parents=True)
    return str(folder)


def test_sourced_ros_is_used_and_nothing_built(machine):
    machine.python('python3', (3, 12, 3))
    (machine.programs / 'c++').unlink()
    told = machine.check(ROS_DISTRO='jazzy', PYTHONPATH=_sourced(machine))
    assert told.returncode == 0, told.stderr
    assert 'ROS 2: sourced (jazzy)' in told.stdout


def test_sourced_ros_that_python_cannot_import_is_an_error(machine):
    machine.python('python3', (3, 12, 3))
    told = machine.check(ROS_DISTRO='jazzy')
    assert told.returncode == 1
    assert 'ROS 2 jazzy is sourced, but Python 3.12.3 imports no rclpy' in told.stderr
    assert 'ros-jazzy-tf2-msgs' in told.stderr


def test_unknown_ros_choice(machine):
    machine.python('python3', (3, 12, 3))
    assert 'ROS=sometimes is neither' in machine.check(ROS='sometimes').stderr


def test_folder_that_is_no_environment_is_left_alone(machine):
    machine.python('python3', (3, 12, 3))
    (machine.folder / 'venv').mkdir()
    (machine.folder / 'venv/thesis.tex').write_text('all of it')
    told = machine.check('go')
    assert told.returncode == 1
    assert 'it is no virtual environment' in told.stderr
    assert (machine.folder / 'venv/thesis.tex').read_text() == 'all of it'


def test_another_environment_does_not_count_as_sourced(machine):
    """An activated environment of ROS wheels is first on PATH, as .venv itself often is."""
    machine.python('python3', (3, 12, 3), f'{LINUX}\nsys.prefix = "/somewhere/venv"\n'
                                          f'sys._base_executable = "{machine.programs}/base"')
    machine.python('base', (3, 12, 3))
    told = machine.check()
    assert 'ROS 2: Jazzy, from wheels' in told.stdout


def _call(function: str, venv: Path) -> subprocess.CompletedProcess[str]:
    """Run one function of the script."""
    return subprocess.run(['bash', '-c', f'source {SETUP}; {function}'],
                          env={'PATH': os.environ['PATH'], 'VENV': str(venv)},
                          capture_output=True, text=True, check=False)


def test_half_installed_packages_are_installed_again(tmp_path):
    packages = tmp_path / 'lib/python3.12/site-packages'
    for name in ('whole-1.0.dist-info', 'half-2.0.dist-info', '~arked'):
        (packages / name).mkdir(parents=True)
        (packages / name / 'METADATA').touch()
    (packages / 'whole-1.0.dist-info/INSTALLER').write_text('pip')
    told = _call('repair_packages', tmp_path)
    assert told.returncode == 0, told.stderr
    assert 'half installed, once more: half-2.0' in told.stdout
    assert [path.name for path in packages.iterdir()] == ['whole-1.0.dist-info']


@pytest.mark.parametrize('logged, told', [
    ('OSError: [Errno 28] No space left on device', 'the disk is full (while trying)'),
    ('ERROR: No matching distribution found for numba==9', 'has no numba==9 for this Python'),
    ('... NewConnectionError(<pip._vendor.urllib3 ...>: Failed to establish)', 'cannot reach'),
    ('error: something else', 'failed while trying'),
])
def test_failed_step_names_its_cause(tmp_path, logged, told):
    (tmp_path / 'setup.log').touch()
    done = _call(f'run trying bash -c "echo {logged!r}; exit 3"', tmp_path)
    assert done.returncode == 1
    assert told in done.stderr


def test_killed_step_is_named(tmp_path):
    (tmp_path / 'setup.log').touch()
    done = _call("run trying bash -c 'kill -KILL $$'", tmp_path)
    assert 'killed while trying' in done.stderr


@pytest.mark.slow
def test_moved_environment_is_made_anew(tmp_path):
    """Programs of an environment name its folder; elsewhere they would start the old one."""
    made = tmp_path / 'first'
    subprocess.run([sys.executable, '-m', 'venv', made], check=True)
    assert _call('is_healthy', made).returncode == 0
    made.rename(tmp_path / 'second')
    assert _call('is_healthy', tmp_path / 'second').returncode == 1
    assert _call('is_healthy', tmp_path / 'none').returncode != 0


def test_check_tells_a_broken_environment():
    told = subprocess.run([sys.executable, '-S', '-c',
                           'import runpy, sys; sys.argv[1:] = ["python"]; '
                           f'runpy.run_path({str(ROOT / "environment/check.py")!r}, '
                           'run_name="__main__")'],
                          env={'PATH': os.environ['PATH']}, capture_output=True, text=True,
                          check=False)
    assert told.returncode == 1
    assert 'ModuleNotFoundError' in told.stderr

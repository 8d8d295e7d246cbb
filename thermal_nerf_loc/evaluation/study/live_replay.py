# SPDX-License-Identifier: Apache-2.0
"""Replay a bag through ROS: the real node and a bag player as processes, tf recorded over DDS."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
import os
from pathlib import Path
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from typing import TYPE_CHECKING

from thermal_nerf_loc.common.errors import InputError, RunError
from thermal_nerf_loc.common.progress import Progress

if TYPE_CHECKING:
    from thermal_nerf_loc.ros.recorder import Recorder, Recording

_START_PATIENCE_S = 120.0  # a first start compiles kernels
_STOP_PATIENCE_S = 10.0
_LOG_LINES = 400
# Fast DDS 2 (Humble, Jazzy) reads the first, 3 (Kilted, Rolling) the second.
_PROFILES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')
_DOMAINS = 100  # domains above 101 may collide with ephemeral ports


@dataclass(frozen=True, slots=True)
class LiveRun:
    """How to start the node and what to play to it."""

    map: Path
    bag: Path
    parameters: Sequence[str]  # `name:=value`
    remappings: Sequence[str]  # `from:=to`
    image_topics: Sequence[str]
    seconds: float  # of the bag
    rate: float = 1.0
    params_file: Path | None = None
    laps: int = 1  # of the bag
    node: Sequence[str] = ('-m', 'thermal_nerf_loc.ros.localizer_node')  # what Python runs


class Process:
    """A child process; the newest lines of its output are kept."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str]) -> None:
        """Start it in a session of its own, so that Ctrl-C reaches it through `stop` alone."""
        self.name = name
        self.log: deque[str] = deque(maxlen=_LOG_LINES)
        self._child = subprocess.Popen(command, env=dict(env), stdout=subprocess.PIPE, text=True,
                                       stderr=subprocess.STDOUT, start_new_session=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._child.poll()

    def stop(self) -> int:
        """Send SIGINT, after some seconds SIGKILL; returns the exit code."""
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGINT)
        try:
            code = self._child.wait(_STOP_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            code = self._child.wait()
        self._reader.join(1.0)
        return code

    def error(self) -> RunError:
        """Return what to raise when it has ended: exit code and last message."""
        self._reader.join(1.0)
        last = next((line for line in reversed(self.log) if 'FATAL' in line or 'Error' in line),
                    self.log[-1] if self.log else 'no output')
        return RunError(f'{self.name} ended with exit code {self._child.poll()}', got=last)

    def _read(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            self.log.append(line.rstrip())


def ros_is_here() -> bool:
    """Tell whether rclpy and tf2_msgs are installed."""
    import importlib.util
    return all(importlib.util.find_spec(name) for name in ('rclpy', 'tf2_msgs'))


def run_live(run: LiveRun, progress: Progress) -> tuple['Recording', tuple[str, ...]]:
    """Play the bag to the node; returns what was recorded, and the node's log."""
    domain_id = 1 + os.getpid() % _DOMAINS
    env = {**os.environ, **_settings(domain_id)}
    from thermal_nerf_loc.ros.recorder import Recorder

    with _environment(_settings(domain_id)), Recorder(domain_id) as recorder, \
            _running('localizer node', _node(run), env) as node:
        _wait_until_active(node, recorder, progress, run.seconds)
        with _running('bag player', _player(run), env) as player:
            while player.exit_code is None:
                if node.exit_code is not None:
                    raise node.error()
                progress(recorder.played_s, run.seconds, recorder.diagnostics.get('state', ''))
                time.sleep(0.2)
            if player.exit_code != 0:
                raise player.error()
        time.sleep(1.5)  # for one more diagnostics message
        recording = recorder.result()
        code = node.stop()
        if code != 0:
            raise node.error()
        return recording, tuple(node.log)


def find_shared(name: str) -> Path:
    """A file of config/ or launch/: beside the sources, else where the package was installed."""
    package = Path(__file__).resolve().parents[2]
    prefixes = [Path(p) for p in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if p]
    folders = [package.parent, *(prefix / 'share' / 'thermal_nerf_loc' for prefix in (
        *prefixes, Path(sysconfig.get_path('data'))))]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f'{name} of the package was not found', got=', '.join(map(str, folders)),
                     hint='Install the package anew.')


def _settings(domain_id: int) -> dict[str, str]:
    """Environment: a DDS domain of its own, and a profile that passes large images."""
    on_humble = {'ROS_LOCALHOST_ONLY': '1'} if os.environ.get('ROS_DISTRO') == 'humble' else {}
    return {'ROS_DOMAIN_ID': str(domain_id), 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
            'PYTHONUNBUFFERED': '1', **on_humble, **dds_profile()}


def dds_profile() -> dict[str, str]:
    """The variables that name Fast DDS' profile: the user's, else that of config/."""
    chosen = [os.environ[name] for name in _PROFILES if os.environ.get(name)]
    profile = chosen[0] if chosen else str(find_shared('config/fastdds.xml'))
    return dict.fromkeys(_PROFILES, profile)


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Set variables in this process too, for the recorder."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _node(run: LiveRun) -> list[str]:
    command = [sys.executable, *run.node, '--ros-args']
    if run.params_file is not None:
        command += ['--params-file', str(run.params_file)]
    for parameter in (f'map:={run.map.resolve()}', 'use_sim_time:=true', *run.parameters):
        command += ['-p', parameter]
    for remapping in run.remappings:
        command += ['-r', remapping]
    return command


def _player(run: LiveRun) -> list[str]:
    return [sys.executable, '-m', 'thermal_nerf_loc.ros.bag_player', str(run.bag), '--rate',
            str(run.rate), '--laps', str(run.laps), '--wait-for', *run.image_topics]


@contextmanager
def _running(name: str, command: Sequence[str], env: Mapping[str, str]) -> Iterator[Process]:
    process = Process(name, command, env)
    try:
        yield process
    finally:
        process.stop()


def _wait_until_active(node: Process, recorder: 'Recorder', progress: Progress,
                       total_s: float) -> None:
    end = time.monotonic() + _START_PATIENCE_S
    while not recorder.diagnostics:
        if node.exit_code is not None:
            raise node.error()
        if time.monotonic() > end:
            raise RunError(f'localizer node was not ready within {_START_PATIENCE_S:.0f} s',
                           got=node.log[-1] if node.log else 'no output')
        progress(0.0, total_s, 'starting the node')
        time.sleep(0.2)

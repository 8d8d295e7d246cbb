# SPDX-License-Identifier: Apache-2.0
"""
Run the jobs of tiles: by processes of this machine, or by a Dask cluster.

Dask distributed runs where Python does, restarts a worker that dies, gives its task to another
one, and starts on SLURM, PBS or Kubernetes by its own launchers (dask-jobqueue, dask-kubernetes);
Ray needs a daemon of its own on each machine. Workers share the folder of the map: a task that is
given to another worker goes on from its checkpoint there.
"""

from collections.abc import Sequence
import os
from pathlib import Path
import subprocess
import sys
import time
from typing import Any, Protocol

from thermal_nerf_loc.common.errors import InputError, RunError
from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.io.atomic_files import write_json
from thermal_nerf_loc.localization.tiles.tile_job import (
    facts_of, FAILED, RUNNING, TileJob, train_tile)

_POLL_S = 0.5
_TRIES = 3  # a worker that dies is followed by another one so often
_REPORT_S = 3.0
_THREADS = 'OMP_NUM_THREADS', 'NUMBA_NUM_THREADS', 'MKL_NUM_THREADS'


class JobRunner(Protocol):
    """Runs jobs to their end."""

    def run(self, jobs: Sequence[TileJob], progress: Progress = silent) -> None:
        """Return when all are done; raise where one cannot be done."""


class LocalProcesses:
    """A process for each job, some at a time."""

    def __init__(self, workers: int = 1) -> None:
        """Share the cores among the workers."""
        self.workers = max(1, workers)
        self.restarts = 0
        threads = max(1, len(os.sched_getaffinity(0)) // self.workers)
        self._environment = os.environ | {
            'PYTHONPATH': os.pathsep.join(filter(None, sys.path)),
            **{name: os.environ.get(name, str(threads)) for name in _THREADS}}

    def run(self, jobs: Sequence[TileJob], progress: Progress = silent) -> None:
        """See `JobRunner`."""
        waiting, running = list(jobs), dict[str, tuple[TileJob, subprocess.Popen[bytes]]]()
        tries = {job.name: 0 for job in jobs}
        whole = WholeProgress(jobs, progress)
        try:
            while waiting or running:
                while waiting and len(running) < self.workers:
                    job = waiting.pop(0)
                    tries[job.name] += 1
                    running[job.name] = job, self._started(job)
                time.sleep(_POLL_S)
                for job, process in list(running.values()):
                    if process.poll() is None:
                        continue
                    del running[job.name]
                    if job.is_done:
                        continue
                    _refuse_failed(job)
                    if tries[job.name] >= _TRIES:
                        raise RunError(f'{job.name} cannot be trained', where=job.path,
                                       got=f'its worker ended {_TRIES} times, last with exit '
                                       f'code {process.returncode}',
                                       hint='The same command goes on from here.')
                    self.restarts += 1
                    waiting.insert(0, job)
                whole.report(list(running))
        finally:
            for _, process in running.values():
                process.terminate()
            for _, process in running.values():
                process.wait()

    def _started(self, job: TileJob) -> 'subprocess.Popen[bytes]':
        path = Path(job.path).with_suffix('.job')
        write_json(path, facts_of(job))
        return subprocess.Popen([sys.executable, '-m',
                                 'thermal_nerf_loc.localization.tiles.tile_job', str(path)],
                                env=self._environment, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL)


class DaskCluster:
    """A task of a Dask cluster for each job."""

    def __init__(self, address: str) -> None:
        """Connect to a scheduler, `tcp://HOST:PORT`, or one described by a file."""
        try:
            from distributed import Client  # type: ignore[import-not-found]
        except ImportError:
            raise InputError('Dask distributed is not installed', where='--cluster',
                             hint="pip install 'thermal_nerf_loc[cluster]'") from None
        try:
            self._client: Any = (Client(scheduler_file=address) if Path(address).is_file()
                                 else Client(address, timeout=20))
        except (OSError, ValueError) as error:
            raise InputError('no Dask scheduler answers', where=address, got=str(error),
                             hint='Start one: dask scheduler') from None

    def run(self, jobs: Sequence[TileJob], progress: Progress = silent) -> None:
        """See `JobRunner`."""
        whole = WholeProgress(jobs, progress)
        # pure=False: a task of the same name may have been lost with its worker
        tasks = {job.name: self._client.submit(train_tile, facts_of(job), retries=_TRIES,
                                               pure=False) for job in jobs}
        while not all(task.done() for task in tasks.values()):
            time.sleep(_POLL_S)
            whole.report([name for name, task in tasks.items() if not task.done()])
        for job in jobs:
            if job.is_done:
                continue
            _refuse_failed(job)
            raise RunError(f'{job.name} cannot be trained', where=job.path,
                           got=str(tasks[job.name].exception()),
                           hint='The same command goes on from here.')

    def close(self) -> None:
        """Leave the cluster."""
        self._client.close()


class WholeProgress:
    """Progress of all tiles by their files: how many are done, who is at what, what is left."""

    def __init__(self, jobs: Sequence[TileJob], progress: Progress) -> None:
        """Note when they began."""
        self._jobs, self._progress = jobs, progress
        self._began, self._last = time.monotonic(), 0.0
        self._before = sum(_share(job) for job in jobs)

    def report(self, running: Sequence[str]) -> None:
        """Report every few seconds."""
        now = time.monotonic()
        if now - self._last < _REPORT_S:
            return
        self._last = now
        shares = {job.name: _share(job) for job in self._jobs}
        done = sum(shares.values())
        finished = sum(share >= 1.0 for share in shares.values())
        parts = [f'{finished} of {len(shares)} tiles']
        parts += [f'{name} {shares[name]:.0%}' for name in running[:4]]
        gained = done - self._before
        if gained > 0.02:
            left = (len(shares) - done) * (now - self._began) / gained
            parts.append(f'about {_duration(left)} left')
        self._progress(done, max(len(shares), 1), ', '.join(parts))


def _share(job: TileJob) -> float:
    state = job.state()
    share = float(state.get('share') or 0.0)
    return min(share, 0.99) if state.get('state') == RUNNING else share


def _duration(seconds: float) -> str:
    return f'{seconds:.0f} s' if seconds < 90 else f'{seconds / 60:.0f} min'


def _refuse_failed(job: TileJob) -> None:
    """Raise what the worker could not do."""
    state = job.state()
    if state.get('state') == FAILED:
        raise InputError(f'{job.name} cannot be trained', where=job.path, got=state['error'],
                         hint='The same command goes on from here.')

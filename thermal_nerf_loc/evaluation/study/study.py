# SPDX-License-Identifier: Apache-2.0
"""Several replays as one study: bags, cameras and other systems in one table and one report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from thermal_nerf_loc.common.config import check
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.evaluation.association import INTERPOLATE
from thermal_nerf_loc.evaluation.availability import availability, states_from_stamps
from thermal_nerf_loc.evaluation.metrics import evaluate, EvaluationConfig
from thermal_nerf_loc.evaluation.report.study_report import write_report
from thermal_nerf_loc.evaluation.study.comparison import figures_of, rows, Run
from thermal_nerf_loc.evaluation.study.drive_replay import (
    Drive, LazyMap, modalities_of, replay_drive, ReplayRequest, StudiedDrive)
from thermal_nerf_loc.io.atomic_files import write_json
from thermal_nerf_loc.io.bags.reader import BagReader
from thermal_nerf_loc.io.trajectory import read_tum, Trajectory, write_tum
from thermal_nerf_loc.tracking.bag_replay import find_replay_cameras

_MODALITIES = ('both', 'rgb', 'thermal')


@dataclass(frozen=True, slots=True)
class Study:
    """What to run, and what to compare it with."""

    drives: Mapping[str, tuple[ReplayRequest, ...]]  # by the bag's name; the first is the main one
    compare: tuple[tuple[str, str], ...]  # name of another system, its file
    evaluation: EvaluationConfig
    out: Path

    @property
    def is_single(self) -> bool:
        """True for just one replay: its files need no folder of their own."""
        return sum(map(len, self.drives.values())) == 1


@dataclass(frozen=True, slots=True)
class StudyResult:
    """What a study found; files are written under `Study.out`."""

    figures: dict[str, Any]  # of the main method over all bags
    table: list[dict[str, Any]]  # one row a run
    notes: tuple[str, ...] = ()  # for the user


def make_study(request: ReplayRequest, bags: Sequence[Path], truths: Sequence[str],
               compare: Sequence[str], ablate: bool, evaluation: Mapping[str, Any]) -> Study:
    """Make a study of the options; contradictions are refused before anything runs."""
    config = EvaluationConfig(**evaluation)
    check(config, 'option')
    if len(truths) not in (0, 1, len(bags)):
        raise InputError('truths and bags do not pair up', where='--truth',
                         expected=f'none, one for all or {len(bags)}', got=len(truths))
    if ablate and request.modality != 'both':
        raise InputError('--ablate replays all modalities', where='--modality', expected='both',
                         got=request.modality)
    modalities = _MODALITIES if ablate else (request.modality,)
    sources = list(truths) * len(bags) if len(truths) == 1 else list(truths)
    if config.tolerance_s is not None and config.associate == INTERPOLATE:
        # Gaps of the truth up to twice the tolerance are bridged, those of tf as well.
        request = replace(request, truth_gap_s=2.0 * config.tolerance_s)
    drives = {}
    for k, (name, bag) in enumerate(zip(_names(bags), bags)):
        drives[name] = tuple(
            replace(request, bag=bag, modality=modality, truth=sources[k] if sources else None,
                    out=_folder(request.out, name, modality, len(bags) > 1, ablate))
            for modality in modalities)
    return Study(drives, _systems(compare, modalities, len(bags) > 1), config, request.out)


def run_study(study: Study, progress: Progress = silent) -> StudyResult:
    """Run everything, write everything under `study.out`."""
    first = next(iter(study.drives.values()))[0]
    a_map = LazyMap(first.map, first.device)
    others = {name: [(system, _read_system(pattern, name)) for system, pattern in study.compare]
              for name in study.drives}
    for requests in study.drives.values():  # refuse a missing topic before the first replay
        with BagReader(requests[0].bag) as reader:
            for request in requests:
                find_replay_cameras(reader, request.bag, modalities_of(request.modality),
                                    request.topics or {})
    replays = _ReplayCounter(progress, sum(map(len, study.drives.values())))
    done = [_run_drive(study, name, requests, others[name], a_map, replays)
            for name, requests in study.drives.items()]
    return _write_results(study, done, a_map)


def replay(request: ReplayRequest, progress: Progress = silent, title: str = '',
           extra_blocks: Sequence[str] = ()) -> StudyResult:
    """Run one bag, write everything under `request.out`; `extra_blocks` join the report."""
    a_map = LazyMap(request.map, request.device)
    truths = [request.truth] if request.truth else []
    study = make_study(request, [request.bag], truths, (), False, {})
    drive = replay_drive(request, a_map, progress)
    name = next(iter(study.drives))
    run = _run_of_replay(study, name, request, drive)
    done = [_studied(study, name, request, (run,), [drive])]
    return _write_results(study, done, a_map, title, extra_blocks)


class _ReplayCounter:
    """Reports the progress of each replay as a part of the whole study."""

    def __init__(self, progress: Progress, count: int) -> None:
        self._progress, self._count, self._finished = progress, count, 0

    def begin(self, name: str) -> Progress:
        """Progress of the next replay."""
        number = self._finished
        self._finished += 1

        def progress(done: float, total: float, message: str = '') -> None:
            share = done / total if total else 0.0
            text = message if self._count == 1 else ': '.join(filter(None, (name, message)))
            self._progress(number + share, self._count, text)

        return progress


def _run_drive(study: Study, name: str, requests: Sequence[ReplayRequest],
               others: Sequence[tuple[str, Trajectory]], a_map: LazyMap,
               replays: _ReplayCounter) -> StudiedDrive:
    runs, drives = [], []
    for request in requests:
        drive = replay_drive(request, a_map, replays.begin(f'{name}, {request.modality}'))
        drives.append(drive)
        runs.append(_run_of_replay(study, name, request, drive))
        if not study.is_single:
            write_json(request.out / 'metrics.json',
                       {**figures_of(runs[-1:]), 'details': dict(drive.details)})
    for system, trajectory in others:
        runs.append(_run_of_system(study, name, system, trajectory, drives[0]))
    return _studied(study, name, requests[0], tuple(runs), drives)


def _studied(study: Study, name: str, request: ReplayRequest, runs: tuple[Run, ...],
             drives: Sequence[Drive]) -> StudiedDrive:
    folder = study.out / name if len(study.drives) > 1 else study.out
    truth = drives[0].truth
    if truth is not None:
        write_tum(folder / 'truth.tum', truth)
    notes = dict.fromkeys(note for drive in drives for note in drive.notes)
    return StudiedDrive(name, request.bag, folder, runs, drives[0], tuple(notes))


def _run_of_replay(study: Study, name: str, request: ReplayRequest, drive: Drive) -> Run:
    """Compare a replay with the truth; its trajectory is written first, in case that fails."""
    write_tum(request.out / 'trajectory.tum', drive.trajectory)
    evaluation = (None if drive.truth is None
                  else evaluate(drive.trajectory, drive.truth, study.evaluation))
    states = (tuple((record.stamp_ns, record.state) for record in drive.records)
              or _states(drive.trajectory, drive.truth, study.evaluation))
    return Run(name, request.modality, drive.trajectory, states, evaluation, drive.lost_share,
               drive.updates, drive.updates_hz, drive.latencies_s, drive.records,
               'ros' if request.through_ros else 'offline')


def _run_of_system(study: Study, name: str, system: str, trajectory: Trajectory,
                   drive: Drive) -> Run:
    """Compare the poses of another system with the truth; in gaps between them it is lost."""
    evaluation = (None if drive.truth is None
                  else evaluate(trajectory, drive.truth, study.evaluation))
    states = _states(trajectory, drive.truth, study.evaluation)
    span_s = (states[-1][0] - states[0][0]) * 1e-9
    lost = availability(states).time_lost_s / span_s if span_s > 0.0 else 0.0
    return Run(name, system, trajectory, states, evaluation, lost)


def _states(trajectory: Trajectory, truth: Trajectory | None,
            config: EvaluationConfig) -> tuple[tuple[int, str], ...]:
    span = (truth if truth is not None else trajectory).stamps_ns
    return states_from_stamps(trajectory.stamps_ns, int(span[0]), int(span[-1]),
                              config.longest_gap_s)


def _write_results(study: Study, done: Sequence[StudiedDrive], a_map: LazyMap, title: str = '',
                   extra_blocks: Sequence[str] = ()) -> StudyResult:
    """The figures of the main method over all bags, the table, and the report."""
    table = rows([run for studied in done for run in studied.runs])
    main = done[0].runs[0]
    figures = figures_of([studied.runs[0] for studied in done])
    figures['way'] = main.way
    if len(table) > 1:
        figures['runs'] = table
    details = {studied.name: dict(studied.drive.details) for studied in done}
    write_json(study.out / 'metrics.json',
               {**figures, 'details': details if len(done) > 1 else details[done[0].name]})
    write_report(study.out, done, table, figures, study.evaluation, a_map, title, extra_blocks)
    return StudyResult(figures, table, tuple(note for studied in done for note in studied.notes))


def _systems(compare: Sequence[str], taken: Sequence[str], several: bool,
             ) -> tuple[tuple[str, str], ...]:
    """Split `NAME=FILE`; names must differ from each other and from those `taken`."""
    found: dict[str, str] = {}
    for text in compare:
        name, _, pattern = text.partition('=')
        if not name or not pattern:
            raise InputError('does not name a system and its file', where='--compare',
                             expected='NAME=FILE.tum', got=text)
        if name in found or name in taken:
            raise InputError('two rows of the table would have one name', where='--compare',
                             got=name)
        if several and '{bag}' not in pattern:
            raise InputError('one file cannot be of several bags', where=f'--compare {name}',
                             expected='{bag} in the path, for the name of the bag', got=pattern)
        found[name] = pattern
    return tuple(found.items())


def _read_system(pattern: str, drive: str) -> Trajectory:
    """A TUM file, or the folder of another replay."""
    path = Path(pattern.replace('{bag}', drive))
    return read_tum(path / 'trajectory.tum' if path.is_dir() else path)


def _names(bags: Sequence[Path]) -> list[str]:
    """The bags' names, with as much of their path as tells them apart."""
    paths = [bag.resolve().with_suffix('') if bag.is_file() else bag.resolve() for bag in bags]
    for depth in range(1, 6):
        names = ['_'.join(path.parts[-depth:]).strip('/') for path in paths]
        if len(set(names)) == len(names):
            return names
    raise InputError('the same bag twice', where='BAG', got=', '.join(map(str, bags)))


def _folder(out: Path, name: str, modality: str, several: bool, ablate: bool) -> Path:
    folder = out / name if several else out
    return folder / modality if ablate else folder

# SPDX-License-Identifier: Apache-2.0
"""The table of a study: one row of figures for each run (one method on one drive)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.evaluation.availability import (
    availability, self_checks, StampedErrors, States)
from thermal_nerf_loc.evaluation.metrics import (
    Evaluation, latency, PoseErrors, SUCCESS_STEPS, summarize)
from thermal_nerf_loc.io.trajectory import Trajectory

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class UpdateRecord:
    """State, confidence and expected error of the tracker after one update."""

    stamp_ns: int
    state: str
    reason: str = ''
    confidence: float | None = None
    sigma_m: float | None = None  # standard deviation of the position, worst direction
    searched: str = ''  # outcome of a search of the whole map that has just ended


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One method on one drive."""

    drive: str  # the bag
    method: str  # cameras used, or another system's name
    trajectory: Trajectory  # of the base in the map
    states: States
    evaluation: Evaluation | None = None  # None: there is no truth
    lost_share: float = 0.0
    updates: int | None = None
    updates_hz: float | None = None
    latencies_s: Array = field(default_factory=lambda: np.zeros(0))
    records: tuple[UpdateRecord, ...] = ()  # of each update, where known
    way: str = 'file'  # 'offline', 'ros' or 'file': where the poses come from

    @property
    def ours(self) -> bool:
        """Whether this is a replay, not the trajectory file of another system."""
        return self.way != 'file'


def figures_of(runs: Sequence[Run]) -> dict[str, Any]:
    """The figures of one run, or of several as if they were one long drive."""
    evaluations = [run.evaluation for run in runs if run.evaluation is not None]
    figures: dict[str, Any] = {}
    lost = _weighted_mean([run.lost_share for run in runs], [run.updates or 1 for run in runs])
    if evaluations:
        absolute = PoseErrors.joined([evaluation.absolute for evaluation in evaluations])
        relative = PoseErrors.joined([evaluation.relative for evaluation in evaluations])
        figures |= asdict(summarize(absolute, relative))
        figures['success'] = success_rates(absolute, lost)
        if len(evaluations) == 1:
            figures['alignment_scale'] = evaluations[0].similarity.scale
    figures |= {'lost_share': lost, **asdict(availability(*(run.states for run in runs)))}
    figures |= asdict(self_checks([(_checks(run), _errors(run)) for run in runs]))
    updates = [(run.updates, run.updates_hz) for run in runs if run.updates and run.updates_hz]
    seconds = sum(count / hz for count, hz in updates)
    figures['updates'] = sum(count for count, _ in updates) if updates else None
    figures['updates_hz'] = figures['updates'] / seconds if updates else None
    return figures | _latencies(np.concatenate([run.latencies_s for run in runs]))


def _checks(run: Run) -> list[tuple[int, str]]:
    return [(record.stamp_ns, record.searched) for record in run.records]


def _errors(run: Run) -> StampedErrors | None:
    if run.evaluation is None:
        return None
    absolute = run.evaluation.absolute
    return StampedErrors(run.evaluation.matched.stamps_ns, absolute.metres, absolute.degrees)


def success_rates(errors: PoseErrors, lost: float) -> list[dict[str, float]]:
    """Shares within each threshold: of the poses, and of all updates (lost ones count too)."""
    return [{'metres': metres, 'degrees': degrees,
             'share_of_poses': errors.within(metres, degrees),
             'share_of_updates': errors.within(metres, degrees) * (1.0 - lost)}
            for metres, degrees in SUCCESS_STEPS]


def rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row a run, and one for all drives of a method where there are several drives."""
    out = [{'drive': run.drive, 'method': run.method, 'way': run.way, **figures_of([run])}
           for run in runs]
    methods = list(dict.fromkeys(run.method for run in runs))
    if len({run.drive for run in runs}) > 1:
        for method in methods:
            of_method = [run for run in runs if run.method == method]
            out.append({'drive': 'all', 'method': method, 'way': of_method[0].way,
                        **figures_of(of_method)})
    return out


# Heading, figure, factor, format; for the tables on the terminal and in the report.
COLUMNS = (
    ('ATE cm', 'ate_rmse_m', 100.0, '.2f'), ('ATE deg', 'ate_rmse_deg', 1.0, '.2f'),
    ('RPE cm', 'rpe_rmse_m', 100.0, '.2f'), ('5cm/5° %', 'success_5cm_5deg', 100.0, '.0f'),
    ('lost %', 'lost_share', 100.0, '.1f'), ('lost s', 'time_lost_s', 1.0, '.1f'),
    ('found again s', 'relocalization_median_s', 1.0, '.1f'), ('Hz', 'updates_hz', 1.0, '.1f'),
    ('p95 ms', 'latency_p95_s', 1000.0, '.0f'))


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row of `COLUMNS` as text; an unknown figure is a dash."""
    return ['–' if row.get(key) is None else format(scale * row[key], style)
            for _, key, scale, style in COLUMNS]


def _latencies(seconds: Array) -> dict[str, float | None]:
    names = ('median', 'p90', 'p95', 'p99', 'max')
    if not len(seconds):
        return {f'latency_{name}_s': None for name in names}
    return {f'latency_{name}_s': value
            for name, value in zip(names, asdict(latency(seconds)).values())}


def _weighted_mean(values: Sequence[float], weights: Sequence[int]) -> float:
    return float(np.average(values, weights=weights))

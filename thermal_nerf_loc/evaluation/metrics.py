# SPDX-License-Identifier: Apache-2.0
"""
Pose and trajectory errors, as `evo` defines them: `E = truth^-1 estimated`.

Both trajectories are of the same body. ATE is the root mean square over time of the translation
(or rotation angle) of E; RPE that of the error of the motion between two stamps.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thermal_nerf_loc.common.config import setting
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.evaluation import association
from thermal_nerf_loc.evaluation.association import associate, Matched, relative_pairs
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.trajectory import Trajectory

__all__ = ['associate', 'Evaluation', 'EvaluationConfig', 'evaluate', 'latency', 'Latency',
           'lost_share', 'pose_errors', 'PoseErrors', 'trajectory_metrics', 'TrajectoryMetrics',
           'updates_hz']

Array = NDArray[np.float64]

# Limits of pose errors (metres and degrees), by what they decide.
SUCCESS_M, SUCCESS_DEG = 0.05, 5.0  # nearer than both: localized, `success_5cm_5deg`
CORRECT_M, CORRECT_DEG = 0.10, 5.0  # beyond either: wrong, a pose must not be called good
TRAINING_M, TRAINING_DEG = 0.05, 2.0  # beyond either: too wrong to train a map on
SUCCESS_STEPS = ((0.01, 1.0), (0.02, 2.0), (SUCCESS_M, SUCCESS_DEG), (CORRECT_M, CORRECT_DEG),
                 (0.25, 10.0))  # of the table of success rates
_NS = 1e-9


@dataclass(frozen=True, slots=True)
class EvaluationConfig:
    """How a trajectory is compared with the truth."""

    associate: str = setting(
        association.INTERPOLATE, 'how poses are paired in time',
        choices=(association.INTERPOLATE, association.NEAREST))
    tolerance_s: float | None = setting(None, 'a true pose farther off in time does not count',
                                        1e-9, 3600.0)
    align: str = setting(association.NONE, 'motion of the whole trajectory onto the truth first',
                         choices=(association.NONE, association.SE3, association.SIM3))
    rpe_delta: float = setting(1.0, 'distance of the two poses of a relative error', 1e-6, 1e6)
    rpe_unit: str = setting(association.SECONDS, 'seconds, frames or metres',
                            choices=(association.SECONDS, association.FRAMES, association.METRES))
    longest_gap_s: float = setting(1.0, 'longer pauses between poses are time lost, for '
                                        'systems that report no states', 1e-3, 3600.0)

    def __post_init__(self) -> None:
        """Check what a range cannot express."""
        whole = float(self.rpe_delta).is_integer()
        if self.rpe_unit == association.FRAMES and not whole:
            raise InputError('a number of frames is whole', where='--rpe-delta',
                             expected='1, 2, ...', got=self.rpe_delta)


@dataclass(frozen=True, slots=True, eq=False)
class PoseErrors:
    """One entry for each pose."""

    metres: Array
    degrees: Array

    @property
    def success_5cm_5deg(self) -> float:
        """Share of poses within 5 cm and 5 degrees."""
        return self.within(SUCCESS_M, SUCCESS_DEG)

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """Which poses are off by more than `CORRECT_M` or `CORRECT_DEG`: (n,)."""
        return np.asarray((self.metres > CORRECT_M) | (self.degrees > CORRECT_DEG))

    def within(self, metres: float, degrees: float) -> float:
        """Share of poses nearer than both."""
        if not len(self.metres):
            return 0.0
        return float(((self.metres < metres) & (self.degrees < degrees)).mean())

    @staticmethod
    def joined(parts: 'list[PoseErrors]') -> 'PoseErrors':
        """The errors of several drives."""
        return PoseErrors(np.concatenate([part.metres for part in parts]),
                          np.concatenate([part.degrees for part in parts]))


@dataclass(frozen=True, slots=True)
class TrajectoryMetrics:
    """Figures of one drive; `matched` poses had a true pose to compare with."""

    ate_rmse_m: float
    ate_rmse_deg: float
    ate_mean_m: float
    ate_mean_deg: float
    ate_median_m: float
    ate_median_deg: float
    ate_max_m: float
    ate_max_deg: float
    rpe_rmse_m: float
    rpe_rmse_deg: float
    success_5cm_5deg: float
    matched: int


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """A trajectory compared with the truth, pose by pose; estimates are aligned."""

    matched: Matched
    absolute: PoseErrors
    relative: PoseErrors
    similarity: association.Similarity

    @property
    def metrics(self) -> TrajectoryMetrics:
        """The errors in a few numbers."""
        return summarize(self.absolute, self.relative)


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds from an image to its pose."""

    p50_s: float
    p90_s: float
    p95_s: float
    p99_s: float
    max_s: float


def pose_errors(estimated: ArrayLike, truth: ArrayLike) -> PoseErrors:
    """Compare poses (n, 4, 4) one by one."""
    A = np.asarray(estimated, dtype=np.float64).reshape(-1, 4, 4)
    B = np.asarray(truth, dtype=np.float64).reshape(-1, 4, 4)
    if A.shape != B.shape:
        raise InputError('there are not as many estimates as truths', expected=len(B),
                         got=len(A))
    E = se3.inverse(B) @ A
    return PoseErrors(np.linalg.norm(E[:, :3, 3], axis=1),
                      np.rad2deg(np.linalg.norm(se3.so3_log(E[:, :3, :3]), axis=1)))


def evaluate(estimated: Trajectory, truth: Trajectory,
             config: EvaluationConfig = EvaluationConfig()) -> Evaluation:
    """Pair, align, and take the errors."""
    matched = associate(estimated, truth, config.associate, config.tolerance_s)
    similarity = association.find_alignment(matched.estimated, matched.truth, config.align)
    A, B = similarity.apply(matched.estimated), matched.truth
    matched = Matched(matched.stamps_ns, A, B)
    first, second = relative_pairs(matched, config.rpe_delta, config.rpe_unit)
    relative = pose_errors(se3.inverse(A[first]) @ A[second], se3.inverse(B[first]) @ B[second])
    return Evaluation(matched, pose_errors(A, B), relative, similarity)


def summarize(absolute: PoseErrors, relative: PoseErrors) -> TrajectoryMetrics:
    """A few numbers; the RPE of a trajectory without any pair of poses is zero."""
    m, deg = absolute.metres, absolute.degrees
    return TrajectoryMetrics(
        _rms(m), _rms(deg), float(m.mean()), float(deg.mean()), float(np.median(m)),
        float(np.median(deg)), float(m.max()), float(deg.max()), _rms(relative.metres),
        _rms(relative.degrees), absolute.success_5cm_5deg, len(m))


def trajectory_metrics(estimated: Trajectory, truth: Trajectory,
                       config: EvaluationConfig = EvaluationConfig()) -> TrajectoryMetrics:
    """ATE and RPE of an estimated trajectory."""
    return evaluate(estimated, truth, config).metrics


def updates_hz(stamps_ns: ArrayLike) -> float:
    """Mean rate of a series of stamps."""
    stamps = np.asarray(stamps_ns, dtype=np.int64)
    span_s = float(stamps[-1] - stamps[0]) * _NS if len(stamps) > 1 else 0.0
    return (len(stamps) - 1) / span_s if span_s > 0.0 else 0.0


def latency(seconds: ArrayLike) -> Latency:
    """Percentiles (linear interpolation) of latencies."""
    values = np.asarray(seconds, dtype=np.float64)
    if not len(values):
        raise InputError('no latency to take percentiles of', expected='at least one value')
    return Latency(*np.quantile(values, (0.5, 0.9, 0.95, 0.99, 1.0)).tolist())


def lost_share(states: list[str] | tuple[str, ...]) -> float:
    """Share of updates in which the tracker was lost."""
    return states.count('lost') / len(states) if states else 0.0


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(values**2))) if len(values) else 0.0

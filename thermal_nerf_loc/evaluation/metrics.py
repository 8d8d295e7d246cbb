# SPDX-License-Identifier: Apache-2.0
"""
Pose and trajectory errors, as `evo` defines them: `E = truth^-1 estimated`, no alignment.

Both trajectories are of the same body in the same frame. ATE is the root mean square over time of
the translation (or rotation angle) of E; RPE that of the error of the motion between two moments.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thermal_nerf_loc.data.trajectory import Trajectory
from thermal_nerf_loc.errors import InputError
from thermal_nerf_loc.geometry import se3

Array = NDArray[np.float64]

SUCCESS_M = 0.05
SUCCESS_DEG = 5.0
_NS = 1e-9
_MAX_GAP_NS = 500_000_000  # of the truth; across longer ones nothing is interpolated


@dataclass(frozen=True, slots=True, eq=False)
class PoseErrors:
    """One entry for each pose."""

    metres: Array
    degrees: Array

    @property
    def success_5cm_5deg(self) -> float:
        """Share of poses within 5 cm and 5 degrees."""
        if not len(self.metres):
            return 0.0
        return float(((self.metres < SUCCESS_M) & (self.degrees < SUCCESS_DEG)).mean())


@dataclass(frozen=True, slots=True)
class TrajectoryMetrics:
    """Figures of one drive; `matched` poses had a truth to be held against."""

    ate_rmse_m: float
    ate_rmse_deg: float
    ate_median_m: float
    ate_median_deg: float
    ate_max_m: float
    rpe_rmse_m: float
    rpe_rmse_deg: float
    success_5cm_5deg: float
    matched: int


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds from an image to its pose."""

    p50_s: float
    p95_s: float
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


def associate(estimated: Trajectory, truth: Trajectory,
              max_gap_ns: int = _MAX_GAP_NS) -> tuple[NDArray[np.int64], Array, Array]:
    """Stamps, estimates and the truth at the same moments, interpolated on SE(3)."""
    pairs = [(stamp, T, truth.at(int(stamp), max_gap_ns))
             for stamp, T in zip(estimated.stamps_ns, estimated.poses)]
    kept = [(stamp, T, true) for stamp, T, true in pairs if true is not None]
    if not kept:
        raise InputError(
            'estimates and truth share no moment',
            expected=_span(truth, 'truth'), got=_span(estimated, 'estimates'))
    stamps, A, B = zip(*kept)
    return np.array(stamps, dtype=np.int64), np.array(A), np.array(B)


def trajectory_metrics(estimated: Trajectory, truth: Trajectory,
                       rpe_delta_s: float = 1.0) -> TrajectoryMetrics:
    """ATE and RPE (over `rpe_delta_s`) of an estimated trajectory."""
    stamps_ns, A, B = associate(estimated, truth)
    absolute = pose_errors(A, B)
    first, second = _pairs(stamps_ns, rpe_delta_s)
    if len(first):
        relative = pose_errors(se3.inverse(A[first]) @ A[second],
                               se3.inverse(B[first]) @ B[second])
        rpe = _rms(relative.metres), _rms(relative.degrees)
    else:  # one pose moves nowhere
        rpe = 0.0, 0.0
    return TrajectoryMetrics(_rms(absolute.metres), _rms(absolute.degrees),
                             float(np.median(absolute.metres)), float(np.median(absolute.degrees)),
                             float(absolute.metres.max()), *rpe, absolute.success_5cm_5deg,
                             len(stamps_ns))


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
    p50, p95 = np.quantile(values, (0.5, 0.95))
    return Latency(float(p50), float(p95), float(values.max()))


def lost_share(states: list[str] | tuple[str, ...]) -> float:
    """Share of updates in which the tracker was lost."""
    return states.count('lost') / len(states) if states else 0.0


def _pairs(stamps_ns: NDArray[np.int64], delta_s: float,
           ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Index pairs about `delta_s` apart; as in evo, less than a tenth of it off."""
    wanted = stamps_ns + round(delta_s / _NS)
    after = np.clip(np.searchsorted(stamps_ns, wanted), 1, max(len(stamps_ns) - 1, 1))
    if len(stamps_ns) < 2:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    nearer = wanted - stamps_ns[after - 1] < stamps_ns[after] - wanted
    second = np.where(nearer, after - 1, after)
    first = np.arange(len(stamps_ns))
    good = (np.abs(stamps_ns[second] - wanted) < 0.1 * delta_s / _NS) & (second > first)
    return first[good], second[good].astype(np.intp)


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _span(trajectory: Trajectory, name: str) -> str:
    if not len(trajectory):
        return f'{name}: none'
    first, last = trajectory.stamps_ns[0], trajectory.stamps_ns[-1]
    return f'{name} from {first} to {last} ns'

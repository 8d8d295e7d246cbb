# SPDX-License-Identifier: Apache-2.0
"""
Pair estimates with true poses in time, and align the two trajectories, as evo does.

Also chooses the pairs of poses over which relative errors are computed.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry.similarity import IDENTITY, Similarity, umeyama
from thermal_nerf_loc.io.trajectory import Trajectory

__all__ = ['associate', 'find_alignment', 'IDENTITY', 'Matched', 'relative_pairs', 'Similarity']

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

INTERPOLATE, NEAREST = 'interpolate', 'nearest'
# Interpolated: the truth's neighbours lie at most twice this apart. Nearest: as evo's default.
TOLERANCE_S = {INTERPOLATE: 0.25, NEAREST: 0.01}
NONE, SE3, SIM3 = 'none', 'se3', 'sim3'  # ways to align
SECONDS, FRAMES, METRES = 's', 'f', 'm'  # units of the distance of a relative error
_NS = 1e-9
_PAIR_TOLERANCE = 0.1  # of the wanted distance between two poses, as in evo


class Matched(NamedTuple):
    """Poses at the same stamps, (n, 4, 4) each."""

    stamps_ns: NDArray[np.int64]  # of the estimates
    estimated: Array
    truth: Array


def associate(estimated: Trajectory, truth: Trajectory, method: str = INTERPOLATE,
              tolerance_s: float | None = None) -> Matched:
    """
    Pair estimates with true poses.

    'interpolate' takes the truth at each estimate's stamp, on SE(3), where no true pose is farther
    than the tolerance. 'nearest' is evo's: each pose of the shorter trajectory gets the nearest
    in time of the longer.
    """
    limit_ns = round((TOLERANCE_S[method] if tolerance_s is None else tolerance_s) / _NS)
    if method == NEAREST:
        first, second = _nearest(estimated.stamps_ns, truth.stamps_ns, limit_ns)
        found = Matched(estimated.stamps_ns[first], estimated.poses[first], truth.poses[second])
    else:
        pairs = [(k, truth.at(int(stamp), 2 * limit_ns))
                 for k, stamp in enumerate(estimated.stamps_ns)]
        kept = [k for k, true in pairs if true is not None]
        found = Matched(estimated.stamps_ns[kept], estimated.poses[kept],
                        np.array([true for _, true in pairs if true is not None]))
    if not len(found.stamps_ns):
        raise InputError(
            'no estimate has a true pose near it in time', expected=_span(truth, 'truth'),
            got=_span(estimated, 'estimates'),
            hint=f'The tolerance is {limit_ns * _NS:g} s; are both stamped by one clock?')
    return found


def relative_pairs(matched: Matched, delta: float, unit: str) -> tuple[Indices, Indices]:
    """Index pairs of poses `delta` seconds, frames or metres of the estimated path apart."""
    count = len(matched.stamps_ns)
    if unit == FRAMES:
        step = round(delta)
        return np.arange(max(count - step, 0)), np.arange(step, max(count, step))
    if unit == METRES:
        steps_m = np.linalg.norm(np.diff(matched.estimated[:, :3, 3], axis=0), axis=1)
        return _pairs_apart(np.concatenate([[0.0], np.cumsum(steps_m)]), delta,
                            _PAIR_TOLERANCE * delta)
    # One nanosecond less than a tenth: else the last frames would pair up at 0.9 delta.
    delta_ns = delta / _NS
    return _pairs_apart((matched.stamps_ns - matched.stamps_ns[0]).astype(np.float64), delta_ns,
                        _PAIR_TOLERANCE * delta_ns - 1.0)


def _pairs_apart(positions: Array, delta: float, tolerance: float) -> tuple[Indices, Indices]:
    """Index pairs about `delta` apart on a rising axis."""
    if len(positions) < 2:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    wanted = positions + delta
    after = np.clip(np.searchsorted(positions, wanted), 1, len(positions) - 1)
    nearer = np.abs(positions[after - 1] - wanted) <= np.abs(positions[after] - wanted)
    second = np.where(nearer, after - 1, after)
    second = np.searchsorted(positions, positions[second])  # the first, where the robot stands
    first = np.arange(len(positions))
    good = (np.abs(positions[second] - wanted) <= tolerance) & (second > first)
    return first[good], second[good].astype(np.intp)


def _nearest(first_ns: NDArray[np.int64], second_ns: NDArray[np.int64],
             limit_ns: int) -> tuple[Indices, Indices]:
    """Indices of the pairs in both; the earlier of two equally near stamps wins."""
    if not len(first_ns) or not len(second_ns):
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    if len(first_ns) > len(second_ns):
        found = _nearest(second_ns, first_ns, limit_ns)
        return found[1], found[0]
    after = np.clip(np.searchsorted(second_ns, first_ns, side='right'), 1,
                    max(len(second_ns) - 1, 1))
    before = after - 1
    after = np.minimum(after, len(second_ns) - 1)
    earlier = np.abs(first_ns - second_ns[before]) <= np.abs(second_ns[after] - first_ns)
    best = np.where(earlier, before, after).astype(np.intp)
    good = np.abs(second_ns[best] - first_ns) <= limit_ns
    return np.flatnonzero(good), best[good]


def _span(trajectory: Trajectory, name: str) -> str:
    if not len(trajectory):
        return f'{name}: none'
    first, last = trajectory.stamps_ns[0], trajectory.stamps_ns[-1]
    return f'{name} from {first} to {last} ns'


def find_alignment(estimated: Array, truth: Array, mode: str) -> Similarity:
    """The motion of `estimated` poses (n, 4, 4) onto `truth`; `mode`: 'none', 'se3', 'sim3'."""
    if mode == NONE:
        return IDENTITY
    try:
        return umeyama(estimated[:, :3, 3], truth[:, :3, 3], with_scale=mode == SIM3)
    except InputError as error:
        raise InputError('trajectory cannot be aligned', where='--align', expected=error.expected,
                         got=error.got, hint='Use --align none, or a longer drive.') from None

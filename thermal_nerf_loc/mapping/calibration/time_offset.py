# SPDX-License-Identifier: Apache-2.0
"""
The time offset between two cameras of a rig, or a camera and poses, by how fast they turn.

Both turn at the same rate at the same time, wherever they look: the rates are correlated over a
range of offsets (as in Furgale et al. 2013's start, without a spline). The rate of a camera comes
from points that are followed from image to image.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import RunError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.io.images import opencv

Array = NDArray[np.float64]
cv2 = opencv()

_STEP_S = 0.005  # of the common grid
_MAX_GAP_S = 0.5  # between images whose motion counts
_FEWEST_POINTS = 12
_LEAST_CORRELATION = 0.6
_LEAST_OVERLAP_S = 3.0


class TurnRates(NamedTuple):
    """How fast something turns: rad/s (n,) at times (n,) in seconds."""

    times_s: Array
    rates: Array


class TimeOffset(NamedTuple):
    """Seconds to add to the second clock, and how well the rates then agree (at most 1)."""

    seconds: float
    correlation: float
    overlap_s: float


def rates_of_images(images: Iterable[tuple[int, NDArray[np.uint8]]], camera: Camera) -> TurnRates:
    """Turn rates by images (stamp in ns, 8 bits) of one camera, in the order of time."""
    times, rates = [], []
    before: tuple[int, Any, Any] | None = None
    for stamp, grey in images:
        corners = cv2.goodFeaturesToTrack(grey, 300, 0.01, 5)
        if before is not None and before[2] is not None:
            seconds = (stamp - before[0]) / 1e9
            angle = _turn(before[1], grey, before[2], camera)
            if 0.0 < seconds < _MAX_GAP_S and angle is not None:
                times.append((stamp + before[0]) / 2e9)
                rates.append(angle / seconds)
        before = stamp, grey, corners
    return TurnRates(np.array(times), np.array(rates))


def rates_of_poses(stamps_ns: NDArray[np.int64], poses: Array) -> TurnRates:
    """Turn rates between poses (n, 4, 4)."""
    seconds = np.diff(stamps_ns) / 1e9
    steps = np.swapaxes(poses[:-1, :3, :3], 1, 2) @ poses[1:, :3, :3]
    angles = np.linalg.norm(se3.so3_log(steps), axis=1)
    good = (seconds > 0.0) & (seconds < _MAX_GAP_S)
    return TurnRates(np.asarray(0.5 * (stamps_ns[:-1] + stamps_ns[1:]) / 1e9, np.float64)[good],
                     (angles / np.maximum(seconds, 1e-9))[good])


def correlate(first: TurnRates, second: TurnRates, max_offset_s: float) -> TimeOffset:
    """The offset to add to the times of `second`, within +-`max_offset_s`."""
    if min(len(first.times_s), len(second.times_s)) < 10:
        raise RunError('too little motion is known for a time offset', expected='10 images each',
                       got=f'{len(first.times_s)} and {len(second.times_s)}')
    offsets = np.arange(-max_offset_s, max_offset_s + _STEP_S, _STEP_S)
    found = [_correlation(first, second, offset) for offset in offsets]
    scores = np.array([score for score, _ in found])
    best = int(scores.argmax())
    if scores[best] < _LEAST_CORRELATION:
        raise RunError('the two do not turn alike', expected=f'a correlation above '
                       f'{_LEAST_CORRELATION}', got=f'{scores[best]:.2f}',
                       hint='Turn the rig back and forth, unevenly, for 10 s or more, before a '
                            'scene that both cameras see well.')
    return TimeOffset(float(offsets[best] + _STEP_S * _peak(scores, best)), float(scores[best]),
                      found[best][1])


def _turn(first: Any, second: Any, corners: Any, camera: Camera) -> float | None:
    """The angle (rad) of the rotation that takes points of one image to the next."""
    moved, good, _ = cv2.calcOpticalFlowPyrLK(first, second, corners, None)
    kept = good.ravel() == 1
    if kept.sum() < _FEWEST_POINTS:
        return None
    a = camera.unproject(corners[kept, 0] + 0.5)
    b = camera.unproject(moved[kept, 0] + 0.5)
    a, b = (rays / np.linalg.norm(rays, axis=1, keepdims=True) for rays in (a, b))
    inliers = np.ones(len(a), dtype=np.bool_)
    R = np.eye(3)
    for _ in range(4):  # the closest rotation (Kabsch), without the worst points
        U, _, Vt = np.linalg.svd(b[inliers].T @ a[inliers])
        R = U @ np.diag([1.0, 1.0, np.linalg.det(U @ Vt)]) @ Vt
        off = np.linalg.norm(b - a @ R.T, axis=1)
        inliers = off <= max(2.0 * float(np.median(off)), 1e-6)
        if inliers.sum() < _FEWEST_POINTS:
            return None
    return float(np.linalg.norm(se3.so3_log(R)))


def _correlation(first: TurnRates, second: TurnRates, offset: float) -> tuple[float, float]:
    """Normalised correlation over the common time, and its length."""
    times = second.times_s + offset
    start = max(first.times_s[0], times[0])
    end = min(first.times_s[-1], times[-1])
    if end - start < _LEAST_OVERLAP_S:
        return -1.0, max(end - start, 0.0)
    grid = np.arange(start, end, _STEP_S)
    a, b = np.interp(grid, *first), np.interp(grid, times, second.rates)
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / max(np.sqrt((a @ a) * (b @ b)), 1e-12)), float(end - start)


def _peak(scores: Array, best: int) -> float:
    """Vertex of the parabola through a maximum and its neighbours, in steps."""
    if best in (0, len(scores) - 1):
        return 0.0
    low, top, high = scores[best - 1:best + 2]
    curvature = low - 2.0 * top + high
    return float(np.clip(0.5 * (low - high) / curvature, -1.0, 1.0)) if curvature < 0.0 else 0.0

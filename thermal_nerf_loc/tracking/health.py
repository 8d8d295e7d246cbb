# SPDX-License-Identifier: Apache-2.0
"""Health of the node: counters, rates and latencies, as text for diagnostics."""

from collections import Counter, deque
from collections.abc import Mapping
import threading
import time

import numpy as np

from thermal_nerf_loc.localization.confidence.verdict import sigmas
from thermal_nerf_loc.tracking.robot_tracker import RobotUpdate
from thermal_nerf_loc.tracking.tracker_config import CONFIRMED, DEGRADED, LOST

_WINDOW = 200  # updates that rates and latencies are taken over
_LONGEST_PROBLEM = 400  # characters
_SILENT_S = 2.5  # without an update for so long, tracking is degraded

WAITING, PAUSED = 'waiting for images', 'paused'


class NodeHealth:
    """Counts updates and problems; safe to use from several threads."""

    def __init__(self, map_name: str) -> None:
        """Start with nothing counted."""
        self.map_name = map_name
        self.paused = False
        self.effort = 1.0  # share of the configured rays that a frame costs
        self.facts: dict[str, str] = {}  # what was chosen: odometry, and the transform published
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._latencies_s: deque[float] = deque(maxlen=_WINDOW)
        self._steps_s: deque[float] = deque(maxlen=_WINDOW)
        self._times_s: deque[float] = deque(maxlen=_WINDOW)
        self._rays: deque[float] = deque(maxlen=_WINDOW)
        self._cost = _Cost()
        self._last: RobotUpdate | None = None
        self._problem = ''

    def note_update(self, update: RobotUpdate, latency_s: float, step_s: float) -> None:
        """Count a tracked frame."""
        with self._lock:
            self._counts['updates'] += 1
            self._counts[f'updates_{update.state}'] += 1
            if update.searched:
                self._counts[f'searches_{update.searched}'] += 1
            self._latencies_s.append(latency_s)
            self._steps_s.append(step_s)
            self._times_s.append(time.monotonic())
            self._rays.append(update.rays)
            self._last = update

    def note_problem(self, kind: str, text: str) -> None:
        """Count something that went wrong and keep its text."""
        with self._lock:
            self._counts[kind] += 1
            self._problem = text[:_LONGEST_PROBLEM]

    def figures(self, synchronizer_counts: Mapping[str, int], silent_limit_s: float,
                ) -> dict[str, str]:
        """All figures as text; without images for `silent_limit_s` the robot is lost."""
        with self._lock:
            span_s = time.monotonic() - self._times_s[0] if self._times_s else 0.0
            last = self._last
            state, reason = self._state(last, silent_limit_s)
            return {
                'state': state, 'reason': reason, 'map': self.map_name,
                'modalities': ' '.join(last.modalities) if last else '',
                'carried_by': _carried_by(last), **_worst_sigmas(last),
                'inlier_share': ('' if last is None or last.inlier_share is None
                                 else f'{last.inlier_share:.2f}'),
                'updates_hz': f'{len(self._times_s) / span_s if span_s > 0.0 else 0.0:.2f}',
                'latency_median_s': _quantile(self._latencies_s, 0.5),
                'latency_p95_s': _quantile(self._latencies_s, 0.95),
                'step_median_s': _quantile(self._steps_s, 0.5),
                **self._costs(synchronizer_counts.get('frames_dropped', 0)), **self.facts,
                **{name: str(count) for name, count in sorted(self._counts.items())},
                **{name: str(count) for name, count in sorted(
                    {'frames_dropped': 0, **synchronizer_counts}.items())},
                'last_problem': self._problem}

    def _costs(self, dropped: int) -> dict[str, str]:
        """What frames cost: since the last figures, but for the rays."""
        cores, frame_cpu_s, dropped_share = self._cost.since_last(self._counts['updates'], dropped)
        return {'frame_rays': f'{np.median(self._rays):.0f}' if self._rays else '',
                'frame_cpu_s': '' if frame_cpu_s is None else f'{frame_cpu_s:.4f}',
                'cores_used': f'{cores:.2f}', 'effort': f'{self.effort:.0%}',
                'frames_dropped_share': '' if dropped_share is None else f'{dropped_share:.0%}'}

    def _state(self, last: RobotUpdate | None, silent_limit_s: float) -> tuple[str, str]:
        if self.paused:
            return PAUSED, 'call ~/resume to go on'
        if last is None:
            return WAITING, self._problem  # why none of those that came counts
        silent_s = time.monotonic() - self._times_s[-1]
        if silent_s > min(_SILENT_S, silent_limit_s):
            state = LOST if silent_s > silent_limit_s else DEGRADED
            had_pose = last.state in CONFIRMED
            return state if had_pose else last.state, f'no usable image for {silent_s:.1f} s'
        return last.state, last.reason


class _Cost:
    """Computing time of the whole process, and what became of frames, between two figures."""

    def __init__(self) -> None:
        self._before = time.monotonic(), time.process_time(), 0, 0

    def since_last(self, updates: int, dropped: int) -> tuple[float, float | None, float | None]:
        """Cores in use, CPU seconds for each frame, and the share of frames dropped."""
        now = time.monotonic(), time.process_time(), updates, dropped
        wall_s, cpu_s, tracked, lost = (a - b for a, b in zip(now, self._before))
        self._before = now
        return (cpu_s / wall_s if wall_s > 0.0 else 0.0, cpu_s / tracked if tracked else None,
                lost / (tracked + lost) if tracked + lost else None)


def _quantile(values: deque[float], share: float) -> str:
    return f'{float(np.quantile(values, share)):.4f}' if values else ''


def _carried_by(last: RobotUpdate | None) -> str:
    """Share of each modality in the pose, the largest first; then those not used, and why."""
    if last is None:
        return ''
    ordered = sorted(last.carried_by.items(), key=lambda item: -item[1])
    return ' '.join([*(f'{name} {share:.0%}' for name, share in ordered),
                     *(f'({name}: {why})' for name, why in last.ignored.items())])


def _worst_sigmas(last: RobotUpdate | None) -> dict[str, str]:
    """Standard deviations of the last pose along its worst axis."""
    if last is None or last.covariance is None:
        return {'sigma_m': '', 'sigma_deg': ''}
    sigma_m, sigma_deg = sigmas(last.covariance)
    return {'sigma_m': f'{sigma_m:.4f}', 'sigma_deg': f'{sigma_deg:.3f}'}

# SPDX-License-Identifier: Apache-2.0
"""
When a thermal camera told the truth: right after its shutter had closed.

Between shutter events a camera drifts, at each it starts again from zero. Images tell their
offsets only from each other, so a map may lie too cold or too warm as a whole; where offsets leap
back again and again to one level, that level is no offset.

Thermal images that show what was, not what is.

While its shutter is closed a thermal camera gives out the last image again. With the pose of the
later moment it would be learned in the wrong place.
"""

from dataclasses import replace
import hashlib
import logging
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.sensing.frame import THERMAL

Array = NDArray[np.float64]

_FEWEST_EVENTS, _FEWEST_IMAGES = 2, 3  # images after an event
_NEAR = 6  # images after an event that tell of it
_LEAP_CELSIUS, _LEAP_STEPS = 0.1, 5.0  # at least so much, and so many usual steps,
_LEAP_SHARE = 0.4  # and so much of the highest
_AGREEMENT = 0.35  # how far events may differ, of the leap between them


class Zero(NamedTuple):
    """The offset, among those given, at which a camera is right."""

    celsius: float
    events: int


def zero_offset(stamps_ns: NDArray[np.int64], offsets: Array) -> Zero | None:
    """From offsets (n,) in deg C; None where no shutter shows."""
    order = np.argsort(stamps_ns, kind='stable')
    t, offset = (stamps_ns[order] - stamps_ns[order[0]]) * 1e-9, offsets[order]
    if len(t) < 2 * _FEWEST_IMAGES or float(np.median(np.diff(t))) <= 0.0:  # no stamps
        return None
    steps = np.diff(offset)
    height = np.abs(steps)
    least = max(_LEAP_CELSIUS, _LEAP_STEPS * float(np.median(height)),
                _LEAP_SHARE * float(height.max()))
    leaps: list[int] = np.flatnonzero(height > least).tolist()
    ends = [*leaps[1:], len(t) - 1]  # the last image before the next event
    told = [(leap, _level_after(t, offset, leap, end)) for leap, end in zip(leaps, ends)
            if end - leap >= _FEWEST_IMAGES]
    if len(told) < _FEWEST_EVENTS:
        return None
    events, levels = (np.array(part) for part in zip(*told))
    zero = float(np.median(levels))
    size = float(np.median(height[leaps]))
    back = np.abs(levels - zero) < np.abs(offset[events] - zero)
    if not back.all() or float(np.abs(levels - zero).max()) > _AGREEMENT * size:
        return None
    return Zero(zero, len(levels))


def _level_after(t: Array, offset: Array, leap: int, end: int) -> float:
    """Offset when the shutter opened, between image `leap` and the next."""
    after = slice(leap + 1, min(end, leap + _NEAR) + 1)
    opened = 0.5 * (t[leap] + t[leap + 1])
    return float(np.polyval(np.polyfit(t[after] - opened, offset[after], 1), 0.0))


_log = logging.getLogger(__name__)


def without_repeats(scene: Scene) -> Scene:
    """The scene, without thermal training images that are the one before, bit by bit."""
    frames, last, repeats = list(scene.frames), '', []
    for i in sorted(scene.train, key=lambda i: scene.frames[i].stamp_ns):
        record = frames[i].records.get(THERMAL)
        if record is None or not record.path.is_file():
            continue
        digest = hashlib.sha256(record.path.read_bytes()).hexdigest()
        if digest == last:
            repeats.append(frames[i].name)
            frames[i] = replace(frames[i], records={
                name: one for name, one in frames[i].records.items() if name != THERMAL})
        last = digest
    if repeats:
        _log.warning('%s: %d thermal training images repeat the one before, as with a closed '
                     'shutter, and are left out (first: %s)', scene.root, len(repeats),
                     repeats[0])
    return replace(scene, frames=tuple(frames))

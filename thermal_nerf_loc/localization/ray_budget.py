# SPDX-License-Identifier: Apache-2.0
"""
How many of the configured rays a frame may cost, so that none has to be dropped under load.

A dropped frame loses more than rays do: the next one starts further from its pose. So the share of
the rays goes down step by step while frames come faster than they are tracked, and up again when
the larger share would fit with room to spare.
"""

from dataclasses import dataclass, field, replace

from thermal_nerf_loc.localization.localizer import LocalizerConfig

SHARES = (1.0, 0.7, 0.5, 0.35)  # of the configured rays
_BUSY, _IDLE = 0.95, 0.75  # of the time between two frames
_SMOOTHING = 0.2
_SETTLED_DOWN, _SETTLED_UP = 5, 30  # frames at one share before the next change
_LEAST_RAYS = 100


@dataclass(slots=True)
class RayBudget:
    """The share of rays that fits into the time between frames."""

    _level: int = 0  # index of `SHARES`
    _load: float | None = field(default=None)  # smoothed share of the time that tracking takes
    _frames: int = 0  # at this level

    @property
    def share(self) -> float:
        """Share of the configured rays."""
        return SHARES[self._level]

    def note(self, step_s: float, period_s: float | None) -> bool:
        """Note what a frame took, and the time between frames; True: the share has changed."""
        if period_s is None or period_s <= 0.0:
            return False
        load = step_s / period_s
        self._load = load if self._load is None else (
            self._load + _SMOOTHING * (load - self._load))
        self._frames += 1
        if (self._load > _BUSY and self._frames >= _SETTLED_DOWN
                and self._level + 1 < len(SHARES)):
            return self._go_to(self._level + 1)
        if self._level > 0 and self._frames >= _SETTLED_UP:
            expected = self._load * SHARES[self._level - 1] / self.share
            if expected < _IDLE:
                return self._go_to(self._level - 1)
        return False

    def reset(self) -> None:
        """Begin anew with all rays."""
        self._level, self._load, self._frames = 0, None, 0

    def apply(self, config: LocalizerConfig) -> LocalizerConfig:
        """The settings with this share of the rays of tracked frames; searches keep theirs."""
        if self._level == 0:
            return config
        refinement = config.refinement
        fewer = {name: max(round(self.share * getattr(refinement, name)),
                           min(getattr(refinement, name), _LEAST_RAYS))
                 for name in ('rays', 'last_rays')}
        exact = replace(refinement.exact, rays=round(self.share * refinement.exact.rays))
        return replace(config, refinement=replace(refinement, exact=exact, **fewer))

    def _go_to(self, level: int) -> bool:
        self._level, self._load, self._frames = level, None, 0
        return True

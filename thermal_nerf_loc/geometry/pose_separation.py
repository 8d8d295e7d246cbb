# SPDX-License-Identifier: Apache-2.0
"""When two poses count as one, and which of many poses are different ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.geometry import se3

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PoseSeparation:
    """Poses that are closer than this in position and in orientation count as one."""

    metres: float  # inf: orientations alone decide
    radians: float

    def apart(self, T_a: Array, T_b: Array) -> bool:
        """Whether two poses are different ones."""
        metres, degrees = se3.distance(T_a, T_b)
        return metres >= self.metres or degrees >= np.rad2deg(self.radians)

    def best(self, poses: Array, scores: Array, count: int | None = None) -> list[int]:
        """Indices of the best-scored poses (n, 4, 4), the best first, each apart from the rest."""
        kept: list[int] = []
        free = np.ones(len(poses), dtype=np.bool_)
        for k in np.argsort(-scores, kind='stable'):
            if free[k]:
                kept.append(int(k))
                free &= ~self._close(poses, poses[k])
            if len(kept) == count:
                break
        return kept

    def distinct(self, poses: Sequence[Array]) -> list[int]:
        """Indices of the poses that are apart from all earlier ones."""
        order = -np.arange(len(poses), dtype=np.float64)
        return self.best(np.array(poses).reshape(-1, 4, 4), order)

    def _close(self, poses: Array, T: Array) -> NDArray[np.bool_]:
        metres = np.linalg.norm(poses[:, :3, 3] - T[:3, 3], axis=1)
        traces = np.einsum('nij,ij->n', poses[:, :3, :3], T[:3, :3])
        angle = np.arccos(np.clip(0.5 * (traces - 1.0), -1.0, 1.0))
        return np.asarray((metres < self.metres) & (angle < self.radians))


# What the verdict 'ok' promises: two poses closer than this are the same answer.
SAME_ANSWER = PoseSeparation(0.1, float(np.deg2rad(5.0)))

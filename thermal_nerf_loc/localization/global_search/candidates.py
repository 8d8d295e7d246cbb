# SPDX-License-Identifier: Apache-2.0
"""
Where a frame may have been taken, asked of whoever has an idea; nobody need be sure.

A source proposes poses without a guess. What they are worth is found out by `relocalize`, which
does not care where they came from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.sensing.frame import Frame

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A pose to be verified; scores order the candidates of one source and mean nothing else."""

    T_world_cam: Array
    score: float


class CandidateSource(Protocol):
    """Proposes poses of a frame's reference camera."""

    def candidates(self, frame: Frame, count: int) -> list[Candidate]:
        """
        At most `count` poses, the best first; the same for the same frame.

        The frame's images are free of what the map knows its cameras to add (vignetting).
        """


def best_apart(poses: Array, scores: Array, count: int, apart_m: float, apart_rad: float,
               ) -> list[int]:
    """Indices of the best poses (n, 4, 4), no two close together in place and direction."""
    kept: list[int] = []
    free = np.ones(len(poses), dtype=np.bool_)
    for k in np.argsort(-scores, kind='stable'):
        if free[k]:
            kept.append(int(k))
            free &= ~_close(poses, poses[k], apart_m, apart_rad)
        if len(kept) == count:
            break
    return kept


def distinct(poses: Sequence[Array], apart_m: float, apart_rad: float) -> list[int]:
    """Indices of poses that are not close to an earlier one."""
    order = -np.arange(len(poses), dtype=np.float64)
    return best_apart(np.array(poses).reshape(-1, 4, 4), order, len(poses), apart_m, apart_rad)


def _close(poses: Array, T: Array, apart_m: float, apart_rad: float) -> NDArray[np.bool_]:
    metres = np.linalg.norm(poses[:, :3, 3] - T[:3, 3], axis=1)
    traces = np.einsum('nij,ij->n', poses[:, :3, :3], T[:3, :3])
    angle = np.arccos(np.clip(0.5 * (traces - 1.0), -1.0, 1.0))
    return np.asarray((metres < apart_m) & (angle < apart_rad))

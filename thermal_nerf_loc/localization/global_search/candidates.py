# SPDX-License-Identifier: Apache-2.0
"""
Candidate poses of a frame, and the interface of what proposes them.

Candidates may be wrong: the search verifies each against the images (`verification`), whatever
proposed it. Give a `CandidateSource` to `Localizer` to use another than the map's panoramas.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.sensing.frame import Frame


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A pose to be verified; scores order the candidates of one source and mean nothing else."""

    T_world_cam: NDArray[np.float64]
    score: float


class CandidateSource(Protocol):
    """Proposes poses of a frame's reference camera."""

    def candidates(self, frame: Frame, count: int) -> list[Candidate]:
        """
        At most `count` poses, the best first; the same for the same frame.

        The map's flat field (vignetting, fixed pattern) is already subtracted from the images.
        """

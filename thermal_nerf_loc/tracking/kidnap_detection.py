# SPDX-License-Identifier: Apache-2.0
"""
How far to trust a pose that the images contradict: the robot may have been carried away.

Two hypotheses: it is where the filter says, or somewhere else within `sigma`. Images that
contradict for `time_s` make the second ten times as likely; what is told is the spread of both
together, `P + p S` with p the probability of being elsewhere and S its spread.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_PRIOR_DECADES = 3.0  # nobody carries a robot: odds of one to a thousand
_MOST_AT_ONCE = 2.0  # decades: no single image decides
_NS = 1e-9


@dataclass(frozen=True, slots=True)
class KidnapEvidence:
    """What speaks against a pose, in decades of odds, and when images were last held to it."""

    tested_ns: int
    decades: float = 0.0

    def contradicted(self, stamp_ns: int, time_s: float) -> 'KidnapEvidence':
        """
        After an image that disagrees.

        Images of one moment share their causes (blur, somebody in the way), so that time counts
        and not their number.
        """
        span_s = max(stamp_ns - self.tested_ns, 0) * _NS
        return replace(self, tested_ns=stamp_ns,
                       decades=self.decades + min(span_s / time_s, _MOST_AT_ONCE))

    @property
    def elsewhere(self) -> float:
        """Probability that the robot is elsewhere; none before the first contradiction."""
        if self.decades <= 0.0:
            return 0.0
        return float(1.0 / (1.0 + 10.0**(_PRIOR_DECADES - self.decades)))

# SPDX-License-Identifier: Apache-2.0
"""What is believed of a pose: a Gaussian on SE(3), over the right tangent (v, w)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.geometry import se3

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class PoseGaussian:
    """A Gaussian on SE(3)."""

    T: Array
    P: Array

    def moved(self, delta: Array, Q: Array) -> 'PoseGaussian':
        """After the motion `delta` (in the camera), whose uncertainty is `Q`."""
        A = se3.adjoint(se3.inverse(delta))
        return PoseGaussian(self.T @ delta, A @ self.P @ A.T + Q)

    def disagreement(self, other: 'PoseGaussian') -> float:
        """Squared Mahalanobis distance."""
        xi = se3.minus(other.T, self.T)
        return float(xi @ np.linalg.solve(self.P + other.P, xi))

    def fused(self, other: 'PoseGaussian') -> 'PoseGaussian':
        """The product of two beliefs."""
        gain = self.P @ np.linalg.inv(self.P + other.P)
        P = (np.eye(6) - gain) @ self.P
        return PoseGaussian(se3.plus(self.T, gain @ se3.minus(other.T, self.T)), 0.5 * (P + P.T))


def diagonal(sigma_m: float, sigma_deg: float) -> Array:
    """Covariance of independent axes."""
    return np.diag(np.repeat((sigma_m**2, np.deg2rad(sigma_deg)**2), 3))

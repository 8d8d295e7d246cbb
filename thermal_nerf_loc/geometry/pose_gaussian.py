# SPDX-License-Identifier: Apache-2.0
"""An uncertain pose: a Gaussian on SE(3), with its covariance over the right tangent (v, w)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.geometry import se3

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class PoseGaussian:
    """A Gaussian on SE(3): `T exp(xi)` with xi ~ N(0, P), xi = (v, w) in m and rad."""

    T: Array  # (4, 4)
    P: Array  # (6, 6)

    def moved(self, delta: Array, Q: Array) -> 'PoseGaussian':
        """The pose after a motion `delta` (4, 4), in its own frame, of covariance `Q`."""
        A = se3.adjoint(se3.inverse(delta))
        return PoseGaussian(self.T @ delta, A @ self.P @ A.T + Q)

    def disagreement(self, other: 'PoseGaussian') -> float:
        """Squared Mahalanobis distance of two independent estimates (chi-square, 6 degrees)."""
        xi = se3.minus(other.T, self.T)
        return float(xi @ np.linalg.solve(self.P + other.P, xi))

    def fused(self, other: 'PoseGaussian') -> 'PoseGaussian':
        """The product of two independent Gaussians (Kalman update)."""
        gain = self.P @ np.linalg.inv(self.P + other.P)
        P = (np.eye(6) - gain) @ self.P
        return PoseGaussian(se3.plus(self.T, gain @ se3.minus(other.T, self.T)), 0.5 * (P + P.T))


def diagonal(sigma_m: float, sigma_deg: float) -> Array:
    """Covariance of independent axes."""
    return np.diag(np.repeat((sigma_m**2, np.deg2rad(sigma_deg)**2), 3))

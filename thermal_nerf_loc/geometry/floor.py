# SPDX-License-Identifier: Apache-2.0
"""
The floor: the lowest large plane below the cameras, found by RANSAC (Fischler and Bolles, 1981).

Planes through three points are tried whose normal is near to up, above which nearly all points and
all cameras lie. The best one has most points on it and fewest below: a plane that cuts walls and
furniture has a strip of them on it, too. It is fitted to its points by least squares.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.geometry import se3

Array = NDArray[np.float64]

UP = np.array([0.0, 0.0, 1.0])
_TRIES = 1500
_LOWEST = 0.02, 0.6  # share of the points that three are drawn from
_MOST_POINTS = 4000
_TOLERANCE = 0.015  # of the median distance from a camera to the points: what lies on the plane
_ABOVE = 0.93  # share of the points that lie on a floor or above it
_LEAST_SHARE, _LEAST_POINTS = 0.01, 30  # of the points that lie on it
_STANDS_OUT = 1.3  # times the points in as thick a layer above it
_LEAST_WIDTH = 0.25  # of the extent of all points, in both directions
_MOST_TILT_DEG = 20.0
_FITS = 1.0, 0.6, 0.4, 0.4  # share of the tolerance


@dataclass(frozen=True, slots=True, eq=False)
class Floor:
    """A plane: `height = normal @ point + offset`, and the share of the points that lie on it."""

    normal: Array  # (3,), a unit vector, upwards
    offset: float
    share: float = 0.0

    @property
    def tilt_rad(self) -> float:
        """Angle between its normal and the z axis."""
        return float(np.arccos(np.clip(self.normal @ UP, -1.0, 1.0)))

    def heights(self, points: NDArray[Any]) -> Array:
        """Heights of points (n, 3) above it."""
        return np.asarray(points @ self.normal + self.offset)

    def levelling(self) -> Array:
        """The smallest motion (4, 4) that brings it to z = 0, its normal to z."""
        axis, cosine = np.cross(self.normal, UP), float(self.normal @ UP)
        sine = float(np.linalg.norm(axis))
        R = (np.eye(3) if sine < 1e-12 else
             np.asarray(se3.so3_exp(axis / sine * np.arctan2(sine, cosine))))
        return se3.from_parts(R, np.array([0.0, 0.0, self.offset]))


def find_floor(points: NDArray[Any], eyes: NDArray[Any], seed: int = 0) -> Floor | None:
    """Find the floor under cameras at `eyes` (m, 3) among surface points (n, 3); None: unseen."""
    points, eyes = np.asarray(points, np.float64), np.asarray(eyes, np.float64)
    points = points[np.isfinite(points).all(axis=1)]
    if len(points) < _LEAST_POINTS or not len(eyes):
        return None
    rng = np.random.default_rng([seed, 61])
    some = rng.permutation(points)[:_MOST_POINTS]
    tolerance = _TOLERANCE * _median_distance(some, eyes)
    best = _best_plane(some, eyes, tolerance, rng)
    if best is None:
        return None
    for part in _FITS:  # ever closer to it: walls stand on the floor, and pull the plane up
        on = np.abs(best.heights(points)) < part * tolerance
        if on.sum() < _LEAST_POINTS:
            break
        best = _fitted(points[on])
    on = np.abs(best.heights(points)) < tolerance
    share = float(on.mean())
    if (share < _LEAST_SHARE or on.sum() < _LEAST_POINTS or not _is_wide(points[on], points)
            or not _stands_out(best.heights(points), _FITS[-1] * tolerance)):
        return None
    return Floor(best.normal, best.offset, share)


def _best_plane(points: Array, eyes: Array, tolerance: float, rng: np.random.Generator,
                ) -> Floor | None:
    by_height = points[np.argsort(points[:, 2])]
    # three of the lowest points: nobody knows how many of them are the floor's
    share = np.exp(rng.uniform(np.log(_LOWEST[0]), np.log(_LOWEST[1]), (_TRIES, 1)))
    triples = by_height[(share * rng.random((_TRIES, 3)) * len(points)).astype(int)]
    normals = np.cross(triples[:, 1] - triples[:, 0], triples[:, 2] - triples[:, 0])
    lengths = np.linalg.norm(normals, axis=1)
    normals /= np.maximum(lengths, 1e-12)[:, None]
    normals *= np.where(normals[:, 2] < 0.0, -1.0, 1.0)[:, None]
    good = (lengths > 1e-12) & (normals[:, 2] > np.cos(np.deg2rad(_MOST_TILT_DEG)))
    normals, offsets = normals[good], -np.einsum('nk,nk->n', normals[good], triples[good, 0])
    best, most = None, 0
    for normal, offset in zip(normals, offsets, strict=True):
        heights = points @ normal + offset
        below = int(np.count_nonzero(heights < -tolerance))
        score = int(np.count_nonzero(np.abs(heights) < tolerance)) - below
        if (score > most and below <= (1.0 - _ABOVE) * len(points)
                and (eyes @ normal + offset > tolerance).all()):
            best, most = Floor(normal, float(offset)), score
    return best


def _fitted(points: Array) -> Floor:
    """The plane with the least squares of distances to points (n, 3)."""
    middle = points.mean(axis=0)
    _, _, axes = np.linalg.svd(points - middle, full_matrices=False)
    normal = axes[2] * (1.0 if axes[2, 2] >= 0.0 else -1.0)
    return Floor(normal, float(-normal @ middle))


def _stands_out(heights: Array, tolerance: float) -> bool:
    """Whether more points lie on it than in a layer above: the lower end of walls is no floor."""
    on = np.count_nonzero(np.abs(heights) < tolerance)
    above = np.count_nonzero((heights >= tolerance) & (heights < 3.0 * tolerance))
    return bool(on >= _STANDS_OUT * above)


def _is_wide(on: Array, points: Array) -> bool:
    """Whether what lies on the plane reaches far in both horizontal directions."""
    def widths(these: Array) -> Array:
        _, _, axes = np.linalg.svd(on[:, :2] - on[:, :2].mean(axis=0), full_matrices=False)
        low, high = np.quantile(these[:, :2] @ axes.T, (0.05, 0.95), axis=0)
        return np.asarray(high - low)

    return bool((widths(on) >= _LEAST_WIDTH * widths(points)).all())


def _median_distance(points: Array, eyes: Array) -> float:
    eye = np.median(eyes, axis=0)
    return float(np.median(np.linalg.norm(points - eye, axis=1)))

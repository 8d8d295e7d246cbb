# SPDX-License-Identifier: Apache-2.0
"""
Which tiles show a position, and how much each counts.

A tile counts as the distance d of its nearest camera says: (1 - (d - d_nearest) / overlap), 0
where that is negative; the weights sum to one. So they change smoothly along any path: in the
middle of a tile one alone counts, between two both, half each where both are as near.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

Array = NDArray[np.float64]



class TileWeights:
    """Weights of tiles by positions."""

    def __init__(self, positions: Array, owner: NDArray[np.int64], overlap_m: float) -> None:
        """Positions (n, 3) of cameras, and the tile of each."""
        self._tree, self._owner = cKDTree(positions), owner
        self._count, self._overlap_m = int(owner.max()) + 1, overlap_m
        self._trees = [cKDTree(positions[owner == k]) for k in range(self._count)]

    def owner_at(self, position: ArrayLike) -> int:
        """The tile of the nearest camera."""
        return int(self._owner[self._tree.query(np.asarray(position, np.float64))[1]])

    def at(self, position: ArrayLike) -> dict[int, float]:
        """Weights of the tiles that count at one position, the greatest first."""
        point = np.asarray(position, np.float64)
        nearest = float(self._tree.query(point)[0])
        inside = self._tree.query_ball_point(point, nearest + self._overlap_m)
        weights = {}
        for tile in np.unique(self._owner[inside]).tolist():
            far = float(self._trees[tile].query(point)[0])
            weights[tile] = max(1.0 - (far - nearest) / self._overlap_m, 0.0)
        total = sum(weights.values())
        return dict(sorted(((tile, weight / total) for tile, weight in weights.items()
                            if weight > 0.0), key=lambda pair: -pair[1]))

    def near(self, position: ArrayLike, reach_m: float) -> list[int]:
        """Tiles with a camera within reach, the nearest first."""
        point = np.asarray(position, np.float64)
        far = np.array([tree.query(point)[0] for tree in self._trees])
        return [int(tile) for tile in np.argsort(far, kind='stable') if far[tile] <= reach_m]

# SPDX-License-Identifier: Apache-2.0
"""Which way a surface faces at each of its points."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Array32 = NDArray[np.float32]

_NEIGHBOURS = 12


def estimate_normals(points_m: Array32, seen_from_m: Array32) -> Array32:
    """
    Unit normals (n, 3), each towards the camera that saw the point.

    The direction in which a point's neighbours spread least; with fewer than three points, the
    direction to the camera.
    """
    towards = seen_from_m - points_m
    towards /= np.maximum(np.linalg.norm(towards, axis=1, keepdims=True), 1e-9)
    if len(points_m) < 3:
        return towards.astype(np.float32)
    count = min(_NEIGHBOURS, len(points_m))
    _, near = cKDTree(points_m).query(points_m, k=count)
    around = points_m[near].astype(np.float64)
    around -= around.mean(axis=1, keepdims=True)
    _, axes = np.linalg.eigh(np.einsum('nki,nkj->nij', around, around))
    normals = axes[:, :, 0]
    normals *= np.where(np.einsum('ij,ij->i', normals, towards) < 0.0, -1.0, 1.0)[:, None]
    return normals.astype(np.float32)

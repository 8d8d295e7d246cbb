# SPDX-License-Identifier: Apache-2.0
"""
Agree on levels: tiles show the same temperature and the same brightness where they overlap.

Each tile learns the drift of its own images, so its level is free by a little. Neighbours render
the same rays from cameras of the overlap; the medians of their differences are what the offsets
o of the tiles have to explain, in least squares: o_b - o_a = d_ab, the mean of all being 0.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.mapping.map.panoramas import sphere
from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
from thermal_nerf_loc.sensing.frame import RGB
from thermal_nerf_loc.sensing.rendering import sureness

Array = NDArray[np.float64]

_RAYS, _VIEWS = 200, 12  # from each of so many cameras of an overlap
_FEWEST = 50  # rays that both tiles are sure of
_SURE, _SAME = 0.3, 0.1  # least confidence; share of the distance in which both must agree
_DARK = 0.03


def differences(one: RadianceMap, other: RadianceMap, modality: str, cameras: Array,
                ) -> tuple[float, int]:
    """
    Median of `one` minus `other` as seen from cameras (n, 3), and of how many rays.

    Of temperatures in deg C, of colours in logarithms.
    """
    chosen = cameras[::max(1, -(-len(cameras) // _VIEWS))]
    directions = np.tile(sphere(_RAYS), (len(chosen), 1)).astype(np.float32)
    origins = np.repeat(chosen, _RAYS, axis=0).astype(np.float32)
    a, b = (tile.render_rays(modality, origins, directions) for tile in (one, other))
    good = np.abs(a.distance_m - b.distance_m) < _SAME * a.distance_m
    for rendering in (a, b):
        good &= sureness(rendering.distance_m, rendering.spread_m, rendering.opacity,
                         rendering.distance_m > 0.0) > _SURE
    if modality == RGB:
        x, y = a.values.mean(axis=1), b.values.mean(axis=1)
        good &= (x > _DARK) & (y > _DARK)
        apart = np.log(np.maximum(x, _DARK)) - np.log(np.maximum(y, _DARK))
    else:
        apart = (a.values - b.values)[:, 0]
    count = int(good.sum())
    return (float(np.median(apart[good])) if count >= _FEWEST else 0.0), count


def offsets(count: int, pairs: Mapping[tuple[int, int], tuple[float, int]]) -> Array:
    """What to add to each tile (count,); `pairs`: (a, b) to a's level minus b's and its rays."""
    known = {pair: found for pair, found in pairs.items() if found[1] >= _FEWEST}
    rows, right = [np.full(count, 1e-3)], [0.0]
    for (a, b), (apart, rays) in known.items():
        row = np.zeros(count)
        row[b], row[a] = 1.0, -1.0
        weight = float(np.sqrt(rays))
        rows.append(weight * row)
        right.append(weight * apart)
    return np.asarray(np.linalg.lstsq(np.array(rows), np.array(right), rcond=None)[0])


def agreed(tiles: Callable[[int], RadianceMap], count: int, modality: str,
           overlaps: Sequence[tuple[int, int, Array]]) -> tuple[Array, float]:
    """Offsets of all tiles, by cameras of their overlaps; and the greatest step that is left."""
    pairs = {(a, b): differences(tiles(a), tiles(b), modality, cameras)
             for a, b, cameras in overlaps if len(cameras)}
    found = offsets(count, pairs)
    left = [abs(apart + found[a] - found[b]) for (a, b), (apart, rays) in pairs.items()
            if rays >= _FEWEST]
    return found, max(left, default=0.0)

# SPDX-License-Identifier: Apache-2.0
"""Weights of tiles: one inside, half each between, and never a step."""

import numpy as np

from thermal_nerf_loc.mapping.tiles.tile_weights import TileWeights


def weights_on_a_line(overlap_m=1.0):
    x = np.arange(0.0, 10.0, 0.25)
    positions = np.column_stack([x, np.zeros_like(x), np.zeros_like(x)])
    return TileWeights(positions, (x >= 5.0).astype(np.int64), overlap_m)


def test_one_tile_counts_inside_and_both_in_the_middle():
    weights = weights_on_a_line()
    assert weights.at((1.0, 0.0, 0.0)) == {0: 1.0}
    assert weights.at((9.0, 0.3, 0.0)) == {1: 1.0}
    middle = weights.at((4.875, 0.0, 0.0))
    np.testing.assert_allclose([middle[0], middle[1]], 0.5)
    assert weights.owner_at((4.0, 1.0, 0.0)) == 0


def test_weights_change_smoothly_and_sum_to_one():
    weights = weights_on_a_line()
    rows = np.array([[weights.at((x, 0.2, 0.1)).get(k, 0.0) for k in (0, 1)]
                     for x in np.linspace(2.0, 8.0, 601)])
    np.testing.assert_allclose(rows.sum(axis=1), 1.0)
    assert np.abs(np.diff(rows, axis=0)).max() < 0.03  # in a step of a centimetre
    assert (rows[0] == (1.0, 0.0)).all() and (rows[-1] == (0.0, 1.0)).all()


def test_tiles_within_reach_come_nearest_first():
    weights = weights_on_a_line()
    assert weights.near((4.0, 0.0, 0.0), 3.0) == [0, 1]
    assert weights.near((6.0, 0.0, 0.0), 0.5) == [1]

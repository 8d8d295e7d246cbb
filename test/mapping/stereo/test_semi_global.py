# SPDX-License-Identifier: Apache-2.0
"""Aggregation against plain numpy; fractions of a plane; ambiguity."""

import numpy as np
import pytest

from thermal_nerf_loc.mapping.stereo import reference, semi_global
from thermal_nerf_loc.mapping.stereo.plane_sweep import COST_STEPS

SMALL, LARGE, EDGE = np.float32(0.08), np.float32(0.6), np.float32(0.2)


def aggregated(cost, image):
    """Both passes of the compiled kernel."""
    summed = np.zeros(cost.shape, np.float32)
    for forward in (True, False):
        semi_global.aggregate(cost, image, SMALL, LARGE, EDGE, summed, forward)
    return summed


def selected(summed, cost):
    """Plane, cost and margin."""
    out = [np.empty(cost.shape[:2], np.float32) for _ in range(3)]
    semi_global.select(summed, cost, *out)
    return out


@pytest.mark.parametrize('shape', [(9, 13, 10), (1, 7, 4), (6, 1, 3), (1, 1, 5)])
def test_kernels_agree(shape):
    """Eight paths, in images of a single row, column or pixel too."""
    rng = np.random.default_rng(shape[0])
    cost = rng.integers(0, 65536, shape).astype(np.uint16)
    image = rng.random(shape[:2], dtype=np.float32)
    expected = reference.aggregate(cost / float(COST_STEPS), image, float(SMALL), float(LARGE),
                                   float(EDGE))
    np.testing.assert_allclose(aggregated(cost, image), expected, atol=1e-4)


def test_noise_is_smoothed_and_a_step_stays():
    """Two walls with wrong matches: a step in depth where the image has an edge."""
    rng = np.random.default_rng(0)
    true = np.where(np.arange(40) < 20, 5, 14)[None].repeat(30, axis=0)
    cost = np.where(np.arange(20) == true[..., None], 0.2, rng.uniform(0.3, 0.9, (30, 40, 20)))
    wrong = rng.random((30, 40)) < 0.3
    cost[wrong] = rng.uniform(0.2, 0.9, (wrong.sum(), 20))
    cost = (cost * COST_STEPS).astype(np.uint16)
    image = (true > 10).astype(np.float32)
    plane, _, margin = selected(aggregated(cost, image), cost)
    assert (np.abs(plane - true) < 1.6).mean() > 0.97
    assert (np.abs(cost.argmin(axis=-1) - true) > 1).mean() > 0.15
    assert (margin > 0.0).mean() > 0.97


def test_fractions_of_a_plane_and_ambiguity():
    """The lowest point of a parabola; two equal minima have no margin."""
    k = np.arange(12, dtype=np.float32)
    summed = np.stack([(k - 4.3)**2 + 1.0, (k - 11.0)**2 + 1.0,
                       np.minimum((k - 2)**2, (k - 9)**2) + 1.0])[None].astype(np.float32)
    cost = np.full(summed.shape, 65535, np.uint16)
    plane, least, margin = selected(summed, cost)
    assert plane[0, 0] == pytest.approx(4.3, abs=1e-4)
    assert plane[0, 1] == 11.0
    assert margin[0, 0] > 0.5 and margin[0, 2] == pytest.approx(0.0, abs=1e-5)
    assert (least == 1.0).all()

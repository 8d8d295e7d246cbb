# SPDX-License-Identifier: Apache-2.0
"""The compiled sweep against plain numpy, and what it must find."""

import numpy as np
import pytest

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.mapping.stereo import plane_sweep, reference


def stacked(images):
    """Images one after the other, their starts and sizes."""
    starts = np.cumsum([0] + [image.size for image in images])[:-1]
    return (np.concatenate([image.ravel() for image in images]), starts.astype(np.int64),
            np.array([image.shape for image in images], np.int64))


def swept(view, images, A, b, inverse, noise=0.01):
    """Cost of the compiled kernel, in units of 1."""
    cost = np.empty((*view.shape, len(inverse)), np.uint16)
    plane_sweep.sweep(view, *stacked(images), A, b, inverse, np.float32(noise), cost)
    return cost / float(plane_sweep.COST_STEPS)


@pytest.mark.parametrize('shape, sizes', [
    ((24, 31), [(24, 31)]), ((9, 8), [(12, 40), (8, 8)]), ((1, 50), [(20, 20)] * 3),
    ((30, 17), [(25, 33), (30, 17), (8, 60), (41, 12)])])
def test_kernels_agree(shape, sizes):
    """Any sizes, homographies that turn, tilt and look away."""
    rng = np.random.default_rng(sum(shape))
    view = rng.normal(size=shape).astype(np.float32)
    images = [rng.normal(size=size).astype(np.float32) for size in sizes]
    A = np.stack([np.eye(3) + rng.normal(size=(3, 3)) * [[0.05] * 3, [0.05] * 3, [1e-3] * 3]
                  for _ in sizes])
    A[-1, 2, 2] = -1.0 if len(sizes) == 2 else 1.0  # behind the camera
    b = rng.normal(size=(len(sizes), 3)) * (8.0, 5.0, 0.02)
    inverse = np.linspace(1.0, 0.0, 11)
    expected = reference.sweep(view.astype(float), [image.astype(float) for image in images], A, b,
                               inverse, 0.01)
    np.testing.assert_allclose(swept(view, images, A, b, inverse), expected, atol=2e-3)
    assert expected.std() > 0.01 or len(sizes) == 2


def test_gain_and_offset_do_not_matter():
    """An image that drifted matches as well; one that moved matches where it moved to."""
    rng = np.random.default_rng(0)
    view = rng.normal(size=(40, 60)).astype(np.float32)
    moved = 3.0 * np.roll(view, 5, axis=1) + 7.0
    inverse = np.linspace(10.0, 0.0, 11)
    cost = swept(view, [moved.astype(np.float32)], np.eye(3)[None], np.array([[1.0, 0.0, 0.0]]),
                 inverse, 1e-4)
    inner = cost[10:-10, 10:-20]
    assert (inner.argmin(axis=-1) == 5).mean() > 0.99
    assert inner[..., 5].max() < 0.01


def test_a_point_hidden_from_half_of_the_views_is_found():
    """The best half counts: two of four neighbours show something else."""
    rng = np.random.default_rng(1)
    view = rng.normal(size=(30, 40)).astype(np.float32)
    other = [rng.normal(size=view.shape).astype(np.float32) for _ in range(2)]
    cost = swept(view, [view, *other, view], np.tile(np.eye(3), (4, 1, 1)), np.zeros((4, 3)),
                 np.array([1.0, 0.5]), 1e-4)
    assert cost.max() < 0.01


def test_a_view_that_turned_matches_by_its_homography():
    """A of a pure rotation: the plane does not matter."""
    K = np.array([[50.0, 0.0, 30.0], [0.0, 50.0, 20.0], [0.0, 0.0, 1.0]])
    A = K @ se3.so3_exp([0.0, 0.04, 0.0]) @ np.linalg.inv(K)
    y, x = np.mgrid[:40, :60] + 0.5
    def picture(u, v):
        return (np.sin(0.7 * u) * np.cos(0.5 * v) + 0.3 * np.sin(1.1 * v)).astype(np.float32)

    view = picture(x, y)
    p = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(A).T
    neighbour = picture(p[..., 0] / p[..., 2], p[..., 1] / p[..., 2])
    cost = swept(view, [neighbour], A[None], np.zeros((1, 3)), np.array([1.0, 0.1]), 1e-4)
    assert np.median(cost[8:-8, 8:-8]) < 0.02

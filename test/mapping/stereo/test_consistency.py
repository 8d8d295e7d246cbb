# SPDX-License-Identifier: Apache-2.0
"""The multi-view check against brute force, and what it says of planes, occlusion, conflict."""

import numpy as np
import pytest

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.mapping.stereo import consistency

CAMERA = np.array([40.0, 42.0, 15.5, 12.0])


def compared(depth, others, cameras, T_other_view, tolerance=0.02, camera=CAMERA):
    """What `compare` fills: fused, agreeing, conflicting, spread."""
    starts = np.cumsum([0] + [other.size for other in others])[:-1].astype(np.int64)
    sizes = np.array([other.shape for other in others], np.int64)
    out = (np.empty_like(depth), np.empty(depth.shape, np.int32), np.empty(depth.shape, np.int32),
           np.empty_like(depth))
    consistency.compare(depth, camera, np.concatenate([other.ravel() for other in others]), starts,
                        sizes, np.stack(cameras), np.stack(T_other_view), tolerance, *out)
    return out


def brute_force(depth, others, cameras, T_other_view, tolerance):
    """The same by matrices, point by point."""
    fused, agreeing, conflicting = depth.copy(), np.zeros(depth.shape), np.zeros(depth.shape)
    for y, x in np.ndindex(depth.shape):
        z = depth[y, x]
        if z <= 0.0:
            continue
        inverse = [1.0 / z]
        p = np.array([(x + 0.5 - CAMERA[2]) / CAMERA[0], (y + 0.5 - CAMERA[3]) / CAMERA[1], 1]) * z
        for other, (fx, fy, cx, cy), T in zip(others, cameras, T_other_view, strict=True):
            q = se3.transform(T, p[None])[0]
            i, j = np.floor([q[0] / q[2] * fx + cx, q[1] / q[2] * fy + cy]).astype(int)
            if q[2] <= 0 or not (0 <= j < other.shape[0] and 0 <= i < other.shape[1]):
                continue
            d = float(other[j, i])
            if d <= 0.0:
                continue
            if d / q[2] - 1.0 > tolerance:
                conflicting[y, x] += 1
            elif d / q[2] - 1.0 > -tolerance:
                agreeing[y, x] += 1
                seen = np.array([(i + 0.5 - cx) / fx, (j + 0.5 - cy) / fy, 1.0]) * d
                inverse.append(1.0 / se3.transform(se3.inverse(T), seen[None])[0, 2])
        fused[y, x] = 1.0 / np.mean(inverse)
    return fused, agreeing, conflicting


def test_it_is_what_brute_force_finds():
    """Random depths with holes, views of other sizes and lenses."""
    rng = np.random.default_rng(0)
    depth = rng.uniform(1.9, 2.2, (24, 31)).astype(np.float32)
    depth[rng.random(depth.shape) < 0.2] = 0.0
    others = [rng.uniform(1.9, 2.2, shape).astype(np.float32) for shape in ((24, 31), (10, 40))]
    others[0][:5] = 0.0
    cameras = [CAMERA, np.array([50.0, 20.0, 20.0, 5.0])]
    T = [se3.exp(rng.normal(size=6) * 0.05) for _ in others]
    found = compared(depth, others, cameras, T, 0.05)
    expected = brute_force(depth, others, cameras, T, 0.05)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(found[2], expected[2])
    assert found[1].max() == 2 and found[2].max() == 2


def test_a_nearer_surface_hides_and_a_farther_one_conflicts():
    """A wall at 2 m, seen by a view 0.1 m beside, which sees it, or 1 m, or 3 m."""
    wall = np.full((24, 31), 2.0, np.float32)
    T = se3.from_parts(np.eye(3), [-0.1, 0.0, 0.0])
    for seen, agree, conflict in ((2.0, 1, 0), (1.0, 0, 0), (3.0, 0, 1)):
        fused, agreeing, conflicting, spread = compared(
            wall, [np.full_like(wall, seen)], [CAMERA], [T])
        inner = (slice(2, -2), slice(6, -2))
        assert (agreeing[inner] == agree).all() and (conflicting[inner] == conflict).all()
        np.testing.assert_allclose(fused, 2.0, rtol=1e-6)
        assert spread.max() < 1e-6


def test_agreeing_depths_are_averaged_in_inverse_depth():
    wall = np.full((8, 8), 2.0, np.float32)
    fused, agreeing, _, spread = compared(wall, [np.full_like(wall, 2.02)], [CAMERA], [np.eye(4)])
    assert (agreeing == 1).all()
    np.testing.assert_allclose(fused, 2.0 / (1.0 / 2.0 + 1.0 / 2.02), rtol=1e-6)
    np.testing.assert_allclose(spread, 0.01, rtol=1e-3)


def interpolated(depth, at, same=1.03):
    """Depth and confidence at pixels."""
    out, sure = np.zeros((2, *at.shape[:2]), np.float32)
    consistency.interpolate(depth, np.full_like(depth, 0.7), np.asarray(at, np.float32), same, out,
                            sure)
    return out, sure


def test_between_pixels_on_a_plane_and_at_pixels():
    """Inverse depth is linear on a plane; at a pixel its own depth counts, even at an edge."""
    y, x = np.mgrid[:20, :30]
    depth = (1.0 / (0.5 + 0.002 * x + 0.003 * y)).astype(np.float32)
    at = np.random.default_rng(0).uniform(0.0, 1.0, (9, 9, 2)) * (29, 19)
    out, sure = interpolated(depth, at)
    np.testing.assert_allclose(1.0 / out, 0.5 + 0.002 * at[..., 0] + 0.003 * at[..., 1], rtol=1e-5)
    np.testing.assert_allclose(sure, 0.7)
    depth[:, 15:] = 9.0
    out, _ = interpolated(depth, np.stack([x, y], axis=-1))
    np.testing.assert_allclose(out, depth, rtol=1e-6)


def test_edges_are_not_smeared():
    """Between two surfaces, between known and unknown, and outside: nothing."""
    depth = np.where(np.arange(10) < 5, 1.0, 2.0)[None].repeat(10, 0).astype(np.float32)
    depth[7:] = 0.0
    at = np.array([[[4.5, 3.0], [2.0, 6.5], [-0.6, 3.0], [3.4, 2.0], [-0.4, 2.0]]])
    out, sure = interpolated(depth, at)
    assert out[0].tolist() == [0.0, 0.0, 0.0, 1.0, 1.0]
    assert (sure[0] > 0.0).tolist() == [False, False, False, True, True]
    assert out[0, 3] == pytest.approx(1.0)

# SPDX-License-Identifier: Apache-2.0
"""
Draw the pixels that hold the pose best, by their leverage on its six degrees of freedom.

A pixel adds `w J^T J / variance` to the information `H` about the pose (`aligner.py`). Its
leverage is the share of the six degrees of freedom that it decides:

    leverage = w J H^-1 J^T / variance        (all of them add up to 6)

A pixel counts the more, the steeper the image is across a direction that few others hold (Ma,
Mahoney and Yu, "A statistical perspective on algorithmic leveraging", 2015). Nothing is rendered
for it: depth and sureness are carried over from points that are there already.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.localization.refinement import alignment_kernels
from thermal_nerf_loc.localization.refinement.aligner import LinearizedView
from thermal_nerf_loc.localization.refinement.image_pyramid import ObservedImage

Array = NDArray[np.float64]

_DEPTH_CELLS = 40  # across the longer side of the image: depth and sureness between the points
_SPREAD_CELLS = 1.5  # sigma by which each point reaches around
_EVEN_SHARE = 0.2  # of the draw is even over the image: where residuals are not as expected
_DRAW_CELLS = 8  # across the longer side: each gets as many pixels as its leverage asks for
_WEAK = 1e-9  # of the mean information: holds directions that no pixel holds


@dataclass(frozen=True, slots=True, eq=False)
class PixelInformation:
    """Pixels of one image that may be drawn, and what each says about the pose."""

    uv: Array  # (n, 2) pixel centres of the observed image
    rows: Array  # (n, channels, 6): sqrt(w / variance) J

    def __len__(self) -> int:
        """How many there are."""
        return len(self.uv)

    def taken(self, which: NDArray[np.intp]) -> 'PixelInformation':
        """Some of them."""
        return PixelInformation(self.uv[which], self.rows[which])


def information_of_rows(rows: Array) -> Array:
    """Sum of `row^T row` (6, 6) over all rows."""
    flat = rows.reshape(-1, 6)
    return np.asarray(flat.T @ flat)


def predict_information(image: ObservedImage, aligned: LinearizedView, cutoff: float,
                        edge_px: float, uv: Array) -> PixelInformation:
    """
    What the pixels `uv` (n, 2) of an image would add, were they rendered at the aligned pose.

    `aligned` holds points of the same image at that pose: their depths, and how well they fit.
    """
    level = aligned.view.level
    distance, sure = _between_points(image, aligned, cutoff, uv)
    points = se3.transform(image.T_cam_sensor, image.camera.unproject(uv) * distance[:, None])
    still, T_sensor_cam = np.eye(4), se3.inverse(image.T_cam_sensor)
    _, J, energy, seen = alignment_kernels.sample_image(
        points, still[:3, :3], still[:3, 3], T_sensor_cam[:3, :3], T_sensor_cam[:3, 3],
        alignment_kernels.lens(level.camera), level.samples)  # sliced: compiled already
    weight = np.where(seen, sure, 0.0)[:, None] * (level.signal * aligned.view.trust)
    root = np.sqrt(weight / (aligned.scale**2 + edge_px**2 * energy))
    return PixelInformation(uv, J * root[..., None])


def leverage(rows: Array, information: Array) -> Array:
    """Share (n,) of the six degrees of freedom that each pixel decides."""
    weak = _WEAK * max(float(np.trace(information)), 1e-30) / 6.0
    L = np.linalg.cholesky(information + weak * np.eye(6))
    return np.asarray(((rows @ np.linalg.inv(L).T)**2).sum(axis=(1, 2)))


def draw_by_leverage(pixels: PixelInformation, leverages: Array, count: int, size: tuple[int, int],
                     rng: np.random.Generator) -> NDArray[np.intp]:
    """
    Draw `count` pixels by leverage, spread over the image; all where there are no more.

    Systematic sampling along the cells of a grid: every cell gets its share, but for rounding.
    """
    n = len(pixels)
    if count >= n:
        return np.arange(n)
    share = leverages / max(float(leverages.sum()), 1e-30)
    expected = _at_most_one(count * ((1.0 - _EVEN_SHARE) * share + _EVEN_SHARE / n), count)
    column, row = (pixels.uv * (_DRAW_CELLS / max(size))).astype(np.intp).T
    order = np.argsort(row * _DRAW_CELLS + column, kind='stable')
    ends = np.cumsum(expected[order])
    marks = np.arange(count) + rng.random()
    return np.unique(order[np.minimum(np.searchsorted(ends, marks, 'right'), n - 1)])


def _at_most_one(expected: Array, count: int) -> Array:
    """Expected draws of each pixel, none above 1, that still add up to `count`."""
    for _ in range(10):
        full = expected >= 1.0
        rest = float(expected[~full].sum())
        if rest <= 0.0:
            break
        expected = np.where(full, 1.0, expected * ((count - full.sum()) / rest))
        if expected.max() <= 1.0:
            break
    return np.minimum(expected, 1.0)


def _between_points(image: ObservedImage, aligned: LinearizedView, cutoff: float, uv: Array,
                    ) -> tuple[Array, Array]:
    """
    Distance along the ray and weight of pixels between rendered points, each (n,).

    Normalised convolution (Knutsson and Westin, 1993) of inverse distance and of the robust
    weight, on a coarse grid.
    """
    points = aligned.view.points
    chosen = aligned.seen & (points.weight > 0.0)
    p = se3.transform(se3.inverse(image.T_cam_sensor) @ aligned.T_cam_point,
                      points.points_cam[chosen])
    at, _ = image.camera.project(p)
    residuals = (aligned.values - aligned.nuisance[:, 0] * points.values
                 - aligned.nuisance[:, 1])[chosen]
    misfit = (residuals**2 / (cutoff**2 * aligned.variance[chosen])).mean(axis=1)
    weight = points.weight[chosen]
    per_point = np.stack([np.ones(len(p)), weight, weight / (1.0 + misfit)**2,
                          weight / np.maximum(np.linalg.norm(p, axis=1), 1e-6)], axis=-1)
    scale = _DEPTH_CELLS / max(image.camera.size)
    columns, rows = (max(int(np.ceil(size * scale)), 1) for size in image.camera.size)
    grid = np.zeros((rows, columns, 4))
    i, j = (np.clip((at[:, k] * scale).astype(np.intp), 0, (columns, rows)[k] - 1)
            for k in range(2))
    np.add.at(grid, (j, i), per_point)
    mean = grid.mean(axis=(0, 1))  # far from any point: the mean
    smooth = cv2.GaussianBlur(grid, (0, 0), _SPREAD_CELLS) + 1e-3 * mean
    i, j = (np.clip((uv[:, k] * scale).astype(np.intp), 0, (columns, rows)[k] - 1)
            for k in range(2))
    count, weight, robust, inverse = smooth[j, i].T
    return weight / np.maximum(inverse, 1e-9), robust / np.maximum(count, 1e-9)

# SPDX-License-Identifier: Apache-2.0
"""
Which views are compared with a view, and at which depths.

Depth needs parallax, and matching needs overlap: neighbours see the same surfaces, from directions
some degrees apart. They are chosen one by one, each for what those before do not see well: six
that all overlap on one half of a view would leave the other half unknown. The planes lie between
the nearest and the farthest surface, equally spaced in inverse depth, half a pixel of parallax
apart.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.mapping.stereo.rectified_views import RectifiedViews

Array = NDArray[np.float64]

_NEAREST_VIEWS = 32  # candidates of a view, by distance
_POINTS = 200  # by which candidates are compared
_BEST_ANGLE_RAD = np.deg2rad(7.0)  # between the rays to a surface point
_ANGLE_SPREAD = 0.7  # of its logarithm
_LEAST_QUALITY = 0.02  # mean over the points of a view
_SATISFIED = 0.8  # of what a point wants, by one neighbour that sees it at its best
_LEAST_ANGLE_RAD = np.deg2rad(0.3)  # below it there is no parallax
_PIXELS_A_PLANE = 0.5  # of parallax
_FEWEST_PLANES = 24
_GUESS_NEAR, _GUESS_FAR = 0.3, 30.0  # depths, in mean distances of the views from their centre


class Planes(NamedTuple):
    """Inverse depths of planes, equally spaced."""

    nearest: float  # 1 / m
    farthest: float
    steps: int

    def inverse_depths(self) -> Array:
        """From the nearest plane to the farthest."""
        return np.linspace(self.nearest, self.farthest, self.steps)


class Neighbourhood(NamedTuple):
    """Views to compare a view with, best first, and the planes to do it on."""

    views: tuple[int, ...]
    planes: Planes


def guessed_depths(poses: Array) -> tuple[float, float]:
    """Nearest and farthest depth where nothing is known but how far the views lie apart."""
    centers = poses[:, :3, 3]
    spread = float(np.linalg.norm(centers - centers.mean(axis=0), axis=1).mean())
    return _GUESS_NEAR * max(spread, 1e-6), _GUESS_FAR * max(spread, 1e-6)


def neighbourhood(views: RectifiedViews, i: int, points: Array, depths: tuple[float, float],
                  count: int, most_planes: int) -> Neighbourhood:
    """
    Neighbours of view i, by surface points (n, 3) of the world that it sees; () without parallax.

    `depths` are its nearest and farthest.
    """
    centers = views.poses[:, :3, 3]
    distance = np.linalg.norm(centers - centers[i], axis=1)
    nearest = [int(j) for j in np.argsort(distance, kind='stable')[:_NEAREST_VIEWS + 1] if j != i]
    points = points[::1 + len(points) // _POINTS]
    quality = {j: _quality(views, i, j, points) for j in nearest}
    quality = {j: each for j, each in quality.items() if each.mean() > _LEAST_QUALITY}
    chosen: list[int] = []
    wanted = np.ones(len(points))  # of each point: falls with each neighbour that sees it well
    while quality and len(chosen) < count:
        best = max(quality, key=lambda j: float(wanted @ quality[j]))
        chosen.append(best)
        wanted *= 1.0 - _SATISFIED * quality.pop(best)
    return Neighbourhood(tuple(chosen), _planes(views, i, chosen, depths, most_planes))


def _quality(views: RectifiedViews, i: int, j: int, points: Array) -> Array:
    """How well each point (n,) can be matched: 0 unseen, 1 by rays of the best angle."""
    seen = _visible(points, views.cameras[j], views.poses[j])
    to_i, to_j = (points - views.poses[k, :3, 3] for k in (i, j))
    cosine = (to_i * to_j).sum(axis=1) / np.maximum(
        np.linalg.norm(to_i, axis=1) * np.linalg.norm(to_j, axis=1), 1e-12)
    angle = np.maximum(np.arccos(np.clip(cosine, -1.0, 1.0)), 1e-9)
    preferred = np.exp(-0.5 * (np.log(angle / _BEST_ANGLE_RAD) / _ANGLE_SPREAD)**2)
    quality: Array = np.where(seen & (angle > _LEAST_ANGLE_RAD), preferred, 0.0)
    return quality


def _visible(points: Array, camera: Camera, T_world_view: Array) -> NDArray[np.bool_]:
    _, visible = camera.project(se3.transform(se3.inverse(T_world_view), points))
    return visible


def _planes(views: RectifiedViews, i: int, chosen: list[int], depths: tuple[float, float],
            most: int) -> Planes:
    """As many planes as half pixels of parallax lie between the depths, in the best neighbours."""
    near, far = depths
    baselines = [float(np.linalg.norm(views.poses[j, :3, 3] - views.poses[i, :3, 3]))
                 for j in chosen]
    parallax_px = float(np.median(baselines or [0.0])) * views.cameras[i].fx * (1 / near - 1 / far)
    count = int(np.clip(np.ceil(parallax_px / _PIXELS_A_PLANE), _FEWEST_PLANES, most))
    return Planes(1.0 / near, 1.0 / far, count)

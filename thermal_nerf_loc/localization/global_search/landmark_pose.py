# SPDX-License-Identifier: Apache-2.0
"""
A pose from landmarks: keypoints of the images, matched with those of the map (PnP).

1. Keypoints match landmarks all over the map (`landmark_matching.py`).
2. Perspective-n-point with RANSAC, for each camera; the pose that fits most matches of all counts.
3. Landmarks in view of it are matched again, near where they project, with a shrinking radius.
4. Each time all cameras of the rig together minimise the reprojection errors, robustly:

    J xi = r,  r = u - q(T_sensor_cam T^-1 X)     (over the right tangent)

An error's variance is that of keypoints, by the residuals, and that of its landmark, projected.
The covariance is the inverse information, times a factor for what landmarks have in common:
errors of the poses that they were triangulated from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.localization.global_search.landmark_matching import (
    ImageLandmarks, LandmarkTable, Matches, spread)
from thermal_nerf_loc.mapping.camera_poses.feature_tracks import image_rays
from thermal_nerf_loc.mapping.map.landmarks import Landmarks
from thermal_nerf_loc.sensing.frame import SensorImage

Array = NDArray[np.float64]

FEWEST_INLIERS = 12
_TOLERANCE_PX = 4.0  # of a match that fits a pose, in images 640 wide
_SEARCH_PX = (8.0, 4.0, 4.0)  # around a projected landmark, in the same; one a round
_ITERATIONS, _SURE = 2000, 0.9999  # of RANSAC
_STEPS, _CONVERGED = 8, 1e-9  # of Gauss-Newton
_CUTOFF = 3.0  # sigmas beyond which a residual hardly counts
_LEAST_SIGMA_PX = 0.1  # of a keypoint, in images 640 wide, however small the residuals
_LEAST_SHARE = 0.3  # of the residuals' variance that keypoints have, whatever landmarks have
_COMMON = 4.0  # factor of the covariance: errors that landmarks share
_MEDIAN_SQUARE = 1.39  # of a two-dimensional normal error, in variances
_BEHIND_PX = 1e4  # residual of a landmark behind its camera


@dataclass(frozen=True, slots=True, eq=False)
class LandmarkPose:
    """The pose of the reference camera, and what it rests on."""

    T_world_cam: Array
    covariance: Array  # (6, 6) over the right tangent (v, w)
    matched: int  # with all landmarks of the map
    inliers: int  # of them; those matched near the pose, where some fit by chance, do not count
    residual_px: float  # median, of those near the pose, in the image's own pixels
    nearby: int = 0  # matches near the pose that fit it
    spread: float = 0.0  # share of the image's cells that hold an inlier


class LandmarkLocalizer:
    """Finds images among the landmarks of a map."""

    def __init__(self, landmarks: Mapping[str, Landmarks]) -> None:
        """Unpack descriptors once."""
        self.landmarks = landmarks
        self._tables = {name: LandmarkTable(found) for name, found in landmarks.items()}

    def locate(self, images: Mapping[str, SensorImage]) -> LandmarkPose | None:
        """The pose of a frame with these images; None where too few keypoints agree on one."""
        cameras = [ImageLandmarks(name, image, self._tables[name])
                   for name, image in images.items() if name in self._tables]
        matches = [camera.everywhere() for camera in cameras]
        starts = [T for T in map(_consensus, cameras, matches) if T is not None]
        if not starts:
            return None
        T = max(starts, key=lambda T: int(_fits(_linearized(cameras, matches, T)).sum()))
        return _refined(cameras, matches, T)


class _Rows(NamedTuple):
    """Residuals of all cameras, linearized."""

    r: Array  # (n, 2) pixels
    J: Array  # (n, 2, 6)
    variance: Array  # (n,) of the landmark, as the image shows it
    unit_px: Array  # (n,) a nominal pixel


def _consensus(camera: ImageLandmarks, found: Matches) -> Array | None:
    """T_world_cam that most matches of one camera agree on."""
    lens = camera.image.camera
    rays = image_rays(lens, found.uv)[:, :2]
    ahead = np.isfinite(rays).all(axis=1)
    if ahead.sum() < FEWEST_INLIERS:
        return None
    points = camera.table.points[found.landmark[ahead]]
    center = points.mean(axis=0)
    cv2.setRNGSeed(0)  # the same for the same image
    good, turn, shift, inside = cv2.solvePnPRansac(
        points - center, rays[ahead], np.eye(3), None, iterationsCount=_ITERATIONS,
        reprojectionError=_TOLERANCE_PX * camera.unit_px / lens.fx, confidence=_SURE,
        flags=cv2.SOLVEPNP_SQPNP)
    if not good or np.size(inside) < FEWEST_INLIERS:  # None counts as one
        return None
    T = np.eye(4)
    T[:3, :3] = cv2.Rodrigues(turn)[0]
    T[:3, 3] = shift[:, 0] - T[:3, :3] @ center
    return np.asarray(se3.inverse(camera.image.T_cam_sensor @ T)) if np.isfinite(T).all() else None


def _refined(cameras: Sequence[ImageLandmarks], everywhere: Sequence[Matches], T: Array,
             ) -> LandmarkPose | None:
    """Match around the pose and minimise, some rounds; None where too few fit."""
    T, _ = _minimized(cameras, everywhere, T)
    nearby, information = everywhere, np.zeros((6, 6))
    for radius_px in _SEARCH_PX:
        nearby = [camera.near(T, radius_px) for camera in cameras]
        if sum(len(found.uv) for found in nearby) < FEWEST_INLIERS:
            return None
        T, information = _minimized(cameras, nearby, T)
    rows = _linearized(cameras, nearby, T)
    near = _fits(rows)
    inside = np.split(_fits(_linearized(cameras, everywhere, T)),
                      np.cumsum([len(found.uv) for found in everywhere])[:-1])
    inliers = [Matches(found.uv[good], found.landmark[good])
               for found, good in zip(everywhere, inside)]
    count = sum(len(found.uv) for found in inliers)
    if (min(count, int(near.sum())) < FEWEST_INLIERS or not np.isfinite(T).all()
            or np.linalg.cond(information) > 1e14):
        return None
    covariance = _COMMON * np.linalg.inv(information)
    return LandmarkPose(
        T, 0.5 * (covariance + covariance.T), sum(len(found.uv) for found in everywhere), count,
        float(np.median(np.linalg.norm(rows.r[near], axis=1))), int(near.sum()),
        spread(cameras, inliers))


def _minimized(cameras: Sequence[ImageLandmarks], matches: Sequence[Matches], T: Array,
               ) -> tuple[Array, Array]:
    """Robust Gauss-Newton: the pose, and the information (6, 6) that the matches give."""
    information = np.eye(6)
    for _ in range(_STEPS):
        rows = _linearized(cameras, matches, T)
        weight = _weights(rows)
        information = np.einsum('n,nki,nkj->ij', weight, rows.J, rows.J) + 1e-9 * np.eye(6)
        step = -np.linalg.solve(information, np.einsum('n,nki,nk->i', weight, rows.J, rows.r))
        T = se3.plus(T, step)
        if np.abs(step).max() < _CONVERGED:
            break
    return T, information


def _weights(rows: _Rows) -> Array:
    """Inverse variances, robust (Geman-McClure): that of keypoints is what residuals leave."""
    squared = (rows.r**2).sum(axis=1)
    inside = _fits(rows)
    if not inside.any():
        return np.asarray(1.0 / (rows.unit_px**2 + squared))
    unit2 = rows.unit_px**2
    total = float(np.median(squared[inside] / unit2[inside])) / _MEDIAN_SQUARE
    keypoint = max(total - float(np.median(rows.variance[inside] / unit2[inside])),
                   _LEAST_SHARE * total, _LEAST_SIGMA_PX**2)
    variance = keypoint * unit2 + rows.variance
    return np.asarray(1.0 / (variance * (1.0 + squared / (_CUTOFF**2 * variance))**2))


def _linearized(cameras: Sequence[ImageLandmarks], matches: Sequence[Matches], T: Array,
                ) -> _Rows:
    """Residuals and their Jacobians over the right tangent of the pose."""
    parts = []
    for camera, found in zip(cameras, matches):
        p_cam = se3.transform(se3.inverse(T), camera.table.points[found.landmark])
        T_sensor_cam = se3.inverse(camera.image.T_cam_sensor)
        p = se3.transform(T_sensor_cam, p_cam)
        behind = p[:, 2] <= 0.0
        uv, by_point, _ = camera.image.camera.project_with_jacobian(
            np.where(behind[:, None], (0.0, 0.0, 1.0), p))
        J_cam = by_point @ T_sensor_cam[:3, :3]
        J = np.concatenate([-J_cam, J_cam @ se3.hat(p_cam)], axis=2)
        J_world = J_cam @ T[:3, :3].T
        variance = 0.5 * np.einsum('nki,nij,nkj->n', J_world,
                                   camera.table.covariances[found.landmark], J_world)
        parts.append((np.where(behind[:, None], _BEHIND_PX, uv - found.uv),
                      np.where(behind[:, None, None], 0.0, J), variance,
                      np.full(len(p), camera.unit_px)))
    return _Rows(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _fits(rows: _Rows) -> NDArray[np.bool_]:
    """Which residuals are within the tolerance."""
    return np.asarray(np.linalg.norm(rows.r, axis=1) < _TOLERANCE_PX * rows.unit_px)

# SPDX-License-Identifier: Apache-2.0
"""
A pose from landmarks: keypoints of the images, matched with those of the map (PnP).

Matched keypoints give a pose from nothing, and a sharper one than a radiance map whose finest cell
is some pixels wide. Perspective-n-point with RANSAC begins; then all cameras of the rig together
minimise the reprojection errors, robustly:

    J xi = r,  p = R (T^-1 X) + t,  r = u - f p_xy / p_z     (Huber, over the right tangent)

The covariance is s^2 (J' W J)^-1, s the robust spread of the residuals, times a factor for what
landmarks have in common: errors of the poses that they were triangulated from.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.mapping.camera_poses.feature_tracks import image_rays, mutual_matches
from thermal_nerf_loc.mapping.camera_poses.features import detect_features, FeatureConfig
from thermal_nerf_loc.mapping.map.landmarks import Landmarks
from thermal_nerf_loc.sensing.frame import SensorImage

Array = NDArray[np.float64]

_QUERY = FeatureConfig(per_image=2000)
_RATIO = 0.85  # of the distances to the best and the second-best landmark (Lowe)
_INLIER_WIDTH = 1.0 / 160.0  # of the image's width: reprojection errors of inliers
_ITERATIONS, _SURE = 2000, 0.9999  # of RANSAC
FEWEST_INLIERS = 12
_STEPS = 12  # of Gauss-Newton
_HUBER = 1.345  # standard deviations
_LEAST_SIGMA_PX = 0.2  # of a keypoint
_COMMON = 4.0  # factor of the covariance: errors that landmarks share
_MEDIAN_OF_NORMAL = 0.6745


@dataclass(frozen=True, slots=True, eq=False)
class LandmarkPose:
    """The pose of the reference camera, and what it rests on."""

    T_world_cam: Array
    covariance: Array  # (6, 6) over the right tangent (v, w)
    matched: int
    inliers: int
    residual_px: float  # median, of the inliers


class LandmarkLocalizer:
    """Finds images among the landmarks of a map."""

    def __init__(self, landmarks: Mapping[str, Landmarks]) -> None:
        """Unpack descriptors once."""
        self.landmarks = landmarks
        self._points = {name: found.points.astype(np.float64) for name, found in landmarks.items()}
        self._descriptors = {name: found.unit_descriptors() for name, found in landmarks.items()}

    def locate(self, images: Mapping[str, SensorImage]) -> LandmarkPose | None:
        """The pose of a frame with these images; None where too few keypoints agree on one."""
        matched = {name: _Matched.of(name, image, self._points[name], self._descriptors[name])
                   for name, image in images.items() if name in self._points}
        total = sum(len(one.points) for one in matched.values())
        for one in sorted(matched.values(), key=lambda one: -len(one.points)):
            T = one.consensus()
            if T is None:
                continue
            found = _refined(list(matched.values()), T, total)
            if found is not None:
                return found
        return None


@dataclass(frozen=True, slots=True, eq=False)
class _Matched:
    """Landmarks and where an image shows them."""

    points: Array  # (n, 3) world
    rays: Array  # (n, 2) undistorted, at focal length 1
    focal_px: float
    width_px: int
    T_cam_sensor: Array

    @classmethod
    def of(cls, modality: str, image: SensorImage, points: Array,
           descriptors: NDArray[np.float32]) -> '_Matched':
        """Mutual and distinct matches."""
        features = detect_features(modality, 1, lambda _: image, _QUERY)[0]
        rows, columns = mutual_matches(features.descriptors, descriptors, _RATIO).T
        rays = image_rays(image.camera, features.uv[rows])[:, :2]
        ahead = np.isfinite(rays).all(axis=1)
        return cls(points[columns[ahead]], rays[ahead], image.camera.fx, image.camera.width,
                   image.T_cam_sensor)

    def consensus(self) -> Array | None:
        """T_world_cam that most matches agree on."""
        if len(self.points) < FEWEST_INLIERS:
            return None
        cv2.setRNGSeed(0)  # the same for the same image
        found, turn, shift, inside = cv2.solvePnPRansac(
            self.points, self.rays, np.eye(3), None, iterationsCount=_ITERATIONS,
            reprojectionError=_INLIER_WIDTH * self.width_px / self.focal_px, confidence=_SURE,
            flags=cv2.SOLVEPNP_SQPNP)
        if not found or np.size(inside) < FEWEST_INLIERS:  # None counts as one
            return None
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = cv2.Rodrigues(turn)[0], shift[:, 0]
        return np.asarray(se3.inverse(self.T_cam_sensor @ T))

    def residuals(self, T_world_cam: Array) -> tuple[Array, Array]:
        """Reprojection errors (n, 2) in pixels and their Jacobian (n, 2, 6); inf behind."""
        p_cam = se3.transform(se3.inverse(T_world_cam), self.points)
        T = se3.inverse(self.T_cam_sensor)
        p = se3.transform(T, p_cam)
        z = np.where(p[:, 2] > 1e-6, p[:, 2], np.nan)
        projected = p[:, :2] / z[:, None]
        residual = self.focal_px * (projected - self.rays)
        by_point = np.zeros((len(p), 2, 3))
        by_point[:, 0, 0] = by_point[:, 1, 1] = self.focal_px / z
        by_point[:, :, 2] = -self.focal_px * projected / z[:, None]
        by_pose = np.concatenate([np.broadcast_to(-np.eye(3), (len(p), 3, 3)),
                                  se3.hat(p_cam)], axis=2)
        J = by_point @ (T[:3, :3] @ by_pose)
        bad = ~np.isfinite(residual).all(axis=1)
        residual[bad], J[bad] = np.inf, 0.0
        return residual, J


def _refined(cameras: list[_Matched], T: Array, matched: int) -> LandmarkPose | None:
    """Minimise the reprojection errors of all cameras from a first pose."""
    information, sigma = np.zeros((6, 6)), 1.0
    errors: Array = np.empty(0)
    for _ in range(_STEPS):
        parts = [_inliers(camera, T) for camera in cameras]
        r, J = np.concatenate([r for r, _ in parts]), np.concatenate([J for _, J in parts])
        if len(r) < FEWEST_INLIERS:
            return None
        errors = np.linalg.norm(r, axis=1)
        sigma = max(float(np.median(np.abs(r))) / _MEDIAN_OF_NORMAL, _LEAST_SIGMA_PX)
        weight = np.minimum(1.0, _HUBER * sigma / np.maximum(errors, 1e-9))
        information = np.einsum('n,nij,nik->jk', weight, J, J)
        if np.linalg.cond(information) > 1e14:
            return None
        step = -np.linalg.solve(information, np.einsum('n,nij,ni->j', weight, J, r))
        T = se3.plus(T, step)
        if np.linalg.norm(step) < 1e-9:
            break
    covariance = _COMMON * sigma**2 * np.linalg.inv(information)
    return LandmarkPose(T, 0.5 * (covariance + covariance.T), matched, len(errors),
                        float(np.median(errors)))


def _inliers(camera: _Matched, T: Array) -> tuple[Array, Array]:
    residual, J = camera.residuals(T)
    inside = np.linalg.norm(residual, axis=1) < _INLIER_WIDTH * camera.width_px
    return residual[inside], J[inside]

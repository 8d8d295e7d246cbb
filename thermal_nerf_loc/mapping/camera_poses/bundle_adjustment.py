# SPDX-License-Identifier: Apache-2.0
"""
Bundle adjustment: frame poses, rig, lenses and delay from points that images share.

Minimises, over all observations of all points, the robust (Cauchy) distance in pixels between
where a point is observed and where it projects to. Levenberg-Marquardt, by Ceres where it is
installed and serves (`ceres_bundle.py`); else points are eliminated by
their Schur complement, so that one step costs a dense solve in the cameras alone. Rounds begin
with a large outlier tolerance: with poses a few degrees off, points are first far from their
observations. A lens joins once poses fit it roughly: freed at once, both would explain each
other's errors. Pixels are those of an image 160 wide.
Triggs et al., "Bundle adjustment: a modern synthesis", 2000.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.mapping.camera_poses import ceres_bundle
from thermal_nerf_loc.mapping.camera_poses.lens import LENS_SIGMA, LENS_SIZE
from thermal_nerf_loc.mapping.camera_poses.reprojection import (
    CameraEstimate, LEAST_PARALLAX, Reprojection, Sensor, sparse_blocks)

Array = NDArray[np.float64]

SOLVERS = AUTO, CERES, OWN = 'auto', 'ceres', 'own'
_TOLERANCES_PX = (30.0, 15.0, 8.0, 4.0, 2.0, 1.0, 1.0)  # of the rounds: larger is an outlier
_POSES_ALONE_PX = (30.0, 15.0)  # rounds before lenses join, where both are free
_MOST_STEPS = 12  # of each round
_LEAST_GAIN = 1e-4  # of the cost: a step that gains less ends a round
_SIGMA_ROTATION_RAD, _SIGMA_SHIFT = 0.3, 0.15  # priors; shifts in scene scales; weak beside pixels
_SIGMA_DELAY_S = 0.2
_LEAST_SCALE_PX = 0.15  # of the Cauchy loss, however small the residuals


@dataclass(frozen=True, slots=True)
class FreeParameters:
    """What a bundle adjustment may change."""

    poses: bool = False
    rig: bool = False
    lenses: tuple[str, ...] = ()  # modalities
    delay: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class BundleSolution:
    """The estimate, and how well it fits."""

    cameras: CameraEstimate
    observations: Mapping[str, int]  # inliers by modality
    residual_px: Mapping[str, float]  # their median by modality


class BundleAdjustment:
    """Observations, which parameters are free, and priors around the given cameras."""

    def __init__(self, sensors: Mapping[str, Sensor], poses: Array, twists: Array, scale_m: float,
                 free: FreeParameters, lenses: Mapping[str, Array] | None = None,
                 solver: str = AUTO) -> None:
        """
        `twists` (frames, 6): velocities for the delay; `lenses`: where these begin.

        `solver`: 'auto' takes Ceres where it is installed and can do what is asked.
        """
        self.sensors, self.free = dict(sensors), free
        self.reprojection = Reprojection(self.sensors, twists, scale_m)
        self.by_ceres = _takes_ceres(solver) and ceres_bundle.can_minimize(self.reprojection)
        self.given = CameraEstimate.given(poses, self.sensors)
        self.start = replace(self.given, lenses={**self.given.lenses, **(lenses or {})})
        self.sigma = np.concatenate([
            np.tile(np.repeat((_SIGMA_SHIFT * scale_m, _SIGMA_ROTATION_RAD), 3), len(poses) + 1),
            np.tile(LENS_SIGMA, len(self.sensors)), [_SIGMA_DELAY_S]])

    def solve(self) -> BundleSolution:
        """Triangulate, drop outliers, minimise; each round with a smaller tolerance."""
        cameras = self.start
        rounds = [(tolerance, self.free) for tolerance in _TOLERANCES_PX]
        if self.free.poses and self.free.lenses:
            alone = replace(self.free, lenses=())
            rounds = [(tolerance, alone) for tolerance in _POSES_ALONE_PX] + rounds[1:]
        for tolerance, free in rounds:
            points, inliers = self.points_and_inliers(cameras, tolerance)
            if not inliers.any():
                break
            cameras = self._at_given_size(self._minimized(cameras, points, inliers, free))
        return self._summary(cameras)

    def points_and_inliers(self, cameras: CameraEstimate, tolerance_px: float,
                           least_parallax: float = LEAST_PARALLAX,
                           ) -> tuple[Array, NDArray[np.bool_]]:
        """Triangulated points (n, 3), and which observations are inliers."""
        points, has_depth = self.reprojection.triangulated(cameras, tolerance_px,
                                                           least_parallax)
        distances_px = np.linalg.norm(self.reprojection.residuals(cameras, points)[0], axis=1)
        obs = self.reprojection.observations
        inliers = has_depth[obs.point] & (distances_px < tolerance_px)
        return points, inliers & _seen_twice(obs.point, inliers, obs.points)

    def _mask(self, free: FreeParameters) -> NDArray[np.bool_]:
        """Which parameters may move."""
        n = len(self.given.poses)
        return np.concatenate([
            np.full(6 * n, free.poses), np.full(6, free.rig),
            np.repeat([name in free.lenses for name in self.sensors], LENS_SIZE), [free.delay]])

    def _at_given_size(self, cameras: CameraEstimate) -> CameraEstimate:
        """Scale the path back to its given size: images do not determine the scale."""
        centers = cameras.poses[:, :3, 3]
        centred, given = (x - x.mean(axis=0) for x in (centers, self.given.poses[:, :3, 3]))
        size = float((centred**2).sum())
        if not self.free.poses or size < 1e-12:
            return cameras
        poses = cameras.poses.copy()
        poses[:, :3, 3] = centers.mean(axis=0) + centred * float((centred * given).sum()) / size
        return replace(cameras, poses=poses)

    def _minimized(self, cameras: CameraEstimate, points: Array, inliers: NDArray[np.bool_],
                   free: FreeParameters) -> CameraEstimate:
        """Best cameras and points, with the inliers as they are."""
        residual, _, _ = self.reprojection.residuals(cameras, points, inliers)
        square = float(np.median((residual**2).sum(axis=1)))
        scale = max(1.5 * square**0.5, _LEAST_SCALE_PX)  # of the Cauchy loss
        if self.by_ceres:
            return ceres_bundle.minimized(self.reprojection, cameras, points, inliers, scale,
                                          free.poses, bool(free.lenses))
        return self._descended(cameras, points, inliers, scale, self._mask(free))

    def _descended(self, cameras: CameraEstimate, points: Array, inliers: NDArray[np.bool_],
                   scale: float, free: NDArray[np.bool_]) -> CameraEstimate:
        """Levenberg-Marquardt over cameras and points."""
        damping, cost = 1e-3, self._cost(cameras, points, inliers, scale, free)
        for _ in range(_MOST_STEPS):
            step, point_steps = self._step(cameras, points, inliers, scale, damping, free)
            trial, moved = self._moved(cameras, step), points + point_steps
            after = self._cost(trial, moved, inliers, scale, free)
            gain = cost - after
            if gain > 0.0:
                cameras, points, cost = trial, moved, after
                damping = max(0.2 * damping, 1e-7)
                if gain < _LEAST_GAIN * cost:
                    break
            else:
                damping *= 10.0
        return cameras

    def _step(self, cameras: CameraEstimate, points: Array, inliers: NDArray[np.bool_],
              scale_px: float, damping: float, free: NDArray[np.bool_]) -> tuple[Array, Array]:
        """One damped Gauss-Newton step of cameras and points."""
        r, by_sensor_point, by_lens = self.reprojection.residuals(cameras, points, inliers)
        J_cameras, J_points = self.reprojection.jacobians(cameras, points, inliers,
                                                          by_sensor_point, by_lens)
        root = 1.0 / np.sqrt(scale_px**2 + (r**2).sum(axis=1))  # Cauchy's weights
        r, J_points = r * root[:, None], J_points * root[:, None, None]
        J_cameras = diags_array(np.repeat(root, 2)) @ J_cameras
        Jp, white = self._whitened(J_points, inliers, len(points), damping)
        cross, flat = J_cameras.T @ Jp, r.reshape(-1)
        H = (J_cameras.T @ J_cameras - cross @ cross.T).toarray()
        g = J_cameras.T @ flat - cross @ (Jp.T @ flat)
        prior = 1.0 / self.sigma**2
        H.flat[::len(H) + 1] += prior + damping * H.diagonal() + 1e-9
        g = g + prior * self._offsets(cameras)
        step = np.zeros(len(g))
        step[free] = -np.linalg.solve(H[np.ix_(free, free)], g[free])
        rest = Jp.T @ (flat + J_cameras @ step)
        return step, -np.einsum('nji,nj->ni', white, rest.reshape(-1, 3))

    def _whitened(self, J_points: Array, inliers: NDArray[np.bool_], points: int, damping: float,
                  ) -> tuple[csr_array, Array]:
        """
        Jacobian in whitened points, whose normal matrix is the identity, and the whitening.

        The whitening (points, 3, 3) turns steps of whitened points into metres.
        """
        point = self.reprojection.observations.point[inliers]
        blocks = np.zeros((points, 3, 3))
        np.add.at(blocks, point, J_points.transpose(0, 2, 1) @ J_points)
        trace = np.trace(blocks, axis1=1, axis2=2)
        blocks += np.eye(3) * (1e-3 * damping * trace + 1e-9)[:, None, None]
        white = np.linalg.inv(np.linalg.cholesky(blocks))
        rows = np.arange(2 * len(J_points)).reshape(-1, 2, 1)
        return sparse_blocks(J_points @ white[point].transpose(0, 2, 1), rows,
                             3 * point[:, None] + np.arange(3), 3 * points), white

    def _cost(self, cameras: CameraEstimate, points: Array, inliers: NDArray[np.bool_],
              scale_px: float, free: NDArray[np.bool_]) -> float:
        r, _, _ = self.reprojection.residuals(cameras, points, inliers)
        offsets = self._offsets(cameras)
        return float(np.log1p((r**2).sum(axis=1) / scale_px**2).sum()
                     + (offsets**2 / self.sigma**2)[free].sum())

    def _moved(self, cameras: CameraEstimate, step: Array) -> CameraEstimate:
        n = len(cameras.poses)
        lenses = step[6 * n + 6:-1].reshape(-1, LENS_SIZE)
        return CameraEstimate(se3.plus(cameras.poses, step[:6 * n].reshape(n, 6)),
                              se3.plus(cameras.rig, step[6 * n:6 * n + 6]),
                              {name: cameras.lenses[name] + row
                               for name, row in zip(self.sensors, lenses)},
                              cameras.delay_s + float(step[-1]))

    def _offsets(self, cameras: CameraEstimate) -> Array:
        """All parameters, as differences from what was given."""
        return np.concatenate([se3.minus(cameras.poses, self.given.poses).reshape(-1),
                               se3.log(cameras.rig),
                               self.reprojection.lens_rows(cameras).reshape(-1),
                               [cameras.delay_s]])

    def _summary(self, cameras: CameraEstimate) -> BundleSolution:
        points, has_depth = self.reprojection.triangulated(cameras, _TOLERANCES_PX[-1])
        residual = np.linalg.norm(self.reprojection.residuals(cameras, points)[0], axis=1)
        fits = (has_depth[self.reprojection.observations.point]
                & (residual < _TOLERANCES_PX[-1]))
        counts, medians, start = {}, {}, 0
        for name, sensor in self.sensors.items():
            part = slice(start, start + len(sensor.tracks.image))
            start = part.stop
            counts[name] = int(fits[part].sum())
            medians[name] = float(np.median(residual[part][fits[part]])) if counts[name] else 0.0
        return BundleSolution(cameras, counts, medians)


def _takes_ceres(solver: str) -> bool:
    if solver == CERES and not ceres_bundle.is_installed():
        raise InputError('Ceres is not installed', where='refine.solver', expected='auto or own',
                         got=solver, hint='pip install pycolmap')
    return solver != OWN and ceres_bundle.is_installed()


def _seen_twice(point: NDArray[np.int64], inliers: NDArray[np.bool_], points: int,
                ) -> NDArray[np.bool_]:
    return np.asarray(np.bincount(point[inliers], minlength=points)[point] >= 2)

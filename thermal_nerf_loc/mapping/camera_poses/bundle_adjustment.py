# SPDX-License-Identifier: Apache-2.0
"""
Bundle adjustment: frame poses, rig, thermal lens and delay from points that images share.

Minimises, over all observations of all points, the robust (Cauchy) distance in pixels between
where a point is observed and where it projects to. Levenberg-Marquardt; points are eliminated by
their Schur complement, so that one step costs a dense solve in the cameras alone. Rounds begin
with a large outlier tolerance: with poses a few degrees off, points are first far from their
observations. Pixels are those of an image 160 wide.
Triggs et al., "Bundle adjustment: a modern synthesis", 2000.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array, diags_array

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.mapping.camera_poses.features import Tracks

Array = NDArray[np.float64]

_TOLERANCES_PX = (30.0, 15.0, 8.0, 4.0, 2.0, 1.0, 1.0)  # of the rounds: larger is an outlier
_TRIANGULATION_ROUNDS = 4  # each weighs down what does not fit
_MOST_STEPS = 12  # of each round
_LEAST_GAIN = 1e-4  # of the cost: a step that gains less ends a round
_NEAREST_DEPTH = 0.02  # scene scales before a camera: nearer points are mistakes
_LEAST_PARALLAX = 2e-4  # least eigenvalue of the mean of I - d d^T: less gives no depth
_SIGMA_ROTATION_RAD, _SIGMA_SHIFT = 0.3, 0.15  # priors; shifts in scene scales; weak beside pixels
_SIGMA_LENS, _SIGMA_DELAY_S = 0.05, 0.2
_LEAST_SCALE_PX = 0.15  # of the Cauchy loss, however small the residuals


@dataclass(frozen=True, slots=True, eq=False)
class Sensor:
    """The images of one modality: their tracks, their frames, and their camera in the rig."""

    tracks: Tracks
    frame: NDArray[np.int64]  # (images,)
    T_cam_sensor: Array  # (images, 4, 4)
    focal_px: Array  # (images,) at a width of 160
    movable: bool = False  # whether rig, lens and delay are this camera's (thermal)


@dataclass(frozen=True, slots=True, eq=False)
class CameraEstimate:
    """All unknowns but the points."""

    poses: Array  # (frames, 4, 4) T_world_cam
    rig: Array  # (4, 4) right of the movable T_cam_sensor
    lens: Array  # (3,) log focal length, shift of the centre in focal lengths
    delay_s: float


@dataclass(frozen=True, slots=True, eq=False)
class BundleSolution:
    """The estimate, and how well it fits."""

    cameras: CameraEstimate
    observations: Mapping[str, int]  # inliers by modality
    residual_px: Mapping[str, float]  # their median by modality


@dataclass(frozen=True, slots=True, eq=False)
class _Observations:
    """Observations of all modalities, one after the other; points count over all."""

    frame: NDArray[np.int64]
    point: NDArray[np.int64]
    xy: Array
    focal: Array
    movable: NDArray[np.bool_]
    rig: Array  # (n, 4, 4)
    points: int


class BundleAdjustment:
    """Observations, which parameters are free, and priors around the start."""

    def __init__(self, sensors: Mapping[str, Sensor], poses: Array, twists: Array, scale_m: float,
                 free: tuple[bool, bool, bool, bool]) -> None:
        """`twists` (frames, 6): velocities for the delay; `free`: poses, rig, lens, delay."""
        self.sensors, self.twists, self.scale_m = dict(sensors), twists, scale_m
        self.observations = _joined_observations(list(sensors.values()))
        self.start = CameraEstimate(poses, np.eye(4), np.zeros(3), 0.0)
        n = len(poses)
        self.free = np.repeat(np.array(free), (6 * n, 6, 3, 1))
        self.sigma = np.concatenate([
            np.tile(np.repeat((_SIGMA_SHIFT * scale_m, _SIGMA_ROTATION_RAD), 3), n + 1),
            np.full(3, _SIGMA_LENS), [_SIGMA_DELAY_S]])

    def solve(self) -> BundleSolution:
        """Triangulate, drop outliers, minimise; each round with a smaller tolerance."""
        cameras = self.start
        for tolerance in _TOLERANCES_PX:
            points, inliers = self.points_and_inliers(cameras, tolerance)
            if not inliers.any():
                break
            cameras = self._at_given_size(self._minimized(cameras, points, inliers))
        return self._summary(cameras)

    def points_and_inliers(self, cameras: CameraEstimate, tolerance_px: float,
                           ) -> tuple[Array, NDArray[np.bool_]]:
        """Triangulated points (n, 3), and which observations are inliers."""
        points, has_depth = self._triangulated(cameras, tolerance_px)
        distances_px = np.linalg.norm(self._residuals(cameras, points)[0], axis=1)
        obs = self.observations
        inliers = has_depth[obs.point] & (distances_px < tolerance_px)
        return points, inliers & _seen_twice(obs.point, inliers, obs.points)

    def _at_given_size(self, cameras: CameraEstimate) -> CameraEstimate:
        """Scale the path back to its given size: images do not determine the scale."""
        centers = cameras.poses[:, :3, 3]
        centred, given = (x - x.mean(axis=0) for x in (centers, self.start.poses[:, :3, 3]))
        size = float((centred**2).sum())
        if not self.free[0] or size < 1e-12:
            return cameras
        poses = cameras.poses.copy()
        poses[:, :3, 3] = centers.mean(axis=0) + centred * float((centred * given).sum()) / size
        return replace(cameras, poses=poses)

    def _minimized(self, cameras: CameraEstimate, points: Array, inliers: NDArray[np.bool_],
                   ) -> CameraEstimate:
        """Levenberg-Marquardt over cameras and points, with the inliers as they are."""
        residual, _ = self._residuals(cameras, points, inliers)
        square = float(np.median((residual**2).sum(axis=1)))
        scale = max(1.5 * square**0.5, _LEAST_SCALE_PX)  # of the Cauchy loss
        damping, cost = 1e-3, self._cost(cameras, points, inliers, scale)
        for _ in range(_MOST_STEPS):
            step, point_steps = self._step(cameras, points, inliers, scale, damping)
            trial, moved = self._moved(cameras, step), points + point_steps
            after = self._cost(trial, moved, inliers, scale)
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
              scale_px: float, damping: float) -> tuple[Array, Array]:
        """One damped Gauss-Newton step of cameras and points."""
        r, J_sensor = self._residuals(cameras, points, inliers)
        J_cameras, J_points = self._jacobians(cameras, points, inliers, J_sensor)
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
        step[self.free] = -np.linalg.solve(H[np.ix_(self.free, self.free)], g[self.free])
        rest = Jp.T @ (flat + J_cameras @ step)
        return step, -np.einsum('nji,nj->ni', white, rest.reshape(-1, 3))

    def _whitened(self, J_points: Array, inliers: NDArray[np.bool_], points: int, damping: float,
                  ) -> tuple[csr_array, Array]:
        """
        Jacobian in whitened points, whose normal matrix is the identity, and the whitening.

        The whitening (points, 3, 3) turns steps of whitened points into metres.
        """
        point = self.observations.point[inliers]
        blocks = np.zeros((points, 3, 3))
        np.add.at(blocks, point, J_points.transpose(0, 2, 1) @ J_points)
        trace = np.trace(blocks, axis1=1, axis2=2)
        blocks += np.eye(3) * (1e-3 * damping * trace + 1e-9)[:, None, None]
        white = np.linalg.inv(np.linalg.cholesky(blocks))
        rows = np.arange(2 * len(J_points)).reshape(-1, 2, 1)
        return _sparse(J_points @ white[point].transpose(0, 2, 1), rows,
                       3 * point[:, None] + np.arange(3), 3 * points), white

    def _cost(self, cameras: CameraEstimate, points: Array, inliers: NDArray[np.bool_],
              scale_px: float) -> float:
        r, _ = self._residuals(cameras, points, inliers)
        offsets = self._offsets(cameras)
        return float(np.log1p((r**2).sum(axis=1) / scale_px**2).sum()
                     + (offsets**2 / self.sigma**2)[self.free].sum())

    def _residuals(self, cameras: CameraEstimate, points: Array,
                   inliers: NDArray[np.bool_] | slice = slice(None)) -> tuple[Array, Array]:
        """Residuals (n, 2) in pixels, and their Jacobian (n, 2, 3) in sensor-frame points."""
        obs = self.observations
        T = self._sensor_poses(cameras)[inliers]
        p = np.einsum('nji,nj->ni', T[:, :3, :3], points[obs.point[inliers]] - T[:, :3, 3])
        z = np.where(p[:, 2] > _NEAREST_DEPTH * self.scale_m, p[:, 2], np.nan)
        flat, focal = p[:, :2] / z[:, None], obs.focal[inliers][:, None]
        lens = np.where(obs.movable[inliers][:, None], cameras.lens, 0.0)
        xy = (obs.xy[inliers] - lens[:, 1:]) * np.exp(-lens[:, :1])
        J = np.zeros((len(p), 2, 3))
        J[:, 0, 0] = J[:, 1, 1] = 1.0 / z
        J[:, :, 2] = -flat / z[:, None]
        behind = np.isnan(z)
        residual: Array = np.where(behind[:, None], 1e3, focal * (flat - xy))
        return residual, np.where(behind[:, None, None], 0.0, focal[..., None] * J)

    def _jacobians(self, cameras: CameraEstimate, points: Array, inliers: NDArray[np.bool_],
                   J_sensor: Array) -> tuple[csr_array, Array]:
        """Jacobian of the residuals in cameras (sparse) and in points (n, 2, 3)."""
        obs, n = self.observations, len(cameras.poses)
        T = self._sensor_poses(cameras)[inliers]
        R = T[:, :3, :3].transpose(0, 2, 1)  # world to sensor
        frame, movable = obs.frame[inliers], obs.movable[inliers]
        T_frame = cameras.poses[frame]
        X = points[obs.point[inliers]]
        p_cam = np.einsum('nji,nj->ni', T_frame[:, :3, :3], X - T_frame[:, :3, 3])
        p_sensor = np.einsum('nij,nj->ni', R, X - T[:, :3, 3])
        R_sensor_cam = R @ T_frame[:, :3, :3]
        ones = np.broadcast_to(-np.eye(3), (len(X), 3, 3))
        by_frame = J_sensor @ R_sensor_cam @ np.concatenate([ones, se3.hat(p_cam)], axis=2)
        by_rig = J_sensor @ np.concatenate([ones, se3.hat(p_sensor)], axis=2)
        by_rig = by_rig * movable[:, None, None]
        by_delay = np.einsum('nij,nj->ni', by_frame, self.twists[frame]) * movable[:, None]
        by_lens = self._by_lens(cameras, inliers, J_sensor)
        values = np.concatenate([by_frame, by_rig, by_lens, by_delay[..., None]], axis=2)
        shared = 6 * n + np.arange(10)
        columns = np.concatenate([6 * frame[:, None] + np.arange(6),
                                  np.broadcast_to(shared, (len(X), 10))], axis=1)
        rows = np.arange(2 * len(X)).reshape(-1, 2, 1)
        return _sparse(values, rows, columns, 6 * n + 10), J_sensor @ R

    def _by_lens(self, cameras: CameraEstimate, inliers: NDArray[np.bool_],
                 J_sensor: Array) -> Array:
        """d(residual)/d(log focal, centre)."""
        obs = self.observations
        shrink = np.exp(-cameras.lens[0])
        xy = (obs.xy[inliers] - cameras.lens[1:]) * shrink
        out = np.zeros((len(xy), 2, 3))
        out[:, :, 0] = xy
        out[:, 0, 1] = out[:, 1, 2] = shrink
        in_front = J_sensor[:, 0, 0] > 0.0
        weight = obs.focal[inliers] * obs.movable[inliers] * in_front
        return np.asarray(out * weight[:, None, None])

    def _sensor_poses(self, cameras: CameraEstimate) -> Array:
        """T_world_sensor of every observation."""
        poses = cameras.poses
        T = poses[self.observations.frame] @ self.observations.rig
        if self.observations.movable.any():
            delayed = poses @ se3.exp(self.twists * cameras.delay_s)
            T = np.where(self.observations.movable[:, None, None],
                         delayed[self.observations.frame] @ self.observations.rig @ cameras.rig, T)
        return np.asarray(T)

    def _triangulated(self, cameras: CameraEstimate, tolerance_px: float,
                      ) -> tuple[Array, NDArray[np.bool_]]:
        """Points (n, 3) nearest to their rays, robustly; which of them have parallax enough."""
        obs = self.observations
        T = self._sensor_poses(cameras)
        lens = np.where(obs.movable[:, None], cameras.lens, 0.0)
        xy = (obs.xy - lens[:, 1:]) * np.exp(-lens[:, :1])
        d = np.concatenate([xy, np.ones((len(xy), 1))], axis=1)
        d = np.einsum('nij,nj->ni', T[:, :3, :3], d / np.linalg.norm(d, axis=1)[:, None])
        perpendicular = np.eye(3) - d[:, :, None] * d[:, None, :]
        weight = np.ones(len(d))
        for _ in range(_TRIANGULATION_ROUNDS):
            A, b = np.zeros((obs.points, 3, 3)), np.zeros((obs.points, 3))
            weighed = perpendicular * weight[:, None, None]
            np.add.at(A, obs.point, weighed)
            np.add.at(b, obs.point, np.einsum('nij,nj->ni', weighed, T[:, :3, 3]))
            points = np.linalg.solve(A + np.eye(3) * 1e-9, b[..., None])[..., 0]
            from_camera = points[obs.point] - T[:, :3, 3]
            off_ray = np.einsum('nij,nj->ni', perpendicular, from_camera)
            range_m = np.maximum(np.linalg.norm(from_camera, axis=1), 1e-9)
            distance_px = obs.focal * np.linalg.norm(off_ray, axis=1) / range_m
            weight = 1.0 / (1.0 + (distance_px / (0.3 * tolerance_px))**2)
        count = np.maximum(np.bincount(obs.point, minlength=obs.points), 1)
        has_depth = np.linalg.eigvalsh(A)[:, 0] / count > _LEAST_PARALLAX
        return np.asarray(points, np.float64), has_depth

    def _moved(self, cameras: CameraEstimate, step: Array) -> CameraEstimate:
        n = len(cameras.poses)
        return CameraEstimate(se3.plus(cameras.poses, step[:6 * n].reshape(n, 6)),
                              se3.plus(cameras.rig, step[6 * n:6 * n + 6]),
                              cameras.lens + step[6 * n + 6:6 * n + 9],
                              cameras.delay_s + float(step[-1]))

    def _offsets(self, cameras: CameraEstimate) -> Array:
        """All parameters, as differences from the start."""
        return np.concatenate([se3.minus(cameras.poses, self.start.poses).reshape(-1),
                               se3.log(cameras.rig), cameras.lens, [cameras.delay_s]])

    def _summary(self, cameras: CameraEstimate) -> BundleSolution:
        points, has_depth = self._triangulated(cameras, _TOLERANCES_PX[-1])
        residual = np.linalg.norm(self._residuals(cameras, points)[0], axis=1)
        fits = has_depth[self.observations.point] & (residual < _TOLERANCES_PX[-1])
        counts, medians, start = {}, {}, 0
        for name, sensor in self.sensors.items():
            part = slice(start, start + len(sensor.tracks.image))
            start = part.stop
            counts[name] = int(fits[part].sum())
            medians[name] = float(np.median(residual[part][fits[part]])) if counts[name] else 0.0
        return BundleSolution(cameras, counts, medians)


def _joined_observations(sensors: list[Sensor]) -> _Observations:
    first = np.concatenate([[0], np.cumsum([s.tracks.points for s in sensors])])
    return _Observations(
        np.concatenate([s.frame[s.tracks.image] for s in sensors]),
        np.concatenate([s.tracks.point + start for s, start in zip(sensors, first)]),
        np.concatenate([s.tracks.xy for s in sensors]),
        np.concatenate([s.focal_px[s.tracks.image] for s in sensors]),
        np.concatenate([np.full(len(s.tracks.image), s.movable) for s in sensors]),
        np.concatenate([s.T_cam_sensor[s.tracks.image] for s in sensors]), int(first[-1]))


def _seen_twice(point: NDArray[np.int64], inliers: NDArray[np.bool_], points: int,
                ) -> NDArray[np.bool_]:
    return np.asarray(np.bincount(point[inliers], minlength=points)[point] >= 2)


def _sparse(values: Array, rows: NDArray[np.int64], columns: NDArray[np.int64], width: int,
            ) -> csr_array:
    """Blocks (n, 2, k) with their rows (n, 2, 1) and columns (n, k) as one matrix."""
    shape = values.shape
    return coo_array((values.reshape(-1), (np.broadcast_to(rows, shape).reshape(-1),
                                           np.broadcast_to(columns[:, None], shape).reshape(-1))),
                     shape=(2 * shape[0], width)).tocsr()

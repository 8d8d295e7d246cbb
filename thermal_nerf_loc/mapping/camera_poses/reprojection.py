# SPDX-License-Identifier: Apache-2.0
"""
Reprojection: where cameras that are estimated show points, with Jacobians; and triangulation.

    residual = focal (q(T_world_sensor^-1 X; lens) - q_observed)

T_world_sensor = T_world_cam exp(dt xi) T_cam_sensor D, see `camera_optimizer.py`; q: `lens.py`.
Pixels are those of an image 160 wide.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.mapping.camera_poses.feature_tracks import Tracks
from thermal_nerf_loc.mapping.camera_poses.lens import LENS_SIZE, Lenses

Array = NDArray[np.float64]

_TRIANGULATION_ROUNDS = 4  # each weighs down what does not fit
_NEAREST_DEPTH = 0.02  # scene scales before a camera: nearer points are mistakes
LEAST_PARALLAX = 2e-4  # least eigenvalue of the mean of I - d d^T: less gives no depth
_BEHIND_PX = 1e3  # residual of a point behind its camera


@dataclass(frozen=True, slots=True, eq=False)
class Sensor:
    """The images of one modality: their tracks, their frames, and their camera in the rig."""

    tracks: Tracks
    frame: NDArray[np.int64]  # (images,)
    T_cam_sensor: Array  # (images, 4, 4)
    focal_px: Array  # (images,) at a width of 160
    movable: bool = False  # whether rig and delay are this camera's (thermal)
    lenses: Lenses | None = None  # of the images; None: no distortion

    def lenses_of_images(self) -> Lenses:
        """The given lenses (images)."""
        count = len(self.frame)
        return self.lenses or Lenses(np.zeros(count, np.bool_), np.zeros((count, 8)))


@dataclass(frozen=True, slots=True, eq=False)
class CameraEstimate:
    """All unknowns but the points."""

    poses: Array  # (frames, 4, 4) T_world_cam
    rig: Array  # (4, 4) right of the movable T_cam_sensor
    lenses: Mapping[str, Array]  # (7,) by modality; what is not there is as given
    delay_s: float

    @classmethod
    def given(cls, poses: Array, modalities: Mapping[str, object] | tuple[str, ...] = (),
              ) -> 'CameraEstimate':
        """Nothing corrected."""
        return cls(poses, np.eye(4), {name: np.zeros(LENS_SIZE) for name in modalities}, 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class _Observations:
    """Observations of all modalities, one after the other; points count over all."""

    sensor: NDArray[np.int64]  # which modality
    frame: NDArray[np.int64]
    point: NDArray[np.int64]
    q: Array
    focal: Array
    movable: NDArray[np.bool_]
    rig: Array  # (n, 4, 4)
    lenses: Lenses
    points: int


class Reprojection:
    """Residuals of all observations of some sensors."""

    def __init__(self, sensors: Mapping[str, Sensor], twists: Array, scale_m: float) -> None:
        """`twists` (frames, 6): velocities for the delay."""
        self.names = tuple(sensors)
        self.twists, self.scale_m = twists, scale_m
        self.observations = _joined(list(sensors.values()))

    @property
    def shared_size(self) -> int:
        """Columns of the Jacobian after those of the poses: rig, lenses, delay."""
        return 6 + LENS_SIZE * len(self.names) + 1

    def lens_rows(self, cameras: CameraEstimate) -> Array:
        """Corrections (sensors, 7)."""
        return np.stack([cameras.lenses.get(name, np.zeros(LENS_SIZE)) for name in self.names])

    def residuals(self, cameras: CameraEstimate, points: Array,
                  inliers: NDArray[np.bool_] | slice = slice(None),
                  ) -> tuple[Array, Array, Array]:
        """Residuals (n, 2) in pixels; Jacobians in points of the sensor's frame, and in lenses."""
        obs = self.observations
        T = self._sensor_poses(cameras)[inliers]
        p = np.einsum('nji,nj->ni', T[:, :3, :3], points[obs.point[inliers]] - T[:, :3, 3])
        lenses = obs.lenses[inliers]
        depth = np.where(lenses.fisheye, np.linalg.norm(p, axis=1), p[:, 2])
        behind = ~(depth > _NEAREST_DEPTH * self.scale_m)
        p = np.where(behind[:, None], (0.0, 0.0, 1.0), p)
        lens = self.lens_rows(cameras)[obs.sensor[inliers]]
        seen = lenses.project(p, lens)
        focal = obs.focal[inliers][:, None]
        residual = np.where(behind[:, None], _BEHIND_PX, focal * (seen.q - obs.q[inliers]))
        weight = np.where(behind, 0.0, obs.focal[inliers])[:, None, None]
        return residual, weight * seen.by_point, weight * seen.by_lens

    def jacobians(self, cameras: CameraEstimate, points: Array, inliers: NDArray[np.bool_],
                  by_sensor_point: Array, by_lens: Array) -> tuple[csr_array, Array]:
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
        by_frame = by_sensor_point @ R_sensor_cam @ np.concatenate([ones, se3.hat(p_cam)], axis=2)
        by_rig = by_sensor_point @ np.concatenate([ones, se3.hat(p_sensor)], axis=2)
        by_rig = by_rig * movable[:, None, None]
        by_delay = np.einsum('nij,nj->ni', by_frame, self.twists[frame]) * movable[:, None]
        values = np.concatenate([by_frame, by_rig, by_lens, by_delay[..., None]], axis=2)
        shared = np.broadcast_to(6 * n + np.arange(6), (len(X), 6))
        lens = (6 * n + 6 + LENS_SIZE * obs.sensor[inliers])[:, None] + np.arange(LENS_SIZE)
        delay = np.full((len(X), 1), 6 * n + self.shared_size - 1)
        columns = np.concatenate([6 * frame[:, None] + np.arange(6), shared, lens, delay], axis=1)
        rows = np.arange(2 * len(X)).reshape(-1, 2, 1)
        return (sparse_blocks(values, rows, columns, 6 * n + self.shared_size),
                by_sensor_point @ R)

    def triangulated(self, cameras: CameraEstimate, tolerance_px: float,
                     least_parallax: float = LEAST_PARALLAX) -> tuple[Array, NDArray[np.bool_]]:
        """Points (n, 3) nearest to their rays, robustly; which of them have parallax enough."""
        obs = self.observations
        T = self._sensor_poses(cameras)
        d, _ = obs.lenses.unproject(obs.q, self.lens_rows(cameras)[obs.sensor])
        d = np.einsum('nij,nj->ni', T[:, :3, :3], d)
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
        has_depth = np.linalg.eigvalsh(A)[:, 0] / count > least_parallax
        return np.asarray(points, np.float64), has_depth

    def _sensor_poses(self, cameras: CameraEstimate) -> Array:
        """T_world_sensor of every observation."""
        poses, obs = cameras.poses, self.observations
        T = poses[obs.frame] @ obs.rig
        if obs.movable.any():
            delayed = poses @ se3.exp(self.twists * cameras.delay_s)
            T = np.where(obs.movable[:, None, None],
                         delayed[obs.frame] @ obs.rig @ cameras.rig, T)
        return np.asarray(T)


def sparse_blocks(values: Array, rows: NDArray[np.int64], columns: NDArray[np.int64], width: int,
                  ) -> csr_array:
    """Blocks (n, 2, k) with their rows (n, 2, 1) and columns (n, k) as one matrix."""
    shape = values.shape
    return coo_array((values.reshape(-1), (np.broadcast_to(rows, shape).reshape(-1),
                                           np.broadcast_to(columns[:, None], shape).reshape(-1))),
                     shape=(2 * shape[0], width)).tocsr()


def _joined(sensors: list[Sensor]) -> _Observations:
    first = np.concatenate([[0], np.cumsum([s.tracks.points for s in sensors])])
    lenses = [s.lenses_of_images()[s.tracks.image] for s in sensors]
    return _Observations(
        np.concatenate([np.full(len(s.tracks.image), k) for k, s in enumerate(sensors)]),
        np.concatenate([s.frame[s.tracks.image] for s in sensors]),
        np.concatenate([s.tracks.point + start for s, start in zip(sensors, first)]),
        np.concatenate([s.tracks.xy for s in sensors]),
        np.concatenate([s.focal_px[s.tracks.image] for s in sensors]),
        np.concatenate([np.full(len(s.tracks.image), s.movable) for s in sensors]),
        np.concatenate([s.T_cam_sensor[s.tracks.image] for s in sensors]),
        Lenses(np.concatenate([part.fisheye for part in lenses]),
               np.concatenate([part.coefficients for part in lenses])), int(first[-1]))

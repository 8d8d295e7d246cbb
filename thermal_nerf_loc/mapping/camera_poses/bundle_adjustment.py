# SPDX-License-Identifier: Apache-2.0
"""
Bundle adjustment: frame poses, rig, thermal lens and delay from points that images share.

Minimises, over all sightings of all points, the robust distance in pixels between where a point
is and where it should be seen. Levenberg-Marquardt; points are eliminated by their Schur
complement, so that one step costs a dense solve in the cameras alone. Rounds begin tolerant:
with poses a few degrees off, points first lie far from where they belong.
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

_TOLERANCES_PX = (30.0, 15.0, 8.0, 4.0, 2.0, 1.0, 1.0)  # at a width of 160: what counts as seen
_TRIANGULATIONS = 4  # each with less of what does not fit
_STEPS = 12  # of each round, at most
_ENOUGH = 1e-4  # of the cost: a step that gains less ends a round
_NEAREST = 0.02  # scene scales before a camera: nearer points are mistakes
_LEAST_PARALLAX = 2e-4  # of (I - d d^T)'s mean: less gives no depth
_SIGMA_ROTATION, _SIGMA_SHIFT = 0.3, 0.15  # priors: radians, scene scales; weak beside pixels
_SIGMA_LENS, _SIGMA_DELAY_S = 0.05, 0.2
_ROUGHEST_PX = 0.15  # residuals are never believed to less


@dataclass(frozen=True, slots=True, eq=False)
class Sensor:
    """One modality's images: what they share, where in the rig and in which frames they are."""

    tracks: Tracks
    frame: NDArray[np.int64]  # (images,)
    T_cam_sensor: Array  # (images, 4, 4)
    focal_px: Array  # (images,) at a width of 160
    movable: bool = False  # in the rig: the thermal camera


@dataclass(frozen=True, slots=True, eq=False)
class Cameras:
    """All that is looked for but the points."""

    poses: Array  # (frames, 4, 4) T_world_cam
    rig: Array  # (4, 4) behind T_cam_sensor
    lens: Array  # (3,) log focal length, shift of the centre
    delay_s: float


@dataclass(frozen=True, slots=True, eq=False)
class BundleSolution:
    """What was found, and how well it fits."""

    cameras: Cameras
    sightings: Mapping[str, int]  # that fit, by modality
    residual_px: Mapping[str, float]  # median, at a width of 160


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """Sightings of all modalities, one after the other."""

    frame: NDArray[np.int64]
    point: NDArray[np.int64]
    xy: Array
    focal: Array
    movable: NDArray[np.bool_]
    rig: Array  # (n, 4, 4)
    points: int


class BundleAdjustment:
    """Sightings, what is free, and the priors around where it began."""

    def __init__(self, sensors: Mapping[str, Sensor], poses: Array, twists: Array, scale_m: float,
                 free: tuple[bool, bool, bool, bool]) -> None:
        """`free`: poses, rig, lens, delay."""
        self.sensors, self.twists, self.scale_m = dict(sensors), twists, scale_m
        self.seen = _all_sightings(list(sensors.values()))
        self.begin = Cameras(poses, np.eye(4), np.zeros(3), 0.0)
        n = len(poses)
        self.free = np.repeat(np.array(free), (6 * n, 6, 3, 1))
        self.sigma = np.concatenate([
            np.tile(np.repeat((_SIGMA_SHIFT * scale_m, _SIGMA_ROTATION), 3), n + 1),
            np.full(3, _SIGMA_LENS), [_SIGMA_DELAY_S]])

    def solve(self) -> BundleSolution:
        """Round after round, ever less tolerant."""
        cameras = self.begin
        for tolerance in _TOLERANCES_PX:
            points, solid = self._triangulated(cameras, tolerance)
            residual, _ = self._residuals(cameras, points)
            chosen = solid[self.seen.point] & (np.linalg.norm(residual, axis=1) < tolerance)
            chosen &= _seen_twice(self.seen.point, chosen, self.seen.points)
            if not chosen.any():
                break
            cameras = self._rescaled(self._descend(cameras, points, chosen))
        return self._summary(cameras)

    def points(self, cameras: Cameras, tolerance_px: float) -> tuple[Array, NDArray[np.bool_]]:
        """Where all points are (n, 3), and which sightings agree with that."""
        points, solid = self._triangulated(cameras, tolerance_px)
        off = np.linalg.norm(self._residuals(cameras, points)[0], axis=1)
        fits = solid[self.seen.point] & (off < tolerance_px)
        return points, fits & _seen_twice(self.seen.point, fits, self.seen.points)

    def _rescaled(self, cameras: Cameras) -> Cameras:
        """Give the path back the size that it had: images tell nothing of it."""
        place = cameras.poses[:, :3, 3]
        arm, begun = (x - x.mean(axis=0) for x in (place, self.begin.poses[:, :3, 3]))
        size = float((arm**2).sum())
        if not self.free[0] or size < 1e-12:
            return cameras
        poses = cameras.poses.copy()
        poses[:, :3, 3] = place.mean(axis=0) + arm * float((arm * begun).sum()) / size
        return replace(cameras, poses=poses)

    def _descend(self, cameras: Cameras, points: Array, chosen: NDArray[np.bool_]) -> Cameras:
        residual, _ = self._residuals(cameras, points, chosen)
        square = float(np.median((residual**2).sum(axis=1)))
        scale = max(1.5 * square**0.5, _ROUGHEST_PX)  # beyond it, a sighting counts for less
        damping, cost = 1e-3, self._cost(cameras, points, chosen, scale)
        for _ in range(_STEPS):
            step, moves = self._step(cameras, points, chosen, scale, damping)
            trial, shifted = self._moved(cameras, step), points + moves
            after = self._cost(trial, shifted, chosen, scale)
            gain = cost - after
            if gain > 0.0:
                cameras, points, cost = trial, shifted, after
                damping = max(0.2 * damping, 1e-7)
                if gain < _ENOUGH * cost:
                    break
            else:
                damping *= 10.0
        return cameras

    def _step(self, cameras: Cameras, points: Array, chosen: NDArray[np.bool_], scale_px: float,
              damping: float) -> tuple[Array, Array]:
        """One damped Gauss-Newton step of cameras and points."""
        r, J_sensor = self._residuals(cameras, points, chosen)
        J_cameras, J_points = self._jacobians(cameras, points, chosen, J_sensor)
        root = 1.0 / np.sqrt(scale_px**2 + (r**2).sum(axis=1))  # Cauchy's weights
        r, J_points = r * root[:, None], J_points * root[:, None, None]
        J_cameras = diags_array(np.repeat(root, 2)) @ J_cameras
        Jp, white = self._whitened(J_points, chosen, len(points), damping)
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

    def _whitened(self, J_points: Array, chosen: NDArray[np.bool_], points: int, damping: float,
                  ) -> tuple[csr_array, Array]:
        """Slopes in points whose normal matrix is one, and what makes them so (points, 3, 3)."""
        point = self.seen.point[chosen]
        blocks = np.zeros((points, 3, 3))
        np.add.at(blocks, point, J_points.transpose(0, 2, 1) @ J_points)
        trace = np.trace(blocks, axis1=1, axis2=2)
        blocks += np.eye(3) * (1e-3 * damping * trace + 1e-9)[:, None, None]
        white = np.linalg.inv(np.linalg.cholesky(blocks))
        rows = np.arange(2 * len(J_points)).reshape(-1, 2, 1)
        return _sparse(J_points @ white[point].transpose(0, 2, 1), rows,
                       3 * point[:, None] + np.arange(3), 3 * points), white

    def _cost(self, cameras: Cameras, points: Array, chosen: NDArray[np.bool_], scale_px: float,
              ) -> float:
        r, _ = self._residuals(cameras, points, chosen)
        off = self._offsets(cameras)
        return float(np.log1p((r**2).sum(axis=1) / scale_px**2).sum()
                     + (off**2 / self.sigma**2)[self.free].sum())

    def _residuals(self, cameras: Cameras, points: Array,
                   chosen: NDArray[np.bool_] | slice = slice(None)) -> tuple[Array, Array]:
        """Pixels (n, 2) that sightings are off by, and their slopes (n, 2, 3) in the sensor."""
        seen = self.seen
        T = self._sensor_poses(cameras)[chosen]
        p = np.einsum('nji,nj->ni', T[:, :3, :3], points[seen.point[chosen]] - T[:, :3, 3])
        z = np.where(p[:, 2] > _NEAREST * self.scale_m, p[:, 2], np.nan)
        flat, focal = p[:, :2] / z[:, None], seen.focal[chosen][:, None]
        lens = np.where(seen.movable[chosen][:, None], cameras.lens, 0.0)
        xy = (seen.xy[chosen] - lens[:, 1:]) * np.exp(-lens[:, :1])
        J = np.zeros((len(p), 2, 3))
        J[:, 0, 0] = J[:, 1, 1] = 1.0 / z
        J[:, :, 2] = -flat / z[:, None]
        behind = np.isnan(z)
        residual: Array = np.where(behind[:, None], 1e3, focal * (flat - xy))
        return residual, np.where(behind[:, None, None], 0.0, focal[..., None] * J)

    def _jacobians(self, cameras: Cameras, points: Array, chosen: NDArray[np.bool_],
                   J_sensor: Array) -> tuple[csr_array, Array]:
        """Slopes of the residuals in cameras (sparse) and in points (n, 2, 3)."""
        seen, n = self.seen, len(cameras.poses)
        T = self._sensor_poses(cameras)[chosen]
        R = T[:, :3, :3].transpose(0, 2, 1)  # world to sensor
        frame, movable = seen.frame[chosen], seen.movable[chosen]
        T_frame = cameras.poses[frame]
        X = points[seen.point[chosen]]
        p_cam = np.einsum('nji,nj->ni', T_frame[:, :3, :3], X - T_frame[:, :3, 3])
        p_sensor = np.einsum('nij,nj->ni', R, X - T[:, :3, 3])
        R_sensor_cam = R @ T_frame[:, :3, :3]
        ones = np.broadcast_to(-np.eye(3), (len(X), 3, 3))
        by_frame = J_sensor @ R_sensor_cam @ np.concatenate([ones, se3.hat(p_cam)], axis=2)
        by_rig = J_sensor @ np.concatenate([ones, se3.hat(p_sensor)], axis=2)
        by_rig = by_rig * movable[:, None, None]
        by_delay = np.einsum('nij,nj->ni', by_frame, self.twists[frame]) * movable[:, None]
        by_lens = self._by_lens(cameras, chosen, J_sensor)
        values = np.concatenate([by_frame, by_rig, by_lens, by_delay[..., None]], axis=2)
        shared = 6 * n + np.arange(10)
        columns = np.concatenate([6 * frame[:, None] + np.arange(6),
                                  np.broadcast_to(shared, (len(X), 10))], axis=1)
        rows = np.arange(2 * len(X)).reshape(-1, 2, 1)
        return _sparse(values, rows, columns, 6 * n + 10), J_sensor @ R

    def _by_lens(self, cameras: Cameras, chosen: NDArray[np.bool_], J_sensor: Array) -> Array:
        """d(residual)/d(log focal, centre)."""
        seen = self.seen
        shrink = np.exp(-cameras.lens[0])
        xy = (seen.xy[chosen] - cameras.lens[1:]) * shrink
        out = np.zeros((len(xy), 2, 3))
        out[:, :, 0] = xy
        out[:, 0, 1] = out[:, 1, 2] = shrink
        in_front = J_sensor[:, 0, 0] > 0.0
        weight = seen.focal[chosen] * seen.movable[chosen] * in_front
        return np.asarray(out * weight[:, None, None])

    def _sensor_poses(self, cameras: Cameras) -> Array:
        """T_world_sensor of every sighting."""
        poses = cameras.poses
        T = poses[self.seen.frame] @ self.seen.rig
        if self.seen.movable.any():
            late = poses @ se3.exp(self.twists * cameras.delay_s)
            T = np.where(self.seen.movable[:, None, None],
                         late[self.seen.frame] @ self.seen.rig @ cameras.rig, T)
        return np.asarray(T)

    def _triangulated(self, cameras: Cameras, tolerance_px: float,
                      ) -> tuple[Array, NDArray[np.bool_]]:
        """Points nearest to all their rays but mistaken ones, and which of them have a depth."""
        seen = self.seen
        T = self._sensor_poses(cameras)
        lens = np.where(seen.movable[:, None], cameras.lens, 0.0)
        xy = (seen.xy - lens[:, 1:]) * np.exp(-lens[:, :1])
        d = np.concatenate([xy, np.ones((len(xy), 1))], axis=1)
        d = np.einsum('nij,nj->ni', T[:, :3, :3], d / np.linalg.norm(d, axis=1)[:, None])
        across = np.eye(3) - d[:, :, None] * d[:, None, :]
        weight = np.ones(len(d))
        for _ in range(_TRIANGULATIONS):
            A, b = np.zeros((seen.points, 3, 3)), np.zeros((seen.points, 3))
            weighed = across * weight[:, None, None]
            np.add.at(A, seen.point, weighed)
            np.add.at(b, seen.point, np.einsum('nij,nj->ni', weighed, T[:, :3, 3]))
            points = np.linalg.solve(A + np.eye(3) * 1e-9, b[..., None])[..., 0]
            arm = points[seen.point] - T[:, :3, 3]
            off = np.linalg.norm(np.einsum('nij,nj->ni', across, arm), axis=1)
            off_px = seen.focal * off / np.maximum(np.linalg.norm(arm, axis=1), 1e-9)
            weight = 1.0 / (1.0 + (off_px / (0.3 * tolerance_px))**2)
        count = np.maximum(np.bincount(seen.point, minlength=seen.points), 1)
        solid = np.linalg.eigvalsh(A)[:, 0] / count > _LEAST_PARALLAX
        return np.asarray(points, np.float64), solid

    def _moved(self, cameras: Cameras, step: Array) -> Cameras:
        n = len(cameras.poses)
        return Cameras(se3.plus(cameras.poses, step[:6 * n].reshape(n, 6)),
                       se3.plus(cameras.rig, step[6 * n:6 * n + 6]),
                       cameras.lens + step[6 * n + 6:6 * n + 9], cameras.delay_s + float(step[-1]))

    def _offsets(self, cameras: Cameras) -> Array:
        """How far all has moved from where it began."""
        return np.concatenate([se3.minus(cameras.poses, self.begin.poses).reshape(-1),
                               se3.log(cameras.rig), cameras.lens, [cameras.delay_s]])

    def _summary(self, cameras: Cameras) -> BundleSolution:
        points, solid = self._triangulated(cameras, _TOLERANCES_PX[-1])
        residual = np.linalg.norm(self._residuals(cameras, points)[0], axis=1)
        fits = solid[self.seen.point] & (residual < _TOLERANCES_PX[-1])
        counts, medians, start = {}, {}, 0
        for name, sensor in self.sensors.items():
            part = slice(start, start + len(sensor.tracks.image))
            start = part.stop
            counts[name] = int(fits[part].sum())
            medians[name] = float(np.median(residual[part][fits[part]])) if counts[name] else 0.0
        return BundleSolution(cameras, counts, medians)


def _all_sightings(sensors: list[Sensor]) -> _Seen:
    first = np.concatenate([[0], np.cumsum([s.tracks.points for s in sensors])])
    return _Seen(
        np.concatenate([s.frame[s.tracks.image] for s in sensors]),
        np.concatenate([s.tracks.point + begin for s, begin in zip(sensors, first)]),
        np.concatenate([s.tracks.xy for s in sensors]),
        np.concatenate([s.focal_px[s.tracks.image] for s in sensors]),
        np.concatenate([np.full(len(s.tracks.image), s.movable) for s in sensors]),
        np.concatenate([s.T_cam_sensor[s.tracks.image] for s in sensors]), int(first[-1]))


def _seen_twice(point: NDArray[np.int64], chosen: NDArray[np.bool_], points: int,
                ) -> NDArray[np.bool_]:
    return np.asarray(np.bincount(point[chosen], minlength=points)[point] >= 2)


def _sparse(values: Array, rows: NDArray[np.int64], columns: NDArray[np.int64], width: int,
            ) -> csr_array:
    """Blocks (n, 2, k) with their rows (n, 2, 1) and columns (n, k) as one matrix."""
    shape = values.shape
    return coo_array((values.reshape(-1), (np.broadcast_to(rows, shape).reshape(-1),
                                           np.broadcast_to(columns[:, None], shape).reshape(-1))),
                     shape=(2 * shape[0], width)).tocsr()

# SPDX-License-Identifier: Apache-2.0
"""
Divide a scene into tiles by where its cameras are and what they see.

Cameras of one cell of space make a station. Two stations belong together as far as they see the
same voxels: their affinity is the cosine of what they see. Each floor is cut in two by the
normalized cut (Shi and Malik, Normalized cuts and image segmentation, PAMI 2000) until every part
is small enough: so the cuts fall where few views reach across, at doors and corners. Each tile
also takes the views of its neighbours' cameras that stand within the overlap.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import find_peaks
from scipy.sparse import coo_matrix, csr_matrix, diags
from scipy.spatial import cKDTree

from thermal_nerf_loc.common.config import setting
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.io.datasets.scene import ImageRecord, Scene

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

_STATION_M = 0.8  # cell of cameras that are divided as one
_VOXEL_M = 0.75  # of what is seen
_FAN = 5, 4  # rays of a view, across and down
_STEP_M = 0.5  # along a ray
_CUTS = 0.25, 0.75  # share of the views where a part may be cut
_FLOOR_BIN_M, _FLOOR_SHARE = 0.2, 0.1  # of the histogram of heights; least share of its maximum
_LINK = 0.05  # affinity of stations side by side, whatever they see


@dataclass(frozen=True, slots=True)
class DivisionConfig:
    """How a scene is divided into tiles."""

    views: int = setting(250, 'training views that a tile has at most, besides those of the '
                         'overlap', 10, 100_000)
    tile_m: float = setting(14.0, 'longest side of what the cameras of a tile span, metres', 1.0,
                            1000.0)
    overlap_m: float = setting(1.0, "how far a tile takes the views of its neighbours' cameras",
                               0.1, 50.0)
    reach_m: float = setting(5.0, 'how far a view is taken to see', 0.5, 100.0)
    floor_m: float = setting(2.0, 'least distance of two floors', 0.5, 20.0)


@dataclass(frozen=True, slots=True, eq=False)
class TilePlan:
    """One tile to be: indices of frames of the scene."""

    name: str
    own: tuple[int, ...]  # training frames that stand in the tile
    views: tuple[int, ...]  # those that it is trained on: its own, and of the overlap
    test: tuple[int, ...]  # held-out frames that stand in it
    floor: int
    bounds: Array  # (2, 3) around its own cameras


def divide(scene: Scene, config: DivisionConfig = DivisionConfig()) -> tuple[TilePlan, ...]:
    """Tiles of a scene; each training frame is one tile's own."""
    train = np.array(scene.train, dtype=np.int64)
    if not len(train):
        raise InputError('scene has no training frames to divide', where=scene.root)
    poses = np.stack([scene.frames[i].T_world_cam for i in train])
    positions, up = poses[:, :3, 3], _up(poses)
    floors, count = floors_of(positions @ up, config.floor_m)
    station = _stations(positions, floors)
    affinity = _affinity(_seen(scene, train, poses, config.reach_m), station, positions)
    weights = np.bincount(station)
    sums = np.stack([np.bincount(station, positions[:, c]) for c in range(3)], 1)
    places = np.asarray(sums / weights[:, None], np.float64)
    parts: list[tuple[int, Indices]] = []
    for floor in range(count):
        members = np.unique(station[floors == floor])
        parts += [(floor, part) for part in _parts(members, affinity, weights, places, config)]
    owner = np.empty(len(weights), dtype=np.int64)
    for number, (_, part) in enumerate(parts):
        owner[part] = number
    return plan_tiles(scene, train, positions, owner[station], [floor for floor, _ in parts],
                      config.overlap_m)


def floors_of(heights: Array, least_m: float) -> tuple[Indices, int]:
    """Floor of each camera by its height (peaks of the histogram), and how many there are."""
    low = float(heights.min())
    bins = ((heights - low) / _FLOOR_BIN_M).astype(np.int64)
    histogram = np.convolve(np.bincount(bins), (0.25, 0.5, 1.0, 0.5, 0.25), 'full')
    peaks, _ = find_peaks(np.concatenate([[0.0], histogram, [0.0]]),
                          height=_FLOOR_SHARE * histogram.max(),
                          distance=max(1, round(least_m / _FLOOR_BIN_M)))
    levels = low + (peaks - 1 - 2 + 0.5) * _FLOOR_BIN_M
    if not len(levels):
        return np.zeros(len(heights), np.int64), 1
    nearest = np.abs(heights[:, None] - levels).argmin(axis=1)
    used = np.unique(nearest)
    return np.searchsorted(used, nearest), len(used)


def _up(poses: Array) -> Array:
    mean = -poses[:, :3, 1].mean(axis=0)
    size = float(np.linalg.norm(mean))
    return np.asarray(mean / size) if size > 1e-6 else np.array([0.0, 0.0, 1.0])


def _stations(positions: Array, floors: Indices) -> Indices:
    """Number of the station of each camera."""
    cells = np.column_stack([np.floor(positions / _STATION_M).astype(np.int64), floors])
    return np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)


def _seen(scene: Scene, train: Indices, poses: Array, reach_m: float) -> csr_matrix:
    """Which voxels each view reaches, (views, voxels)."""
    far = np.arange(_STEP_M, reach_m + 1e-9, _STEP_M)
    rows, voxels = [], []
    fans: dict[int, Array] = {}
    for row, (index, T) in enumerate(zip(train, poses)):
        record = next(iter(scene.frames[index].records.values()))
        fan = fans.setdefault(id(record.camera), _fan(record))
        T_world_sensor = T @ record.T_cam_sensor
        points = (T_world_sensor[:3, 3] + far[:, None, None] * (fan @ T_world_sensor[:3, :3].T)
                  ).reshape(-1, 3)
        cells = np.unique(np.floor(points / _VOXEL_M).astype(np.int64), axis=0)
        voxels.append(cells)
        rows.append(np.full(len(cells), row))
    cells, columns = np.unique(np.concatenate(voxels), axis=0, return_inverse=True)
    flat = np.concatenate(rows)
    return coo_matrix((np.ones(len(flat)), (flat, columns.reshape(-1))),
                      shape=(len(train), len(cells))).tocsr()


def _fan(record: ImageRecord) -> Array:
    """Unit rays (n, 3) spread over an image."""
    camera = record.camera
    u = (np.arange(_FAN[0]) + 0.5) / _FAN[0] * camera.width
    v = (np.arange(_FAN[1]) + 0.5) / _FAN[1] * camera.height
    rays = camera.unproject(np.stack(np.meshgrid(u, v), axis=-1).reshape(-1, 2))
    return np.asarray(rays / np.linalg.norm(rays, axis=1, keepdims=True))


def _affinity(seen: csr_matrix, station: Indices, positions: Array) -> csr_matrix:
    """Cosine of what stations see, (stations, stations); those side by side have a link."""
    count = int(station.max()) + 1
    together = coo_matrix((np.ones(len(station)), (station, np.arange(len(station)))),
                          shape=(count, len(station))).tocsr() @ seen
    norms = np.sqrt(np.asarray(together.multiply(together).sum(axis=1)).ravel())
    unit = diags(1.0 / np.maximum(norms, 1e-9)) @ together
    sums = np.stack([np.bincount(station, positions[:, c]) for c in range(3)], 1)
    means = sums / np.bincount(station)[:, None]
    pairs = cKDTree(means).query_pairs(2.0 * _STATION_M, output_type='ndarray')
    links = coo_matrix((np.full(2 * len(pairs), _LINK),
                        (np.concatenate([pairs[:, 0], pairs[:, 1]]),
                         np.concatenate([pairs[:, 1], pairs[:, 0]]))), shape=(count, count))
    return (unit @ unit.T + links).tocsr()


def _parts(members: Indices, affinity: csr_matrix, weights: Indices, places: Array,
           config: DivisionConfig) -> list[Indices]:
    """Cut stations in two until each part is small enough."""
    span = float(np.ptp(places[members], axis=0).max())
    few = weights[members].sum() <= config.views and span <= config.tile_m
    if few or len(members) < 2:
        return [members]
    order, cut = _best_cut(members, affinity, weights, places)
    return [*_parts(order[:cut], affinity, weights, places, config),
            *_parts(order[cut:], affinity, weights, places, config)]


def _best_cut(members: Indices, affinity: csr_matrix, weights: Indices, places: Array,
              ) -> tuple[Indices, int]:
    """Stations along the second eigenvector of their Laplacian, and where the cut is least."""
    W = affinity[members][:, members].toarray()
    np.fill_diagonal(W, 0.0)
    degree = np.maximum(W.sum(axis=1), 1e-9)
    root = 1.0 / np.sqrt(degree)
    laplacian = np.eye(len(W)) - root[:, None] * W * root
    order = np.argsort(np.linalg.eigh(laplacian)[1][:, 1] * root, kind='stable')
    W, degree = W[order][:, order], degree[order]
    # cut(k): affinity between the first k and the rest, by sums over growing squares
    inside = np.array([2.0 * W[k, :k].sum() for k in range(len(W))]).cumsum()
    volume = degree.cumsum()
    across = volume - inside
    cuts = across / volume + across / np.maximum(volume[-1] - volume, 1e-9)
    share = weights[members[order]].cumsum() / weights[members].sum()
    allowed = (share >= _CUTS[0]) & (share <= _CUTS[1])
    allowed[-1] = False
    if not allowed.any():
        allowed[np.abs(share[:-1] - 0.5).argmin()] = True
    return members[order], int(np.where(allowed, cuts, np.inf).argmin()) + 1


def plan_tiles(scene: Scene, train: Indices, positions: Array, owner: Indices, floors: list[int],
               overlap_m: float) -> tuple[TilePlan, ...]:
    """Tiles of training frames at positions (n, 3), with views of the overlap and test frames."""
    tests = defaultdict(list)
    if scene.test:
        held_out = np.stack([scene.frames[i].T_world_cam[:3, 3] for i in scene.test])
        for index, near in zip(scene.test, cKDTree(positions).query(held_out)[1]):
            tests[int(owner[near])].append(index)
    plans = []
    for number, floor in enumerate(floors):
        mine = positions[owner == number]
        near = cKDTree(mine).query(positions, distance_upper_bound=overlap_m)[0] <= overlap_m
        plans.append(TilePlan(
            f'tile_{number:04d}', tuple(train[owner == number].tolist()),
            tuple(train[near].tolist()), tuple(tests[number]), floor,
            np.stack([mine.min(axis=0), mine.max(axis=0)])))
    return tuple(plans)

# SPDX-License-Identifier: Apache-2.0
"""
Build a map of tiles: divide the scene, train each tile, agree on levels, index what is there.

Tiles whose views did not change keep their files. Those that are trained are kept in `work/` until
all are there; the index is written last. So an interruption costs minutes, and the former map
stays whole.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
import hashlib
import os
from pathlib import Path
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.io.atomic_files import read_bytes, remove, write_atomically
from thermal_nerf_loc.io.datasets.image_cache import ImageCache
from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.io.remote_files import checksum, is_remote
from thermal_nerf_loc.localization.tiles.job_runners import JobRunner, LocalProcesses
from thermal_nerf_loc.localization.tiles.tile_job import joined_scene, TileJob
from thermal_nerf_loc.mapping.map.radiance_map import RadianceMap
from thermal_nerf_loc.mapping.tiles.division import divide, DivisionConfig, plan_tiles, TilePlan
from thermal_nerf_loc.mapping.tiles.levels import agreed
from thermal_nerf_loc.mapping.tiles.panorama_index import write_panoramas
from thermal_nerf_loc.mapping.tiles.tile_index import (
    is_tiled, PANORAMAS, Tile, TileFolder, TileIndex, TILES)
from thermal_nerf_loc.mapping.training.config import TrainConfig
from thermal_nerf_loc.sensing.frame import RGB, THERMAL

_WORK = 'work'
_SAME_TILE_M = 3.0  # new views so near a known camera belong to its tile


@dataclass(frozen=True, slots=True, eq=False)
class BuiltTiles:
    """What was built, and what it took."""

    index: TileIndex
    trained: tuple[str, ...]  # tiles that were trained now
    seconds: float
    peak_memory_mb: float  # of the largest worker
    panoramas: int
    steps_left: dict[str, float]  # greatest difference of levels that is left, by modality


def build_tiles(data: Sequence[Path], path: Path, config: TrainConfig = TrainConfig(),
                division: DivisionConfig = DivisionConfig(), runner: JobRunner | None = None,
                progress: Progress = silent, cache_gb: float = 0.0) -> BuiltTiles:
    """
    Train the tiles of some data sets of one place that the folder has not yet as they are.

    Decoded images are kept in at most `cache_gb` of the disk while they train; 0: not at all.
    """
    if is_remote(path):
        raise InputError('a map is trained into a folder of this machine', where=path)
    began = time.monotonic()
    scene = joined_scene(tuple(str(one.resolve()) for one in data))
    before = TileFolder(path).read_index() if is_tiled(path) else None
    if path.exists() and not path.is_dir():
        raise InputError('is a file', where=path, expected='a folder, or nothing yet')
    plans = divide(scene, division) if before is None else _continued(before, scene, division)
    known = {tile.name: tile for tile in before.tiles} if before else {}
    cache = ImageCache((path / _WORK / 'images').resolve(), round(cache_gb * 2**30))
    jobs = [replace(_job(plan, scene, data, path, config), cache=str(cache.folder),
                    cache_gb=cache_gb) for plan in plans]
    due = [job for job in jobs if job.name not in known or known[job.name].views != job.views]
    progress(0.0, 1.0, f'{len(plans)} tiles, {len(due)} of them to train')
    (runner or LocalProcesses()).run([job for job in due if not job.is_done], progress)
    tiles = [_kept(path, job, known.get(job.name)) if job in due else known[job.name]
             for job in jobs]
    states = {job.name: job.state() for job in due}
    index = _indexed(scene, plans, tiles, before, states, division.overlap_m)
    progress(0.0, 1.0, 'levels and panoramas')
    index, left, count = _completed(path, index, scene, plans)
    index = TileFolder(path).write_index(index)
    for job in due:
        for file in (Path(job.path), job.state_path, Path(job.path).with_suffix('.job')):
            remove(file)
    cache.clear()
    return BuiltTiles(index, tuple(job.name for job in due), time.monotonic() - began,
                      max((float(state.get('peak_memory_mb', 0.0)) for state in states.values()),
                          default=0.0), count, left)


def _continued(before: TileIndex, scene: Scene, division: DivisionConfig) -> tuple[TilePlan, ...]:
    """Tiles as they were, with the frames near them; what lies apart makes new tiles."""
    train = np.array(scene.train, np.int64)
    positions = np.stack([scene.frames[i].T_world_cam[:3, 3] for i in train])
    far, nearest = cKDTree(before.poses[:, :3, 3]).query(positions)
    owner = np.where(far <= _SAME_TILE_M, before.owner[nearest], -1)
    floors = [tile.floor for tile in before.tiles]
    apart = train[owner < 0]
    if len(apart):
        numbers = {int(index): k for k, index in enumerate(train)}
        for plan in divide(replace(scene, train=tuple(apart.tolist()), test=()), division):
            owner[[numbers[index] for index in plan.own]] = len(floors)
            floors.append(plan.floor)
    if set(owner.tolist()) != set(range(len(floors))):
        raise InputError('some tiles of the map have no frames in these data sets',
                         where=scene.root, hint='Give the data sets that the map was trained on, '
                         'and the new one by --add.')
    return plan_tiles(scene, train, positions, owner, floors, division.overlap_m)


def _job(plan: TilePlan, scene: Scene, data: Sequence[Path], path: Path, config: TrainConfig,
         ) -> TileJob:
    train, test = (tuple(scene.frames[i].name for i in part) for part in (plan.views, plan.test))
    digest = hashlib.sha256(repr(sorted(config.identity().items())).encode())
    for i in (*plan.views, *plan.test):
        frame = scene.frames[i]
        digest.update(frame.name.encode() + frame.T_world_cam.tobytes())
        for name, record in sorted(frame.records.items()):
            size = os.stat(record.path).st_size
            digest.update(f'{name} {size} {record.camera}'.encode())
    return TileJob(plan.name, tuple(str(one.resolve()) for one in data), train, test,
                   str((path / _WORK / f'{plan.name}.map').resolve()), digest.hexdigest(),
                   asdict(config))


def _kept(path: Path, job: TileJob, former: Tile | None) -> Tile:
    """Put a trained tile under its final name; the former file stays."""
    trained = Path(job.path)
    sha256 = checksum(trained)
    file = f'{TILES}/{job.name}.{sha256[:12]}.map'
    if not (path / file).is_file():
        write_atomically(path / file, read_bytes(trained))
    return Tile(job.name, file, sha256, trained.stat().st_size, 0, (), (), (), job.views, 0,
                former.version + 1 if former else 1)


def _indexed(scene: Scene, plans: Sequence[TilePlan], tiles: Sequence[Tile],
             before: TileIndex | None, states: dict[str, dict[str, Any]], overlap_m: float,
             ) -> TileIndex:
    near = _overlaps(scene, plans)
    filled = []
    for number, (plan, tile) in enumerate(zip(plans, tiles)):
        neighbours = [plans[b if a == number else a].name for a, b, _ in near if number in (a, b)]
        filled.append(replace(tile, floor=plan.floor, low=tuple(plan.bounds[0].tolist()),
                              high=tuple(plan.bounds[1].tolist()), neighbours=tuple(neighbours),
                              cameras=len(plan.own)))
    replaced = [{'tile': tile.name, 'version': tile.version, 'file': tile.file,
                 'sha256': tile.sha256, 'until': time.strftime('%Y-%m-%dT%H:%M:%S')}
                for tile in (before.tiles if before else ()) if tile.name in states]
    own = [(index, number) for number, plan in enumerate(plans) for index in plan.own]
    first = next(iter(states.values()), None)
    modalities = tuple(first['modalities']) if first else before.modalities if before else ()
    return TileIndex(
        scene.root.name, modalities,
        bool(first['radiometric']) if first else bool(before and before.radiometric), overlap_m,
        tuple(filled), np.stack([scene.frames[i].T_world_cam for i, _ in own]),
        np.array([number for _, number in own], np.int64),
        (*(before.history if before else ()), *replaced))


def _overlaps(scene: Scene, plans: Sequence[TilePlan],
              ) -> list[tuple[int, int, NDArray[np.float64]]]:
    """Pairs of tiles with the positions of the cameras that both are trained on."""
    views = [set(plan.views) for plan in plans]
    found = []
    for a in range(len(plans)):
        for b in range(a + 1, len(plans)):
            shared = sorted(views[a] & views[b])
            if shared:
                found.append((a, b, np.stack([scene.frames[i].T_world_cam[:3, 3]
                                              for i in shared])))
    return found


def _completed(path: Path, index: TileIndex, scene: Scene, plans: Sequence[TilePlan],
               ) -> tuple[TileIndex, dict[str, float], int]:
    """Levels of all tiles, and the panoramas of all in one file."""
    loaded: dict[int, RadianceMap] = {}

    def tile(number: int) -> RadianceMap:
        if number not in loaded:
            while len(loaded) > 3:  # neighbours follow each other
                loaded.pop(next(iter(loaded)))
            loaded[number] = RadianceMap.load(path / index.tiles[number].file)
        return loaded[number]

    near, left = _overlaps(scene, plans), {}
    tiles = list(index.tiles)
    for name in index.modalities:
        levels, left[name] = agreed(tile, len(tiles), name, near)
        for number, level in enumerate(levels.tolist()):
            member = ({'gain': float(np.exp(level))} if name == RGB else
                      {'celsius_offset': level} if name == THERMAL else {})
            tiles[number] = replace(tiles[number], **member)
    found = {}
    for number in range(len(tiles)):
        one = tile(number)
        if one.panoramas is not None:
            found[number] = replace(one.panoramas, values={
                name: values * np.float32(tiles[number].gain) if name == RGB else
                values + np.float32(tiles[number].celsius_offset)
                for name, values in one.panoramas.values.items()})
    count = write_panoramas(path / PANORAMAS, found)
    return replace(index, tiles=tuple(tiles)), left, count

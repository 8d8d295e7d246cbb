# SPDX-License-Identifier: Apache-2.0
"""
Train one tile: a job that any process of any machine can do, and do again.

A job is plain JSON. Its state (share, message, error) stands in a file beside its map, so that
whoever waits sees how far it is, whatever runs it. A job that was interrupted goes on from its
checkpoint; one that is done is not done again.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
import time
from typing import Any

from thermal_nerf_loc.common.config import from_mapping
from thermal_nerf_loc.common.errors import InputError, UserError
from thermal_nerf_loc.io.atomic_files import read_json, write_json
from thermal_nerf_loc.io.datasets.image_cache import ImageCache
from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
from thermal_nerf_loc.io.datasets.scene import Scene
from thermal_nerf_loc.localization.build_map import build_map_file
from thermal_nerf_loc.mapping.training.checkpoint import Checkpoint
from thermal_nerf_loc.mapping.training.config import TrainConfig

DONE, FAILED, RUNNING = 'done', 'failed', 'running'
_REPORT_S = 2.0
_BEFORE, _AFTER = 0.1, 0.6  # share of the work before the training proper, and with it
_STAGE = 0.02  # of what is left, with each report of another stage


@dataclass(frozen=True, slots=True)
class TileJob:
    """What to train on, and where the map goes."""

    name: str
    data: tuple[str, ...]  # data sets
    train: tuple[str, ...]  # names of frames, as `joined_scene` has them
    test: tuple[str, ...]
    path: str  # of the map to make
    views: str  # digest of what it is trained on
    training: Mapping[str, Any]  # `TrainConfig`
    cache: str = ''  # folder of decoded images
    cache_gb: float = 0.0  # its size, at most; 0: none

    @property
    def state_path(self) -> Path:
        """The file that tells how far it is."""
        return Path(self.path).with_suffix('.json')

    def state(self) -> dict[str, Any]:
        """How far it is; {} before it has begun, or where it was for other views."""
        if not self.state_path.is_file():
            return {}
        try:
            state = read_json(self.state_path)
        except UserError:
            return {}
        return state if isinstance(state, dict) and state.get('views') == self.views else {}

    @property
    def is_done(self) -> bool:
        """Whether the map is complete."""
        return self.state().get('state') == DONE and Path(self.path).is_file()


def train_tile(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Train a tile, or go on; returns its last state, with what went wrong."""
    members: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value
                               for key, value in facts.items()}
    job = TileJob(**members)
    if job.is_done:
        return job.state()
    started, last, furthest = time.monotonic(), [0.0], [0.0]

    def write(state: str, share: float, message: str, **more: Any) -> dict[str, Any]:
        found = {'state': state, 'views': job.views, 'share': share, 'message': message,
                 'seconds': time.monotonic() - started, **more}
        write_json(job.state_path, found)
        return found

    def report(done: float, total: float, message: str = '') -> None:
        now, share = time.monotonic(), min(done / max(total, 1e-9), 1.0)
        if 'rays/s' in message:  # the training itself; before and after it stages follow
            furthest[0] = max(furthest[0], _BEFORE + (_AFTER - _BEFORE) * share)
        elif furthest[0] > _BEFORE:
            furthest[0] += _STAGE * (1.0 - furthest[0])
        else:
            furthest[0] += _STAGE * (_BEFORE - furthest[0])
        if now - last[0] >= _REPORT_S:
            last[0] = now
            write(RUNNING, furthest[0], message)

    try:
        return write(DONE, 1.0, 'done', **_train(job, report))
    except UserError as error:
        return write(FAILED, 0.0, str(error), error=str(error))
    except Exception as error:  # whoever waits has to be told, on whatever machine
        return write(FAILED, 0.0, str(error), error=f'{type(error).__name__}: {error}')


def _train(job: TileJob, report: Any) -> dict[str, Any]:
    scene = tile_scene(joined_scene(job.data), job.train, job.test)
    if job.cache_gb > 0.0:
        scene = scene.with_cache(ImageCache(Path(job.cache), round(job.cache_gb * 2**30)))
    config = from_mapping(TrainConfig, _tuples(job.training), 'job.training')
    path = Path(job.path)
    resume = Checkpoint.beside(path).path.is_file()
    report(0.0, 1.0, 'reading images')
    try:
        built = build_map_file(scene, path, config, report, resume)
    except InputError:
        if not resume:
            raise
        built = build_map_file(scene, path, config, report)  # a checkpoint of other views
    return {'steps': built.steps, 'training_seconds': built.seconds,
            'peak_memory_mb': built.peak_memory_mb, 'resumed': resume,
            'modalities': built.map.modalities, 'radiometric': built.map.radiometric}


def joined_scene(data: tuple[str, ...]) -> Scene:
    """Several data sets of one place, in one frame, as one scene; names get that of their set."""
    first, *others = (load_scene(Path(one)) for one in data)
    frames, train, test = list(first.frames), list(first.train), list(first.test)
    for number, scene in enumerate(others, 1):
        begin = len(frames)
        frames += [replace(frame, name=f'{scene.root.name}.{number}/{frame.name}')
                   for frame in scene.frames]
        train += [begin + index for index in scene.train]
        test += [begin + index for index in scene.test]
    return replace(first, frames=tuple(frames), train=tuple(train), test=tuple(test))


def tile_scene(scene: Scene, train: tuple[str, ...], test: tuple[str, ...]) -> Scene:
    """The frames of one tile."""
    numbers = {frame.name: index for index, frame in enumerate(scene.frames)}
    missing = [name for name in (*train, *test) if name not in numbers]
    if missing:
        raise InputError('frames of the tile are no longer in the data set', where=scene.root,
                         got=f'{len(missing)} missing, first {missing[0]}')
    frames = tuple(scene.frames[numbers[name]] for name in (*train, *test))
    count = len(train)
    return replace(scene, frames=frames, train=tuple(range(count)),
                   test=tuple(range(count, len(frames))), unposed=())


def facts_of(job: TileJob) -> dict[str, Any]:
    """A job as JSON takes it."""
    return asdict(job)


def _tuples(value: Any) -> Any:
    """JSON knows no tuples."""
    if isinstance(value, Mapping):
        return {key: _tuples(inner) for key, inner in value.items()}
    return tuple(_tuples(inner) for inner in value) if isinstance(value, list) else value


if __name__ == '__main__':
    import sys

    train_tile(read_json(Path(sys.argv[1])))

# SPDX-License-Identifier: Apache-2.0
"""
Warm up: compile kernels before anything is timed, and load them before the first real frame.

numba compiles at the first call, for half a minute, and caches the result on disk. `compile_all`
(`thermal-nerf-loc warm-up`, and every training that finds no kernels) learns a map of a painted
wall and, in a second process (`python -m thermal_nerf_loc.localization.warm_up`, without torch),
localizes in front of it. A stamp beside the kernels says for which processor and sources that was
done. A node that finds no kernels compiles the localizer's while it loads its map
(`compiled_in_background`). Every start then localizes one rendered image (`warm_up_localizer`).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
import hashlib
import logging
import os
from pathlib import Path
import re
import subprocess
import sys
import tempfile
import threading
import time
import warnings

import llvmlite.binding as llvm
import numba
import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common import kernel_cache
from thermal_nerf_loc.common.errors import UserError
from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.io.atomic_files import read_bytes, read_json, write_json
from thermal_nerf_loc.localization.localizer import Localizer, LocalizerConfig
from thermal_nerf_loc.mapping.map.localization_map import LocalizationMap
from thermal_nerf_loc.sensing.frame import Frame, RGB, SensorImage, THERMAL
from thermal_nerf_loc.sensing.rendering import Array32, RayRendering, render_image

_DISTANCE_M = 2.0
_GUESS_ERROR = (0.02, 0.01, -0.02, 0.05, -0.04, 0.03)  # m and rad: enough for a search
_COMPILE_TIMEOUT_S = 120.0
_COMPILE_ALL_TIMEOUT_S = 900.0
_USUAL_S = 60.0  # on a common laptop; only for the bar of progress
_REPORT_S = 2.0
_STEPS = 40  # of the wall's map: all stages of a training
_KERNEL = re.compile(rb'^\s*@(nb\.)?njit', re.MULTILINE)
LOCALIZER, MAP = 'localizer', 'map'  # the kernels that each process compiles
_SIZE_PX = 96, 72  # width and height of the rendered images


class PaintedWall(LocalizationMap):
    """A simulated wall in front of the camera, with waves in all its channels."""

    modalities = (RGB, THERMAL)

    def render_rays(self, modality: str, origins: Array32, directions: Array32) -> RayRendering:
        """See `Renderer`; rays that miss the wall have no opacity."""
        ahead = directions[:, 2] > 0.1
        distance = np.where(ahead, (_DISTANCE_M - origins[:, 2]) / np.where(
            ahead, directions[:, 2], 1.0), 1.0).astype(np.float32)
        x, y = (origins + distance[:, None] * directions)[:, :2].T
        waves = np.stack([np.sin(4.0 * x + 3.0 * y), np.sin(5.0 * y - x), np.cos(3.0 * x)],
                         axis=-1)[:, :3 if modality == RGB else 1]
        return RayRendering((0.5 + 0.4 * waves).astype(np.float32), distance,
                            np.full(len(x), 0.01, np.float32), ahead.astype(np.float32))


def compile_kernels() -> str:
    """Localize in front of the wall: all kernels of the localizer; returns the verdict."""
    world, T = PaintedWall(), np.eye(4)
    config = LocalizerConfig()
    refinement = replace(config.refinement, exact=replace(config.refinement.exact, rays=1000))
    localizer = Localizer(world, replace(config, refinement=refinement))
    verdict = localizer.localize(_view(world, T), se3.plus(T, _GUESS_ERROR)).verdict
    _write_stamp(LOCALIZER)
    return verdict


def compile_map_kernels() -> None:
    """Learn a map of the wall: the kernels of stereo, training and rendering."""
    from thermal_nerf_loc.io.datasets.nerfstudio import load_scene
    from thermal_nerf_loc.io.datasets.scene_writer import SceneWriter
    from thermal_nerf_loc.mapping.map.panoramas import find_panoramas, PanoramaConfig
    from thermal_nerf_loc.mapping.map.uncertainty import uncertainty_of
    from thermal_nerf_loc.mapping.training.config import TrainConfig
    from thermal_nerf_loc.mapping.training.trainer import train

    world, camera = PaintedWall(), Camera.from_fov(*_SIZE_PX, 60.0)
    with tempfile.TemporaryDirectory(prefix='thermal-nerf-loc-') as folder, _quietly():
        root = Path(folder) / 'wall'
        with SceneWriter(root, dict.fromkeys(world.modalities, camera)) as writer:
            for k in range(8):
                T = np.eye(4)
                T[:3, 3] = 0.12 * k - 0.4, 0.05 * (k % 2), 0.0
                writer.add(_view(world, T, 100 * k))
        scene = load_scene(root)
        learned = train(scene, TrainConfig(steps=_STEPS, device='cpu')).map
        uncertainty_of(learned, scene)
        find_panoramas(learned, learned.viewpoints[:1], PanoramaConfig(rays=100, most=2))
    _write_stamp(MAP)


def compile_all(progress: Progress = silent) -> float:
    """Compile all kernels that are not compiled yet, on two cores; returns the seconds."""
    started = time.monotonic()
    with _reporting(progress, started):
        child = None if _is_stamped(LOCALIZER) else _start_child()
        try:
            if not _is_stamped(MAP):
                compile_map_kernels()
            if child is not None:
                child.wait(_COMPILE_ALL_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if child is not None:
                child.kill()
                child.wait()
    if not _is_stamped(LOCALIZER):  # the other process could not, or nothing can be kept
        compile_kernels()
    return time.monotonic() - started


def why_not_ready() -> str:
    """Why kernels are still to be compiled for this machine; '' where they are ready."""
    missing = [name for name in (LOCALIZER, MAP) if not _is_stamped(name)]
    if not missing:
        return ''
    path = _stamp_path(missing[0])
    if path.is_file():
        return 'compiled by another version'
    others = sorted(path.parent.glob(f'thermal_nerf_loc-{missing[0]}-*.json'))
    if others:
        return f'compiled for another processor ({others[0].stem.split("-", 2)[2]})'
    return 'not compiled on this machine yet'


@lru_cache(maxsize=1)
def identity() -> Mapping[str, str]:
    """What compiled kernels depend on: the processor, as numba names it, and the sources."""
    features = numba.config.CPU_FEATURES
    if features is None:
        features = llvm.get_host_cpu_features().flatten()
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(kernel_cache.PACKAGE.rglob('*.py')):
        source = read_bytes(path)
        if _KERNEL.search(source):
            digest.update(source)
    name = numba.config.CPU_NAME or llvm.get_host_cpu_name()
    return {'processor': f'{name}-{hashlib.sha256(features.encode()).hexdigest()[:6]}',
            'digest': digest.hexdigest()}


def kernels_are_compiled() -> bool:
    """Whether the disk cache holds the localizer's kernels, for this processor."""
    return _is_stamped(LOCALIZER)


@contextmanager
def compiled_in_background() -> Iterator[None]:
    """Compile the kernels in another process while the body runs, if they are not compiled yet."""
    if kernels_are_compiled():
        yield
        return
    child = _start_child()
    try:
        yield
        child.wait(_COMPILE_TIMEOUT_S)  # kernels still missing are compiled in this process
    except subprocess.TimeoutExpired:
        pass
    finally:
        child.kill()
        child.wait()


def render_from_middle(renderer: LocalizationMap, modalities: tuple[str, ...]) -> Frame:
    """A frame rendered from the middle of the map."""
    camera = Camera.from_fov(*_SIZE_PX, 70.0)
    T = _middle_of(renderer)
    images = {}
    for modality in modalities:
        images[modality] = SensorImage(camera, render_image(renderer, modality, camera, T).values,
                                       0)
    return Frame(0, images, T)


def warm_up_localizer(localizer: Localizer, rendered: Frame) -> None:
    """Localize a rendered frame; the result does not matter."""
    try:
        localizer.localize(rendered, rendered.T_world_cam)
    except UserError as error:  # the map shows nothing from there; the kernels are loaded anyway
        logging.getLogger(__name__).info('warm-up: %s', error)


def _view(world: PaintedWall, T: NDArray[np.float64], stamp_ns: int = 0) -> Frame:
    """What a camera sees of the wall."""
    camera = Camera.from_fov(*_SIZE_PX, 60.0)
    images = {name: SensorImage(camera, render_image(world, name, camera, T).values, stamp_ns,
                                radiometric=name == THERMAL) for name in world.modalities}
    return Frame(stamp_ns, images, T)


_STAMPED_HERE: set[str] = set()  # kernels that this process has, wherever they are kept


def _is_stamped(name: str) -> bool:
    if name in _STAMPED_HERE:
        return True
    path = _stamp_path(name)
    try:
        return path.is_file() and read_json(path) == identity()
    except UserError:
        return False


def _write_stamp(name: str) -> None:
    _STAMPED_HERE.add(name)
    try:
        write_json(_stamp_path(name), dict(identity()))
    except UserError as error:
        logging.getLogger(__name__).info('kernels cannot be stamped: %s', error)


def _stamp_path(name: str) -> Path:
    """One for each processor; it lies with the kernels, so that it goes when they do."""
    return kernel_cache.folder() / f'thermal_nerf_loc-{name}-{identity()["processor"]}.json'


def _start_child() -> 'subprocess.Popen[bytes]':
    environment = os.environ | {'PYTHONPATH': os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen([sys.executable, '-m', __name__], env=environment,
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextmanager
def _reporting(progress: Progress, started: float) -> Iterator[None]:
    """Report the seconds from a thread: the compiler tells nothing."""
    ended = threading.Event()

    def report() -> None:
        while True:
            seconds = time.monotonic() - started
            progress(seconds / (seconds + _USUAL_S), 1.0, f'compiling kernels, {seconds:.0f} s')
            if ended.wait(_REPORT_S):
                return

    thread = threading.Thread(target=report, name='compiling', daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def _quietly() -> Iterator[None]:
    """Nobody needs remarks about the map of a painted wall."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(before)


def _middle_of(renderer: LocalizationMap) -> NDArray[np.float64]:
    T = np.eye(4)
    if renderer.bounds is not None:
        T[:3, 3] = renderer.bounds.mean(axis=0)
    return T


if __name__ == '__main__':
    compile_kernels()

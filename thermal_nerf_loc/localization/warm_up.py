# SPDX-License-Identifier: Apache-2.0
"""
Warm up the localizer before the first real frame: compile its kernels and load them.

numba compiles at the first call, for half a minute, and caches the result on disk. The first start
on a machine therefore compiles in a second process (`python -m
thermal_nerf_loc.localization.warm_up`, without torch) while this one loads the map
(`compiled_in_background`). Every start then localizes one rendered image (`warm_up_localizer`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
import logging
import os
from pathlib import Path
import subprocess
import sys

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import UserError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.localization.localizer import Localizer
from thermal_nerf_loc.localization.refinement import gauss_newton
from thermal_nerf_loc.mapping.map.localization_map import LocalizationMap
from thermal_nerf_loc.sensing.frame import Frame, RGB, SensorImage, THERMAL
from thermal_nerf_loc.sensing.rendering import Array32, RayRendering, render_image

_DISTANCE_M = 2.0
_GUESS_ERROR = (0.02, 0.01, -0.02, 0.05, -0.04, 0.03)  # m and rad: enough for a search
_COMPILE_TIMEOUT_S = 120.0
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
    """Localize in front of the wall, which compiles all kernels; returns the verdict."""
    world, camera, T = PaintedWall(), Camera.from_fov(*_SIZE_PX, 60.0), np.eye(4)
    rays = camera.rays().astype(np.float32)
    images = {name: SensorImage(camera, world.render_rays(
        name, np.zeros_like(rays), rays).values.reshape(*_SIZE_PX[::-1], -1), 0)
        for name in world.modalities}
    return Localizer(world).localize(Frame(0, images), se3.plus(T, _GUESS_ERROR)).verdict


def kernels_are_compiled() -> bool:
    """Whether the disk cache holds the localizer's kernels."""
    return any(Path(gauss_newton.minimize.stats.cache_path).glob('gauss_newton.minimize*.nbi'))


@contextmanager
def compiled_in_background() -> Iterator[None]:
    """Compile the kernels in another process while the body runs, if they are not compiled yet."""
    if kernels_are_compiled():
        yield
        return
    environment = os.environ | {'PYTHONPATH': os.pathsep.join(filter(None, sys.path))}
    child = subprocess.Popen([sys.executable, '-m', __name__], env=environment,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
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


def _middle_of(renderer: LocalizationMap) -> NDArray[np.float64]:
    T = np.eye(4)
    if renderer.bounds is not None:
        T[:3, 3] = renderer.bounds.mean(axis=0)
    return T


if __name__ == '__main__':
    compile_kernels()

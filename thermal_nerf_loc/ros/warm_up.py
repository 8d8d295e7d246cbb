# SPDX-License-Identifier: Apache-2.0
"""Compile and load everything before the first real frame comes."""

import logging

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import UserError
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.localization.localizer import Localizer
from thermal_nerf_loc.sensing.frame import Frame, SensorImage, THERMAL
from thermal_nerf_loc.sensing.rendering import Renderer

_SIZE = (96, 72)


def picture_of(renderer: Renderer, modalities: tuple[str, ...]) -> Frame:
    """What the map looks like from its middle."""
    camera = Camera.from_fov(*_SIZE, 70.0)
    T = _middle_of(renderer)
    images = {}
    for modality in modalities:
        rays = np.ascontiguousarray(camera.rays() @ T[:3, :3].T, dtype=np.float32)
        origins = np.repeat(T[None, :3, 3], len(rays), axis=0).astype(np.float32)
        seen = renderer.render_rays(modality, origins, rays).values
        channels = 1 if modality == THERMAL else 3
        images[modality] = SensorImage(camera, seen.reshape(_SIZE[1], _SIZE[0], channels), 0)
    return Frame(0, images, T)


def warm_up_localizer(localizer: Localizer, picture: Frame) -> None:
    """Localize a picture of the map itself; the answer does not matter."""
    try:
        localizer.localize(picture, picture.T_world_cam)
    except UserError as error:  # nothing to see from there: the kernels are loaded now
        logging.getLogger(__name__).info('warm-up: %s', error)


def _middle_of(renderer: Renderer) -> NDArray[np.float64]:
    T = np.eye(4)
    T[:3, 3] = np.mean(getattr(renderer, 'bounds', np.zeros((2, 3))), axis=0)
    return T

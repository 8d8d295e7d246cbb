# SPDX-License-Identifier: Apache-2.0
"""A camera file (see `camera_file`) as lenses, mounting and scale, without any image."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.data.camera_file import mask_of, read_blocks
from thermal_nerf_loc.data.intrinsics import camera_from_keys, INTRINSIC_KEYS
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.geometry.se3 import check_pose
from thermal_nerf_loc.sensing.thermal import Radiometry, radiometry_from_mapping

_EXTRINSIC = 'transform_rgb_thermal'


class RigCamera(NamedTuple):
    """One camera of the file; None for what it does not say."""

    camera: Camera | None
    T_rgb_sensor: NDArray[np.float64] | None
    radiometry: Radiometry | None
    mask_path: Path | None = None


def read_rig(path: Path) -> dict[str, RigCamera]:
    """Cameras by modality; a block may leave out the lens, or the mounting."""
    rig = {}
    for modality, block in read_blocks(path).items():
        where = f'{path} {modality}'
        lens = {key: block[key] for key in INTRINSIC_KEYS if key in block}
        mounting = None
        if block.get(_EXTRINSIC) is not None:
            try:
                mounting = np.array(block[_EXTRINSIC], dtype=np.float64)
            except (TypeError, ValueError):
                raise InputError('is no matrix of numbers', where=f'{where} {_EXTRINSIC}',
                                 expected='4x4 numbers') from None
            mounting = check_pose(mounting, f'{where} {_EXTRINSIC}')
        rig[modality] = RigCamera(camera_from_keys(lens, where) if lens else None, mounting,
                                  radiometry_from_mapping(block, where),
                                  mask_of(path, block, modality))
    return rig

# SPDX-License-Identifier: Apache-2.0
"""Given poses of image files: a COLMAP model, or a TUM file."""

from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.io.datasets.colmap_model import ColmapModel, read_model
from thermal_nerf_loc.io.trajectory import read_tum, Trajectory

Array = NDArray[np.float64]

_MIN_NS = 10**14  # file names from here on are nanoseconds, smaller numbers seconds


class ImagePoses(NamedTuple):
    """`T_world_cam` by file name; the other fields are empty or None where unknown."""

    poses: Mapping[str, Array]
    camera: Camera | None
    points: Array  # (n, 3) surface points, in the same world
    error_px: float | None
    source: str
    stamps_ns: Mapping[str, int]
    is_metric: bool | None = None  # None: unknown


def read_poses(path: Path, names: Sequence[str], max_gap_ns: int) -> ImagePoses:
    """
    Poses of the images `names` from a folder (COLMAP) or a file (TUM).

    Poses of a TUM file further apart than `max_gap_ns` are not interpolated.
    """
    if path.is_dir():
        return from_model(read_model(path), names, path)
    return _from_trajectory(read_tum(path), names, path, max_gap_ns)


def from_model(model: ColmapModel, names: Sequence[str], where: object) -> ImagePoses:
    """Poses of the images `names`; where the model has paths, their last part is the name."""
    by_name = {Path(name.replace('\\', '/')).name: image for name, image in model.images.items()}
    found = {name: by_name[name] for name in names if name in by_name}
    if not found:
        raise InputError('no image of the folder has a pose', where=where,
                         expected=f'names such as {names[0]}',
                         got=f'{len(by_name)} others, such as {next(iter(by_name))}')
    used = sorted({image.camera for image in found.values()})
    if len({model.cameras[number] for number in used}) > 1:
        raise InputError('images have several cameras', where=where,
                         expected='one camera for all RGB images', got=f'{len(used)} cameras',
                         hint='Let COLMAP reconstruct with one (--ImageReader.single_camera 1).')
    error = float(model.errors_px.mean()) if len(model.errors_px) else None
    return ImagePoses({name: image.T_world_cam for name, image in found.items()},
                      model.cameras[used[0]], model.points, error, 'COLMAP model', {})


def _from_trajectory(trajectory: Trajectory, names: Sequence[str], path: Path,
                     max_gap_ns: int) -> ImagePoses:
    """Assign poses by the stamps in file names, else one to each image, in order."""
    stamps = [stamp_of(name) for name in names]
    poses = {name: trajectory.at(stamp, max_gap_ns) for name, stamp in zip(names, stamps)
             if stamp is not None}
    found = {name: T for name, T in poses.items() if T is not None}
    no_points = np.zeros((0, 3))
    same_count = len(names) == len(trajectory)
    if found and (not same_count or 2 * len(found) >= len(names)):
        known = {name: stamp for name, stamp in zip(names, stamps)
                 if stamp is not None and name in found}
        return ImagePoses(found, None, no_points, None, 'TUM file, by the stamps in file names',
                          known, True)
    if not same_count:
        raise InputError('poses cannot be assigned to images', where=path,
                         expected='stamps as file names (seconds or nanoseconds), or as many '
                                  'poses as images',
                         got=f'{len(trajectory)} poses from {trajectory.stamps_ns[0] / 1e9:.3f} '
                             f's on, {len(names)} images such as {names[0]}')
    return ImagePoses(dict(zip(names, trajectory.poses)), None, no_points, None,
                      'TUM file, one line an image in the order of names',
                      dict(zip(names, map(int, trajectory.stamps_ns))), True)


def stamp_of(name: str) -> int | None:
    """The stamp (ns) that a file name holds, in seconds or nanoseconds; None where it is none."""
    try:
        value = Decimal(Path(name).stem)
    except InvalidOperation:
        return None
    if not value.is_finite():
        return None
    return int(value) if value >= _MIN_NS else int(value * 10**9)

# SPDX-License-Identifier: Apache-2.0
"""The robot's last pose, kept in a file over a restart."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.atomic_files import read_json, write_json

Array = NDArray[np.float64]

_FORMAT = 'thermal_nerf_loc last pose'


def save_pose(path: Path, map_name: str, T_map_base: Array, stamp_ns: int) -> None:
    """Write the pose beside `path`, then rename: a power cut leaves the old or the new one."""
    write_json(path, {'format': _FORMAT, 'version': 1, 'map': map_name, 'stamp_ns': stamp_ns,
                      'position_m': T_map_base[:3, 3],
                      'quaternion_xyzw': se3.quaternion_from_matrix(T_map_base[:3, :3])})


def read_pose(path: Path, map_name: str) -> Array | None:
    """The pose that was saved in this map; None: there is no file yet, or it is another map's."""
    if not path.exists():
        return None
    content = read_json(path)
    if not isinstance(content, dict) or content.get('format') != _FORMAT:
        raise InputError('is no saved pose', where=path, expected=repr(_FORMAT))
    if content.get('map') != map_name:
        return None
    t, q = _numbers(content, 'position_m', 3, path), _numbers(content, 'quaternion_xyzw', 4, path)
    if not abs(float(np.linalg.norm(q)) - 1.0) < 1e-6:
        raise InputError('saved pose has no unit quaternion', where=path, got=q.tolist())
    return se3.from_quaternion(t, q)


def _numbers(content: dict[str, Any], key: str, count: int, path: Path) -> Array:
    values = content.get(key)
    if (not isinstance(values, list) or len(values) != count
            or not all(isinstance(v, (int, float)) and np.isfinite(v) for v in values)):
        raise InputError('saved pose is damaged', where=f'{path}: {key}',
                         expected=f'{count} numbers', got=repr(values))
    return np.array(values, dtype=np.float64)

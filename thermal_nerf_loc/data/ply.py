# SPDX-License-Identifier: Apache-2.0
"""
Points and triangles as a binary PLY file.

    float x y z, float nx ny nz, uchar red green blue, float temperature (deg C)

Normals and temperature are there where they are known.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.io.atomic_files import write_atomically

Array32 = NDArray[np.float32]

_TYPES = {'<f4': 'float', 'u1': 'uchar'}


def write_ply(path: Path, points_m: Array32, colours: NDArray[np.uint8],
              normals: Array32 | None = None, celsius: Array32 | None = None,
              faces: NDArray[np.int32] | None = None, comments: Sequence[str] = ()) -> None:
    """Write points (n, 3) with colours (n, 3) of 8 bits, and triangles (m, 3) where given."""
    columns: list[tuple[str, str, NDArray[Any]]]
    columns = [(name, '<f4', points_m[:, k]) for k, name in enumerate('xyz')]
    if normals is not None:
        columns += [(f'n{name}', '<f4', normals[:, k]) for k, name in enumerate('xyz')]
    columns += [(name, 'u1', colours[:, k]) for k, name in enumerate(('red', 'green', 'blue'))]
    if celsius is not None:
        columns.append(('temperature', '<f4', celsius))
    rows = np.empty(len(points_m), [(name, kind) for name, kind, _ in columns])
    for name, _, values in columns:
        rows[name] = values
    lines = ['ply', 'format binary_little_endian 1.0',
             *(f'comment {" ".join(comment.split())}' for comment in comments),
             f'element vertex {len(rows)}',
             *(f'property {_TYPES[kind]} {name}' for name, kind, _ in columns)]
    data = rows.tobytes()
    if faces is not None:
        lines += [f'element face {len(faces)}', 'property list uchar int vertex_indices']
        triangles = np.empty(len(faces), [('count', 'u1'), ('corners', '<i4', 3)])
        triangles['count'], triangles['corners'] = 3, faces
        data += triangles.tobytes()
    header = '\n'.join([*lines, 'end_header', ''])
    write_atomically(path, header.encode('ascii', 'replace') + data)

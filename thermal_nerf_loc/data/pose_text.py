# SPDX-License-Identifier: Apache-2.0
"""One pose as people write it down: a TUM line, its seven numbers, or a 4x4 matrix in JSON."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.data.files import read_text
from thermal_nerf_loc.geometry import se3

Array = NDArray[np.float64]

EXPECTED = '"x y z qx qy qz qw", or a file with one TUM line or a 4x4 matrix in JSON'


def pose_from(text: str, where: str = 'pose') -> Array:
    """Parse the pose that `text` holds, or else the file that it names."""
    words = text.replace(',', ' ').split()
    if len(words) > 1 and all(map(_is_number, words)):
        return _from_numbers(words, where)
    if not text.strip():
        raise InputError('pose is empty', where=where, expected=EXPECTED)
    path = Path(text)
    content = read_text(path)
    if content.lstrip().startswith('['):
        return _from_json(content, str(path))
    lines = [line.split('#')[0].replace(',', ' ').split() for line in content.splitlines()]
    lines = [line for line in lines if line]
    if len(lines) != 1:
        raise InputError('holds not exactly one pose', where=path, expected=EXPECTED,
                         got=f'{len(lines)} lines')
    return _from_numbers(lines[0], str(path))


def pose_text(T: Array) -> str:
    """Write `x y z qx qy qz qw`, to a hundredth of a millimetre."""
    numbers = (*T[:3, 3], *se3.quaternion_from_matrix(T[:3, :3]))
    return ' '.join(f'{float(value):.5f}' for value in numbers)


def _from_numbers(words: list[str], where: str) -> Array:
    """Read position and quaternion; a leading stamp, as in TUM files, is left out."""
    if len(words) not in (7, 8) or not all(map(_is_number, words)):
        raise InputError('is no pose', where=where, expected=EXPECTED,
                         got=' '.join(words)[:60])
    row = np.array([float(word) for word in words[-7:]])
    if not np.isfinite(row).all():
        raise InputError('pose holds NaN or infinity', where=where, expected='finite numbers')
    norm = float(np.linalg.norm(row[3:]))
    if abs(norm - 1.0) > 1e-2:  # three decimals are enough
        raise InputError('quaternion is not of unit length', where=where, expected='|q| = 1',
                         got=f'|q| = {norm:.4g}', hint='The order is x y z qx qy qz qw.')
    return np.asarray(se3.from_quaternion(row[:3], row[3:] / norm))


def _from_json(content: str, where: str) -> Array:
    try:
        T = np.array(json.loads(content), dtype=np.float64)
    except (ValueError, TypeError, RecursionError):
        raise InputError('is no matrix of numbers', where=where, expected=EXPECTED) from None
    return se3.check_pose(T, where)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True

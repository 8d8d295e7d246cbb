# SPDX-License-Identifier: Apache-2.0
"""
Trajectories (poses by time) and single poses, in memory and as text.

A trajectory file is a TUM file: lines of `seconds x y z qx qy qz qw`. A single pose is such a
line, its last seven numbers, or a 4x4 matrix in JSON.
"""

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.atomic_files import read_text, write_atomically

Array = NDArray[np.float64]

_NS = 10**9
_COLUMNS = 8
_QUATERNION_TOLERANCE = 1e-2  # of |q| - 1: files with three decimals are accepted
_EXPECTED_POSE = '"x y z qx qy qz qw", or a file with one TUM line or a 4x4 matrix in JSON'


@dataclass(frozen=True, slots=True, eq=False)
class Trajectory:
    """Poses of one body in one frame, in the order of time."""

    stamps_ns: NDArray[np.int64]  # (n,) strictly rising
    poses: Array  # (n, 4, 4)

    def __post_init__(self) -> None:
        """Check stamps and poses, and make both arrays read-only."""
        stamps_ns = np.array(self.stamps_ns)
        if stamps_ns.size and not np.issubdtype(stamps_ns.dtype, np.integer):
            raise InputError('trajectory stamps are no integers', expected='nanoseconds',
                             got=str(stamps_ns.dtype))
        poses = np.array(self.poses, dtype=np.float64).reshape(-1, 4, 4)
        if stamps_ns.ndim != 1 or len(stamps_ns) != len(poses):
            raise InputError('trajectory has not one stamp for each pose', expected=len(poses),
                             got=stamps_ns.shape)
        falling = np.flatnonzero(np.diff(stamps_ns) <= 0)
        if falling.size:
            at = int(falling[0])
            raise InputError('trajectory stamps do not rise', where=f'pose {at + 1}',
                             expected=f'later than {stamps_ns[at]} ns',
                             got=f'{stamps_ns[at + 1]} ns')
        if not np.isfinite(poses).all():
            bad = int(np.flatnonzero(~np.isfinite(poses).all(axis=(1, 2)))[0])
            raise InputError('pose holds NaN or infinity', where=f'pose {bad}')
        R = poses[:, :3, :3]
        error = np.abs(np.swapaxes(R, 1, 2) @ R - np.eye(3)).max(axis=(1, 2))
        skewed = error > se3.ROTATION_TOLERANCE
        if skewed.any() or (np.linalg.det(R) < 0.0).any():
            bad = int(np.flatnonzero(skewed | (np.linalg.det(R) < 0.0))[0])
            raise InputError('pose is no rigid motion', where=f'pose {bad}',
                             expected='a rotation: R^T R = I, det R = 1', got=R[bad].tolist())
        stamps_ns = stamps_ns.astype(np.int64)
        for name, array in (('stamps_ns', stamps_ns), ('poses', poses)):
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        """Number of poses."""
        return len(self.stamps_ns)

    @property
    def duration_ns(self) -> int:
        """Time from the first pose to the last."""
        return int(self.stamps_ns[-1] - self.stamps_ns[0]) if len(self) else 0

    def at(self, stamp_ns: int, max_gap_ns: int | None = None) -> Array | None:
        """
        Pose at a time, interpolated on the SE(3) geodesic between the poses before and after.

        None before the first and after the last pose, and inside a gap longer than `max_gap_ns`.
        """
        after = int(np.searchsorted(self.stamps_ns, stamp_ns))
        if after < len(self) and self.stamps_ns[after] == stamp_ns:
            return np.array(self.poses[after])
        if after in (0, len(self)):
            return None
        start, end = int(self.stamps_ns[after - 1]), int(self.stamps_ns[after])
        if max_gap_ns is not None and end - start > max_gap_ns:
            return None
        T: Array = se3.interpolate(self.poses[after - 1], self.poses[after],
                                   (stamp_ns - start) / (end - start))
        return T

    def gaps(self, longer_than_ns: int) -> tuple[tuple[int, int], ...]:
        """`(start_ns, end_ns)` wherever neighbours lie further apart than that."""
        at = np.flatnonzero(np.diff(self.stamps_ns) > longer_than_ns)
        return tuple((int(self.stamps_ns[i]), int(self.stamps_ns[i + 1])) for i in at)

    def between(self, start_ns: int, end_ns: int) -> 'Trajectory':
        """The poses from `start_ns` to `end_ns`, both included."""
        kept = (self.stamps_ns >= start_ns) & (self.stamps_ns <= end_ns)
        return Trajectory(self.stamps_ns[kept], self.poses[kept])


def read_tum(path: Path) -> Trajectory:
    """Read a TUM file; stamps stay exact to the nanosecond."""
    stamps_ns, rows = [], []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        words = line.split('#')[0].replace(',', ' ').split()
        if not words:
            continue
        where = f'{path} line {number}'
        if len(words) != _COLUMNS:
            raise InputError('is no TUM pose', where=where,
                             expected='8 columns: seconds x y z qx qy qz qw',
                             got=f'{len(words)} columns')
        try:
            stamps_ns.append(_nanoseconds(words[0]))
            rows.append([float(word) for word in words[1:]])
        except (ValueError, InvalidOperation, OverflowError):
            raise InputError('is no TUM pose', where=where, expected='8 numbers',
                             got=repr(line.strip()[:80])) from None
        _check_row(rows[-1], where)
        if len(stamps_ns) > 1 and stamps_ns[-1] <= stamps_ns[-2]:
            raise InputError('stamps do not rise', where=where,
                             expected=f'later than {_seconds(stamps_ns[-2])} s',
                             got=f'{_seconds(stamps_ns[-1])} s',
                             hint='Sort the file by its first column; no stamp may come twice.')
    if not rows:
        raise InputError('holds no pose', where=path, expected='lines of 8 columns')
    table = np.array(rows)
    return Trajectory(np.array(stamps_ns, dtype=np.int64),
                      se3.from_quaternion(table[:, :3], table[:, 3:]))


def write_tum(path: Path, trajectory: Trajectory) -> None:
    """Write a TUM file: nine decimals of a second, and every bit of the poses."""
    quaternions = se3.quaternion_from_matrix(trajectory.poses[:, :3, :3])
    lines = ['# seconds x y z qx qy qz qw']
    for stamp_ns, T, q in zip(trajectory.stamps_ns, trajectory.poses, quaternions, strict=True):
        numbers = ' '.join(repr(float(value)) for value in (*T[:3, 3], *q))
        lines.append(f'{_seconds(int(stamp_ns))} {numbers}')
    write_atomically(path, '\n'.join(lines) + '\n')


def _check_row(row: list[float], where: str) -> None:
    if not np.isfinite(row).all():
        raise InputError('pose holds NaN or infinity', where=where, expected='finite numbers')
    norm = float(np.linalg.norm(row[3:]))
    if abs(norm - 1.0) > _QUATERNION_TOLERANCE:
        raise InputError('quaternion is not of unit length', where=where, expected='|q| = 1',
                         got=f'|q| = {norm:.4g}', hint='The order is x y z qx qy qz qw.')


def _nanoseconds(seconds: str) -> int:
    """Exact, by decimals: a float resolves today's seconds to some 200 ns only."""
    value = Decimal(seconds)
    if not value.is_finite():
        raise ValueError(seconds)
    return int((value * _NS).to_integral_value())


def _seconds(stamp_ns: int) -> str:
    sign, (whole, rest) = '-' if stamp_ns < 0 else '', divmod(abs(stamp_ns), _NS)
    return f'{sign}{whole}.{rest:09d}'


def parse_pose(text: str, where: str = 'pose') -> Array:
    """Parse a pose, from the text itself or from the file that it names."""
    words = text.replace(',', ' ').split()
    if len(words) > 1 and all(map(_is_number, words)):
        return _from_numbers(words, where)
    if not text.strip():
        raise InputError('pose is empty', where=where, expected=_EXPECTED_POSE)
    path = Path(text)
    content = read_text(path)
    if content.lstrip().startswith('['):
        return _from_json(content, str(path))
    lines = [line.split('#')[0].replace(',', ' ').split() for line in content.splitlines()]
    lines = [line for line in lines if line]
    if len(lines) != 1:
        raise InputError('holds not exactly one pose', where=path, expected=_EXPECTED_POSE,
                         got=f'{len(lines)} lines')
    return _from_numbers(lines[0], str(path))


def format_pose(T: Array) -> str:
    """Write a pose as `x y z qx qy qz qw` with five decimals."""
    numbers = (*T[:3, 3], *se3.quaternion_from_matrix(T[:3, :3]))
    return ' '.join(f'{float(value):.5f}' for value in numbers)


def _from_numbers(words: list[str], where: str) -> Array:
    """Read position and quaternion; a stamp before them, as in TUM files, is ignored."""
    if len(words) not in (7, 8) or not all(map(_is_number, words)):
        raise InputError('is no pose', where=where, expected=_EXPECTED_POSE,
                         got=' '.join(words)[:60])
    row = [float(word) for word in words[-7:]]
    _check_row(row, where)
    return np.asarray(se3.from_quaternion(row[:3], row[3:]))


def _from_json(content: str, where: str) -> Array:
    try:
        T = np.array(json.loads(content), dtype=np.float64)
    except (ValueError, TypeError, RecursionError):
        raise InputError('is no matrix of numbers', where=where, expected=_EXPECTED_POSE) from None
    return se3.check_pose(T, where)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True

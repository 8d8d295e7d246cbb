# SPDX-License-Identifier: Apache-2.0
"""Timed poses: exact stamps, geodesics between them, TUM files."""

from pathlib import Path

from hypothesis import given, strategies
import numpy as np
import pytest
from transforms3d import quaternions

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.io.trajectory import read_tum, Trajectory, write_tum

START_NS = 1_732_180_000_123_456_789  # as a float of seconds it would lose its last digits


def trajectory(count: int = 5) -> Trajectory:
    xi = np.random.default_rng(3).normal(size=(count, 6))
    return Trajectory(START_NS + np.arange(count) * 100_000_001, se3.exp(xi))


def test_tum_round_trip_is_exact(tmp_path: Path):
    before = trajectory()
    write_tum(tmp_path / 'a.tum', before)
    after = read_tum(tmp_path / 'a.tum')
    np.testing.assert_array_equal(after.stamps_ns, before.stamps_ns)
    np.testing.assert_allclose(after.poses, before.poses, atol=1e-14)


@given(strategies.lists(strategies.integers(-2**62, 2**62), min_size=1, max_size=5, unique=True))
def test_any_stamp_survives(tmp_path_factory: pytest.TempPathFactory, stamps: list[int]):
    path = tmp_path_factory.mktemp('tum') / 'a.tum'
    write_tum(path, Trajectory(np.array(sorted(stamps)), np.stack([np.eye(4)] * len(stamps))))
    assert read_tum(path).stamps_ns.tolist() == sorted(stamps)


def test_tum_columns_agree_with_transforms3d(tmp_path: Path):
    T = se3.exp([0.1, -0.2, 0.3, 0.4, -1.0, 2.0])
    write_tum(tmp_path / 'a.tum', Trajectory(np.array([START_NS]), T[None]))
    line = (tmp_path / 'a.tum').read_text().splitlines()[-1].split()
    assert line[0] == '1732180000.123456789'
    np.testing.assert_allclose([float(w) for w in line[1:4]], T[:3, 3])
    x, y, z, w = (float(word) for word in line[4:])
    np.testing.assert_allclose(quaternions.quat2mat([w, x, y, z]), T[:3, :3], atol=1e-12)


def test_others_files_are_read(tmp_path: Path):
    (tmp_path / 'a.tum').write_text('# comment\n\n1.5e0 1 2 3 0 0 0.7071 0.7071\r\n'
                                    '2,1,2,3,0,0,0,-1  # end\n')
    read = read_tum(tmp_path / 'a.tum')
    assert read.stamps_ns.tolist() == [1_500_000_000, 2_000_000_000]
    np.testing.assert_allclose(read.poses[0] @ [1, 0, 0, 1], [1, 3, 3, 1], atol=1e-12)
    np.testing.assert_allclose(read.poses[1, :3, :3], np.eye(3), atol=1e-12)


def test_interpolation_follows_a_screw(tmp_path: Path):
    xi = np.array([0.4, 0.0, 0.1, 0.0, 0.0, 1.0])
    path = Trajectory(np.array([0, 1000]), np.stack([np.eye(4), se3.exp(xi)]))
    np.testing.assert_allclose(path.at(250), se3.exp(0.25 * xi), atol=1e-12)
    np.testing.assert_allclose(path.at(1000), se3.exp(xi), atol=1e-12)
    assert path.at(-1) is None
    assert path.at(1001) is None
    assert path.at(500, max_gap_ns=999) is None
    assert path.at(500, max_gap_ns=1000) is not None
    assert path.at(0, max_gap_ns=1) is not None, 'a stamp that was hit lies in no gap'


def test_gaps_and_parts():
    path = Trajectory(np.array([0, 10, 50, 60]), np.stack([np.eye(4)] * 4))
    assert path.gaps(10) == ((10, 50),)
    assert path.between(10, 50).stamps_ns.tolist() == [10, 50]
    assert path.duration_ns == 60
    assert len(Trajectory(np.zeros(0, np.int64), np.zeros((0, 4, 4)))) == 0


def test_arrays_are_copies_and_read_only():
    stamps_ns, poses = np.array([0, 1]), np.stack([np.eye(4)] * 2)
    path = Trajectory(stamps_ns, poses)
    poses[0, 0, 3] = 7.0
    assert path.poses[0, 0, 3] == 0.0
    with pytest.raises(ValueError, match='read-only'):
        path.poses[0, 0, 3] = 1.0


@pytest.mark.parametrize(('stamps', 'poses', 'said'), [
    ([0.5, 1.0], np.stack([np.eye(4)] * 2), 'no integers; expected nanoseconds; got float64'),
    ([0, 0], np.stack([np.eye(4)] * 2), 'pose 1: trajectory stamps do not rise'),
    ([0], np.stack([np.eye(4)] * 2), 'not one stamp for each pose; expected 2'),
    ([0], np.full((1, 4, 4), np.nan), 'pose 0: pose holds NaN'),
    ([0, 1], np.stack([np.eye(4), np.diag([1.0, 1.0, -1.0, 1.0])]), 'pose 1: pose is no rigid'),
])
def test_impossible_trajectories_are_refused(stamps: list, poses: np.ndarray, said: str):
    with pytest.raises(InputError) as caught:
        Trajectory(np.array(stamps), poses)
    assert said in str(caught.value)

# SPDX-License-Identifier: Apache-2.0
"""Files are whole or not there, and system errors become sentences."""

from dataclasses import dataclass
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from thermal_nerf_loc.common.errors import InputError, RunError
from thermal_nerf_loc.io import atomic_files


def test_write_replaces_whole_file_and_leaves_nothing_beside(tmp_path: Path):
    path = tmp_path / 'deep' / 'er' / 'a.txt'
    atomic_files.write_atomically(path, 'old')
    atomic_files.write_atomically(path, b'new')
    assert path.read_bytes() == b'new'
    assert [entry.name for entry in path.parent.iterdir()] == ['a.txt']


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / 'a.txt'
    atomic_files.write_atomically(path, 'old')

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(RunError, match=r'a\.txt: no space left on the disk'):
        atomic_files.write_atomically(path, 'new')
    assert path.read_text() == 'old'
    assert [entry.name for entry in tmp_path.iterdir()] == ['a.txt']


def test_written_file_obeys_the_umask(tmp_path: Path):
    before = os.umask(0o027)
    try:
        atomic_files.write_atomically(tmp_path / 'a', 'x')
    finally:
        os.umask(before)
    assert (tmp_path / 'a').stat().st_mode & 0o777 == 0o640


def test_folder_appears_only_when_it_is_whole(tmp_path: Path):
    final = tmp_path / 'out'
    with atomic_files.directory_beside(final) as folder:
        assert folder.name == 'out'
        atomic_files.write_inside(folder / 'sub' / 'a', b'1')
        assert not final.exists()
    assert (final / 'sub' / 'a').read_bytes() == b'1'
    assert [entry.name for entry in tmp_path.iterdir()] == ['out']


@pytest.mark.parametrize('failure', [ValueError, KeyboardInterrupt])
def test_failed_folder_leaves_nothing(tmp_path: Path, failure: type[BaseException]):
    def fill() -> None:
        with atomic_files.directory_beside(tmp_path / 'out') as folder:
            atomic_files.write_inside(folder / 'a', b'1')
            raise failure

    with pytest.raises(failure):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_empty_folder_is_taken_a_full_one_refused_untouched(tmp_path: Path):
    (tmp_path / 'empty').mkdir()
    with atomic_files.directory_beside(tmp_path / 'empty') as folder:
        atomic_files.write_inside(folder / 'a', b'1')
    assert (tmp_path / 'empty' / 'a').exists()
    with (pytest.raises(InputError, match='empty: exists already and is not empty'),
          atomic_files.directory_beside(tmp_path / 'empty')):
        pass
    assert (tmp_path / 'empty' / 'a').read_bytes() == b'1'


def test_json_takes_numpy_dataclasses_and_has_no_nan(tmp_path: Path):
    @dataclass
    class Figures:
        psnr: float
        counts: np.ndarray

    path = tmp_path / 'a.json'
    atomic_files.write_json(path, {'figures': Figures(np.float32(2.5), np.arange(2)), 'path': path,
                            'nan': np.nan, 'inf': [np.inf], 'flag': np.bool_(True), 'none': None})
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {
        'figures': {'psnr': 2.5, 'counts': [0, 1]}, 'path': str(path), 'nan': None,
        'inf': [None], 'flag': True, 'none': None}
    assert atomic_files.read_json(path)['figures']['psnr'] == 2.5


def test_byte_order_mark_is_no_obstacle(tmp_path: Path):
    (tmp_path / 'a.json').write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert atomic_files.read_json(tmp_path / 'a.json') == {'a': 1}

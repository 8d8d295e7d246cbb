# SPDX-License-Identifier: Apache-2.0
"""
Which frames of a data set are for training, and which are held out.

A `transforms.json` lists the file names of its splits (`train_filenames`, ...); one that does not
holds every 8th frame out. Importers choose a split by `split_of` and list it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from thermal_nerf_loc.common.errors import InputError

HOLD_OUT_EVERY = 8  # frames, where nothing else is said
SPLITS = ('train', 'test')

_KEYS = ('train_filenames', 'val_filenames', 'test_filenames')


def split_of(index: int, hold_out: int) -> str:
    """
    Return 'test' for one of every `hold_out` frames of a drive, 'train' for the others.

    It is the middle one, not the first: the first frame lies at the end of the path, with
    neighbours on one side only.
    """
    return 'test' if index % hold_out == hold_out // 2 else 'train'


def read_split(content: Mapping[str, Any], file: Path, names: Sequence[Sequence[str]],
               posed: Sequence[int], unposed: Sequence[int],
               ) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """
    Frames to train on and frames held out, as indices into `posed`.

    `names` holds the file names of every listed frame; `posed` and `unposed` are the indices of
    the frames that have images, with and without a pose. Frames without a pose may be listed for
    training, where they are left out, but not held out.
    """
    position = {name: index for index, of_frame in enumerate(names) for name in of_frame}
    lists = {key: _listed_frames(content[key], f'{file} {key}', position) for key in _KEYS
             if content.get(key) is not None}
    train, held = (_listed_split(lists, file, names, len(names), set(unposed)) if lists else
                   _every_nth(len(names), set(unposed)))
    return (tuple(new for new, old in enumerate(posed) if old in train),
            tuple(new for new, old in enumerate(posed) if old in held))


def file_name(value: Any, where: str) -> str:
    """A path as data sets write it, with forward slashes."""
    if not isinstance(value, str) or not value:
        raise InputError('path is no text', where=where, expected='a path', got=repr(value))
    return str(PurePosixPath(value.replace('\\', '/')))


def _listed_split(lists: Mapping[str, set[int]], file: Path, names: Sequence[Sequence[str]],
                  count: int, unposed: set[int]) -> tuple[set[int], set[int]]:
    """The split of the lists: 'test' wins over 'val'; what no list holds is for the other side."""
    train, val, test = (lists.get(key) for key in _KEYS)
    posed = set(range(count)) - unposed
    unknown = sorted(unposed & ((val or set()) | (test or set())))
    if unknown:
        raise InputError('a held-out frame has no pose', where=file, expected='transform_matrix',
                         got=names[unknown[0]][0],
                         hint='Nothing can be measured there; take it out of the split.')
    held = test if test is not None else val
    if held is None:
        held = posed - (train or set())
    train = posed - held - (val or set()) if train is None else train
    both = sorted(train & held)
    if both:
        raise InputError('a frame is both for training and held out', where=file,
                         got=names[both[0]][0])
    return train, held


def _every_nth(count: int, unposed: set[int]) -> tuple[set[int], set[int]]:
    posed = set(range(count)) - unposed
    held = set(sorted(posed)[::HOLD_OUT_EVERY]) if len(posed) > 1 else set()
    return posed - held, held


def _listed_frames(names: Any, where: str, position: Mapping[str, int]) -> set[int]:
    """Indices of the frames that a split lists by file name."""
    if not isinstance(names, list):
        raise InputError('split is no list of file names', where=where, got=repr(names)[:60])
    unknown = [name for name in names if file_name(name, where) not in position]
    if unknown:
        raise InputError('split names frames that the scene does not have', where=where,
                         expected='values of file_path',
                         got=f'{len(unknown)} unknown, first {unknown[0]!r}')
    return {position[file_name(name, where)] for name in names}

# SPDX-License-Identifier: Apache-2.0
"""
Poses of a bag that has none, by structure from motion on the images of one camera.

The images are read once more: of each time step the sharpest is taken. Thermal images get even
contrast first (`sensing/contrast.py`). The result is a trajectory of that camera, in a world of
arbitrary scale; images of the other camera get poses in between.
"""

from collections.abc import Iterator
from pathlib import Path
import tempfile
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.common.progress import Progress
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.importers.bags.images import ImageDecoder
from thermal_nerf_loc.importers.bags.keyframe_selection import sharpness
from thermal_nerf_loc.importers.bags.survey import CameraLog
from thermal_nerf_loc.importers.images.metric_scale import arbitrary
from thermal_nerf_loc.importers.images.structure_from_motion import (
    reconstruct, require_pycolmap)
from thermal_nerf_loc.io.bags.messages import stamp_ns
from thermal_nerf_loc.io.bags.poses import PoseSource
from thermal_nerf_loc.io.bags.reader import BagReader
from thermal_nerf_loc.io.bags.transform_tree import FrameTree
from thermal_nerf_loc.io.images import write_png
from thermal_nerf_loc.io.trajectory import Trajectory
from thermal_nerf_loc.sensing.contrast import learn_pattern, stretched

_MAX_IMAGES = 300  # so that matching stays within minutes
_MIN_STEP_NS = 200_000_000
_FOR_PATTERN = 60  # images
_FEATURE_PX = 1600
_READ = 0.2  # share of the work


class FoundPoses(NamedTuple):
    """Poses of a camera, notes for the user."""

    source: PoseSource
    stamps: NDArray[np.int64]  # of the images that were placed
    notes: tuple[str, ...]


def find_poses(reader: BagReader, log: CameraLog, decoder: ImageDecoder, lens: Camera,
               tree: FrameTree, progress: Progress) -> FoundPoses:
    """Poses of the images of one camera, whose lens is known."""
    require_pycolmap()
    with tempfile.TemporaryDirectory(prefix='bag-images-') as scratch:
        folder = Path(scratch)
        names = _write_images(reader, log, decoder, folder,
                              lambda done, total, text='': progress(_READ * done / total, 1.0,
                                                                    text))
        if len(names) < 2:
            raise InputError('bag has too few images for structure from motion', got=len(names))
        found = reconstruct(folder, list(names), lens, 'OPENCV', 'auto', _FEATURE_PX,
                            lambda done, total, text='': progress(
                                _READ + (1.0 - _READ) * done / total, 1.0, text))
    poses = {name: image.T_world_cam for name, image in found.model.images.items()}
    metric = arbitrary(poses, found.model.points, lens)
    placed = [name for name in names if name in poses]
    stamps = np.array([names[name] for name in placed], dtype=np.int64)
    moved = metric.similarity.apply(np.stack([poses[name] for name in placed]))
    notes = [f'{len(placed)} of {len(names)} images were placed by structure from motion',
             found.note, *metric.notes]
    if found.models > 1:
        notes.append(f'the images fell apart into {found.models} models without overlap; the '
                     'largest is used')
    gap_ns = int(np.diff(stamps).max()) if len(stamps) > 1 else 0
    source = PoseSource(f'structure from motion on {log.topics.image}', '', log.frame,
                        Trajectory(stamps, moved), tree, min(gap_ns, 5 * _MIN_STEP_NS))
    return FoundPoses(source, stamps, tuple(notes))


def _write_images(reader: BagReader, log: CameraLog, decoder: ImageDecoder, folder: Path,
                  progress: Progress) -> dict[str, int]:
    """Write the sharpest image of each step; returns stamps by name."""
    good = set(log.sorted_stamps().tolist())
    first, last = min(good), max(good)
    step = max(_MIN_STEP_NS, (last - first) // _MAX_IMAGES)
    chosen = {}
    for stamp, pixels in _sharpest(reader, log, decoder, good, first, step, progress):
        chosen[f'{stamp}.png'] = stamp
        np.save(folder / f'{stamp}.npy', pixels)
    names = sorted(chosen, key=chosen.__getitem__)
    every = max(1, len(names) // _FOR_PATTERN)
    pattern = None
    if not decoder.is_rgb:
        pattern = learn_pattern([_saved(folder, name) for name in names[::every]]).image
    for name in names:
        image = _saved(folder, name)
        write_png(folder / name, np.asarray(image) if decoder.is_rgb else
                  stretched(image, pattern))
        (folder / name).with_suffix('.npy').unlink()
    return {name: chosen[name] for name in names}


def _saved(folder: Path, name: str) -> NDArray[Any]:
    return np.asarray(np.load((folder / name).with_suffix('.npy')))


def _sharpest(reader: BagReader, log: CameraLog, decoder: ImageDecoder, good: set[int], first: int,
              step: int, progress: Progress) -> Iterator[tuple[int, NDArray[Any]]]:
    best: dict[int, tuple[float, int, NDArray[Any]]] = {}
    total_s = reader.duration_ns / 1e9
    for _, recorded_ns, message in reader.messages([log.topics.image]):
        progress((recorded_ns - reader.first_ns) / 1e9, max(total_s, 1e-9), 'reading images')
        stamp = stamp_ns(message.header.stamp)
        if stamp not in good:
            continue
        try:
            values = decoder.for_features(message)
        except InputError:
            continue  # the second pass counts it
        window, score = (stamp - first) // step, sharpness(values)
        for done in [key for key in best if key < window]:
            yield best.pop(done)[1:]
        if window not in best or score > best[window][0]:
            best[window] = score, stamp, values
    for found in best.values():
        yield found[1:]

# SPDX-License-Identifier: Apache-2.0
"""
Folders of images to a data set: poses by structure from motion (or given), metres, pairs.

Poses are those of the RGB camera; the thermal camera sits in the rig that a camera file tells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.config import check, setting
from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.importers.images import metric_scale
from thermal_nerf_loc.importers.images.fiducials import FAMILIES, find_tags, tag_edges
from thermal_nerf_loc.importers.images.folders import (
    check_sizes, find_folders, list_images, pair_images, Pairing, PAIRINGS)
from thermal_nerf_loc.importers.images.metric_scale import Distance, Metric
from thermal_nerf_loc.importers.images.poses import from_model, ImagePoses, read_poses
from thermal_nerf_loc.importers.images.structure_from_motion import (
    LENSES, reconstruct, require_pycolmap)
from thermal_nerf_loc.io.atomic_files import check_vacant
from thermal_nerf_loc.io.datasets.camera_file import read_rig, RigCamera
from thermal_nerf_loc.io.datasets.nerfstudio import HOLD_OUT_EVERY
from thermal_nerf_loc.io.datasets.scene import ImageRecord
from thermal_nerf_loc.io.datasets.scene_writer import write_image_set
from thermal_nerf_loc.io.images import read_counts, read_image
from thermal_nerf_loc.sensing.frame import RGB, THERMAL
from thermal_nerf_loc.sensing.thermal import LinearRadiometry
from thermal_nerf_loc.sensing.thermal_cameras import settle_scale, SettledScale

Array = NDArray[np.float64]

_NAMED = 10  # so many images that were left out are named on the terminal
_CHECKED, _POSED, _SCALED = 0.05, 0.85, 0.9  # shares of the work that are then done


@dataclass(frozen=True, slots=True)
class ImageImportConfig:
    """What to make of the folders; empty ones are found."""

    rgb: Path | None = None
    thermal: Path | None = None
    pair: str = setting('auto', 'how thermal images find their RGB ones', choices=PAIRINGS)
    cameras: Path | None = None
    poses: Path | None = None
    lens: str = setting('OPENCV', 'lens model to find', choices=LENSES)
    matching: str = setting('auto', 'which images are compared',
                            choices=('auto', 'all', 'neighbours'))
    positions: Path | None = None
    distances: tuple[Distance, ...] = ()
    tag_size_m: float | None = None
    tag_family: str = setting('apriltag-36h11', 'kind of tag', choices=tuple(FAMILIES))
    hold_out: int = setting(HOLD_OUT_EVERY, 'every so many frames one is held out', 2, 1_000_000)
    radiometry: LinearRadiometry | None = None
    radiometric: bool = True

    def __post_init__(self) -> None:
        """Check the ranges, and that metres come from one place."""
        check(self, 'import')
        ways = [self.positions is not None, bool(self.distances), self.tag_size_m is not None]
        if sum(ways) > 1:
            raise InputError('the scale is given twice', expected='one of --camera-positions, '
                             '--distance, --tag-size')
        if self.tag_size_m is not None and not 0.0 < self.tag_size_m < np.inf:
            raise InputError('tag size is out of range', where='--tag-size',
                             expected='metres above 0', got=self.tag_size_m)


@dataclass(frozen=True, slots=True, eq=False)
class ImportedImages:
    """What came of it."""

    figures: dict[str, Any]
    notes: tuple[str, ...]


def import_images(root: Path, out: Path, config: ImageImportConfig = ImageImportConfig(),
                  progress: Progress = silent) -> ImportedImages:
    """Read folders of images and write a data set."""
    check_vacant(out)
    job = _ImageImport(root, out, config, progress)
    if config.poses is None:
        require_pycolmap()
    return job.run()


class _ImageImport:
    """One import."""

    def __init__(self, root: Path, out: Path, config: ImageImportConfig,
                 progress: Progress) -> None:
        self._out, self._config, self._progress = out, config, progress
        self._given: Mapping[str, RigCamera] = read_rig(config.cameras) if config.cameras else {}
        self._rgb, self._thermal = find_folders(root, config.rgb, config.thermal)
        self._names = list_images(self._rgb)
        if len(self._names) < 2:
            raise InputError('one image is not enough', where=self._rgb,
                             expected='two or more, better dozens', got=self._names[0])
        self._notes: list[str] = []

    def run(self) -> ImportedImages:
        """Pair, check, pose, scale, write."""
        pairs, sizes = self._pairs(), self._check_images()
        thermal_lens = self._thermal_lens(sizes)
        scale = self._thermal_scale(pairs)
        found = self._poses()
        lens = self._lens(found, sizes[RGB])
        left_out = [name for name in self._names if name not in found.poses]
        self._tell_some(left_out, 'images could not be placed and are left out')
        metric = self._metric(found, lens)
        mounting = self._mounting(metric) if pairs else None
        names = [name for name in self._names if name in found.poses]
        moved = metric.similarity.apply(np.stack([found.poses[name] for name in names]))
        records = {name: self._records(name, lens, thermal_lens, mounting, scale, pairs, found)
                   for name in names}
        counts = write_image_set(
            self._out, dict(zip(names, moved)), records, found.stamps_ns, scale,
            self._config.hold_out, {'metric': metric.is_metric, 'from': metric.told},
            self._stage(_SCALED, 1.0, 'writing', len(names)))
        self._notes += metric.notes
        return ImportedImages(self._figures(found, metric, pairs, scale, left_out) | counts,
                              tuple(self._notes))

    def _pairs(self) -> Pairing | None:
        if self._thermal is None:
            self._notes.append('no folder of thermal images was found: RGB alone '
                               '(see --thermal)')
            return None
        pairs = pair_images(self._names, list_images(self._thermal, thermal=True),
                            self._config.pair)
        self._notes.append(f'thermal images belong to RGB images by {pairs.told}')
        self._tell_some(pairs.rgb_alone, 'RGB images have no thermal one')
        self._tell_some(pairs.thermal_alone, 'thermal images have no RGB one and are left out')
        return pairs

    def _check_images(self) -> dict[str, tuple[int, int]]:
        """Sizes by modality, after every image was decoded once."""
        thermal = list_images(self._thermal, thermal=True) if self._thermal is not None else []
        tell = self._stage(0.0, _CHECKED, 'looking', len(self._names) + len(thermal))
        sizes = {RGB: check_sizes(self._rgb, self._names, read_image, tell)}
        if self._thermal is not None:
            sizes[THERMAL] = check_sizes(
                self._thermal, thermal, lambda path: read_counts(path).counts,
                lambda count: tell(len(self._names) + count))
        return sizes

    def _thermal_lens(self, sizes: Mapping[str, tuple[int, int]]) -> Camera | None:
        if THERMAL not in sizes:
            return None
        lens = self._given[THERMAL].camera if THERMAL in self._given else None
        if lens is None:
            raise InputError('thermal camera has no lens', where=self._thermal,
                             expected='--cameras FILE with a block "thermal": w, h, fl_x, ...',
                             hint='Structure from motion finds the lens of the RGB camera only.')
        _check_lens(lens, sizes[THERMAL], THERMAL)
        return lens

    def _thermal_scale(self, pairs: Pairing | None) -> SettledScale | None:
        if pairs is None or self._thermal is None:
            return None
        path = self._thermal / next(iter(pairs.partner.values()))
        in_file = self._given[THERMAL].radiometry if THERMAL in self._given else None
        settled = settle_scale(read_counts(path).counts,
                               (self._config.radiometry or in_file) if self._config.radiometric
                               else None, self._config.radiometric, str(path))
        self._notes += [settled.note] if settled.note else []
        return settled

    def _poses(self) -> ImagePoses:
        config = self._config
        if config.poses is not None:
            return read_poses(config.poses, self._names)
        lens = self._given[RGB].camera if RGB in self._given else None
        made = reconstruct(self._rgb, self._names, lens, config.lens, config.matching,
                           lambda done, total, message='': self._progress(
                               _CHECKED + (_POSED - _CHECKED) * done / total, 1.0, message))
        self._notes.append(made.told)
        if made.models > 1:
            self._notes.append(f'the images fell apart into {made.models} models without '
                               'overlap; the largest is used')
        return from_model(made.model, self._names, self._rgb)._replace(
            told='structure from motion')

    def _lens(self, found: ImagePoses, size: tuple[int, int]) -> Camera:
        given = self._given[RGB].camera if RGB in self._given else None
        lens = given or found.camera
        if lens is None:
            raise InputError('RGB camera has no lens', where=self._rgb,
                             expected='--cameras FILE with a block "rgb": w, h, fl_x, ...',
                             hint='A TUM file holds poses only.')
        _check_lens(lens, size, RGB)
        return lens

    def _metric(self, found: ImagePoses, lens: Camera) -> Metric:
        """Metres from what was given; only what was reconstructed here is turned upright."""
        config, upright = self._config, self._config.poses is None
        if config.positions is not None:
            return metric_scale.from_positions(found.poses, config.positions)
        if config.distances:
            return metric_scale.from_distances(found.poses, config.distances, upright)
        if config.tag_size_m is not None:
            names = list(found.poses)
            tags = find_tags(self._rgb, names, config.tag_family,
                             self._stage(_POSED, _SCALED, 'tags', len(names)))
            edges, used, notes = tag_edges(tags, found.poses, lens, self._rgb)
            self._notes += notes
            told = f'{len(used)} tags of {config.tag_size_m:g} m ({config.tag_family} ' \
                   f'{", ".join(map(str, used))})'
            return metric_scale.from_edges(found.poses, edges, config.tag_size_m, told, upright)
        if upright:
            return metric_scale.arbitrary(found.poses, found.points, lens)
        return metric_scale.as_given(found.is_metric)

    def _mounting(self, metric: Metric) -> Array:
        """Where the thermal camera sits in the RGB camera; metres make sense in metres only."""
        T = self._given[THERMAL].T_rgb_sensor if THERMAL in self._given else None
        if T is None:
            self._notes.append('nothing tells where the thermal camera sits: it is taken to be '
                               'where the RGB camera is, looking the same way (see --cameras, '
                               'transform_rgb_thermal)')
            return np.eye(4)
        if metric.is_metric is False and T[:3, 3].any():
            self._notes.append(f'the thermal camera sits {np.linalg.norm(T[:3, 3]):.3f} m from '
                               'the RGB camera, which an arbitrary scale cannot place: only its '
                               'direction is used')
            T = T.copy()
            T[:3, 3] = 0.0
        return T

    def _records(self, name: str, lens: Camera, thermal_lens: Camera | None,
                 mounting: Array | None, scale: SettledScale | None, pairs: Pairing | None,
                 found: ImagePoses) -> dict[str, ImageRecord]:
        stamp = found.stamps_ns.get(name, 0)
        records = {RGB: ImageRecord(self._rgb / name, lens, np.eye(4), stamp_ns=stamp,
                                    camera_mask_path=self._mask(RGB))}
        if (pairs is not None and name in pairs.partner and self._thermal is not None
                and thermal_lens is not None and mounting is not None and scale is not None):
            floats = LinearRadiometry(1.0, 0.0)  # of files that hold deg C
            records[THERMAL] = ImageRecord(
                self._thermal / pairs.partner[name], thermal_lens, mounting,
                radiometry=(scale.radiometry or floats) if scale.radiometric else None,
                stamp_ns=stamp, camera_mask_path=self._mask(THERMAL))
        return records

    def _mask(self, name: str) -> Path | None:
        return self._given[name].mask_path if name in self._given else None

    def _figures(self, found: ImagePoses, metric: Metric, pairs: Pairing | None,
                 scale: SettledScale | None, left_out: Sequence[str]) -> dict[str, Any]:
        return {
            'data': str(self._out), 'rgb': str(self._rgb),
            'thermal': None if self._thermal is None else str(self._thermal),
            'rgb_images': len(self._names), 'registered': len(found.poses),
            'poses': found.told, 'reprojection_error_px': found.error_px,
            'points': len(found.points), 'scale': metric.similarity.scale,
            'scale_from': metric.told, 'metric': metric.is_metric, **metric.figures,
            'thermal_pairs': len(pairs.partner) if pairs is not None else 0,
            'paired_by': pairs.told if pairs is not None else None,
            'thermal_scale': scale.told if scale is not None else None,
            'left_out': list(left_out)}

    def _tell_some(self, names: Sequence[str], what: str) -> None:
        if names:
            more = f' and {len(names) - _NAMED} more' if len(names) > _NAMED else ''
            self._notes.append(f'{len(names)} {what}: {", ".join(names[:_NAMED])}{more}')

    def _stage(self, start: float, end: float, text: str, total: int) -> Any:
        def tell(count: int) -> None:
            self._progress(start + (end - start) * count / max(total, 1), 1.0, text)
        return tell


def _check_lens(lens: Camera, size: tuple[int, int], modality: str) -> None:
    if lens.size != size:
        raise InputError(f'{modality} images do not have the size of their camera',
                         expected=f'{lens.width}x{lens.height} pixels',
                         got=f'{size[0]}x{size[1]}', hint='Intrinsics belong to one resolution.')
